//! Sees a process from its start to its end event.

use std::sync::Arc;

use futures_util::future::join_all;
use rustix::process::{Signal, kill_process};
use tokio::sync::oneshot;

use super::exit_status::end_event;
use super::pump::Output;
use super::table::Process;
use crate::app::App;
use crate::oom::Mark;
use crate::reaper::Exit;

/// Runs until the process has ended and its output too, then tells everybody.
///
/// Its end waits for its output streams, which its children may hold open: upstream does so, and a background child's
/// output belongs to the command. Except after a client asked for its death: then its own exit is enough.
pub(crate) async fn supervise(
    app: Arc<App>,
    process: Arc<Process>,
    outputs: Vec<Output>,
    exit: oneshot::Receiver<Exit>,
    before: Mark,
) {
    let pumps = join_all(outputs.into_iter().map(|output| output.pump(&process)));
    let (exit, _) = futures_util::future::join(wait(&process, exit), pumps).await;
    if let Some(input) = &process.input {
        input.close();
    }
    let memory = app.oom_kills.note(before, process.pid, exit).await;
    let end = Arc::new(end_event(exit, memory.as_deref()));
    // First the list, then the listeners: whoever has seen the end must not find the process.
    app.processes.retire(&process, &end);
    let listeners = process.finish(&end);
    join_all(
        listeners
            .iter()
            .map(|listener| listener.send(process.end_event(&end))),
    )
    .await;
}

async fn wait(process: &Process, mut exit: oneshot::Receiver<Exit>) -> Exit {
    let expired = async {
        match process.deadline {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    let status = tokio::select! {
        status = &mut exit => status,
        () = expired => {
            // Not yet waited for, so the number is still its own. Its children keep what they have.
            if !process.reaped.is_cancelled() {
                let _ = kill_process(process.pid, Signal::KILL);
            }
            exit.await
        }
    };
    if process.doomed() {
        process.stop_output.cancel();
    }
    // The reaper drops a status only with envd itself.
    status.unwrap_or(Exit::Signal {
        number: 9,
        core_dumped: false,
    })
}

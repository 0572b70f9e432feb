//! `soulbox sandbox exec`: a command in a sandbox as if it ran here. Input, output and exit code are the command's.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use soulbox_client::envd::Envd;
use soulbox_client::follow::{Followed, patiently};
use soulbox_client::process::{End, Event, Signal, Start};
use soulbox_client::{Api, ClientError};
use soulbox_types::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::sandbox::environment;
use crate::args::ExecArgs;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::session::failure;
use crate::text::shell_line;

/// Input is sent in pieces of at most this size, as the official command line does.
const INPUT_BYTES: usize = 64 * 1024;
/// The exit code of timeout(1).
const TIMED_OUT: u8 = 124;

/// Runs it; the exit code is the command's.
pub(crate) async fn exec(api: &Api, args: ExecArgs, output: Output) -> Result<ExitCode, Failure> {
    let id = args.id.clone();
    let failed = |error: &ClientError| failure(error, Some(&id));
    let sandbox = api
        .get_sandbox(&args.id)
        .await
        .map_err(|error| failed(&error))?;
    let envd = api.envd_of_detail(&sandbox);
    let start = start(&args)?;
    let mut events = envd.follow(&start).await.map_err(|error| failed(&error))?;
    let pid = events.pid();
    if args.detach {
        output.show(&json!({ "pid": pid }), |_| pid.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let _input = start.stdin.then(|| {
        AbortOnDrop(tokio::spawn(forward_input(
            envd.clone(),
            pid,
            stdin_pieces(),
        )))
    });
    let mut sink = Sink::new(output);
    let end = match follow(&envd, &mut events, &mut sink, Follower::Owns).await {
        Ok(end) => end,
        Err(Stopped::Call(error))
            if args.timeout.is_some() && error.kind() == ErrorKind::Timeout =>
        {
            output::note("the command was killed: its time was up");
            return Ok(ExitCode::from(TIMED_OUT));
        }
        Err(Stopped::Call(error)) => return Err(failed(&error)),
        Err(Stopped::Output(failure)) => return Err(failure),
        Err(Stopped::Left) => return Ok(ExitCode::SUCCESS),
    };
    sink.finish(pid, &end)?;
    Ok(ExitCode::from(end.shell_code()))
}

fn start(args: &ExecArgs) -> Result<Start, Failure> {
    Ok(Start {
        envs: environment(&args.env)?,
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        stdin: !args.detach && !args.no_stdin,
        timeout: args
            .timeout
            .map(|seconds| Duration::from_secs(seconds.into())),
        ..Start::shell(shell_line(&args.command))
    })
}

/// Why the end of a command was not waited for.
pub(crate) enum Stopped {
    Call(ClientError),
    Output(Failure),
    /// Somebody who only watches has seen enough.
    Left,
}

/// What an interrupt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follower {
    /// The first asks the command to end, the next one kills it.
    Owns,
    /// The command goes on without us.
    Watches,
}

/// Passes events on until the command ends.
pub(crate) async fn follow(
    envd: &Envd,
    events: &mut Followed,
    sink: &mut Sink,
    follower: Follower,
) -> Result<End, Stopped> {
    let no_signals =
        |error| Stopped::Output(Failure::internal("cannot listen for signals").because(error));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupts = 0_u32;
    let mut ended = None;
    loop {
        let event = tokio::select! {
            event = events.next() => Some(event.map_err(Stopped::Call)?),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let Some(event) = event else {
            if follower == Follower::Watches {
                return Err(Stopped::Left);
            }
            interrupts += 1;
            stop(envd, events.pid(), interrupts).await;
            continue;
        };
        match events.take_lost() {
            0 => {}
            lost => output::note(&format!("{lost} bytes of output are no longer kept")),
        }
        match event {
            Some(Event::Started { .. }) => {}
            Some(Event::Stdout(data) | Event::Pty(data)) => {
                sink.stdout(&data).map_err(Stopped::Output)?;
            }
            Some(Event::Stderr(data)) => sink.stderr(&data).map_err(Stopped::Output)?,
            Some(Event::Ended(end)) => ended = Some(end),
            None => break,
        }
    }
    ended
        .ok_or_else(|| Stopped::Output(Failure::internal("envd did not say how the command ended")))
}

async fn stop(envd: &Envd, pid: u32, interrupts: u32) {
    let signal = if interrupts < 2 {
        Signal::Term
    } else {
        Signal::Kill
    };
    // A command that is gone already is what was wanted; the stream tells how it ended.
    envd.signal(pid, signal).await.ok();
}

/// Where output goes: straight through, or collected for one JSON document.
pub(crate) struct Sink {
    output: Output,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Sink {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    fn stdout(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self.output {
            Output::Text => output::bytes(data),
            Output::Json => {
                self.stdout.extend_from_slice(data);
                Ok(())
            }
        }
    }

    fn stderr(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self.output {
            Output::Text => output::error_bytes(data),
            Output::Json => {
                self.stderr.extend_from_slice(data);
                Ok(())
            }
        }
    }

    pub(crate) fn finish(&self, pid: u32, end: &End) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.output.json(&json!({
                "pid": pid,
                "exitCode": end.exit_code,
                "status": end.status,
                "stdout": String::from_utf8_lossy(&self.stdout),
                "stderr": String::from_utf8_lossy(&self.stderr),
            })),
            Output::Text if end.exited => Ok(()),
            Output::Text => {
                output::note(&format!("the command was ended by {}", end.status));
                Ok(())
            }
        }
    }
}

/// Our standard input, piece by piece. Read by a thread of its own: such a read cannot be cancelled, and must not
/// keep the runtime from ending.
pub(crate) fn stdin_pieces() -> mpsc::Receiver<Bytes> {
    let (send, receive) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut piece = vec![0; INPUT_BYTES];
        loop {
            match stdin.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    let data = Bytes::copy_from_slice(piece.get(..count).unwrap_or_default());
                    if send.blocking_send(data).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    receive
}

/// Sends input until it ends or the command takes no more. How the command ended is told elsewhere.
async fn forward_input(envd: Envd, pid: u32, mut pieces: mpsc::Receiver<Bytes>) {
    while let Some(piece) = pieces.recv().await {
        // What may have arrived is not sent twice.
        let sent = patiently(ClientError::is_unreachable, || envd.send_stdin(pid, &piece));
        match sent.await {
            Ok(()) => {}
            Err(error) if error.is_cut() => {
                output::note(
                    "the connection broke while input was sent: some of it may be missing",
                );
                break;
            }
            Err(_) => return,
        }
    }
    let closed = patiently(ClientError::is_cut, || envd.close_stdin(pid));
    closed.await.ok();
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

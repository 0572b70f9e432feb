//! Bringing a sandbox to the state that its template promises: the start command runs, the ready command succeeds.

use std::time::Duration;

use soulbox_types::StartCommand;

use crate::lines::Lines;
use crate::process::{Event, Events, Start};
use crate::{ClientError, Envd};

/// The ready command is tried again after this long, then after twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Something worth a line in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The start command is about to run.
    Starting(String),
    /// A line of its output; `stdout` or `stderr`.
    StartOutput(&'static str, String),
    /// The ready command is about to run for the first time.
    Waiting(String),
    /// A line of its output; `stdout` or `stderr`.
    ReadyOutput(&'static str, String),
    /// It did not succeed: in words, how it ended.
    NotReady(String),
    /// It succeeded.
    Ready,
}

/// Why a sandbox did not come up. The texts are the wire's.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The start command ended badly before the sandbox was ready.
    #[error("start command failed: error running start command: {0}")]
    Start(String),
    /// The ready command did not succeed in time.
    #[error("ready command failed: ready command timed out after {}s", .0.as_secs())]
    NotReady(Duration),
    /// envd does not do what it is asked.
    #[error("{0}")]
    Envd(#[from] ClientError),
}

/// Whether a ready command looks at anything: one that only sleeps tells nothing about the sandbox it runs in.
#[must_use]
pub fn looks_at_something(ready: &str) -> bool {
    let mut words = ready.split_whitespace();
    let sleeps = words.next() == Some("sleep")
        && words.next().is_some_and(|time| {
            time.bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b's' | b'm' | b'h'))
        })
        && words.next().is_none();
    !sleeps && !ready.trim().is_empty()
}

/// Runs the start command in the background and the ready command until it succeeds. The start command goes on after
/// that, on its own.
///
/// # Errors
/// See [`StartupError`].
pub async fn bring_up(
    envd: &Envd,
    start: &StartCommand,
    patience: Duration,
    note: &mut (dyn FnMut(Note) + Send),
) -> Result<(), StartupError> {
    let mut running = None;
    if !start.command.trim().is_empty() {
        note(Note::Starting(start.command.clone()));
        running = Some(envd.start(&line(&start.command, start)).await?);
    }
    if start.ready.trim().is_empty() {
        return Ok(());
    }
    note(Note::Waiting(start.ready.clone()));
    // Both tell of what they see; a channel keeps them from sharing the listener.
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let ready = async {
        tokio::select! {
            failed = follow(&mut running, &say) => Err(StartupError::Start(failed)),
            ready = until_ready(envd, start, &say) => ready,
            () = tokio::time::sleep(patience) => Err(StartupError::NotReady(patience)),
        }
    };
    tokio::pin!(ready);
    let outcome = loop {
        tokio::select! {
            outcome = &mut ready => break outcome,
            Some(told) = said.recv() => note(told),
        }
    };
    while let Ok(told) = said.try_recv() {
        note(told);
    }
    if outcome.is_ok() {
        note(Note::Ready);
    }
    outcome
}

type Say = tokio::sync::mpsc::UnboundedSender<Note>;

fn line(text: &str, start: &StartCommand) -> Start {
    Start {
        user: Some(start.context.user.clone()),
        cwd: start.context.workdir.clone(),
        envs: start.context.env.clone(),
        ..Start::shell(text)
    }
}

/// Follows the start command; comes back only when it has failed.
async fn follow(running: &mut Option<Events>, say: &Say) -> String {
    let (mut out, mut err) = (Lines::default(), Lines::default());
    // Nobody listens any more only when the outcome is known.
    let tell = |stream, line| drop(say.send(Note::StartOutput(stream, line)));
    if let Some(events) = running {
        loop {
            match events.next().await {
                Ok(Some(Event::Stdout(bytes) | Event::Pty(bytes))) => {
                    out.push(&bytes, |line| tell("stdout", line));
                }
                Ok(Some(Event::Stderr(bytes))) => err.push(&bytes, |line| tell("stderr", line)),
                Ok(Some(Event::Started { .. })) => {}
                Ok(Some(Event::Ended(end))) if end.exited && end.exit_code == 0 => break,
                Ok(Some(Event::Ended(end))) => {
                    out.finish(|line| tell("stdout", line));
                    err.finish(|line| tell("stderr", line));
                    return end.status;
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
    }
    std::future::pending().await
}

async fn until_ready(envd: &Envd, start: &StartCommand, say: &Say) -> Result<(), StartupError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let output = envd.run(&line(&start.ready, start)).await?;
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let mut lines = Lines::default();
            let mut tell = |line| drop(say.send(Note::ReadyOutput(stream, line)));
            lines.push(bytes, &mut tell);
            lines.finish(&mut tell);
        }
        if output.end.exited && output.end.exit_code == 0 {
            return Ok(());
        }
        drop(say.send(Note::NotReady(output.end.status)));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_is_not_looking() {
        for ready in ["sleep 20", " sleep 0.5 ", "sleep 1m", ""] {
            assert!(!looks_at_something(ready), "{ready:?}");
        }
        for ready in ["sleep 1 && true", "curl localhost", "sleep $X", "[ -f x ]"] {
            assert!(looks_at_something(ready), "{ready:?}");
        }
    }
}

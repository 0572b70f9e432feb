//! What a sandbox costs in system calls alone: a process that makes one with the kernel's calls and nothing else.
//!
//! A process with threads must not fork, so the work is done by this program started a second time ([`program`]), which
//! has one thread. It makes one for each line that it is told, and answers with the time of each group of calls.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::stats::Samples;

mod launch;
mod program;

pub use program::run as serve;

/// The hidden command of this program that does the work.
pub const COMMAND: &str = "bench-bare";

/// A range of ids that nobody else uses, for user namespaces.
pub(crate) const FIRST_UID: u32 = 0x6f00_0000;
pub(crate) const UIDS: u32 = 65_536;

/// How long each group of calls of one sandbox took, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps(pub Vec<(String, u64)>);

impl Steps {
    /// From the first call until the program runs.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.iter().map(|(_, nanoseconds)| nanoseconds).sum())
    }
}

/// What the program answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Made(Steps),
    Failed(String),
}

/// The program, waiting.
pub(crate) struct Bare {
    // It ends with its standard input, and with this.
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Bare {
    /// Starts it. Sandboxes stand on `rootfs`.
    pub(crate) fn start(rootfs: &Path, network: bool) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg("--rootfs").arg(rootfs);
        if network {
            command.arg("--network");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self {
            _child: child,
            orders,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Has it make one sandbox.
    pub(crate) async fn make(&mut self) -> Result<Steps, String> {
        let asked = self.orders.write_all(b"\n").await;
        let line = match asked {
            Ok(()) => self.answers.next_line().await,
            Err(error) => Err(error),
        };
        let line = line.map_err(|error| error.to_string())?;
        parse(&line.ok_or("it has ended")?)
    }
}

fn parse(line: &str) -> Result<Steps, String> {
    match serde_json::from_str(line) {
        Ok(Answer::Made(steps)) => Ok(steps),
        Ok(Answer::Failed(reason)) => Err(reason),
        Err(error) => Err(format!("{error}: {line}")),
    }
}

/// The cost of one sandbox in system calls, where it can be measured, as often as it was.
pub(crate) struct Reference {
    bare: Option<Bare>,
    /// From the first call until the program runs.
    pub(crate) whole: Samples,
    /// Of each one that was made.
    pub(crate) steps: Vec<Steps>,
    /// Why there is none.
    pub(crate) missing: Option<String>,
}

impl Reference {
    /// Starts it and has it make some that do not count. That it cannot be measured is no error: it needs root on the
    /// server's machine.
    pub(crate) async fn start(rootfs: &Result<PathBuf, String>, network: bool) -> Self {
        let started = match rootfs {
            Ok(rootfs) => Bare::start(rootfs, network).map_err(|error| error.to_string()),
            Err(reason) => Err(reason.clone()),
        };
        let warm = match started {
            Ok(mut bare) => warmed(&mut bare).await.map(|()| bare),
            Err(reason) => Err(reason),
        };
        let (bare, missing) = match warm {
            Ok(bare) => (Some(bare), None),
            Err(reason) => (None, Some(reason)),
        };
        Self {
            bare,
            whole: Samples::new(),
            steps: Vec::new(),
            missing,
        }
    }

    /// Makes one more.
    pub(crate) async fn round(&mut self) {
        let Some(bare) = &mut self.bare else { return };
        match bare.make().await {
            Ok(steps) => {
                self.whole.add(steps.total());
                self.steps.push(steps);
            }
            Err(reason) => self.whole.fail(&reason),
        }
    }

    /// What a report says when there is none.
    pub(crate) fn remark(&self) -> Option<String> {
        let reason = self.missing.as_ref()?;
        Some(format!("the bare system calls were not measured: {reason}"))
    }
}

async fn warmed(bare: &mut Bare) -> Result<(), String> {
    for _ in 0..crate::run::WARM_UP {
        bare.make().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let steps = Steps(vec![
            ("namespaces".to_owned(), 1000),
            ("exec".to_owned(), 500),
        ]);
        let line = serde_json::to_string(&Answer::Made(steps.clone())).unwrap();
        assert_eq!(parse(&line).unwrap(), steps);
        assert_eq!(steps.total(), Duration::from_nanos(1500));
        let line = serde_json::to_string(&Answer::Failed("overlay: no".to_owned())).unwrap();
        assert_eq!(parse(&line).unwrap_err(), "overlay: no");
        assert!(parse("Segmentation fault").is_err());
    }

    #[tokio::test]
    async fn without_files_there_is_none() {
        let reference = Reference::start(&Err("no root".to_owned()), false).await;
        assert_eq!(
            reference.remark().unwrap(),
            "the bare system calls were not measured: no root"
        );
    }
}

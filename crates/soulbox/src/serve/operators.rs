//! Commands of the operator: run as root, with a limit, and never left behind.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// A shell that will run the text, with these arguments behind it. With its children it can be killed as one.
pub(super) fn shell(text: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    let text = match arguments {
        [] => text.to_owned(),
        _ => format!("{text} \"$@\""),
    };
    command
        .args(["-c", &text, "soulbox"])
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// Runs a command of [`shell`]. No status: it had not ended in time, or before there was something to read from `stop`, and
/// was killed.
pub(super) fn run(
    command: &mut Command,
    patience: Duration,
    stop: Option<BorrowedFd<'_>>,
) -> anyhow::Result<(Child, Option<ExitStatus>)> {
    let mut child = command.spawn().context("cannot run /bin/sh")?;
    let ended = wait(&child, patience, stop);
    // Whatever it has left behind, too. Its number is its own until it is waited for.
    kill(&child);
    let status = child.wait()?;
    let status = ended?.then_some(status);
    Ok((child, status))
}

/// Whether it has ended in time.
fn wait(child: &Child, patience: Duration, stop: Option<BorrowedFd<'_>>) -> anyhow::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let stop = stop.unwrap_or(process.as_fd());
    let end = Instant::now() + patience;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
        let mut ready =
            [process.as_fd(), stop].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut ready, Some(&left)) {
            Ok(_) => return Ok(!ready[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn kill(child: &Child) {
    if let Err(error) = kill_process_group(Pid::from_child(child), Signal::KILL) {
        tracing::debug!(%error, "a command of the operator is not killed");
    }
}

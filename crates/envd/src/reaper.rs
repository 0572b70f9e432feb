//! The one caller of `wait`: tells each program's owner how it ended, and buries orphans.
//!
//! envd is PID 1 of the sandbox, so every orphan becomes its child. A single owner of `waitpid` means that no exit
//! status is ever taken by somebody who does not know whose it is.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with a status.
    Code(i32),
    /// By a signal, perhaps leaving a core dump.
    Signal { number: i32, core_dumped: bool },
}

#[derive(Debug, Default)]
pub(crate) struct Reaper(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    expected: HashMap<Pid, Owner>,
    /// Exits of children nobody has claimed yet, kept only while a spawn is under way: a program may end before its
    /// process number has come back from the fork server.
    unclaimed: Option<HashMap<Pid, Exit>>,
}

/// Who waits for a child.
#[derive(Debug)]
struct Owner {
    status: oneshot::Sender<Exit>,
    reaped: CancellationToken,
}

/// The end of a child, when it comes.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) status: oneshot::Receiver<Exit>,
    /// Cancelled in the moment the status is taken: from then on the number may belong to another process.
    pub(crate) reaped: CancellationToken,
}

impl Owner {
    fn told(self, exit: Exit) {
        self.reaped.cancel();
        // An owner that is gone has no use for the status.
        let _ = self.status.send(exit);
    }
}

impl Reaper {
    /// Buries children for ever.
    ///
    /// # Errors
    /// When the signal cannot be listened to.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        let reaper = Arc::clone(self);
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(())
    }

    /// Takes every status there is.
    pub(crate) fn reap(&self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid, exit_of(status)),
                Err(rustix::io::Errno::INTR) => {}
                // None left, or no children at all.
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn ended(&self, pid: Pid, exit: Exit) {
        let mut state = lock(&self.0);
        if let Some(owner) = state.expected.remove(&pid) {
            owner.told(exit);
        } else if let Some(unclaimed) = &mut state.unclaimed {
            unclaimed.insert(pid, exit);
        }
    }

    /// To be called before a spawn is asked for.
    pub(crate) fn spawn_begins(&self) {
        lock(&self.0).unclaimed.get_or_insert_default();
    }

    /// To be called when the answer is there; gives the exit of the new process, now or later.
    pub(crate) fn spawn_ends(&self, pid: Option<Pid>) -> Option<Ending> {
        let mut state = lock(&self.0);
        let unclaimed = state.unclaimed.take().unwrap_or_default();
        let pid = pid?;
        let (sender, status) = oneshot::channel();
        let reaped = CancellationToken::new();
        let owner = Owner {
            status: sender,
            reaped: reaped.clone(),
        };
        match unclaimed.get(&pid) {
            Some(exit) => owner.told(*exit),
            None => drop(state.expected.insert(pid, owner)),
        }
        Some(Ending { status, reaped })
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        // WCOREDUMP of wait(2); stops are never reported, since nobody asks for WUNTRACED.
        (None, number) => Exit::Signal {
            number: number.unwrap_or(0),
            core_dumped: status.as_raw() & 0x80 != 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn an_exit_before_the_answer_is_kept() {
        let reaper = Reaper::default();
        reaper.spawn_begins();
        reaper.ended(pid(7), Exit::Code(3));
        reaper.ended(pid(8), Exit::Code(4));
        assert_eq!(
            reaper.spawn_ends(Some(pid(7))).unwrap().status.try_recv(),
            Ok(Exit::Code(3))
        );
        // The stranger is forgotten.
        reaper.spawn_begins();
        assert!(
            reaper
                .spawn_ends(Some(pid(8)))
                .unwrap()
                .status
                .try_recv()
                .is_err()
        );
    }

    #[test]
    fn an_exit_after_the_answer_is_delivered_and_orphans_are_not_kept() {
        let reaper = Reaper::default();
        reaper.ended(pid(9), Exit::Code(0));
        reaper.spawn_begins();
        let Ending { mut status, reaped } = reaper.spawn_ends(Some(pid(9))).unwrap();
        assert!(status.try_recv().is_err() && !reaped.is_cancelled());
        reaper.ended(pid(9), Exit::Code(1));
        assert!(reaped.is_cancelled());
        assert_eq!(status.try_recv(), Ok(Exit::Code(1)));
        assert!(reaper.spawn_ends(None).is_none());
    }
}

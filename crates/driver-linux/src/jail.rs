//! Starting `soulbox-jail` and talking to it. Blocking.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use soulbox_launch_plan::{LaunchPlan, Order, Reply, SlotPlan};
use soulbox_linux::socket;

/// Replies are short.
const REPLY_LIMIT: usize = 4096;

/// What went wrong between server and jail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailError {
    /// A step of the plan failed.
    #[error("launch step {step} failed")]
    Step {
        /// The step.
        step: String,
        /// What the kernel said, on what.
        #[source]
        source: io::Error,
    },
    /// The jail could not be started or spoken to.
    #[error("cannot {operation} the jail")]
    Talk {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn talk(operation: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Talk { operation, source }
}

/// A jail process that waits in a prepared slot. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Jail {
    control: Option<OwnedFd>,
    child: Child,
    /// What the new process has told before the jail told of the process: they speak at the same time.
    told: Option<Vec<u64>>,
}

/// The process that a jail has left behind.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

impl Jail {
    /// Starts a jail and has it carry out the slot plan. Returns the slot's network namespace, too.
    pub(crate) fn start(program: &OwnedFd, plan: &SlotPlan) -> Result<(Self, OwnedFd), JailError> {
        let jail = Self::order(program, &Order::Slot(plan.clone()))?;
        match jail.receive()? {
            (Reply::SlotReady, mut fds) if fds.len() == 1 => Ok((jail, fds.remove(0))),
            (reply, _) => Err(failure(reply)),
        }
    }

    /// Starts one and tells it what it is for.
    pub(crate) fn order(program: &OwnedFd, order: &Order) -> Result<Self, JailError> {
        let (ours, theirs) = socket::seqpacket_pair().map_err(talk("connect to"))?;
        // The program is a sealed memfd: the path is resolved in the new process, where the number means the same file.
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(talk("start"))?;
        let jail = Self {
            control: Some(ours),
            child,
            told: None,
        };
        let bytes = order.encode();
        jail.send(
            &bytes.map_err(|e| talk("address")(io::Error::other(e)))?,
            &[],
        )?;
        Ok(jail)
    }

    /// Waits until an errand is done.
    pub(crate) fn done(self) -> Result<(), JailError> {
        match self.receive()? {
            (Reply::Done, _) => Ok(()),
            (reply, _) => Err(failure(reply)),
        }
    }

    /// Has it carry out a plan that ends with another program than envd, which answers nothing.
    pub(crate) fn become_restorer(
        &self,
        plan: &LaunchPlan,
        fds: &[&OwnedFd],
    ) -> Result<(), JailError> {
        let bytes = plan.encode();
        let bytes = bytes.map_err(|e| talk("address")(io::Error::other(e)))?;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.send(&bytes, &fds)
    }

    /// Whether the program that it became has ended well; `None` while it runs.
    pub(crate) fn ended(&mut self) -> io::Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Ends it, whatever it has become.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Its number, which is that of the program that it becomes.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(-1)
    }

    /// Has the jail carry out the launch plan. The process that becomes envd goes on by itself; a step that fails in it
    /// closes the status pipe, and [`Self::failure`] tells why. `mounts` are the disk, if it is one, and the volumes.
    pub(crate) fn launch<'m>(
        &mut self,
        plan: &LaunchPlan,
        fds: [&'m OwnedFd; 3],
        mounts: impl IntoIterator<Item = &'m OwnedFd>,
    ) -> Result<Launched, JailError> {
        let bytes = plan
            .encode()
            .map_err(|e| talk("address")(io::Error::other(e)))?;
        let fds: Vec<_> = fds.into_iter().chain(mounts).map(AsFd::as_fd).collect();
        self.send(&bytes, &fds)?;
        loop {
            match self.receive()? {
                (Reply::AllButLast { moments }, _) => self.told = Some(moments),
                (Reply::Cloned { pid }, mut fds) if fds.len() == 1 => {
                    return Ok(Launched {
                        pid,
                        pidfd: fds.remove(0),
                    });
                }
                (reply, _) => return Err(failure(reply)),
            }
        }
    }

    /// After the status pipe has closed without a word: what the new process said on the socket before it ended.
    pub(crate) fn failure(&mut self) -> JailError {
        loop {
            match self.receive() {
                Ok((Reply::AllButLast { .. }, _)) => {}
                Ok((reply, _)) => return failure(reply),
                Err(error) => return error,
            }
        }
    }

    /// After a launch: when the plan was there, and when each step but the last was done.
    pub(crate) fn moments(&mut self) -> Result<Vec<u64>, JailError> {
        if let Some(moments) = self.told.take() {
            return Ok(moments);
        }
        match self.receive()? {
            (Reply::AllButLast { moments }, _) => Ok(moments),
            (reply, _) => Err(failure(reply)),
        }
    }

    fn send(&self, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<(), JailError> {
        let control = self
            .control
            .as_ref()
            .ok_or_else(|| talk("address")(io::ErrorKind::NotConnected.into()))?;
        socket::send(control, bytes, fds).map_err(talk("address"))
    }

    fn receive(&self) -> Result<(Reply, Vec<OwnedFd>), JailError> {
        let control = self
            .control
            .as_ref()
            .ok_or_else(|| talk("hear")(io::ErrorKind::NotConnected.into()))?;
        let (bytes, fds) = socket::receive(control, REPLY_LIMIT)
            .map_err(talk("hear"))?
            .ok_or_else(|| talk("hear")(io::ErrorKind::UnexpectedEof.into()))?;
        let reply = Reply::decode(&bytes).map_err(|e| talk("understand")(io::Error::other(e)))?;
        Ok((reply, fds))
    }
}

fn failure(reply: Reply) -> JailError {
    match reply {
        Reply::Failed {
            step,
            errno,
            detail,
        } => {
            let kind = io::Error::from_raw_os_error(errno).kind();
            JailError::Step {
                step,
                source: io::Error::new(kind, detail),
            }
        }
        other => talk("understand")(io::Error::other(format!("unexpected reply {other:?}"))),
    }
}

impl Drop for Jail {
    /// A waiting jail ends when its socket closes; one that has launched has ended already. Either way it is collected.
    fn drop(&mut self) {
        self.control = None;
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "cannot collect a jail process");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_new_process_may_speak_before_the_jail() {
        let (ours, theirs) = socket::seqpacket_pair().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let say = |reply: Reply, fds: &[std::os::fd::BorrowedFd<'_>]| {
            socket::send(&theirs, &reply.encode().unwrap(), fds).unwrap();
        };
        let pidfd = null();
        let moments = vec![1, 2];
        say(
            Reply::AllButLast {
                moments: moments.clone(),
            },
            &[],
        );
        say(Reply::Cloned { pid: 7 }, &[pidfd.as_fd()]);
        let mut jail = Jail {
            control: Some(ours),
            child: Command::new("true").spawn().unwrap(),
            told: None,
        };
        let plan = LaunchPlan { steps: Vec::new() };
        let launched = jail.launch(&plan, [&null(), &null(), &null()], []).unwrap();
        assert_eq!(launched.pid, 7);
        assert_eq!(jail.moments().unwrap(), moments);
    }
}

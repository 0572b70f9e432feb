//! Starting programs from a process of its own: the fork server.
//!
//! A process with an async runtime must not fork, and a child must not inherit the caller's cgroup where that differs
//! from the one the child belongs to. So a small single-threaded process is forked once, early, and asked over a socket.
//! It makes each program with `CLONE_PARENT`: the program is a child of the caller, who reaps it, but inherits the fork
//! server's cgroup. `CLONE_VM | CLONE_VFORK` makes that as cheap as `posix_spawn`, and tells when exec failed.
//!
//! [`ForkServer`] is the caller's end, [`request`](SpawnRequest) what is asked, `server` the loop of the forked process,
//! `child` the few steps between clone and exec.

mod child;
mod request;
mod server;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};

pub use request::{Credentials, ResourceLimit, SpawnRequest, Stdio};

/// Payloads above this travel in a memfd: a SEQPACKET message must fit the socket's send buffer.
const INLINE_LIMIT: usize = 32 * 1024;

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The fork server could not carry out one step.
    #[error("{step}: {source}")]
    Step {
        /// What was attempted.
        step: Step,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The fork server is gone, or answered nonsense; another one must be started.
    #[error("the fork server is gone")]
    Gone(#[source] io::Error),
}

/// The steps of a spawn that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Decoding the request.
    Request = 1,
    /// Making the process.
    Clone = 2,
    /// New session, controlling terminal, standard streams.
    Streams = 3,
    /// Setting a resource limit.
    Limits = 4,
    /// Taking the user's identity.
    Identity = 5,
    /// Entering the working directory.
    WorkingDirectory = 6,
    /// Executing the program, other than not finding it.
    Exec = 7,
}

impl Step {
    fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Clone,
            3 => Self::Streams,
            4 => Self::Limits,
            5 => Self::Identity,
            6 => Self::WorkingDirectory,
            7 => Self::Exec,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Request => "reading the spawn request",
            Self::Clone => "making the process",
            Self::Streams => "connecting the standard streams",
            Self::Limits => "setting resource limits",
            Self::Identity => "changing to the user",
            Self::WorkingDirectory => "entering the working directory",
            Self::Exec => "executing the program",
        })
    }
}

/// The caller's end of the fork server. Dropping it ends the server.
#[derive(Debug)]
pub struct ForkServer {
    socket: OwnedFd,
    pid: Pid,
}

impl ForkServer {
    /// Forks the server. It keeps no descriptor but its socket, and first writes `0` to each of `cgroup_procs`, so that
    /// it and all that it starts live there.
    ///
    /// Call it before any thread or runtime exists. Calling it again later, to replace a server that died, is safe with
    /// glibc, which holds its allocator's locks across `fork`: the new process uses nothing else of the old one.
    ///
    /// # Errors
    /// When the kernel refuses a socket or a process.
    pub fn start(cgroup_procs: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // SAFETY: fork(2) has no memory preconditions. The child runs only `server::run`, which allocates and makes
        // system calls, and never returns from here.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            drop(ours);
            server::run(&theirs, cgroup_procs);
        }
        rustix::io::ioctl_fionbio(&ours, true)?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { socket: ours, pid })
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends a server that no longer answers.
    pub fn kill(&self) {
        // It may be gone already; nothing else is left to do about it.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Asks for a program. Its answer is fetched with [`ForkServer::receive`]; one request at a time.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn send(&self, request: &SpawnRequest, stdio: Stdio<'_>) -> Result<(), SpawnError> {
        let payload = request.encode();
        let memfd = if payload.len() > INLINE_LIMIT {
            let failed = |source| SpawnError::Step {
                step: Step::Request,
                source,
            };
            Some(crate::exec::sealed_memfd("spawn-request", &payload, false).map_err(failed)?)
        } else {
            None
        };
        let inline: &[u8] = if memfd.is_some() { &[] } else { &payload };
        let mut fds = vec![stdio.stdin, stdio.stdout, stdio.stderr];
        fds.extend(memfd.as_ref().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        // One byte in front: a message may not be empty, and the byte says where the payload is.
        let tag = [u8::from(memfd.is_some())];
        let parts = [IoSlice::new(&tag), IoSlice::new(inline)];
        match sendmsg(
            &self.socket,
            &parts,
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Ok(_) => Ok(()),
            Err(error) => Err(SpawnError::Gone(error.into())),
        }
    }

    /// Takes the answer to the last request: the program's process number, or why there is none.
    ///
    /// `None` means that it is not there yet: wait until [`ForkServer::as_fd`] is readable.
    ///
    /// # Errors
    /// When the program was not started.
    pub fn receive(&self) -> Option<Result<Pid, SpawnError>> {
        let mut reply = [0_u8; Reply::SIZE];
        let mut control = RecvAncillaryBuffer::default();
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut reply)],
            &mut control,
            RecvFlags::DONTWAIT,
        );
        match received {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(error) => Some(Err(SpawnError::Gone(error.into()))),
            Ok(message) if message.bytes != Reply::SIZE => {
                Some(Err(SpawnError::Gone(io::ErrorKind::UnexpectedEof.into())))
            }
            Ok(_) => Some(Reply::decode(reply)),
        }
    }
}

impl AsFd for ForkServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes a descriptor that the launcher handed over by number.
///
/// # Errors
/// When no such descriptor is open.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: fcntl(2) takes integers; a number that is not open is refused with EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and named on the command line, so nothing in this program owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The server's answer: process number, errno, step.
struct Reply {
    pid: i32,
    errno: i32,
    step: u8,
}

impl Reply {
    const SIZE: usize = 9;

    fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (pid, rest) = bytes.split_at_mut(4);
        let (errno, step) = rest.split_at_mut(4);
        pid.copy_from_slice(&self.pid.to_le_bytes());
        errno.copy_from_slice(&self.errno.to_le_bytes());
        step.copy_from_slice(&[self.step]);
        bytes
    }

    fn decode(bytes: [u8; Self::SIZE]) -> Result<Pid, SpawnError> {
        let [p0, p1, p2, p3, e0, e1, e2, e3, step] = bytes;
        if let Some(step) = Step::from_u8(step) {
            let source = io::Error::from_raw_os_error(i32::from_le_bytes([e0, e1, e2, e3]));
            return Err(SpawnError::Step { step, source });
        }
        let pid = i32::from_le_bytes([p0, p1, p2, p3]);
        Pid::from_raw(pid).ok_or_else(|| SpawnError::Gone(io::ErrorKind::InvalidData.into()))
    }
}

#[cfg(test)]
mod tests;

//! The loop of the forked process: receive a request, make the program, answer.
//!
//! Single-threaded for all its life, so that a `CLONE_VM` child may run on its memory.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::child::Prepared;
use super::request::SpawnRequest;
use super::{INLINE_LIMIT, Reply, Step};

/// Serves until the caller's end is closed. Never returns.
pub(super) fn run(socket: &OwnedFd, cgroup_procs: &[BorrowedFd<'_>]) -> ! {
    // A panic must not unwind into the caller's stack frames, which this process only inherited.
    let served = std::panic::catch_unwind(|| {
        prepare(socket, cgroup_procs);
        serve(socket);
    });
    // SAFETY: _exit(2) only ends this process, without running what the caller registered for its own exit.
    unsafe { libc::_exit(c_int::from(served.is_err())) }
}

fn prepare(socket: &OwnedFd, cgroup_procs: &[BorrowedFd<'_>]) {
    for procs in cgroup_procs {
        // A cgroup that cannot be entered leaves the process where the caller is; there is nobody to tell.
        let _ = rustix::io::write(procs, b"0");
    }
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // Its memory is a copy of the caller's: no process in the sandbox may look into it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // A session of its own: a program that signals its process group must not meet this process.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    default_signals();
    close_all_but(socket.as_raw_fd());
}

/// Programs start with every signal at its default and none blocked; ignored ones would survive exec.
fn default_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; numbers that may not be set are refused with an error.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) initialises the set it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was initialised above; the old set is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Closes everything from 3 on but the socket: the caller's listeners and pipes must not live on here.
fn close_all_but(keep: RawFd) {
    let keep = u32::try_from(keep).unwrap_or(u32::MAX);
    for (first, last) in [
        (3, keep.saturating_sub(1)),
        (keep.saturating_add(1), u32::MAX),
    ] {
        if first <= last {
            // SAFETY: the descriptors belong to objects of the caller, none of which this process touches again.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

fn serve(socket: &OwnedFd) {
    let mut stack = vec![0_u8; 64 * 1024];
    let mut buffer = vec![0_u8; INLINE_LIMIT + 1];
    while let Ok(Some((length, fds))) = receive(socket, &mut buffer) {
        let reply = match read_request(buffer.get(..length).unwrap_or_default(), &fds) {
            Some(request) => spawn(&request, &fds, &mut stack),
            None => Reply {
                pid: 0,
                errno: libc::EBADMSG,
                step: Step::Request as u8,
            },
        };
        if send(socket, &reply.encode(), SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}

/// One message and its descriptors; `None` when the caller has closed its end.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let parts = &mut [IoSliceMut::new(buffer)];
        match recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::with_capacity(4);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some((received.bytes, fds)))
}

fn read_request(message: &[u8], fds: &[OwnedFd]) -> Option<SpawnRequest> {
    let (tag, inline) = message.split_first()?;
    if *tag == 0 {
        return SpawnRequest::decode(inline);
    }
    let memfd = fds.get(3)?.try_clone().ok()?;
    rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0)).ok()?;
    let mut payload = Vec::new();
    File::from(memfd).read_to_end(&mut payload).ok()?;
    SpawnRequest::decode(&payload)
}

fn spawn(request: &SpawnRequest, fds: &[OwnedFd], stack: &mut [u8]) -> Reply {
    let [stdin, stdout, stderr, ..] = fds else {
        return Reply {
            pid: 0,
            errno: libc::EBADF,
            step: Step::Request as u8,
        };
    };
    let stdio = [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
    let Some(mut prepared) = Prepared::new(request, stdio) else {
        return Reply {
            pid: 0,
            errno: libc::EINVAL,
            step: Step::Request as u8,
        };
    };
    match prepared.clone_and_exec(stack) {
        Ok(pid) => Reply {
            pid,
            errno: 0,
            step: 0,
        },
        Err((step, errno)) => Reply {
            pid: 0,
            errno,
            step: step as u8,
        },
    }
}

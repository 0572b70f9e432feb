//! Namespaces: making, entering and keeping them.
//!
//! Single-threaded callers only: namespaces of a thread that others share memory with would tear a program apart.
//! The one exception is [`enter_network`], which moves just the calling thread.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::capability;

/// Enters new namespaces.
///
/// # Errors
/// When the kernel refuses, for example because a limit in `/proc/sys/user` is reached.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: unshare(2) is unsafe to Rust only with CLONE_FILES, which takes descriptors away from other threads.
    unsafe { unshare_unsafe(flags.difference(UnshareFlags::FILES)) }?;
    Ok(())
}

/// Moves the calling thread into a network namespace.
///
/// # Errors
/// When `namespace` is not one, or the caller may not.
pub fn enter_network(namespace: impl AsFd) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Moves this process into a user namespace; it then has every capability in it, and none outside.
///
/// # Errors
/// When `namespace` is not one, or the process has several threads.
pub fn enter_user(namespace: impl AsFd) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    Ok(())
}

/// Opens a namespace of a process, for example `open(Path::new("/proc/self/ns/net"))`.
///
/// # Errors
/// When the process is gone.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Makes a user namespace in which inner ids `0..count` are the host's `uid_base..`, for users and groups alike.
/// The namespace lives as long as the returned descriptor or a process in it.
///
/// Its owner is `uid_base`, not root: the kernel counts inotify instances, message queues, pending signals and more
/// not only against a user inside but also against the owner outside (`kernel/ucount.c`). With one owner for all
/// namespaces, each could use up what all of them and the host's root have.
///
/// # Errors
/// When the kernel refuses to make it or to map the ids.
pub fn create_user_namespace(uid_base: u32, count: u32) -> io::Result<OwnedFd> {
    let pid = capability::with_effective_uid(uid_base, clone_into_user_namespace)?;
    let result = map_ids(pid, uid_base, count);
    let child = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(child) = child {
        rustix::process::kill_process(child, rustix::process::Signal::KILL)?;
        waitpid(Some(child), WaitOptions::empty())?;
    }
    result
}

/// A process that does nothing, in a new user namespace. Gives its number.
fn clone_into_user_namespace() -> io::Result<i64> {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: clone(2) without CLONE_VM and with a null stack behaves like fork(2). The caller is single-threaded, and
    // the child calls only pause(2) until it is killed.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        loop {
            // SAFETY: pause(2) has no arguments; async-signal-safe.
            unsafe { libc::pause() };
        }
    }
    Ok(pid)
}

fn map_ids(pid: i64, uid_base: u32, count: u32) -> io::Result<OwnedFd> {
    let map = format!("0 {uid_base} {count}\n");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)?;
    open(Path::new(&format!("/proc/{pid}/ns/user")))
}

/// Enters a new time namespace for the children of this process, whose clocks since boot begin at zero.
///
/// # Errors
/// When the kernel has no time namespaces or refuses the offsets.
pub fn unshare_time_from_zero() -> io::Result<()> {
    // Not in rustix's flags: CLONE_NEWTIME shares its bit with the exit signal of clone(2).
    const CLONE_NEWTIME: libc::c_int = 0x80;
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // SAFETY: unshare(2) takes an integer; a time namespace affects only children of this process.
    if unsafe { libc::unshare(CLONE_NEWTIME) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let offsets = format!(
        "boottime -{} 0\nmonotonic -{} 0\n",
        boot.tv_sec, monotonic.tv_sec
    );
    fs::write("/proc/self/timens_offsets", offsets)
}

/// Which side of [`clone_pid1`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The process that called.
    Parent {
        /// The new process, as the caller's PID namespace numbers it.
        pid: i32,
        /// A descriptor for it.
        pidfd: OwnedFd,
    },
    /// The new process, number 1 of its PID namespace.
    Child,
}

/// Continues twice: here, and as the first process of a new PID namespace. The new process is a sibling of this one
/// (`CLONE_PARENT`), so that whoever started this program may wait for it.
///
/// # Errors
/// When the kernel refuses a process or a PID namespace.
pub fn clone_pid1() -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args: libc::clone_args = zeroed_clone_args();
    args.flags = u64::from(
        libc::CLONE_NEWPID.unsigned_abs()
            | libc::CLONE_PARENT.unsigned_abs()
            | libc::CLONE_PIDFD.unsigned_abs(),
    );
    args.pidfd = std::ptr::from_mut(&mut pidfd).addr() as u64;
    // SAFETY: clone3(2) without CLONE_VM behaves like fork(2); the caller is single-threaded, so every lock is free in
    // the child. `args` is a whole, zeroed clone_args and `pidfd` outlives the call that writes to it.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: on success the kernel has stored a new descriptor in `pidfd`, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Cloned::Parent { pid, pidfd })
}

fn zeroed_clone_args() -> libc::clone_args {
    // SAFETY: clone_args is a struct of u64 fields, for which all zeroes is a valid value meaning "unset".
    unsafe { std::mem::zeroed() }
}

/// The inode number of a namespace, which identifies it among those alive.
///
/// # Errors
/// When `fd` cannot be examined.
pub fn identity(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd.as_fd())?.st_ino)
}

/// Returns the raw number of a descriptor, for interfaces that take one (netlink attributes).
#[must_use]
pub fn raw(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

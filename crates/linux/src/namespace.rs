//! Namespaces: making, entering and keeping them.
//!
//! Single-threaded callers only: namespaces of a thread that others share memory with would tear a program apart.
//! The one exception is [`enter_network`], which moves just the calling thread.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::{capability, process};

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

/// Moves this process into a mount namespace; root and working directory are that one's root then.
///
/// # Errors
/// When `namespace` is not one, or the caller may not.
pub fn enter_mount(namespace: impl AsFd) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Moves this process into the mount, IPC and UTS namespaces of a sandbox.
///
/// # Errors
/// When the caller may not.
pub fn enter_mount_ipc_uts(namespaces: &Owned) -> io::Result<()> {
    enter_mount(&namespaces.mount)?;
    let others = [
        (
            &namespaces.ipc,
            LinkNameSpaceType::InterProcessCommunication,
        ),
        (&namespaces.uts, LinkNameSpaceType::HostNameAndNISDomainName),
    ];
    for (namespace, kind) in others {
        move_into_link_name_space(namespace.as_fd(), Some(kind))?;
    }
    Ok(())
}

/// Opens a namespace of a process, for example `open(Path::new("/proc/self/ns/net"))`.
///
/// # Errors
/// When the process is gone.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// A user namespace and namespaces that it owns. Each lives as long as its descriptor or a process in it.
#[derive(Debug)]
pub struct Owned {
    /// The user namespace.
    pub user: OwnedFd,
    /// A copy of the caller's mounts.
    pub mount: OwnedFd,
    /// An empty network.
    pub network: OwnedFd,
    /// No shared memory, no queues.
    pub ipc: OwnedFd,
    /// The caller's host name.
    pub uts: OwnedFd,
}

/// Makes a user namespace in which inner ids `0..count` are the host's `uid_base..`, for users and groups alike, and
/// mount, network, IPC and UTS namespaces that belong to it. The caller stays where it is.
///
/// The user namespace's owner is `uid_base`, not root: the kernel counts inotify instances, message queues, pending signals and more
/// not only against a user inside but also against the owner outside (`kernel/ucount.c`). With one owner for all
/// namespaces, each could use up what all of them and the host's root have.
///
/// The ids are mapped when the network is there already: what it has below `/proc/net` then belongs to the host's root,
/// because at its birth there was no root inside.
///
/// # Errors
/// When the kernel refuses to make one or to map the ids.
pub fn create_owned(uid_base: u32, count: u32) -> io::Result<Owned> {
    let pid = capability::with_effective_uid(uid_base, clone_into_namespaces)?;
    let result = map_ids(pid, uid_base, count).and_then(|()| open_owned(pid));
    let child = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(child) = child {
        rustix::process::kill_process(child, rustix::process::Signal::KILL)?;
        waitpid(Some(child), WaitOptions::empty())?;
    }
    result
}

/// A process that does nothing, in new namespaces: the kernel makes that of users first, and the others belong to it.
/// Gives its number.
fn clone_into_namespaces() -> io::Result<i64> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::SIGCHLD;
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

fn map_ids(pid: i64, uid_base: u32, count: u32) -> io::Result<()> {
    let map = format!("0 {uid_base} {count}\n");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

fn open_owned(pid: i64) -> io::Result<Owned> {
    let named = |name: &str| open(Path::new(&format!("/proc/{pid}/ns/{name}")));
    Ok(Owned {
        user: named("user")?,
        mount: named("mnt")?,
        network: named("net")?,
        ipc: named("ipc")?,
        uts: named("uts")?,
    })
}

/// What a time namespace is made with. Taken while this process still has the host's clocks and rights.
#[derive(Debug)]
pub struct Clocks {
    boot_seconds: i64,
    monotonic_seconds: i64,
    /// `/proc/self/timens_offsets` of the process that will enter.
    offsets: Option<File>,
}

impl Clocks {
    /// Reads the clocks. Nothing that is to live in the namespace may have been started before: its start would lie
    /// before the namespace's zero.
    #[must_use]
    pub fn now() -> Self {
        let seconds = |id| rustix::time::clock_gettime(id).tv_sec;
        Self {
            boot_seconds: seconds(rustix::time::ClockId::Boottime),
            monotonic_seconds: seconds(rustix::time::ClockId::Monotonic),
            offsets: None,
        }
    }

    /// Opens what [`Clocks::enter_from_zero`] will write, which the host's root may do and root inside may not.
    ///
    /// # Errors
    /// When the kernel has no time namespaces.
    pub fn open_offsets(&mut self) -> io::Result<()> {
        let offsets = File::options()
            .write(true)
            .open("/proc/self/timens_offsets")?;
        self.offsets = Some(offsets);
        Ok(())
    }

    /// Enters a new time namespace, whose clocks since boot began at zero when these were read. It belongs to the user
    /// namespace that this process is in.
    ///
    /// # Errors
    /// When the kernel refuses, or the offsets are not open.
    pub fn enter_from_zero(self) -> io::Result<()> {
        let offsets = [
            -1_000_000_000 * self.boot_seconds,
            -1_000_000_000 * self.monotonic_seconds,
        ];
        self.enter(offsets)
    }

    /// Enters a new time namespace, whose clocks go on from these readings now.
    ///
    /// # Errors
    /// When the kernel refuses, or the offsets are not open.
    pub fn enter_from(self, boottime_ns: i64, monotonic_ns: i64) -> io::Result<()> {
        let now = |id| {
            let now = rustix::time::clock_gettime(id);
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        let offsets = [
            boottime_ns - now(rustix::time::ClockId::Boottime),
            monotonic_ns - now(rustix::time::ClockId::Monotonic),
        ];
        self.enter(offsets)
    }

    fn enter(self, [boot, monotonic]: [i64; 2]) -> io::Result<()> {
        // Not in rustix's flags: CLONE_NEWTIME shares its bit with the exit signal of clone(2).
        const CLONE_NEWTIME: libc::c_int = 0x80;
        let mut file = self.offsets.ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: unshare(2) takes an integer; with this flag it changes what children of this process get.
        if unsafe { libc::unshare(CLONE_NEWTIME) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // The kernel wants the part below a second to be positive.
        let line = |name: &str, offset: i64| {
            let (seconds, rest) = (
                offset.div_euclid(1_000_000_000),
                offset.rem_euclid(1_000_000_000),
            );
            format!("{name} {seconds} {rest}\n")
        };
        let offsets = line("boottime", boot) + &line("monotonic", monotonic);
        file.write_all(offsets.as_bytes())?;
        let made = open(Path::new("/proc/self/ns/time_for_children"))?;
        move_into_link_name_space(made.as_fd(), Some(LinkNameSpaceType::Time))?;
        Ok(())
    }
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

/// Runs something in a child that stands in a PID namespace, and gives the child's exit code.
///
/// # Errors
/// When the namespace cannot be entered, or the child was killed.
pub fn among_processes_of(namespace: impl AsFd, work: impl FnOnce() -> u8) -> io::Result<u8> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    let child = process::in_child(work)?;
    let status = waitpid(child, WaitOptions::empty())?.and_then(|(_, status)| status.exit_status());
    let code = status.and_then(|code| u8::try_from(code).ok());
    code.ok_or_else(|| io::Error::other("it was killed"))
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

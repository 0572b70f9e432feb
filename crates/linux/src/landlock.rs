//! Landlock, as far as sandboxes use it: scopes. No rules about files.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Scopes came with this version of the interface (Linux 6.12).
pub const ABI_WITH_SCOPES: u32 = 6;

// linux/landlock.h
const CREATE_RULESET_VERSION: u32 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// The version of the interface that this kernel has switched on; 0 when it has none.
#[must_use]
pub fn abi() -> u32 {
    // SAFETY: landlock_create_ruleset(2) with the version flag takes no structure.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttributes>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Puts this thread and everything it starts into a domain of its own: no signals to processes outside of it, and no
/// tracing of processes outside of it. Abstract UNIX sockets are left to the network namespace, which has its own names
/// for them; with that scope, too, what writes a checkpoint could not be talked to by the code it puts into processes.
/// `no_new_privs` is not set: the caller holds `CAP_SYS_ADMIN` in its user namespace, which the kernel accepts instead.
///
/// # Errors
/// When the kernel has no scopes, or the caller lacks the capability.
pub fn restrict_scope() -> io::Result<()> {
    let attributes = RulesetAttributes {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPE_SIGNAL,
    };
    // SAFETY: landlock_create_ruleset(2) reads the structure, whose size is given, during the call only.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(&attributes),
            size_of::<RulesetAttributes>(),
            0_u32,
        )
    };
    let ruleset = RawFd::try_from(ruleset)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new, and nothing else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: landlock_restrict_self(2) takes a descriptor and flags.
    let restricted = unsafe {
        libc::syscall(
            libc::SYS_landlock_restrict_self,
            std::os::fd::AsRawFd::as_raw_fd(&ruleset),
            0_u32,
        )
    };
    if restricted == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

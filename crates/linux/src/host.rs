//! Questions to the kernel about itself. They change nothing.

use std::io;

/// `landlock_create_ruleset` asked for the version instead of a ruleset.
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
/// Reads the core scheduling cookie of a thread; the kernel's `PR_SCHED_CORE` with `PR_SCHED_CORE_GET`.
const PR_SCHED_CORE: libc::c_int = 62;
const PR_SCHED_CORE_GET: libc::c_ulong = 0;

/// The version of Landlock that the kernel has and has switched on; `None` without it.
#[must_use]
pub fn landlock_version() -> Option<u32> {
    // SAFETY: without a ruleset and with a size of 0 the call reads no memory; it answers with a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok()
}

/// Whether the clock is kept right by somebody.
///
/// # Errors
/// When the kernel does not say.
pub fn clock_is_kept() -> io::Result<bool> {
    // SAFETY: `timex` holds integers only, for which zeroes are valid; `modes` 0 changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that lives as long as the call.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(state.status & libc::STA_UNSYNC == 0),
    }
}

/// Whether the kernel can keep threads of different owners from sharing a core at the same time. `None` where it does not
/// say, which is so without SMT.
#[must_use]
pub fn has_core_scheduling() -> Option<bool> {
    let mut cookie: libc::c_ulong = 0;
    // SAFETY: the kernel writes one `unsigned long` to the pointer, which is to a live variable of that type.
    let result = unsafe {
        libc::prctl(
            PR_SCHED_CORE,
            PR_SCHED_CORE_GET,
            0,
            0,
            &raw mut cookie as libc::c_ulong,
        )
    };
    if result == 0 {
        return Some(true);
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EINVAL) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        clock_is_kept().unwrap();
        if let Some(version) = landlock_version() {
            assert!((1..1000).contains(&version));
        }
        // Says the same each time.
        assert_eq!(has_core_scheduling(), has_core_scheduling());
    }
}

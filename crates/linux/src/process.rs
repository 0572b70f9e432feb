//! Processes by pidfd: identity, signals, end. Never by bare number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, pidfd_open, pidfd_send_signal,
    waitid, waitpid,
};

/// Start time of a process in clock ticks since boot, which together with its number identifies it.
///
/// # Errors
/// When there is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Field 22 of `/proc/<pid>/stat`. The second field is the program's name in parentheses and may hold anything.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Opens a process that was recorded earlier, if it is still the same one.
///
/// # Errors
/// When the kernel refuses; a process that is gone or another one by now is `Ok(None)`.
pub fn reopen(pid: i32, recorded_start_time: u64) -> io::Result<Option<OwnedFd>> {
    let Some(raw) = Pid::from_raw(pid) else {
        return Ok(None);
    };
    let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
        other => other?,
    };
    // Read after the descriptor is held: now the number cannot be given to another process unnoticed.
    match start_time(pid) {
        Ok(found) if found == recorded_start_time => Ok(Some(pidfd)),
        Ok(_) => Ok(None),
        // ESRCH: it ended between the opening of the file and its reading.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Kills a process. One that is gone already is fine.
///
/// # Errors
/// When the caller may not.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Collects a child that has ended. Does nothing when it is no child of this process, or still runs.
pub fn reap(pidfd: impl AsFd) {
    // The status is of no interest here, and ECHILD is the normal answer for adopted sandboxes.
    let _status = waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
}

/// Runs something in a child, which ends with what it returns, and gives the child's number. Single-threaded callers only:
/// what other threads hold would stay held in the child.
///
/// # Errors
/// When the kernel refuses a process.
pub fn in_child(work: impl FnOnce() -> u8) -> io::Result<Option<Pid>> {
    // SAFETY: clone(2) without CLONE_VM and with a null stack behaves like fork(2). The caller is single-threaded, so
    // every lock is free in the child, which ends by exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        let code = i32::from(work());
        // SAFETY: _exit(2) takes an integer. What the parent has registered for its own end must not run here.
        unsafe { libc::_exit(code) };
    }
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Waits for the end of every child.
///
/// # Errors
/// When the kernel refuses.
pub fn wait_for_children() -> io::Result<()> {
    loop {
        match waitpid(None, WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets `oom_score_adj` of this process, through the `/proc` it sees.
///
/// # Errors
/// When lowering is not allowed.
pub fn set_oom_score(value: i32) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_odd_names() {
        let fields: Vec<String> = (3..=30).map(|n| n.to_string()).collect();
        let stat = format!("42 (a) b ) {}", fields.join(" "));
        assert_eq!(parse_start_time(&stat), Some(22));
        assert_eq!(parse_start_time("42 (x) S 1"), None);
    }

    #[test]
    fn reopen_finds_only_the_same_process() {
        let me = i32::try_from(std::process::id()).unwrap();
        let start = start_time(me).unwrap();
        assert!(reopen(me, start).unwrap().is_some());
        assert!(reopen(me, start + 1).unwrap().is_none());
        assert!(reopen(i32::MAX, start).unwrap().is_none());
    }
}

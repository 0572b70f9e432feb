//! Programs kept in sealed memory, and becoming one of them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Puts bytes into an anonymous file that nobody can change any more, not even the host's root.
///
/// # Errors
/// When memory or file descriptors run out.
pub fn sealed_memfd(name: &str, content: &[u8], executable: bool) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let exec = if executable {
        MemfdFlags::EXEC
    } else {
        MemfdFlags::NOEXEC_SEAL
    };
    // Kernels before 6.3 know neither flag: there every memfd is executable.
    let fd = match memfd_create(name, flags | exec) {
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(content)?;
    fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

/// Replaces this process by the program in `program`. Returns only on failure.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let argv = pointers(argv);
    let env = pointers(env);
    // SAFETY: execveat(2) reads the NUL-terminated strings behind the two NULL-terminated arrays; they are built from
    // CStrings that outlive the call. On success nothing of this process is left that could observe it.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| CStr::as_ptr(s))
        .chain([std::ptr::null()])
        .collect()
}

/// Puts `fds` at 0, 1, 2, … without the close-on-exec flag and closes every other descriptor of this process.
///
/// `fds` must themselves lie above the numbers they go to; [`lift`] sees to that.
///
/// # Errors
/// When a descriptor cannot be duplicated.
pub fn keep_only_fds(fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    for (number, fd) in (0..).zip(fds) {
        // SAFETY: dup2(2) takes two integers. The target numbers hold nothing that Rust owns any more: the caller
        // execs next and has lifted every descriptor it still uses.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let first =
        u32::try_from(fds.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: close_range(2) with CLOEXEC only marks descriptors; they stay valid until exec closes them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Duplicates a descriptor to a number of at least 64, out of the way of the fixed numbers of [`keep_only_fds`].
///
/// # Errors
/// When descriptors run out.
pub fn lift(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 64)?)
}

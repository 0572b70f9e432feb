//! Installing a system call filter.

use std::io;

/// One classic BPF instruction: code, jump if true, jump if false, operand (`linux/filter.h`).
pub type Instruction = (u16, u8, u8, u32);

/// Installs a filter for this thread and everything it starts. `no_new_privs` is not set: the caller holds
/// `CAP_SYS_ADMIN` in its user namespace, which the kernel accepts instead, so that `sudo` works behind the filter.
///
/// # Errors
/// When the kernel refuses the program or the caller lacks the capability.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let len = u16::try_from(instructions.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?;
    let fprog = libc::sock_fprog {
        len,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: seccomp(2) reads `fprog` and the `len` instructions it points to during the call only; both outlive it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            std::ptr::from_ref(&fprog),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

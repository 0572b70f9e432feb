//! A process held still, and system calls made in its name: `ptrace`, as a debugger uses it.
//!
//! Everything goes back to where it was when the hold ends: registers, signal masks, calls that were waiting.
//! A holder that dies lets go of everything, too; a call that it had begun then leaves the process with wrong registers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use libc::{c_int, c_uint, c_void, pid_t};

/// The instruction that enters the kernel.
#[cfg(target_arch = "x86_64")]
const ENTER: [u8; 2] = [0x0f, 0x05];
/// What the kernel's errors are below.
const ERRORS: u64 = 4095;
/// All signals but the trap that ends each step: the kernel resets its handler if it is blocked.
const BLOCKED: u64 = !(1 << (libc::SIGTRAP - 1));

/// A process all of whose threads stand still.
#[derive(Debug)]
pub struct Held {
    leader: pid_t,
    threads: BTreeSet<pid_t>,
    memory: File,
}

impl Held {
    /// Stops a process. It must be one that the caller may trace: of the same user, and in most systems a descendant.
    ///
    /// # Errors
    /// What the kernel refuses; a process that is gone.
    pub fn seize(pid: i32) -> io::Result<Self> {
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        let mut held = Self {
            leader: pid,
            threads: BTreeSet::new(),
            memory,
        };
        // A thread that has not been stopped yet may make others.
        while held.seize_new()? {}
        Ok(held)
    }

    /// Its memory, to read and to write.
    #[must_use]
    pub fn memory(&self) -> &File {
        &self.memory
    }

    fn seize_new(&mut self) -> io::Result<bool> {
        let mut found = false;
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.leader))? {
            let name = entry?.file_name();
            let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if self.threads.contains(&thread) {
                continue;
            }
            match request(libc::PTRACE_SEIZE, thread, 0, 0) {
                // It has ended since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                other => other?,
            }
            self.threads.insert(thread);
            found = true;
            request(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
            stopped_by(thread, libc::PTRACE_EVENT_STOP)?;
        }
        Ok(found)
    }
}

#[cfg(target_arch = "x86_64")]
impl Held {
    /// Makes calls in the name of the first thread, which waits in a call of its own. What `work` returns is returned
    /// when the thread is again as it was.
    ///
    /// # Errors
    /// `WouldBlock` when the thread runs at this moment instead of waiting; what `work` returns; what the kernel refuses.
    pub fn with_calls<T>(&self, work: impl FnOnce(&Calls<'_>) -> io::Result<T>) -> io::Result<T> {
        let usual = registers(self.leader)?;
        let mask = signal_mask(self.leader)?;
        let entry = usual.rip.wrapping_sub(ENTER.len() as u64);
        let mut instruction = [0; ENTER.len()];
        self.memory.read_exact_at(&mut instruction, entry)?;
        if instruction != ENTER {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        set_signal_mask(self.leader, BLOCKED)?;
        let outcome = work(&Calls {
            held: self,
            usual: &usual,
            entry,
        });
        // Whatever became of the work: a thread with other registers would run anywhere.
        set_registers(self.leader, &usual)?;
        set_signal_mask(self.leader, mask)?;
        outcome
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.threads {
            // It may have been killed meanwhile.
            drop(request(libc::PTRACE_DETACH, *thread, 0, 0));
        }
    }
}

/// System calls of a held process.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub struct Calls<'a> {
    held: &'a Held,
    usual: &'a libc::user_regs_struct,
    entry: u64,
}

#[cfg(target_arch = "x86_64")]
impl Calls<'_> {
    /// Opens a file for reading, as the process sees it.
    ///
    /// # Errors
    /// As `openat`.
    pub fn open(&self, path: &std::ffi::CStr) -> io::Result<u64> {
        let bytes = path.to_bytes_with_nul();
        // Below the stack and what functions may keep there nothing is kept.
        let place = (self.usual.rsp - 1024 - bytes.len() as u64) & !15;
        self.held.memory.write_all_at(bytes, place)?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let here = i64::from(libc::AT_FDCWD).cast_unsigned();
        self.make(
            libc::SYS_openat,
            [here, place, u64::from(flags.cast_unsigned()), 0, 0, 0],
        )
    }

    /// Closes a descriptor.
    ///
    /// # Errors
    /// As `close`.
    pub fn close(&self, descriptor: u64) -> io::Result<()> {
        self.make(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0])
            .map(drop)
    }

    /// Puts a private mapping of a file in the place of whatever is mapped there.
    ///
    /// # Errors
    /// As `mmap`.
    pub fn map_over(
        &self,
        [address, length]: [u64; 2],
        protection: c_int,
        descriptor: u64,
        offset: u64,
    ) -> io::Result<()> {
        let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED).cast_unsigned();
        let protection = u64::from(protection.cast_unsigned());
        let arguments = [
            address,
            length,
            protection,
            u64::from(flags),
            descriptor,
            offset,
        ];
        self.make(libc::SYS_mmap, arguments).map(drop)
    }

    fn make(&self, number: i64, [a, b, c, d, e, f]: [u64; 6]) -> io::Result<u64> {
        let registers = libc::user_regs_struct {
            rip: self.entry,
            rax: number.cast_unsigned(),
            // Not in a call: nothing is to be made again.
            orig_rax: u64::MAX,
            rdi: a,
            rsi: b,
            rdx: c,
            r10: d,
            r8: e,
            r9: f,
            ..*self.usual
        };
        let thread = self.held.leader;
        set_registers(thread, &registers)?;
        request(libc::PTRACE_SINGLESTEP, thread, 0, 0)?;
        stopped_by(thread, 0)?;
        let result = self::registers(thread)?.rax;
        if result > u64::MAX - ERRORS {
            let code = i32::try_from(result.wrapping_neg()).unwrap_or(libc::EIO);
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(result)
    }
}

/// Waits until a thread stops for an event, or for a trap when the event is 0. Signals on the way are given to it.
fn stopped_by(thread: pid_t, event: c_int) -> io::Result<()> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result; the call keeps no pointer.
        let found = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        if found < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let signal = libc::WSTOPSIG(status);
        if status >> 16 == event && (event != 0 || signal == libc::SIGTRAP) {
            return Ok(());
        }
        // A stop for another event has no signal to be given.
        let pass_on = if status >> 16 == 0 { signal } else { 0 };
        request(
            libc::PTRACE_CONT,
            thread,
            0,
            usize::try_from(pass_on).unwrap_or(0),
        )?;
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(thread: pid_t) -> io::Result<libc::user_regs_struct> {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    request(
        libc::PTRACE_GETREGS,
        thread,
        0,
        registers.as_mut_ptr() as usize,
    )?;
    // SAFETY: plain numbers, zeroed before and written by the kernel now.
    Ok(unsafe { registers.assume_init() })
}

#[cfg(target_arch = "x86_64")]
fn set_registers(thread: pid_t, registers: &libc::user_regs_struct) -> io::Result<()> {
    request(
        libc::PTRACE_SETREGS,
        thread,
        0,
        std::ptr::from_ref(registers) as usize,
    )
}

#[cfg(target_arch = "x86_64")]
fn signal_mask(thread: pid_t) -> io::Result<u64> {
    let mut mask = 0_u64;
    let place = (&raw mut mask) as usize;
    request(libc::PTRACE_GETSIGMASK, thread, size_of::<u64>(), place)?;
    Ok(mask)
}

#[cfg(target_arch = "x86_64")]
fn set_signal_mask(thread: pid_t, mask: u64) -> io::Result<()> {
    let place = (&raw const mask) as usize;
    request(libc::PTRACE_SETSIGMASK, thread, size_of::<u64>(), place)
}

/// One request. Addresses are those of the caller's own values, which outlive the call, or numbers.
fn request(kind: c_uint, thread: pid_t, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests above write at most what the value behind `data` has room for, and keep no pointer.
    let outcome = unsafe {
        libc::ptrace(
            kind,
            thread,
            std::ptr::without_provenance_mut::<c_void>(address),
            std::ptr::with_exposed_provenance_mut::<c_void>(data),
        )
    };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

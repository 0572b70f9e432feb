//! The steps between clone and exec.
//!
//! The child runs on the fork server's memory while the server is suspended (`CLONE_VM | CLONE_VFORK`), so everything is
//! laid out before: in the child there is no allocation, no lock, and no glibc wrapper that keeps state about threads.
//! Identity changes are raw system calls for that reason: glibc's signal all threads of the process it believes in.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

use super::Step;
use super::request::SpawnRequest;

/// `CAP_SYS_NICE`-free best-effort I/O class, middle priority: `(IOPRIO_CLASS_BE << 13) | 4`.
const IO_PRIORITY: c_int = (2 << 13) | 4;
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// Everything the child needs, in the form the system calls want it.
pub(super) struct Prepared {
    candidates: Vec<CString>,
    argv: Vec<*const c_char>,
    /// The same for `/bin/sh`, with a free place for the script: files without `#!` are shell scripts.
    script_argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: CString,
    stdio: [RawFd; 3],
    identity: Option<(u32, u32, Vec<u32>)>,
    controlling_terminal: bool,
    oom_score_adj: Option<Vec<u8>>,
    limits: Vec<(u32, [u64; 2])>,
    not_found: Vec<u8>,
    not_executable: Vec<u8>,
    /// Written by the child, read by the server when it runs again.
    failure: Cell<Option<(Step, i32)>>,
    /// What the pointers above point into.
    _strings: Vec<CString>,
}

impl Prepared {
    /// `None` when a string holds a NUL byte or there is no program.
    pub(super) fn new(request: &SpawnRequest, stdio: [RawFd; 3]) -> Option<Self> {
        let program = request.argv.first()?;
        let args: Vec<CString> = c_strings(&request.argv)?;
        let env: Vec<CString> = c_strings(&request.env)?;
        let argv = pointers(&args);
        let mut script_argv = vec![SHELL.as_ptr(), ptr::null()];
        script_argv.extend(argv.iter().skip(1));
        Some(Self {
            candidates: candidates(program, &request.env)?,
            argv,
            script_argv,
            env: pointers(&env),
            cwd: CString::new(request.cwd.clone()).ok()?,
            stdio,
            identity: request
                .credentials
                .as_ref()
                .map(|c| (c.uid, c.gid, c.groups.clone())),
            controlling_terminal: request.controlling_terminal,
            oom_score_adj: request
                .oom_score_adj
                .map(|score| score.to_string().into_bytes()),
            limits: request
                .limits
                .iter()
                .map(|l| (l.resource, [l.soft, l.hard]))
                .collect(),
            // The words of a shell, which is what users expect a missing command to sound like.
            not_found: [b"sh: 1: exec: ", program.as_slice(), b": not found\n"].concat(),
            not_executable: [
                b"sh: 1: exec: ",
                program.as_slice(),
                b": Permission denied\n",
            ]
            .concat(),
            failure: Cell::new(None),
            _strings: args.into_iter().chain(env).collect(),
        })
    }

    /// Makes the process; returns when it has executed the program or ended.
    pub(super) fn clone_and_exec(&mut self, stack: &mut [u8]) -> Result<i32, (Step, i32)> {
        // The ABI wants 16-byte alignment at function entry.
        let top = stack
            .as_mut_ptr_range()
            .end
            .map_addr(|address| address & !15)
            .cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT | libc::SIGCHLD;
        let arg: *mut c_void = ptr::from_mut(self).cast();
        // SAFETY: `top` is the aligned end of a stack nobody else uses; `self` outlives the child's use of it, because
        // CLONE_VFORK suspends this only thread until the child has executed a program or ended.
        let pid = unsafe { libc::clone(enter, top, flags, arg) };
        if pid < 0 {
            return Err((Step::Clone, errno()));
        }
        match self.failure.get() {
            Some(failure) => Err(failure),
            None => Ok(pid),
        }
    }

    fn run(&mut self) -> c_int {
        let failure = match self.set_up() {
            Ok(()) => match self.exec() {
                Ok(status) => return status,
                Err(errno) => (Step::Exec, errno),
            },
            Err(failure) => failure,
        };
        self.failure.set(Some(failure));
        127
    }

    fn set_up(&self) -> Result<(), (Step, i32)> {
        self.streams().map_err(|errno| (Step::Streams, errno))?;
        self.priorities();
        self.limits().map_err(|errno| (Step::Limits, errno))?;
        self.identity().map_err(|errno| (Step::Identity, errno))?;
        // SAFETY: chdir(2) reads a NUL-terminated string.
        check(c_long::from(unsafe { libc::chdir(self.cwd.as_ptr()) }))
            .map_err(|errno| (Step::WorkingDirectory, errno))
    }

    fn streams(&self) -> Result<(), i32> {
        if self.controlling_terminal {
            // SAFETY: setsid(2) takes nothing.
            check(c_long::from(unsafe { libc::setsid() }))?;
        } else {
            // A group of its own: `kill 0` in one program must not reach the others.
            // SAFETY: setpgid(2) takes two integers.
            check(c_long::from(unsafe { libc::setpgid(0, 0) }))?;
        }
        for (target, fd) in (0..).zip(self.stdio) {
            // SAFETY: dup2(2) takes two integers. The descriptor table is the child's own copy.
            check(c_long::from(unsafe { libc::dup2(fd, target) }))?;
        }
        if self.controlling_terminal {
            // SAFETY: TIOCSCTTY takes an integer argument.
            check(c_long::from(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }))?;
        }
        Ok(())
    }

    /// Best effort: a sandbox may lack `/proc` or the right to raise its priority.
    fn priorities(&self) {
        // SAFETY: setpriority(2) takes integers.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
        // SAFETY: ioprio_set(2) takes integers; 1 is IOPRIO_WHO_PROCESS.
        unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, IO_PRIORITY) };
        let Some(score) = &self.oom_score_adj else {
            return;
        };
        let path = c"/proc/self/oom_score_adj".as_ptr();
        // SAFETY: open(2) reads a NUL-terminated string.
        let fd = unsafe { libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC) };
        if fd >= 0 {
            // SAFETY: the buffer is valid for its length.
            unsafe { libc::write(fd, score.as_ptr().cast(), score.len()) };
            // SAFETY: the descriptor was opened above and is used by nobody else.
            unsafe { libc::close(fd) };
        }
    }

    fn limits(&self) -> Result<(), i32> {
        for (resource, values) in &self.limits {
            let null = ptr::null::<c_void>();
            // SAFETY: prlimit64(2) reads two 64-bit numbers behind the pointer, and is asked for no old value.
            check(unsafe {
                libc::syscall(libc::SYS_prlimit64, 0, *resource, values.as_ptr(), null)
            })?;
        }
        Ok(())
    }

    fn identity(&self) -> Result<(), i32> {
        let Some((uid, gid, groups)) = &self.identity else {
            return Ok(());
        };
        // SAFETY: setgroups(2) reads `len` numbers behind the pointer.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
        // SAFETY: setresgid(2) takes integers.
        check(unsafe { libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) })?;
        // SAFETY: setresuid(2) takes integers.
        check(unsafe { libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) })
    }

    /// Tries each candidate as a shell would. `Ok` is the exit status after a failure that the user is told about on
    /// the program's standard error; `Err` is one that the caller must report.
    fn exec(&mut self) -> Result<c_int, i32> {
        let mut denied = false;
        for index in 0..self.candidates.len() {
            let Some(path) = self.candidates.get(index).map(|c| c.as_ptr()) else {
                break;
            };
            match self.execve(path, self.argv.as_ptr()) {
                libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP => {}
                libc::EACCES | libc::EISDIR | libc::EPERM => denied = true,
                libc::ENOEXEC => {
                    if let Some(script) = self.script_argv.get_mut(1) {
                        *script = path;
                    }
                    if self.execve(SHELL.as_ptr(), self.script_argv.as_ptr()) != libc::ENOENT {
                        return Err(libc::ENOEXEC);
                    }
                    denied = true;
                }
                other => return Err(other),
            }
        }
        let (message, status) = if denied {
            (&self.not_executable, 126)
        } else {
            (&self.not_found, 127)
        };
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
        Ok(status)
    }

    fn execve(&self, path: *const c_char, argv: *const *const c_char) -> i32 {
        // SAFETY: execve(2) reads NUL-terminated strings behind NULL-terminated arrays, all owned by `self`.
        unsafe { libc::execve(path, argv, self.env.as_ptr()) };
        errno()
    }
}

extern "C" fn enter(arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the `Prepared` that `clone_and_exec` borrows mutably and does not touch until the child is done.
    let prepared = unsafe { &mut *arg.cast::<Prepared>() };
    let status = prepared.run();
    // SAFETY: _exit(2) ends the child only; nothing of the server's state is torn down.
    unsafe { libc::_exit(status) }
}

fn check(result: c_long) -> Result<(), i32> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

fn c_strings(list: &[Vec<u8>]) -> Option<Vec<CString>> {
    list.iter()
        .map(|bytes| CString::new(bytes.clone()).ok())
        .collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// Where a program may be: itself when it names a path, else one file per directory of `PATH`.
fn candidates(program: &[u8], env: &[Vec<u8>]) -> Option<Vec<CString>> {
    if program.is_empty() {
        return Some(Vec::new());
    }
    if program.contains(&b'/') {
        return Some(vec![CString::new(program).ok()?]);
    }
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/bin:/bin");
    path.split(|byte| *byte == b':')
        .map(|directory| {
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            CString::new([directory, b"/", program].concat()).ok()
        })
        .collect()
}

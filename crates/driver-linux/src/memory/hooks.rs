//! Listening for CRIU, which asks at the turning points of its work whether it may go on.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::driver::timespec;
use crate::jail::Jail;

/// Who asks says at once what.
const QUESTION: Duration = Duration::from_secs(5);
/// Lines of a log that are told.
const WORTH_TELLING: usize = 3;

/// The directory that CRIU works in, and the socket in it.
#[derive(Debug)]
pub(crate) struct Hooks {
    work: PathBuf,
    listener: UnixListener,
}

impl Hooks {
    /// Makes the directory anew. `hook` is the program that asks, `owner` who runs it.
    pub(crate) fn listen(work: PathBuf, hook: &OwnedFd, owner: u32) -> io::Result<Self> {
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        for directory in [work.clone(), work.join("none")] {
            DirBuilder::new().mode(0o700).create(&directory)?;
            chown(&directory, Some(owner), Some(owner))?;
        }
        let program = work.join("hook");
        fs::copy(format!("/proc/self/fd/{}", hook.as_raw_fd()), &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o555))?;
        // The path of a socket has room for a hundred bytes.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&work, flags, Mode::empty())?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/ask", directory.as_raw_fd()))?;
        chown(work.join("ask"), Some(owner), Some(owner))?;
        Ok(Self { work, listener })
    }

    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Answers questions until the program that `jail` has become ends. `answer` is given the stage and the number of the
    /// first process; its error is the answer no. The error says what went wrong.
    pub(crate) fn attend(
        &self,
        jail: &mut Jail,
        patience: Duration,
        mut answer: impl FnMut(&str, i32) -> io::Result<()>,
    ) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let pid = Pid::from_raw(jail.pid()).ok_or(io::ErrorKind::InvalidInput)?;
        let program = pidfd_open(pid, PidfdFlags::empty())?;
        let mut refused = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&program, PollFlags::IN),
            ];
            if poll(&mut fds, Some(&timespec(left)))? == 0 {
                jail.kill()?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let (asked, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if asked {
                let (stream, _) = self.listener.accept()?;
                let answered = ask(&stream, &mut answer);
                let word: &[u8] = if answered.is_ok() { b"y" } else { b"n" };
                refused = refused.or(answered.err());
                // Whoever has ended meanwhile hears nothing, and that is noticed below.
                let _heard = (&stream).write_all(word);
            } else if ended {
                break;
            }
        }
        match (refused, jail.ended()?) {
            (Some(error), _) => Err(error),
            (None, Some(true)) => Ok(()),
            (None, _) => Err(io::Error::other(self.reason(jail))),
        }
    }

    /// What the jail said before it became another program, or else what that has logged.
    fn reason(&self, jail: &mut Jail) -> String {
        if let crate::jail::JailError::Step { step, source } = jail.failure() {
            return format!("{step}: {source}");
        }
        let logs = ["dump.log", "restore.log"].map(|name| fs::read(self.work.join(name)));
        let text: Vec<u8> = logs.into_iter().filter_map(Result::ok).flatten().collect();
        let text = String::from_utf8_lossy(&text);
        let errors = text.lines().filter(|line| line.contains("Error"));
        let errors: Vec<&str> = errors.take(WORTH_TELLING).collect();
        match errors.is_empty() {
            true => "CRIU has ended without a word".to_owned(),
            false => errors.join("; "),
        }
    }
}

fn ask(
    stream: &UnixStream,
    answer: &mut impl FnMut(&str, i32) -> io::Result<()>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(QUESTION))?;
    let mut line = String::new();
    BufReader::new(io::Read::take(stream, 256)).read_line(&mut line)?;
    let (stage, pid) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    answer(stage, pid.parse().unwrap_or_default())
}

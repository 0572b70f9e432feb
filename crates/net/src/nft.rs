//! An `nft` that stays, for the changes that a create or a kill waits for.
//!
//! The kernel lets a process that has changed rules end only when nobody can see the old ones any more, which takes some ten
//! milliseconds, though the new ones are in force long before. A process that stays answers within one. It takes one line at a
//! time and says nothing of what it has done, so each is followed by a line that no `nft` understands: its complaint of that
//! one is the sign that it is through with the one before.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::firewall::{self, FirewallError, NFT_LIMIT};

/// Longer changes are given to a process of their own: the line editor in `nft` is not made for them.
const LONGEST: usize = 32 * 1024;
/// It remembers what it was told. After so many changes another one takes its place.
const MOST_CHANGES: u32 = 1000;

/// Applies changes, one after the other. The process starts with the first and ends with this.
#[derive(Debug, Default)]
pub struct Nft {
    running: Option<Running>,
    /// There was one that did not do what it should. Each change has a process of its own since.
    given_up: bool,
}

#[derive(Debug)]
struct Running {
    process: Child,
    orders: ChildStdin,
    complaints: ChildStderr,
    changes: u32,
}

impl Nft {
    /// Makes changes that are one command to a line, in one transaction. What is in force after half of them, and after all
    /// of them a second time, must be the same: they may be applied again. Blocks, for a millisecond as a rule.
    ///
    /// # Errors
    /// When `nft` cannot be run or refuses.
    pub fn apply(&mut self, text: &str) -> Result<(), FirewallError> {
        if self.given_up || text.len() > LONGEST {
            return firewall::apply(text);
        }
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running::start().map_err(FirewallError::Run)?,
        };
        match running.apply(text) {
            Ok(outcome) => {
                if running.changes < MOST_CHANGES {
                    self.running = Some(running);
                }
                outcome
            }
            Err(error) => {
                tracing::info!(%error, "this nft cannot be talked to; each change gets a process of its own");
                self.given_up = true;
                drop(running);
                firewall::apply(text)
            }
        }
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let mut process = Command::new("nft")
            .arg("-i")
            // It would keep a history of its commands there.
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let (orders, complaints) = (process.stdin.take(), process.stderr.take());
        Ok(Self {
            process,
            orders: orders.ok_or(io::ErrorKind::BrokenPipe)?,
            complaints: complaints.ok_or(io::ErrorKind::BrokenPipe)?,
            changes: 0,
        })
    }

    /// The outer error: it does not do what it should.
    fn apply(&mut self, text: &str) -> io::Result<Result<(), FirewallError>> {
        self.changes += 1;
        let mark = format!("end-of-change-{}", self.changes);
        self.orders.write_all(line(text, &mark).as_bytes())?;
        let deadline = Instant::now() + NFT_LIMIT;
        let mut said = Vec::new();
        loop {
            let outcome = outcome(&String::from_utf8_lossy(&said), &mark);
            if let Some(outcome) = outcome {
                return Ok(outcome.map_err(|message| FirewallError::Refused { message }));
            }
            self.wait(deadline)?;
            let mut piece = [0; 4096];
            let read = self.complaints.read(&mut piece)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            said.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut readable = [PollFd::new(&self.complaints, PollFlags::IN)];
        match poll(&mut readable, Some(&left))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever it was about to do has been answered, or is done again by another.
        let killed = self.process.kill();
        let process = &mut self.process;
        if let Err(error) = killed.and_then(|()| process.wait()) {
            tracing::warn!(%error, "an nft stays behind");
        }
    }
}

/// What it is told: all commands as one, and the one that it will complain of.
fn line(text: &str, mark: &str) -> String {
    let mut line = String::with_capacity(text.len() + mark.len() + 8);
    for command in text.lines() {
        // Writing to a String cannot fail.
        let _written = write!(line, "{command}; ");
    }
    line + "\n" + mark + "\n"
}

/// Out of all that it has said: nothing yet, or how the change went. What it says of each error begins with that word, then
/// comes the line that it is about.
fn outcome(said: &str, mark: &str) -> Option<Result<(), String>> {
    let (before, _) = said.split_once(&format!("{mark}\n"))?;
    // The complaint of the mark itself.
    let (before, _) = before.rsplit_once("Error: ")?;
    match before.contains("Error: ") {
        true => Some(Err(before.to_owned())),
        false => Some(Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLAINT: &str = "Error: syntax error, unexpected newline, expecting string\nend-of-change-7\n               ^\n";

    #[test]
    fn what_it_says() {
        let mark = "end-of-change-7";
        assert_eq!(outcome("", mark), None);
        assert_eq!(outcome(&COMPLAINT[..60], mark), None);
        assert_eq!(outcome(COMPLAINT, mark), Some(Ok(())));
        // The pointer below the mark before may come late.
        let late = format!("               ^\n{COMPLAINT}");
        assert_eq!(outcome(&late, mark), Some(Ok(())));
        assert_eq!(outcome(COMPLAINT, "end-of-change-77"), None);
        let refused = format!("Error: No such file\nadd rule inet t c accept\n   ^\n{COMPLAINT}");
        let message = outcome(&refused, mark).unwrap().unwrap_err();
        assert_eq!(
            message,
            "Error: No such file\nadd rule inet t c accept\n   ^\n"
        );
    }

    #[test]
    fn what_it_is_told() {
        let told = line("add chain inet t c\nflush chain inet t c\n", "mark-1");
        assert_eq!(told, "add chain inet t c; flush chain inet t c; \nmark-1\n");
    }
}

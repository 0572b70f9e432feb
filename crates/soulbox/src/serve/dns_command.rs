//! The operator's command that changes DNS (`acme_dns_command`), in the helper: the right to change DNS stays with root, and
//! the server, which speaks to strangers, can have one record made and removed, and no other.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use soulbox_helper::RecordAct;

use super::operators;

/// Some providers of DNS take minutes until all of their servers know of a record.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// As much of what it has said is looked at.
const LAST_BYTES: u64 = 4096;
/// As much of its last line is told.
const LINE_CHARACTERS: usize = 500;

/// See the module.
pub(super) struct DnsCommand {
    command: String,
    /// Of the record.
    name: String,
    patience: Duration,
    /// There is something to read once no command is to run any more.
    stop: OwnedFd,
}

impl DnsCommand {
    pub(super) fn new(command: String, domain: &str) -> io::Result<Self> {
        Ok(Self {
            command,
            name: format!("_acme-challenge.{domain}"),
            patience: PATIENCE,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    /// Ends the one that runs, and every later one at once.
    pub(super) fn stop(&self) {
        let one = 1_u64.to_ne_bytes();
        rustix::io::write(&self.stop, &one).expect("a counter of 64 bits takes another one");
    }

    /// Runs it to its end. A failure tells the last line of what it has written to standard error.
    pub(super) fn run(&self, act: RecordAct, value: &str) -> anyhow::Result<()> {
        let act = match act {
            RecordAct::Present => "present",
            RecordAct::Cleanup => "cleanup",
        };
        let mut said = File::from(memfd_create("acme_dns_command", MemfdFlags::CLOEXEC)?);
        let mut command = operators::shell(&self.command, &[act, &self.name, value]);
        command.stdout(Stdio::null()).stderr(said.try_clone()?);
        let (_, status) = operators::run(&mut command, self.patience, Some(self.stop.as_fd()))
            .context("cannot run acme_dns_command")?;
        let last = last_line(&mut said)?;
        match status {
            None => bail!(
                "acme_dns_command {act} was ended, at the latest after {} s: {last}",
                self.patience.as_secs()
            ),
            Some(status) if !status.success() => {
                bail!("acme_dns_command {act} has failed, {status}: {last}")
            }
            Some(_) => Ok(()),
        }
    }
}

fn last_line(said: &mut File) -> io::Result<String> {
    let length = said.metadata()?.len();
    said.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
    let mut bytes = Vec::new();
    said.take(LAST_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let last = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let last = last.unwrap_or("it has said nothing");
    Ok(last
        .chars()
        .filter(|c| !c.is_control())
        .take(LINE_CHARACTERS)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> DnsCommand {
        DnsCommand {
            patience: Duration::from_millis(300),
            ..DnsCommand::new(text.to_owned(), "box.test").unwrap()
        }
    }

    #[test]
    fn it_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (program, told) = (dir.path().join("dns"), dir.path().join("told"));
        std::fs::write(&program, "shift; echo \"$@\" >> \"$TOLD\"").unwrap();
        let text = format!("TOLD={} /bin/sh {} x", told.display(), program.display());
        command(&text).run(RecordAct::Present, "abc").unwrap();
        command(&text).run(RecordAct::Cleanup, "abc").unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        let name = "_acme-challenge.box.test";
        assert_eq!(told, format!("present {name} abc\ncleanup {name} abc\n"));
    }

    #[test]
    fn a_failure_tells_what_it_has_said_last() {
        let failed = |text: &str| {
            let error = command(text).run(RecordAct::Present, "abc").unwrap_err();
            error.to_string()
        };
        let said = failed("echo one >&2; printf 'the zone\\033 is locked\\n\\n' >&2; exit 3 #");
        assert_eq!(
            said,
            "acme_dns_command present has failed, exit status: 3: the zone is locked"
        );
        assert!(failed("exit 3 #").ends_with("it has said nothing"));
        assert!(
            failed("echo asking >&2; sleep 60 #")
                .ends_with("was ended, at the latest after 0 s: asking")
        );
        assert!(failed("/does/not/exist").contains("exit status: 127"));
        let long = failed("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1 #");
        assert!(long.len() < 1000, "{long}");
    }

    #[test]
    fn none_outlives_a_stop() {
        let command = DnsCommand::new("sleep 60 #".to_owned(), "box.test").unwrap();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| command.run(RecordAct::Present, "abc"));
            command.stop();
            assert!(running.join().unwrap().is_err());
        });
        assert!(command.run(RecordAct::Present, "abc").is_err());
    }
}

//! Who was killed for lack of memory: the kernel says so in its log, and nowhere else.
//!
//! One thread reads `/dev/kmsg`. A line about a killed process holds its number on the host, its name and its user id,
//! and the user id tells the sandbox: every slot has a range of its own. The number inside is read from `/proc` at once,
//! before somebody collects the process; when that comes too late, only the name is known.
//!
//! The word goes two ways: to the server (for the sandbox's log) and to envd (for the end of the command).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, Weak};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use soulbox_driver::OomKill;
use soulbox_types::slot::{Block, UIDS_PER_SLOT};
use soulbox_types::{SlotIndex, slot};

use crate::guest::NamespaceGuest;
use crate::lock::locked;

/// The kernel's log, a record per read.
const KERNEL_LOG: &str = "/dev/kmsg";
/// Longer than any record.
const RECORD_MAX: usize = 8192;
/// How far up the family of a killed process is followed.
const ANCESTORS_MAX: usize = 64;

/// A process of a sandbox that was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) kill: OomKill,
    /// Its parents by their numbers inside, nearest first, process 1 left out. Absent when it was gone already.
    pub(crate) ancestors: Option<Vec<i32>>,
}

/// The guests of a driver, by slot.
#[derive(Debug, Default)]
pub(crate) struct Guests(Mutex<HashMap<u16, Weak<NamespaceGuest>>>);

impl Guests {
    /// Enters a guest; the one before it in the same slot has ended.
    pub(crate) fn enter(&self, guest: &Arc<NamespaceGuest>) {
        locked(&self.0).insert(guest.slot.index(), Arc::downgrade(guest));
    }

    fn in_slot(&self, slot: SlotIndex) -> Option<Arc<NamespaceGuest>> {
        locked(&self.0).get(&slot.index()).and_then(Weak::upgrade)
    }
}

/// The reading thread, for as long as this lives.
#[derive(Debug)]
pub(crate) struct KernelLog {
    /// Closing it ends the thread.
    _alive: OwnedFd,
}

impl KernelLog {
    /// Follows the kernel's log from now on.
    ///
    /// # Errors
    /// When this server may not read it.
    pub(crate) fn follow(block: Block, guests: Arc<Guests>) -> io::Result<Self> {
        let log = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(KERNEL_LOG)?;
        seek(&log, SeekFrom::End(0))?;
        let (ended, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let follower = Follower {
            log,
            ended,
            block,
            guests,
        };
        std::thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(move || follower.run())?;
        Ok(Self { _alive: alive })
    }
}

struct Follower {
    log: File,
    ended: OwnedFd,
    block: Block,
    guests: Arc<Guests>,
}

impl Follower {
    fn run(mut self) {
        if let Err(error) = self.follow() {
            tracing::warn!(%error, "the kernel's log cannot be followed any more: names of processes killed for memory are unknown");
        }
    }

    fn follow(&mut self) -> io::Result<()> {
        let mut record = vec![0; RECORD_MAX];
        loop {
            let mut fds = [
                PollFd::new(&self.log, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(());
            }
            self.read_all(&mut record)?;
        }
    }

    fn read_all(&mut self, record: &mut [u8]) -> io::Result<()> {
        loop {
            match self.log.read(record) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                    if let Some(line) = killed(&text) {
                        self.report(&line);
                    }
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::AGAIN) => return Ok(()),
                    // Records were overwritten before they were read; the next read goes on behind the gap.
                    Some(Errno::PIPE | Errno::INTR) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn report(&self, line: &Killed<'_>) {
        let Some(slot) = slot_of(self.block, line.uid) else {
            return;
        };
        // First of all, while it is still there.
        let inside = look(line.pid, slot);
        let Some(guest) = self.guests.in_slot(slot) else {
            return;
        };
        guest.killed_for_memory(Victim {
            kill: OomKill {
                name: line.name.to_owned(),
                pid: inside.as_ref().map(|inside| inside.pid),
            },
            ancestors: inside.map(|inside| inside.ancestors),
        });
    }
}

/// What the kernel says of a process that it has killed.
#[derive(Debug, PartialEq, Eq)]
struct Killed<'a> {
    pid: i32,
    name: &'a str,
    uid: u32,
}

/// Reads a record of the kernel's log: `<facility and level>,<number>,<time>,…;<text>`. The name is chosen by the
/// program and may hold anything, so what stands behind it is looked for from the end. Only the kernel itself writes
/// with facility 0.
fn killed(record: &str) -> Option<Killed<'_>> {
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    let text = text.lines().next()?;
    let (before, after) = text.split_once("ut of memory: Killed process ")?;
    if priority >> 3 != 0 || !(before == "O" || before == "Memory cgroup o") {
        return None;
    }
    let (pid, after) = after.split_once(" (")?;
    let (name, numbers) = after.rsplit_once(") total-vm:")?;
    let (_, uid) = numbers.rsplit_once(", UID:")?;
    Some(Killed {
        pid: pid.parse().ok()?,
        name,
        uid: uid.split(' ').next()?.parse().ok()?,
    })
}

/// The slot of a block that a host user id belongs to.
fn slot_of(block: Block, uid: u32) -> Option<SlotIndex> {
    let first = SlotIndex::new(block, 0)?.uid_base();
    let index = uid.checked_sub(first)? / UIDS_PER_SLOT;
    let index = u16::try_from(index)
        .ok()
        .filter(|i| *i < slot::SLOTS_PER_BLOCK)?;
    SlotIndex::new(block, index)
}

/// A process by its numbers inside.
#[derive(Debug, PartialEq, Eq)]
struct Inside {
    pid: i32,
    ancestors: Vec<i32>,
}

fn look(pid: i32, slot: SlotIndex) -> Option<Inside> {
    let at = |pid: i32| {
        status(
            &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
            slot,
        )
    };
    let victim = at(pid)?;
    let mut ancestors = Vec::new();
    let mut parent = victim.parent;
    while let Some(status) = at(parent)
        && status.pid != 1
        && ancestors.len() < ANCESTORS_MAX
    {
        ancestors.push(status.pid);
        parent = status.parent;
    }
    Some(Inside {
        pid: victim.pid,
        ancestors,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// Number of the process (not the thread) in its own PID namespace.
    pid: i32,
    /// Number of its parent on the host.
    parent: i32,
}

/// Reads `/proc/<pid>/status`; nothing when it is not a process of this slot, as when the number means another process
/// to this server than to the kernel.
fn status(text: &str, slot: SlotIndex) -> Option<Status> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let uid: u32 = field("Uid")?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()?;
    if uid.checked_sub(slot.uid_base())? >= UIDS_PER_SLOT {
        return None;
    }
    let mut numbers = field("NStgid")?.split_ascii_whitespace();
    // The first one is the host's.
    numbers.next()?;
    Some(Status {
        pid: numbers.next_back()?.parse().ok()?,
        parent: field("PPid")?.trim().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "3,8128,13353052622,-;Memory cgroup out of memory: Killed process 29325 (python3) total-vm:118968kB, \
                        anon-rss:30464kB, file-rss:5628kB, shmem-rss:0kB, UID:1879113728 pgtables:112kB oom_score_adj:0\n";

    fn block() -> Block {
        Block::new(0).unwrap()
    }

    #[test]
    fn the_kernels_line_is_read() {
        let found = killed(LINE).unwrap();
        assert_eq!(
            found,
            Killed {
                pid: 29325,
                name: "python3",
                uid: 1_879_113_728
            }
        );
        let global = LINE.replace("Memory cgroup out", "Out");
        assert_eq!(killed(&global), Some(found));
    }

    #[test]
    fn names_cannot_lie_about_the_rest() {
        for name in [
            ") total-vm:1, U",
            "a, UID:0 b",
            "a (b) c",
            "x) total-vm:",
            ";",
            "",
        ] {
            let line = LINE.replace("(python3)", &format!("({name})"));
            let found = killed(&line).unwrap();
            assert_eq!((found.name, found.uid), (name, 1_879_113_728), "{line}");
        }
    }

    #[test]
    fn other_lines_and_other_writers_are_passed_over() {
        for line in [
            "",
            "6,1,1,-;eth0: link up",
            // Written to /dev/kmsg by a program: facility 1.
            &LINE.replacen("3,", "11,", 1),
            &LINE.replace("Memory cgroup out", "xOut"),
            &LINE.replace("UID", "GID"),
            &LINE.replace("29325", "x"),
        ] {
            assert_eq!(killed(line), None, "{line}");
        }
    }

    #[test]
    fn user_ids_tell_the_slot() {
        let slot = |index| SlotIndex::new(block(), index);
        let base = slot(0).unwrap().uid_base();
        assert_eq!(slot_of(block(), base - 1), None);
        assert_eq!(slot_of(block(), base), slot(0));
        assert_eq!(slot_of(block(), base + UIDS_PER_SLOT + 1000), slot(1));
        let end = slot(slot::SLOTS_PER_BLOCK - 1).unwrap().uid_base() + UIDS_PER_SLOT;
        assert_eq!(slot_of(block(), end - 1), slot(slot::SLOTS_PER_BLOCK - 1));
        assert_eq!(slot_of(block(), end), None);
        assert_eq!(slot_of(Block::new(1).unwrap(), base), None);
    }

    #[test]
    fn only_processes_of_the_slot_are_believed() {
        let slot = SlotIndex::new(block(), 2).unwrap();
        let uid = slot.uid_base() + 1000;
        let text = format!(
            "Name:\tpython3\nTgid:\t900\nPid:\t901\nPPid:\t880\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nNStgid:\t900\t12\nNSpid:\t901\t13\n"
        );
        let expected = Status {
            pid: 12,
            parent: 880,
        };
        assert_eq!(status(&text, slot), Some(expected));
        assert_eq!(status(&text, SlotIndex::new(block(), 3).unwrap()), None);
        assert_eq!(
            status(&text.replace("NStgid:\t900\t12", "NStgid:\t900"), slot),
            None
        );
    }
}

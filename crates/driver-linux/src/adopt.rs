//! Finding again what an earlier server left: sandboxes that run, and the remains of those that do not.
//!
//! First everything is looked at, then processes that belong to nobody end, then files that belong to nobody go: a
//! process that still writes would make its directory grow while it is removed.
//! One sandbox whose record or files are damaged costs that sandbox, and no other: what cannot be removed stays, is
//! told, and keeps its slot from being used.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use soulbox_driver::Moments;
use soulbox_fault as fault;
use soulbox_linux::loopdev::Bound;
use soulbox_linux::{namespace, process};
use soulbox_types::{SandboxId, SlotIndex};

use crate::cgroup::SlotCgroup;
use crate::disk;
use crate::driver::{Finished, timespec};
use crate::host::Host;
use crate::memory;
use crate::state::SandboxState;
use crate::view;

/// What an earlier server left.
pub(crate) struct Found {
    /// Sandboxes that run.
    pub(crate) running: Vec<Finished>,
    /// Directories without such a sandbox, and why.
    pub(crate) lost: Vec<Lost>,
    /// Numbers of slots that cannot be given out: in use, or not to be emptied.
    pub(crate) taken: HashSet<u16>,
}

/// A directory whose sandbox does not run any more, or must not.
pub(crate) struct Lost {
    directory: PathBuf,
    /// Its name, when it is one.
    pub(crate) id: Option<SandboxId>,
    /// In words that go on from "the sandbox was lost: ".
    pub(crate) reason: String,
    /// Its first process, when that runs all the same.
    alive: Option<OwnedFd>,
    /// Where it stands, when that is a slot of another block and proven to be its own.
    slot: Option<SlotIndex>,
}

/// What is known of a sandbox that is not taken over, beside its directory.
struct NotRunning {
    reason: String,
    alive: Option<OwnedFd>,
    slot: Option<SlotIndex>,
}

impl NotRunning {
    fn dead(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            alive: None,
            slot: None,
        }
    }

    fn alive(reason: impl Into<String>, pidfd: OwnedFd, slot: Option<SlotIndex>) -> Self {
        Self {
            reason: reason.into(),
            alive: Some(pidfd),
            slot,
        }
    }
}

/// Finds every sandbox that still runs, ends what belongs to none, slots that were only prepared included, and removes
/// the remains.
pub(crate) fn find(host: &Host) -> io::Result<Found> {
    let mut found = look(host)?;
    fault::point!("start.remains-found");
    for lost in &found.lost {
        end_unwanted(host, lost);
    }
    for number in host.hierarchies.slots_of(&host.block.prefix())? {
        let Some(slot) =
            SlotIndex::new(host.block, number).filter(|_| !found.taken.contains(&number))
        else {
            continue;
        };
        if let Err(error) = empty(&SlotCgroup::new(host.hierarchies.clone(), slot)) {
            tracing::error!(%error, slot = number, "processes of an earlier server do not end: the slot is not used");
            found.taken.insert(number);
        }
    }
    fault::point!("start.remains-ended");
    for lost in &found.lost {
        clear(lost);
        fault::point!("start.remains-removed");
    }
    host.disks.keep_only(&found.taken)?;
    if let Err(error) = memory::clear_unkept(host) {
        tracing::warn!(%error, "memory that an earlier server has written for nobody stays on disk");
    }
    if let Err(error) = host.layers.clear_unfinished() {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "unfinished layers of an earlier server stay"
        );
    }
    let running = found.running.iter().map(|finished| &finished.spec.id);
    view::keep_only(host.block, &running.collect::<Vec<_>>())?;
    Ok(found)
}

fn look(host: &Host) -> io::Result<Found> {
    let (mut running, mut lost, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
    let devices = host.disks.loop_devices()?;
    for entry in fs::read_dir(host.sandboxes_dir())? {
        let directory = entry?.path();
        match reopen(host, &directory, &devices) {
            // Two records of one slot: at most one is true, and no more than one sandbox can be in a slot.
            Ok(finished) if taken.contains(&finished.place.0.index()) => {
                let why =
                    NotRunning::alive("another sandbox stands in its slot", finished.pidfd, None);
                lost.push(lose(directory, why));
            }
            Ok(finished) => {
                taken.insert(finished.place.0.index());
                running.push(finished);
            }
            Err(why) => lost.push(lose(directory, why)),
        }
    }
    Ok(Found {
        running,
        lost,
        taken,
    })
}

fn lose(directory: PathBuf, why: NotRunning) -> Lost {
    let name = directory.file_name().and_then(|name| name.to_str());
    let id = name.and_then(|name| name.parse().ok());
    Lost {
        directory,
        id,
        reason: why.reason,
        alive: why.alive,
        slot: why.slot,
    }
}

fn reopen(host: &Host, directory: &Path, devices: &[Bound]) -> Result<Finished, NotRunning> {
    let state =
        SandboxState::read(directory).map_err(|error| NotRunning::dead(error.to_string()))?;
    if directory
        .file_name()
        .is_none_or(|name| name != state.spec.id.as_str())
    {
        return Err(NotRunning::dead(format!(
            "its state.json is that of sandbox {}",
            state.spec.id
        )));
    }
    if state.boot_id != host.boot_id {
        return Err(NotRunning::dead("the machine was restarted"));
    }
    let pidfd = match process::reopen(state.pid, state.start_time) {
        Ok(Some(pidfd)) => pidfd,
        Ok(None) => return Err(NotRunning::dead("its process has ended")),
        Err(error) => {
            return Err(NotRunning::dead(format!(
                "its process cannot be looked at: {error}"
            )));
        }
    };
    let cgroup = SlotCgroup::new(host.hierarchies.clone(), state.slot);
    if !cgroup
        .processes()
        .is_ok_and(|pids| pids.contains(&state.pid))
    {
        return Err(NotRunning::alive(
            "its process stands in no cgroup of its slot",
            pidfd,
            None,
        ));
    }
    if state.slot.block() != host.block {
        let (theirs, ours) = (state.slot.block().number(), host.block.number());
        let reason =
            format!("it stands in address block {theirs}, and this server now has block {ours}");
        return Err(NotRunning::alive(reason, pidfd, Some(state.slot)));
    }
    let Ok(network) = namespace::open(Path::new(&format!("/proc/{}/ns/net", state.pid))) else {
        // Ended between the two calls.
        return Err(NotRunning::dead("its process has ended"));
    };
    let files = host.files(state.spec.id.as_str());
    let place = (state.slot, &files, &state.spec.limits);
    let Ok(disk) = host.disks.reopen(state.backing, place, state.pid, devices) else {
        return Err(NotRunning::alive("its disk cannot be opened", pidfd, None));
    };
    let standing = host.layers.stand_on(&state.spec.image.layers);
    Ok(Finished {
        spec: state.spec,
        place: (state.slot, cgroup, files),
        pid: state.pid,
        pidfd,
        network,
        disk,
        standing,
        moments: Moments::default(),
    })
}

/// Ends a sandbox that runs and is not taken over. The record has proven that the process is ours; all other processes
/// of the sandbox end with it.
fn end_unwanted(host: &Host, lost: &Lost) {
    let Some(pidfd) = &lost.alive else { return };
    let ended = process::kill(pidfd).and_then(|()| match lost.slot {
        Some(slot) => empty(&SlotCgroup::new(host.hierarchies.clone(), slot)),
        None => Ok(()),
    });
    if let Err(error) = ended {
        tracing::error!(%error, directory = %lost.directory.display(), "a sandbox that is not taken over does not end");
    }
}

fn clear(lost: &Lost) {
    let directory = lost.directory.display();
    tracing::warn!(%directory, reason = %lost.reason, "a sandbox was lost; its remains are removed");
    let is_directory = fs::symlink_metadata(&lost.directory).is_ok_and(|facts| facts.is_dir());
    if !is_directory {
        tracing::error!(%directory, "not a directory of a sandbox: left alone. FIX: move it away");
        return;
    }
    if let Err(error) = disk::remove(&lost.directory) {
        tracing::error!(%error, %directory, "remains of a sandbox cannot be removed; tried again at the next start");
    }
}

/// Ends every process in a slot's cgroups and removes them.
pub(crate) fn empty(cgroup: &SlotCgroup) -> io::Result<()> {
    const TRIES: u32 = 200;
    for _ in 0..TRIES {
        thaw(cgroup)?;
        for pidfd in open_all(cgroup)? {
            process::kill(&pidfd)?;
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            poll(&mut fds, Some(&timespec(Duration::from_secs(1))))?;
            process::reap(pidfd.as_fd());
        }
        match cgroup.remove() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
    Err(io::Error::other("processes in a cgroup do not end"))
}

/// Lets what is frozen go on: it would not die. Not every slot has come as far as having a freezer.
fn thaw(cgroup: &SlotCgroup) -> io::Result<()> {
    match cgroup.set_frozen(false) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The processes of a slot. One that is still listed after it has been opened is the one that was listed before: a
/// number is not given to another process while the first is there.
fn open_all(cgroup: &SlotCgroup) -> io::Result<Vec<OwnedFd>> {
    let opened: Vec<(i32, OwnedFd)> = cgroup
        .processes()?
        .into_iter()
        .filter_map(|pid| {
            Some((
                pid,
                pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?,
            ))
        })
        .collect();
    if opened.is_empty() {
        return Ok(Vec::new());
    }
    let still: HashSet<i32> = cgroup.processes()?.into_iter().collect();
    Ok(opened
        .into_iter()
        .filter(|(pid, _)| still.contains(pid))
        .map(|(_, pidfd)| pidfd)
        .collect())
}

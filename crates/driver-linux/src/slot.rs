//! The pool of half-made slots.
//!
//! Making a slot costs milliseconds of waiting for the kernel (cgroup migration and network devices wait for RCU), and
//! nobody needs to wait with it: two threads keep `target` slots ready. A create takes one that is ready, or makes one
//! itself when there is none.
//! Slots without a network are rare and cheap; they are made when asked for.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use soulbox_fault as fault;
use soulbox_linux::conntrack;
use soulbox_types::slot::SLOTS_PER_BLOCK;
use soulbox_types::{NetworkMode, SlotIndex};

use crate::cgroup::SlotCgroup;
use crate::disk::Image;
use crate::host::Host;
use crate::jail::{Jail, JailError};
use crate::lock::locked;
use crate::plan::slot_plan;

/// Threads that make slots. Their work is mostly waiting, on different things.
const MAKERS: usize = 2;

/// A slot that is ready for a launch plan.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) index: SlotIndex,
    pub(crate) cgroup: SlotCgroup,
    pub(crate) network: OwnedFd,
    pub(crate) jail: Jail,
    /// A disk of the usual size, where disks are images.
    pub(crate) ahead: Option<Image>,
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlotError {
    /// All numbers are taken.
    #[error("all sandbox slots of this server are in use")]
    Exhausted,
    /// The cgroups could not be made.
    #[error("cannot make cgroups for a sandbox")]
    Cgroup(#[source] io::Error),
    /// The disk could not be made.
    #[error("cannot make a disk for a sandbox")]
    Disk(#[source] io::Error),
    /// The jail could not prepare it.
    #[error(transparent)]
    Jail(#[from] JailError),
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Slot>,
    free: VecDeque<u16>,
    making: usize,
    /// Whether the makers are at work: from half empty until full. Making a slot takes a core for milliseconds, and a
    /// maker that starts with every lease would compete with the very launch that leased.
    filling: bool,
    stopped: bool,
}

impl State {
    /// Half empty: time to fill up.
    fn look(&mut self, target: usize) -> bool {
        self.filling |= self.ready.len() + self.making <= target / 2;
        self.filling
    }

    /// Whether a maker has something to do.
    fn wants_slot(&mut self, target: usize) -> bool {
        self.filling &= self.ready.len() + self.making < target;
        self.filling && !self.free.is_empty()
    }
}

/// The pool. Shared by reference counting; [`Pool::stop`] ends its threads.
#[derive(Debug)]
pub(crate) struct Pool {
    host: Arc<Host>,
    target: usize,
    state: Mutex<State>,
    changed: Condvar,
    makers: Mutex<Vec<JoinHandle<()>>>,
}

/// Whether nothing has come out of the cable of a slot. A cable that is gone has not told.
fn has_sent_nothing(slot: SlotIndex) -> bool {
    let statistics = format!("/sys/class/net/{}/statistics/rx_packets", slot.link_name());
    fs::read_to_string(statistics).is_ok_and(|packets| packets.trim() == "0")
}

impl Pool {
    /// A pool of all slots but those in use.
    pub(crate) fn start(host: Arc<Host>, target: usize, in_use: &HashSet<u16>) -> Arc<Self> {
        let free = (0..SLOTS_PER_BLOCK)
            .filter(|index| !in_use.contains(index))
            .collect();
        let pool = Arc::new(Self {
            host,
            target,
            state: Mutex::new(State {
                free,
                filling: true,
                ..State::default()
            }),
            changed: Condvar::new(),
            makers: Mutex::default(),
        });
        let makers = (0..MAKERS.min(target)).map(|_| {
            let pool = Arc::clone(&pool);
            std::thread::spawn(move || pool.keep_ready())
        });
        locked(&pool.makers).extend(makers);
        pool
    }

    /// Takes a slot. Blocking: when none is ready, makes one.
    pub(crate) fn lease(&self, network: &NetworkMode) -> Result<Slot, SlotError> {
        let number = {
            let mut state = locked(&self.state);
            if network.has_cable()
                && let Some(slot) = state.ready.pop_front()
            {
                if state.look(self.target) {
                    self.changed.notify_all();
                }
                return Ok(slot);
            }
            state.free.pop_front().ok_or(SlotError::Exhausted)?
        };
        self.make(number, network)
    }

    /// Gives a number back once nothing of the sandbox is left. It goes to the end of the queue, so that the kernel has
    /// time to clean up what it cleans up later (network devices).
    pub(crate) fn release(&self, index: SlotIndex) {
        if let Err(error) = self.host.policies.end(index) {
            // It would meet whoever stands here next.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                slot = index.index(),
                "the policy of an ended sandbox stays; its slot is given up"
            );
            return;
        }
        // Connections that nobody has closed would count as those of whoever stands here next, for days. To forget them, the
        // kernel reads its whole table, which is what most sandboxes' ends would cost most.
        let own = [
            Some(index.address().into()),
            self.host.has_ipv6.then(|| index.address_v6().into()),
        ];
        let has_sent = !has_sent_nothing(index);
        for address in own.into_iter().flatten().filter(|_| has_sent) {
            if let Err(error) = conntrack::forget_from(address) {
                tracing::warn!(%error, %address, "the kernel still counts connections of an ended sandbox");
            }
        }
        locked(&self.state).free.push_back(index.index());
        self.changed.notify_one();
    }

    /// Ends the makers and the waiting jails, and removes the cgroups of slots that were only prepared.
    pub(crate) fn stop(&self) {
        let slots = {
            let mut state = locked(&self.state);
            state.stopped = true;
            std::mem::take(&mut state.ready)
        };
        self.changed.notify_all();
        for maker in std::mem::take(&mut *locked(&self.makers)) {
            if maker.join().is_err() {
                tracing::error!("a slot maker panicked");
            }
        }
        let rest = std::mem::take(&mut locked(&self.state).ready);
        for slot in slots.into_iter().chain(rest) {
            discard(slot);
        }
    }

    fn keep_ready(&self) {
        loop {
            let number = {
                let mut state = locked(&self.state);
                while !state.stopped && !state.wants_slot(self.target) {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopped {
                    return;
                }
                state.making += 1;
                state.free.pop_front()
            };
            let Some(number) = number else { continue };
            let made = self.make(number, &NetworkMode::Internet);
            let mut state = locked(&self.state);
            state.making -= 1;
            match made {
                Ok(slot) => state.ready.push_back(slot),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot prepare a slot"
                    );
                    // A create will meet the same error and report it; here, do not spin.
                    let wait = std::time::Duration::from_secs(1);
                    drop(self.changed.wait_timeout(state, wait));
                }
            }
        }
    }

    fn make(&self, number: u16, network: &NetworkMode) -> Result<Slot, SlotError> {
        let index = SlotIndex::new(self.host.block, number).ok_or(SlotError::Exhausted)?;
        self.try_make(index, network)
            .inspect_err(|_| self.release(index))
    }

    fn try_make(&self, index: SlotIndex, network: &NetworkMode) -> Result<Slot, SlotError> {
        let cgroup = SlotCgroup::new(self.host.hierarchies.clone(), index);
        cgroup.create().map_err(SlotError::Cgroup)?;
        fault::point!("start.slot-cgroups-made");
        let plan = slot_plan(index, &cgroup, network, self.host.has_ipv6);
        let started = Jail::start(&self.host.jail, &plan);
        let (jail, namespace) = started.inspect_err(|_| remove_cgroup(&cgroup))?;
        if network.has_cable() {
            strict_source_check(&index.link_name());
        }
        let slot = Slot {
            index,
            cgroup,
            network: namespace,
            jail,
            ahead: None,
        };
        match self.host.disks.ahead(index) {
            Ok(ahead) => {
                fault::point!("start.slot-made");
                Ok(Slot { ahead, ..slot })
            }
            Err(error) => {
                discard(slot);
                Err(SlotError::Disk(error))
            }
        }
    }
}

/// Drops packets whose source is not the sandbox's address (RFC 3704). A second fence: root inside cannot make such
/// packets to begin with, and the firewall drops them, too.
fn strict_source_check(link: &str) {
    if let Err(error) = fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "1") {
        tracing::warn!(%error, link, "cannot set rp_filter");
    }
}

fn discard(slot: Slot) {
    let Slot {
        cgroup,
        network,
        jail,
        ahead,
        ..
    } = slot;
    drop(jail);
    drop(network);
    if let Some(Err(error)) = ahead.map(Image::discard) {
        tracing::warn!(%error, "the disk of a prepared slot stays until the next start");
    }
    remove_cgroup(&cgroup);
}

fn remove_cgroup(cgroup: &SlotCgroup) {
    if let Err(error) = cgroup.remove() {
        tracing::debug!(%error, "a cgroup stays until the next start");
    }
}

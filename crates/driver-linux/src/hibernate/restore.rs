//! Bringing a sandbox back from disk, into any slot. Blocking.
//!
//! Until it is there again what is on disk stays, and its file system has a second name: when something fails it can be
//! tried again. A server that dies meanwhile leaves a sandbox with a record, or what is on disk, never neither.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use soulbox_driver::DriverError;
use soulbox_launch_plan::Order;
use soulbox_linux::link::Netlink;
use soulbox_linux::{mount, namespace, process};
use soulbox_types::{NetworkMode, SandboxSpec, SlotIndex};

use super::hooks::{Hooks, give_to};
use super::{Criu, PATIENCE, Place, Record, refused};
use crate::adopt::empty;
use crate::disk::{self, Disk, Image};
use crate::driver::{Finished, host_error, slot_error};
use crate::host::Host;
use crate::jail::Jail;
use crate::plan::{SandboxFiles, proc_plan, restore_plan};
use crate::program;
use crate::slot::{Pool, Slot};
use crate::state::{SandboxState, VERSION};
use crate::view;

/// One sandbox that is to be brought back.
pub(crate) struct Restore {
    pub(crate) host: Arc<Host>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) spec: SandboxSpec,
}

impl Restore {
    pub(crate) fn run(self) -> Result<Finished, DriverError> {
        let host = Arc::clone(&self.host);
        let criu = host.criu.as_ref().map_err(|why| refused(why.as_str()))?;
        let place = Place::of(&self.host, self.spec.id.as_str());
        let record = place
            .read()
            .map_err(|error| refused(format!("it is not on disk: {error}")))?;
        if record.spec != self.spec {
            return Err(refused("what is on disk was made from something else"));
        }
        let standing = self.host.layers.stand_on(&self.spec.image.layers);
        let mut slot = self.pool.lease(self.spec.network).map_err(slot_error)?;
        let files = self.host.files(self.spec.id.as_str());
        let revived = self.make_disk(&mut slot, &files, &place, &record);
        let disk = match revived {
            Ok(disk) => disk,
            Err(error) => {
                self.undo(slot, &files);
                return Err(host_error("take up the disk of a sandbox", error));
            }
        };
        match self.bring_back(criu, &mut slot, &files, (&place, &record), &disk) {
            Ok((pid, pidfd)) => {
                if let Err(error) = place.remove() {
                    tracing::warn!(%error, sandbox.id = %self.spec.id, "what is on disk of a sandbox that runs stays");
                }
                let Slot {
                    index,
                    cgroup,
                    network,
                    ..
                } = slot;
                Ok(Finished {
                    spec: self.spec,
                    place: (index, cgroup, files),
                    pid,
                    pidfd,
                    network,
                    disk: Disk::Image(disk),
                    standing,
                })
            }
            Err(error) => {
                self.undo(slot, &files);
                self.put_back(disk, &place);
                Err(error)
            }
        }
    }

    fn make_disk(
        &self,
        slot: &mut Slot,
        files: &SandboxFiles,
        place: &Place,
        record: &Record,
    ) -> io::Result<Image> {
        if let Some(ahead) = slot.ahead.take() {
            ahead.discard()?;
        }
        disk::create(&self.host, files, &self.spec)?;
        fs::create_dir(files.disk())?;
        let disks = &self.host.disks;
        disks.revive(&place.disk(), slot.index, record.disk_mib)
    }

    fn bring_back(
        &self,
        criu: &Criu,
        slot: &mut Slot,
        files: &SandboxFiles,
        (place, record): (&Place, &Record),
        disk: &Image,
    ) -> Result<(i32, OwnedFd), DriverError> {
        let host = |operation: &'static str| move |source: io::Error| host_error(operation, source);
        slot.cgroup
            .set_limits(&self.spec.limits)
            .map_err(host("set the limits of a sandbox"))?;
        let owner = slot.index.uid_base();
        self.own_cgroup_files(slot)
            .map_err(host("hand over the cgroups of a sandbox"))?;
        let moved = record.slot.address() != slot.index.address()
            && self.spec.network == NetworkMode::Internet;
        let address = moved.then(|| record.slot.address());
        let hooks = Hooks::listen(place.work(), &self.host.jail, owner)
            .and_then(|hooks| give_to(&place.images(), owner).map(|()| hooks))
            .map_err(host("prepare to bring a sandbox back"))?;
        self.with_address(slot, address, true)
            .map_err(host("give a sandbox its address"))?;
        let places = self
            .host
            .places(self.spec.limits.vcpu_count)
            .map_err(host("make /sys of a sandbox"))?;
        let handed = self
            .handed(criu, place)
            .map_err(host("open what is on disk of a sandbox"))?;
        let facts = &self.host.facts;
        let argv = Criu::restore(&record.cgroup_files);
        let plan = restore_plan(
            (&self.spec, slot.index),
            files,
            &places,
            facts,
            record.clocks,
            (Criu::loader_below(), argv),
        );
        let fds: Vec<&OwnedFd> = handed.iter().chain(disk.mount()).collect();
        slot.jail
            .become_restorer(&plan, &fds)
            .map_err(|error| refused(error.to_string()))?;
        drop(handed);
        let mut first = None;
        let attended = hooks.attend(&mut slot.jail, PATIENCE, |stage, pid| {
            if stage == "post-setup-namespaces" {
                first = Some(self.take_over(&slot.cgroup.processes()?, pid)?);
                let plan = proc_plan(&self.spec, pid, files, &places, facts);
                let errand = Jail::order(&self.host.jail, &Order::Proc(plan));
                errand.and_then(Jail::done).map_err(io::Error::other)?;
                // From here on it may run, whatever becomes of this server.
                self.record(slot.index, files, pid)?;
            }
            Ok(())
        });
        let ended = |error: io::Error| {
            if let Some((_, pidfd)) = &first {
                // Half of it may be there.
                let _gone = process::kill(pidfd);
            }
            refused(error.to_string())
        };
        attended.map_err(ended)?;
        let (pid, pidfd) = first.ok_or_else(|| refused("CRIU has not told the first process"))?;
        self.with_address(slot, address, false)
            .map_err(host("take an address from a sandbox"))?;
        Ok((pid, pidfd))
    }

    /// The number is believed when it is one of the slot's processes.
    fn take_over(&self, processes: &[i32], pid: i32) -> io::Result<(i32, OwnedFd)> {
        let number = Pid::from_raw(pid).filter(|_| processes.contains(&pid));
        let number =
            number.ok_or_else(|| io::Error::other("its first process is not in its cgroups"))?;
        Ok((pid, pidfd_open(number, PidfdFlags::empty())?))
    }

    /// A mount of its envd, CRIU's files, the images, the working directory.
    fn handed(&self, criu: &Criu, place: &Place) -> io::Result<[OwnedFd; 4]> {
        let open = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let envd = program::keep(&self.host.covers(), &fs::read(place.envd())?)?;
        Ok([
            mount::detached_program(&envd)?,
            open(criu.files())?,
            open(&place.images())?,
            open(&place.work())?,
        ])
    }

    /// The restorer opens them again, as root of the guest, which has no way to them but these descriptors.
    fn own_cgroup_files(&self, slot: &Slot) -> io::Result<()> {
        let owner = Some(slot.index.uid_base());
        let files = slot.cgroup.kept_files();
        files.iter().try_for_each(|file| chown(file, owner, owner))
    }

    /// Sockets are bound to the address of the time before: it is there while they are made.
    fn with_address(&self, slot: &Slot, address: Option<Ipv4Addr>, there: bool) -> io::Result<()> {
        let Some(address) = address else {
            return Ok(());
        };
        let network = slot.network.try_clone()?;
        // A thread of its own: it never comes back from the sandbox's network.
        let work = std::thread::spawn(move || -> io::Result<()> {
            namespace::enter_network(&network)?;
            let mut netlink = Netlink::open()?;
            let loopback = netlink.link_index("lo")?;
            match there {
                true => netlink.add_address(loopback, address),
                false => netlink.remove_address(loopback, address),
            }
        });
        work.join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    }

    fn record(&self, slot: SlotIndex, files: &SandboxFiles, pid: i32) -> io::Result<()> {
        let state = SandboxState {
            version: VERSION,
            boot_id: self.host.boot_id.clone(),
            spec: self.spec.clone(),
            slot,
            backing: self.host.disks.backing(),
            pid,
            start_time: process::start_time(pid)?,
        };
        state.write(&files.directory)
    }

    fn undo(&self, slot: Slot, files: &SandboxFiles) {
        let Slot {
            index,
            cgroup,
            network,
            mut jail,
            ahead,
        } = slot;
        // A restorer that goes on would go on for ever.
        let _gone = jail.kill();
        drop((jail, network));
        let left = empty(&cgroup)
            .and_then(|()| view::remove(files))
            .and_then(|()| disk::remove(&files.directory))
            .and_then(|()| ahead.map_or(Ok(()), Image::discard));
        match left {
            Ok(()) => self.pool.release(index),
            Err(error) => {
                tracing::warn!(%error, sandbox.id = %self.spec.id, "remains of a sandbox that was not brought back stay");
            }
        }
    }

    fn put_back(&self, disk: Image, place: &Place) {
        let released = disk.release();
        let unbound = released.and_then(|()| self.host.disks.wait_unbound(&place.disk()));
        if let Err(error) = unbound {
            tracing::warn!(%error, sandbox.id = %self.spec.id, "the disk of a sandbox that was not brought back is still in use");
        }
    }
}

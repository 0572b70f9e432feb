//! Making a sandbox that goes on from memory on disk, in any slot. Blocking. The memory is only read.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use soulbox_driver::{DriverError, Moments};
use soulbox_fault as fault;
use soulbox_launch_plan::Order;
use soulbox_linux::link::Netlink;
use soulbox_linux::{mount, namespace, process};
use soulbox_types::{MemoryId, SandboxSpec};

use super::hooks::Hooks;
use super::{Criu, PATIENCE, Place, Record, refused};
use crate::disk::{self, Disk};
use crate::driver::{Finished, host_error, in_a_slot};
use crate::host::Host;
use crate::jail::Jail;
use crate::plan::{SandboxFiles, proc_plan, restore_plan};
use crate::program;
use crate::slot::{Pool, Slot};
use crate::state;
use crate::volumes;

/// One sandbox that is to be made.
pub(crate) struct Wake {
    pub(crate) host: Arc<Host>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) spec: SandboxSpec,
    pub(crate) memory: MemoryId,
}

impl Wake {
    pub(crate) fn run(self) -> Result<Finished, DriverError> {
        let criu = self.host.criu.as_ref();
        let criu = criu.map_err(|why| refused(why.as_str()))?;
        let place = Place::of(&self.host, &self.memory);
        let record = place
            .read()
            .map_err(|error| refused(format!("it is not on disk: {error}")))?;
        let (host, pool, spec) = (&self.host, &self.pool, &self.spec);
        in_a_slot(
            host,
            pool,
            spec,
            &Moments::default(),
            |slot, files, disk| self.go_on(criu, slot, files, (&place, &record), disk),
        )
    }

    fn go_on(
        &self,
        criu: &Criu,
        slot: &mut Slot,
        files: &SandboxFiles,
        (place, record): (&Place, &Record),
        disk: &Disk,
    ) -> Result<(i32, OwnedFd), DriverError> {
        let host = |operation: &'static str| move |source: io::Error| host_error(operation, source);
        disk::furnish(disk, &self.spec, slot.index).map_err(host("make the files of a sandbox"))?;
        slot.cgroup
            .set_limits(&self.spec.limits)
            .map_err(host("set the limits of a sandbox"))?;
        self.own_cgroup_files(slot)
            .map_err(host("hand over the cgroups of a sandbox"))?;
        let volumes = volumes::attach(&self.host, files, &self.spec)?;
        let work = files.directory.join("criu");
        let hooks = Hooks::listen(work.clone(), &self.host.jail, slot.index.uid_base())
            .and_then(|hooks| criu.probed.offer(&work).map(|()| hooks))
            .map_err(host("prepare to bring a sandbox back"))?;
        let addresses = self.addresses_of_before(slot, record);
        with_addresses(slot, &addresses, true).map_err(host("give a sandbox its address"))?;
        let places = self
            .host
            .places(self.spec.limits.vcpu_count)
            .map_err(host("make /sys of a sandbox"))?;
        let handed = self
            .handed(criu, place, &work)
            .map_err(|error| refused(format!("what is on disk cannot be opened: {error}")))?;
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
        let fds: Vec<&OwnedFd> = handed.iter().chain(disk.mount()).chain(&volumes).collect();
        slot.jail
            .become_restorer(&plan, &fds)
            .map_err(|error| refused(error.to_string()))?;
        drop((handed, volumes));
        let mut first = None;
        let attended = hooks.attend(&mut slot.jail, PATIENCE, |stage, pid| {
            if stage == "post-setup-namespaces" {
                first = Some(take_over(&slot.cgroup.processes()?, pid)?);
                criu.probed.learn(&work)?;
                let plan = proc_plan(&self.spec, pid, files, &places, facts);
                let errand = Jail::order(&self.host.jail, &Order::Proc(plan));
                errand.and_then(Jail::done).map_err(io::Error::other)?;
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
        let settled = with_addresses(slot, &addresses, false)
            .and_then(|()| disk::remove(&work))
            // The next server would end what is not whole.
            .and_then(|()| state::record(&self.host, &self.spec, slot.index, files, pid));
        fault::point!("wake.recorded");
        if let Err(error) = settled {
            // It would be taken for one that runs.
            let _gone = process::kill(&pidfd);
            return Err(host_error("settle a sandbox that was brought back", error));
        }
        Ok((pid, pidfd))
    }

    /// Those that its sockets may have and that its slot has not.
    fn addresses_of_before(&self, slot: &Slot, record: &Record) -> Vec<IpAddr> {
        let has_cable = self.spec.network.has_cable();
        let now = [
            has_cable.then(|| IpAddr::from(slot.index.address())),
            (has_cable && self.host.has_ipv6).then(|| slot.index.address_v6().into()),
        ];
        let before = record.slot.into_iter().flat_map(|slot| {
            [
                IpAddr::from(slot.address()),
                IpAddr::from(slot.address_v6()),
            ]
        });
        before
            .filter(|address| !now.contains(&Some(*address)))
            .collect()
    }

    /// A mount of its envd, CRIU's files, the images, the working directory.
    fn handed(&self, criu: &Criu, place: &Place, work: &Path) -> io::Result<[OwnedFd; 4]> {
        let open = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let envd = program::keep(&self.host.covers(), &fs::read(place.envd())?)?;
        Ok([
            mount::detached_program(&envd)?,
            open(criu.files())?,
            open(&place.images())?,
            open(work)?,
        ])
    }

    /// The restorer opens them again, as root of the guest, which has no way to them but these descriptors.
    fn own_cgroup_files(&self, slot: &Slot) -> io::Result<()> {
        let owner = Some(slot.index.uid_base());
        let files = slot.cgroup.kept_files();
        files.iter().try_for_each(|file| chown(file, owner, owner))
    }
}

/// The number is believed when it is one of the slot's processes.
fn take_over(processes: &[i32], pid: i32) -> io::Result<(i32, OwnedFd)> {
    let number = Pid::from_raw(pid).filter(|_| processes.contains(&pid));
    let number =
        number.ok_or_else(|| io::Error::other("its first process is not in its cgroups"))?;
    Ok((pid, pidfd_open(number, PidfdFlags::empty())?))
}

/// Sockets are bound to the addresses of the time before: they are there while the sockets are made.
fn with_addresses(slot: &Slot, addresses: &[IpAddr], there: bool) -> io::Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let (network, addresses) = (slot.network.try_clone()?, addresses.to_vec());
    // A thread of its own: it never comes back from the sandbox's network.
    let work = std::thread::spawn(move || -> io::Result<()> {
        namespace::enter_network(&network)?;
        let mut netlink = Netlink::open()?;
        let loopback = netlink.link_index("lo")?;
        // Where even loopback has no IPv6, no socket has had an address of it.
        let has_ipv6 = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
            .is_ok_and(|text| text.trim() == "0");
        for address in addresses.into_iter().filter(|it| it.is_ipv4() || has_ipv6) {
            match there {
                true => netlink.add_address(loopback, address)?,
                false => netlink.remove_address(loopback, address)?,
            }
        }
        Ok(())
    });
    work.join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

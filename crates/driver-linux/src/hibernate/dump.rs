//! Writing a frozen sandbox to disk. Blocking.
//!
//! The turning point is CRIU's question after everything is written and before anything ends: the images are changed, the
//! disk gets its other name, the record is written, all is durable; only then the processes end. Before it, whatever
//! fails leaves a sandbox that is frozen and lives.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::Path;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use soulbox_driver::DriverError;
use soulbox_launch_plan::{DumpPlan, Order};
use soulbox_types::{SandboxSpec, SlotIndex};

use super::hooks::Hooks;
use super::{PATIENCE, Place, Record, VERSION, images, names, refused};
use crate::cgroup::SlotCgroup;
use crate::disk::Image;
use crate::driver::host_error;
use crate::host::Host;
use crate::jail::Jail;

/// What a sandbox has in `/dev` from the beginning: more would be lost.
const DEVICES: [&str; 15] = [
    ".envd", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
    "tty", "urandom", "zero", "core",
];

/// One sandbox that is to be written.
pub(crate) struct Dump {
    pub(crate) host: Arc<Host>,
    pub(crate) spec: SandboxSpec,
    pub(crate) slot: SlotIndex,
    pub(crate) cgroup: SlotCgroup,
    /// Its first process.
    pub(crate) pid: i32,
}

impl Dump {
    /// Its processes have ended when this succeeds.
    pub(crate) fn run(&self, disk: &mut Image) -> Result<(), DriverError> {
        let operation = format!("write sandbox {} to disk", self.spec.id);
        let failed = |source: io::Error| host_error(&operation, source);
        let criu = self
            .host
            .criu
            .as_ref()
            .map_err(|why| refused(why.as_str()))?;
        self.look()?;
        let place = Place::of(&self.host, self.spec.id.as_str());
        let usual = disk.path().to_owned();
        let written = self
            .prepare(&place)
            .map_err(failed)
            .and_then(|hooks| self.write(criu, &place, &hooks, disk));
        if written.is_ok() {
            return Ok(());
        }
        // It lives on, with its disk where a server looks for it.
        if disk.path() != usual {
            disk.rename(usual).map_err(failed)?;
        }
        place.remove().map_err(failed)?;
        written
    }

    /// What would not come back is not written.
    fn look(&self) -> Result<(), DriverError> {
        let failed = |source| host_error("look at a sandbox", source);
        if !self.spec.volumes.is_empty() {
            return Err(refused("it has volumes"));
        }
        let root = Path::new("/proc").join(self.pid.to_string()).join("root");
        if !names(root.join("dev/shm")).map_err(failed)?.is_empty() {
            return Err(refused("there are files in its /dev/shm"));
        }
        let devices = names(root.join("dev")).map_err(failed)?;
        match devices
            .iter()
            .find(|name| !DEVICES.contains(&name.as_str()))
        {
            Some(name) => Err(refused(format!("it has made /dev/{name}"))),
            None => Ok(()),
        }
    }

    fn prepare(&self, place: &Place) -> io::Result<Hooks> {
        place.remove()?;
        DirBuilder::new().mode(0o700).create(&place.0)?;
        DirBuilder::new().mode(0o700).create(place.images())?;
        let owner = self.slot.uid_base();
        chown(place.images(), Some(owner), Some(owner))?;
        fs::copy(format!("/proc/{}/exe", self.pid), place.envd())?;
        Hooks::listen(place.work(), &self.host.jail, owner)
    }

    fn write(
        &self,
        criu: &super::Criu,
        place: &Place,
        hooks: &Hooks,
        disk: &mut Image,
    ) -> Result<(), DriverError> {
        let failed = |source| host_error("write a sandbox to disk", source);
        let cgroup_files = self.cgroup_files().map_err(failed)?;
        let record = Record {
            version: VERSION,
            spec: self.spec.clone(),
            slot: self.slot,
            disk_mib: disk.disk_mib(),
            clocks: self.clocks().map_err(failed)?,
            cgroup_files: cgroup_files.clone(),
        };
        let external = self.external().map_err(failed)?;
        let freezer = self.cgroup.freezer_directory();
        let argv = criu.dump(
            self.pid,
            [&place.images(), hooks.work(), &freezer],
            external.into_iter().chain(cgroup_files),
        );
        let plan = DumpPlan {
            owner: self.slot.uid_base(),
            loader: criu.loader(),
            argv,
        };
        let mut jail = Jail::order(&self.host.jail, &Order::Dump(plan))
            .map_err(|error| refused(error.to_string()))?;
        let mut kept = false;
        let attended = hooks.attend(&mut jail, PATIENCE, |stage, _| {
            if stage == "post-dump" {
                images::prepare(&place.images())?;
                disk.sync()?;
                disk.rename(place.disk())?;
                place.write(&record)?;
                kept = true;
            }
            Ok(())
        });
        attended.map_err(|error| refused(error.to_string()))?;
        if kept {
            Ok(())
        } else {
            Err(refused("CRIU has not asked whether it may end the sandbox"))
        }
    }

    /// Its mounts and its network, which are made anew by the jail.
    fn external(&self) -> io::Result<Vec<String>> {
        let network = fs::metadata(format!("/proc/{}/ns/net", self.pid))?.ino();
        let mut external = vec![format!("net[{network}]:network")];
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid))?;
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let others = points.filter(|point| *point != "/").enumerate();
        external.extend(others.map(|(number, point)| format!("mnt[{point}]:m{number}")));
        Ok(external)
    }

    /// The files of cgroups that its first process holds, as CRIU names them.
    fn cgroup_files(&self) -> io::Result<Vec<String>> {
        let mut wanted = self.cgroup.limit_procs_files();
        wanted.push(self.cgroup.user_oom_file());
        let process = Path::new("/proc").join(self.pid.to_string());
        let numbers = names(process.join("fd"))?;
        let mut found = Vec::new();
        for file in wanted {
            let file = fs::metadata(file)?;
            let same = numbers.iter().find(|number| {
                let there = fs::metadata(process.join("fd").join(number));
                there.is_ok_and(|there| (there.dev(), there.ino()) == (file.dev(), file.ino()))
            });
            let number =
                same.ok_or_else(|| io::Error::other("envd has closed a file of its limits"))?;
            let info = fs::read_to_string(process.join("fdinfo").join(number))?;
            let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
            let mount: u64 = mount
                .and_then(|text| text.trim().parse().ok())
                .ok_or(io::ErrorKind::InvalidData)?;
            found.push(format!("file[{mount:x}:{:x}]", file.ino()));
        }
        Ok(found)
    }

    /// What its clocks show: the host's, moved by what its namespace says.
    fn clocks(&self) -> io::Result<[i64; 2]> {
        let text = fs::read_to_string(format!("/proc/{}/timens_offsets", self.pid))?;
        let shown = |name: &str, id| -> io::Result<i64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let mut numbers = line
                .into_iter()
                .flat_map(str::split_ascii_whitespace)
                .filter_map(|word| word.parse::<i64>().ok());
            let (Some(seconds), Some(rest)) = (numbers.next(), numbers.next()) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            let now = clock_gettime(id);
            Ok((now.tv_sec + seconds) * 1_000_000_000 + now.tv_nsec + rest)
        };
        Ok([
            shown("boottime", ClockId::Boottime)?,
            shown("monotonic", ClockId::Monotonic)?,
        ])
    }
}

//! Writing the memory of a frozen sandbox to disk. Blocking. The sandbox stays as it is.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use soulbox_driver::DriverError;
use soulbox_launch_plan::{DumpPlan, Order};
use soulbox_types::{MemoryId, SandboxSpec, SlotIndex};

use super::hooks::Hooks;
use super::{Criu, PATIENCE, Place, Record, VERSION, images, names, refused};
use crate::cgroup::SlotCgroup;
use crate::driver::host_error;
use crate::host::Host;
use crate::jail::Jail;

/// What a sandbox has in `/dev` from the beginning: more would be lost.
const DEVICES: [&str; 15] = [
    ".envd", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
    "tty", "urandom", "zero", "core",
];

/// One sandbox whose memory is to be written.
pub(crate) struct Capture {
    pub(crate) host: Arc<Host>,
    pub(crate) spec: SandboxSpec,
    pub(crate) slot: SlotIndex,
    pub(crate) cgroup: SlotCgroup,
    /// Its first process.
    pub(crate) pid: i32,
}

impl Capture {
    /// Returns how many bytes it takes. `turn` is called once, when all is done that needs no standing still; when it returns
    /// the sandbox is frozen, and its error is the end.
    pub(crate) fn run(
        &self,
        id: &MemoryId,
        turn: impl FnMut() -> io::Result<()>,
    ) -> Result<u64, DriverError> {
        let failed =
            |source| host_error(&format!("write memory of sandbox {}", self.spec.id), source);
        let criu = self.host.criu.as_ref();
        let criu = criu.map_err(|why| refused(why.as_str()))?;
        let place = Place::of(&self.host, id);
        let written = self
            .prepare(&place)
            .map_err(failed)
            .and_then(|hooks| self.write(criu, &place, &hooks, turn))
            .and_then(|record| settle(&place, &record).map_err(failed));
        if written.is_err() {
            place.remove().map_err(failed)?;
        }
        written
    }

    /// What would not come back is not written.
    fn look(&self) -> io::Result<()> {
        let root = Path::new("/proc").join(self.pid.to_string()).join("root");
        if !names(root.join("dev/shm"))?.is_empty() {
            return Err(io::Error::other("there are files in its /dev/shm"));
        }
        let devices = names(root.join("dev"))?;
        match devices
            .iter()
            .find(|name| !DEVICES.contains(&name.as_str()))
        {
            Some(name) => Err(io::Error::other(format!("it has made /dev/{name}"))),
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
        criu: &Criu,
        place: &Place,
        hooks: &Hooks,
        mut turn: impl FnMut() -> io::Result<()>,
    ) -> Result<Record, DriverError> {
        let failed = |source| host_error("write memory of a sandbox", source);
        let cgroup_files = self.cgroup_files().map_err(failed)?;
        let external = self.external().map_err(failed)?;
        let freezer = self.cgroup.freezer_directory();
        let argv = criu.dump(
            self.pid,
            [&place.images(), hooks.work(), &freezer],
            external.into_iter().chain(cgroup_files.iter().cloned()),
        );
        let plan = DumpPlan {
            owner: self.slot.uid_base(),
            network_of: self.pid,
            loader: criu.loader(),
            argv,
        };
        let mut jail = Jail::order(&self.host.jail, &Order::Dump(plan))
            .map_err(|error| refused(error.to_string()))?;
        let mut clocks = None;
        let attended = hooks.attend(&mut jail, PATIENCE, |stage, _| {
            if stage == "pre-dump" {
                turn()?;
                self.look()?;
                clocks = Some(self.clocks()?);
            }
            Ok(())
        });
        attended.map_err(|error| refused(error.to_string()))?;
        Ok(Record {
            version: VERSION,
            slot: self.spec.network.has_cable().then_some(self.slot),
            clocks: clocks.ok_or_else(|| refused("CRIU has not asked whether it may begin"))?,
            cgroup_files,
        })
    }

    /// Its mounts, which are made anew by the jail.
    fn external(&self) -> io::Result<Vec<String>> {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid))?;
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let others = points.filter(|point| *point != "/").enumerate();
        Ok(others
            .map(|(number, point)| format!("mnt[{point}]:m{number}"))
            .collect())
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

/// Nobody writes to it any more, and whoever goes on from it may read it. Returns how many bytes it takes.
fn settle(place: &Place, record: &Record) -> io::Result<u64> {
    fs::remove_dir_all(place.work())?;
    images::prepare(&place.images())?;
    let mut bytes = 0;
    for entry in fs::read_dir(place.images())? {
        let path = entry?.path();
        chown(&path, Some(0), Some(0))?;
        fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        bytes += fs::metadata(&path)?.len();
    }
    chown(place.images(), Some(0), Some(0))?;
    fs::set_permissions(place.images(), Permissions::from_mode(0o555))?;
    fs::write(place.draft(), serde_json::to_vec(record)?)?;
    Ok(bytes)
}

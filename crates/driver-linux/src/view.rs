//! The files that cover entries of a sandbox's `/proc`: made before the launch, kept up to date while it runs.
//!
//! They lie below the run directory and not in the data directory, because `/proc/self/mountinfo` tells every sandbox
//! where a covering file is. `shadow` says what stands in them.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use soulbox_driver::GuestStats;
use soulbox_linux::mount::{self, Attributes};
use soulbox_linux::{filesystem, process};
use soulbox_net::block::RUN_DIR;
use soulbox_types::slot::Block;
use soulbox_types::{Limits, SandboxId, SandboxSpec};

use crate::cgroup::SlotCgroup;
use crate::lock::locked;
use crate::plan::SandboxFiles;
use crate::shadow::{self, Load, Reading};

/// Ticks per second of start times in `/proc`, the same on every architecture that Linux still runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Where the covers of a block lie.
pub(crate) fn directory(block: Block) -> PathBuf {
    Path::new(RUN_DIR).join("views").join(block.prefix())
}

/// Makes the place for the covers of a block, in memory also where the run directory is on a disk: a sandbox has some
/// twenty of these files, and a disk's file system takes longer to make them than all else in a create takes.
///
/// Where sandboxes of an earlier server have theirs there already, they keep them.
pub(crate) fn prepare(block: Block) -> io::Result<()> {
    let place = directory(block);
    fs::create_dir_all(&place)?;
    if filesystem::is_in_memory(&place)? || !sandboxes_below(&place)?.is_empty() {
        return Ok(());
    }
    let attributes = Attributes {
        no_suid: true,
        no_dev: true,
        no_exec: true,
        ..Attributes::default()
    };
    let made = mount::new_filesystem("tmpfs", &[("mode", "755")], attributes)?;
    mount::attach(made, &place)
}

/// What is not of all sandboxes: no id begins with a dot.
fn sandboxes_below(place: &Path) -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(place)?.map(|entry| entry.map(|entry| entry.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let own = names.into_iter();
    Ok(own
        .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
        .collect())
}

/// What is the same for all sandboxes of a host.
#[derive(Debug)]
pub(crate) struct HostTexts {
    cpuinfo: String,
    cgroups: String,
    release: String,
}

impl HostTexts {
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self {
            cpuinfo: fs::read_to_string("/proc/cpuinfo")?,
            cgroups: fs::read_to_string("/proc/cgroups").unwrap_or_default(),
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        })
    }
}

/// Makes the files for a sandbox that is about to be launched.
pub(crate) fn create(
    files: &SandboxFiles,
    host: &HostTexts,
    spec: &SandboxSpec,
    cpus: u32,
) -> io::Result<()> {
    for below in ["", "sys/fs", "sys/kernel/pty", "sys/kernel/random"] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(files.view.join(below))?;
    }
    // A new one at each reading.
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let cpuinfo = shadow::cpuinfo(&host.cpuinfo, cpus);
    fs::write(files.proc_file("cpuinfo"), cpuinfo)?;
    for (name, text) in shadow::fixed(&host.release, &host.cgroups, boot_id.trim()) {
        fs::write(files.proc_file(name), text)?;
    }
    View::since(now(), files, spec.limits, cpus).refresh(&Usage::default())
}

/// Removes the files of a sandbox, if there are any.
pub(crate) fn remove(files: &SandboxFiles) -> io::Result<()> {
    remove_directory(&files.view)
}

/// Reading a directory that changes may miss some of it: then it is read again.
fn remove_directory(directory: &Path) -> io::Result<()> {
    const TRIES: u32 = 100;
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {}
            other => return other,
        }
    }
}

/// Removes the files of all sandboxes but these.
pub(crate) fn keep_only(block: Block, running: &[&SandboxId]) -> io::Result<()> {
    for entry in fs::read_dir(directory(block))? {
        let entry = entry?;
        let name = entry.file_name();
        let kept = |id: &&SandboxId| name == *id.as_str();
        let shared = name.to_string_lossy().starts_with('.');
        if !shared && !running.iter().any(kept) {
            remove_directory(&entry.path())?;
        }
    }
    Ok(())
}

/// What the cgroup of a sandbox says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) stats: GuestStats,
    pub(crate) kernel_us: u64,
}

impl Usage {
    pub(crate) fn read(cgroup: &SlotCgroup) -> io::Result<Self> {
        Ok(Self {
            stats: cgroup.stats()?,
            kernel_us: cgroup.kernel_us()?,
        })
    }
}

/// The files of a sandbox that runs, and what must be known to write them.
#[derive(Debug)]
pub(crate) struct View {
    files: SandboxFiles,
    limits: Limits,
    /// CPUs that the sandbox sees.
    cpus: u32,
    /// When it was started, by the host's boot clock.
    born: Duration,
    /// The same in seconds since 1970.
    started_at: u64,
    last: Mutex<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Duration,
    cpu_usage_us: u64,
    load: Load,
}

impl View {
    /// Of a sandbox whose first process is `pid`.
    pub(crate) fn of(pid: i32, files: &SandboxFiles, limits: Limits, cpus: u32) -> Self {
        // One that has ended already needs no clock.
        let born = process::start_time(pid).map_or_else(
            |_| now(),
            |ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
        );
        Self::since(born, files, limits, cpus)
    }

    fn since(born: Duration, files: &SandboxFiles, limits: Limits, cpus: u32) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            files: files.clone(),
            limits,
            cpus,
            born,
            started_at: wall.saturating_sub(now().saturating_sub(born)).as_secs(),
            last: Mutex::new(Last {
                at: born,
                cpu_usage_us: 0,
                load: Load::default(),
            }),
        }
    }

    /// CPU time as of the last refresh, in microseconds.
    pub(crate) fn seen_us(&self) -> u64 {
        locked(&self.last).cpu_usage_us
    }

    /// Writes the files that change.
    pub(crate) fn refresh(&self, usage: &Usage) -> io::Result<()> {
        self.write(usage, |_| true)
    }

    /// Writes those that change although nothing runs inside.
    pub(crate) fn refresh_age(&self, usage: &Usage) -> io::Result<()> {
        self.write(usage, |name| matches!(name, "uptime" | "loadavg"))
    }

    fn write(&self, usage: &Usage, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
        let now = now();
        let reading = Reading {
            limits: self.limits,
            stats: usage.stats,
            kernel_us: usage.kernel_us,
            cpus: self.cpus,
            age: now.saturating_sub(self.born),
            started_at: self.started_at,
            load: self.load(now, usage.stats.cpu_usage_us),
        };
        let texts = shadow::changing(&reading).into_iter();
        for (name, text) in texts.filter(|(name, _)| wanted(name)) {
            overwrite(&self.files.proc_file(name), &text)?;
        }
        Ok(())
    }

    fn load(&self, at: Duration, cpu_usage_us: u64) -> Load {
        let mut last = locked(&self.last);
        let used = Duration::from_micros(cpu_usage_us.saturating_sub(last.cpu_usage_us));
        let load = last.load.after(at.saturating_sub(last.at), used);
        *last = Last {
            at,
            cpu_usage_us,
            load,
        };
        load
    }
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// In place: the file is mounted inside, and a new one would not be seen. Never empty in between.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(u64::try_from(text.len()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_overwritten_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        overwrite(&path, "longer\n").unwrap();
        let held = File::open(&path).unwrap();
        overwrite(&path, "x\n").unwrap();
        assert_eq!(io::read_to_string(held).unwrap(), "x\n");
    }

    #[test]
    fn a_view_knows_the_age_of_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let files = SandboxFiles {
            directory: dir.path().join("files"),
            view: dir.path().join("view"),
        };
        fs::create_dir(&files.view).unwrap();
        let mine = std::process::id().cast_signed();
        let view = View::of(mine, &files, Limits::STANDARD, 2);
        view.refresh(&Usage::default()).unwrap();
        let uptime = fs::read_to_string(files.proc_file("uptime")).unwrap();
        let age: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((0.0..3600.0).contains(&age), "{uptime}");
        let started = UNIX_EPOCH + Duration::from_secs(view.started_at);
        assert!(SystemTime::now().duration_since(started).unwrap() < Duration::from_secs(3600));
    }
}

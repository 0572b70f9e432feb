//! Memory of sandboxes on disk: writing it, and making sandboxes that go on from it.
//!
//! ```text
//! <data>/memory/<id>/   record.json   what is needed to go on from it; durable, and so is what it speaks of
//!                       record.draft  the same, of memory that nobody has asked to keep: gone at the next start
//!                       envd          the program that the first process ran
//!                       images/       what CRIU has written
//! ```
//!
//! CRIU reads what a guest has written. On the host it runs as the owner of the sandbox's ids, and never among the
//! sandbox's mounts; inside it runs as root of the guest, before anything of the guest's does. The images are root's and
//! are only read: many sandboxes may be made of them at once.

mod capture;
mod criu;
mod hooks;
mod images;
mod probed;
mod readied;
mod wake;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use soulbox_driver::DriverError;
use soulbox_fault as fault;
use soulbox_types::{MemoryId, SlotIndex};

pub(crate) use capture::Capture;
pub(crate) use criu::Criu;
pub(crate) use readied::Readied;
pub(crate) use wake::Wake;

use crate::host::Host;

/// A gigabyte is written in some seconds.
const PATIENCE: Duration = Duration::from_mins(3);
const VERSION: u32 = 2;

/// What is needed to go on from memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Where the sandbox stood, if it had a network: its sockets have this slot's address.
    slot: Option<SlotIndex>,
    /// What its clocks since boot showed, in nanoseconds: with time of suspension, and without.
    clocks: [i64; 2],
    /// CRIU's names for the files of cgroups that its first process holds, in the order in which a jail has them.
    cgroup_files: Vec<String>,
}

/// Where CRIU is in a data directory.
#[must_use]
pub fn criu_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("criu")
}

/// Whether the CRIU of a data directory can be used.
///
/// # Errors
/// Why not, with a last line that says what to do.
pub fn look_for_criu(data_dir: &Path) -> Result<(), String> {
    Criu::find(&criu_dir(data_dir)).map(drop)
}

/// The place of one memory on disk.
#[derive(Debug, Clone)]
struct Place(PathBuf);

impl Place {
    fn of(host: &Host, id: &MemoryId) -> Self {
        Self(host.memory_dir().join(id.as_str()))
    }

    fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// Where CRIU works while it writes.
    fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    fn envd(&self) -> PathBuf {
        self.0.join("envd")
    }

    fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    fn draft(&self) -> PathBuf {
        self.0.join("record.draft")
    }

    /// Whole or not at all, and durable with everything that was written before.
    fn keep(&self) -> io::Result<()> {
        let directory = File::open(&self.0)?;
        rustix::fs::syncfs(&directory)?;
        fault::point!("hibernate.synced");
        fs::rename(self.draft(), self.record())?;
        directory.sync_all()
    }

    fn read(&self) -> io::Result<Record> {
        let bytes = match fs::read(self.record()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read(self.draft()),
            other => other,
        };
        let record: Record = serde_json::from_slice(&bytes?)?;
        if record.version == VERSION {
            return Ok(record);
        }
        let version = record.version;
        Err(io::Error::other(format!(
            "its record is of version {version}, this server reads version {VERSION}"
        )))
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// What is kept.
pub(crate) fn all(host: &Host) -> io::Result<Vec<MemoryId>> {
    let ids = names(host.memory_dir())?.into_iter();
    let ids = ids.filter_map(|name| name.parse::<MemoryId>().ok());
    Ok(ids
        .filter(|id| Place::of(host, id).record().exists())
        .collect())
}

/// Makes one durable.
pub(crate) fn keep(host: &Host, id: &MemoryId) -> io::Result<()> {
    Place::of(host, id).keep()
}

/// Removes what nobody has asked to keep. After a start, when nobody uses it.
pub(crate) fn clear_unkept(host: &Host) -> io::Result<()> {
    for name in names(host.memory_dir())? {
        let place = Place(host.memory_dir().join(name));
        if !place.record().exists() {
            place.remove()?;
        }
    }
    Ok(())
}

/// Removes one. Nothing is fine.
pub(crate) fn forget(host: &Host, id: &MemoryId) -> io::Result<()> {
    Place::of(host, id).remove()
}

/// Whether the host has little memory left: less than a tenth can be had without writing to swap.
pub(crate) fn is_short() -> io::Result<bool> {
    let text = fs::read_to_string("/proc/meminfo")?;
    is_short_by(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn is_short_by(meminfo: &str) -> Option<bool> {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Some(kib("MemAvailable:")? < kib("MemTotal:")? / 10)
}

fn refused(reason: impl Into<String>) -> DriverError {
    DriverError::Checkpoint {
        reason: reason.into(),
    }
}

/// What is in a directory, by name.
fn names(directory: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory.as_ref())?;
    let name =
        |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::is_short_by;

    #[test]
    fn a_tenth_is_little() {
        let with = |available: u32| {
            let text = format!("MemTotal:  1000 kB\nMemFree: 5 kB\nMemAvailable: {available} kB\n");
            is_short_by(&text)
        };
        assert_eq!(with(100), Some(false));
        assert_eq!(with(99), Some(true));
        assert_eq!(is_short_by("MemTotal: 5 kB"), None);
    }
}

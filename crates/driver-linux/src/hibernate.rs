//! Sandboxes on disk: writing one with its memory, and bringing it back.
//!
//! ```text
//! <data>/hibernated/<id>/   record.json   what is needed to bring it back; written last
//!                           disk.img      its file system
//!                           envd          the program that its first process runs
//!                           images/       what CRIU has written
//!                           work/         where CRIU works, its logs
//! ```
//!
//! CRIU reads what a guest has written. On the host it runs as the owner of the sandbox's ids, and never among the
//! sandbox's mounts; inside it runs as root of the guest, before anything of the guest's does.

mod criu;
mod dump;
mod hooks;
mod images;
mod restore;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use soulbox_driver::DriverError;
use soulbox_types::{SandboxId, SandboxSpec, SlotIndex};

pub(crate) use criu::Criu;
pub(crate) use dump::Dump;
pub(crate) use restore::Restore;

use crate::host::Host;

/// A gigabyte is written in some seconds.
const PATIENCE: Duration = Duration::from_mins(3);
const VERSION: u32 = 1;

/// What is needed to bring a sandbox back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    spec: SandboxSpec,
    /// Where it stood. Its sockets have this slot's address.
    slot: SlotIndex,
    disk_mib: u32,
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

/// The place of one sandbox on disk.
#[derive(Debug, Clone)]
struct Place(PathBuf);

impl Place {
    fn of(host: &Host, id: &str) -> Self {
        Self(host.hibernated_dir().join(id))
    }

    fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    fn disk(&self) -> PathBuf {
        self.0.join("disk.img")
    }

    fn envd(&self) -> PathBuf {
        self.0.join("envd")
    }

    fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// Whole or not at all, and durable with everything that was written before.
    fn write(&self, record: &Record) -> io::Result<()> {
        let draft = self.0.join("record.draft");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        let directory = File::open(&self.0)?;
        rustix::fs::syncfs(&directory)?;
        fs::rename(draft, self.record())?;
        directory.sync_all()
    }

    fn read(&self) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.record())?)?;
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

/// The sandboxes that are on disk whole.
pub(crate) fn all(host: &Host) -> io::Result<Vec<SandboxId>> {
    let names = names(host.hibernated_dir())?;
    let whole = names
        .into_iter()
        .filter(|name| Place::of(host, name).record().exists());
    Ok(whole.filter_map(|name| name.parse().ok()).collect())
}

/// A server died after a sandbox was written and before it ended: it runs, and what was written is not of now any more.
/// Its disk gets its usual name back.
pub(crate) fn take_back(host: &Host, id: &str, usual: &Path) -> io::Result<()> {
    let place = Place::of(host, id);
    match fs::rename(place.disk(), usual) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => place.remove(),
    }
}

/// Removes what was never finished.
pub(crate) fn clear_unfinished(host: &Host) -> io::Result<()> {
    for name in names(host.hibernated_dir())? {
        let place = Place::of(host, &name);
        if !place.record().exists() {
            place.remove()?;
        }
    }
    Ok(())
}

/// Removes what is on disk of a sandbox. Nothing is fine.
pub(crate) fn forget(host: &Host, id: &str) -> io::Result<()> {
    Place::of(host, id).remove()
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

//! What is written down about a running sandbox, so that the next server finds it.
//!
//! `<data>/sandboxes/<id>/state.json`, mode 0600 in a directory of mode 0700. Not synced: after a crash of the machine
//! there is nothing left to find.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use soulbox_types::{SandboxSpec, SlotIndex};

/// The record of one running sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxState {
    /// Version of this format.
    pub(crate) version: u32,
    /// The boot in which it runs (`/proc/sys/kernel/random/boot_id`).
    pub(crate) boot_id: String,
    /// What it was created from.
    pub(crate) spec: SandboxSpec,
    /// Where it stands.
    pub(crate) slot: SlotIndex,
    /// envd's number on the host.
    pub(crate) pid: i32,
    /// envd's start time, in clock ticks since boot.
    pub(crate) start_time: u64,
}

/// The version that is written.
pub(crate) const VERSION: u32 = 1;

const NAME: &str = "state.json";

impl SandboxState {
    /// Writes the record whole or not at all.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let draft = directory.join("state.json.draft");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(draft, directory.join(NAME))
    }

    /// Reads a record. `Ok(None)` when there is none, or none that this version understands.
    pub(crate) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(directory.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Ok(serde_json::from_slice::<Self>(&bytes)
            .ok()
            .filter(|state| state.version == VERSION))
    }
}

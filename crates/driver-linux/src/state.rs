//! What is written down about a running sandbox, so that the next server finds it.
//!
//! `<data>/sandboxes/<id>/state.json`, mode 0600 in a directory of mode 0700. Not synced: after a crash of the machine
//! there is nothing left to find. It carries a checksum, because what it says decides which processes are killed: a
//! record that is not exactly what was written is not believed (`docs/adr/0014-damage-is-named.md`).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use soulbox_fault as fault;
use soulbox_linux::process;
use soulbox_types::{SandboxSpec, SlotIndex};

use crate::disk::Backing;
use crate::host::Host;
use crate::plan::SandboxFiles;

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
    /// How its disk is limited.
    pub(crate) backing: Backing,
    /// envd's number on the host.
    pub(crate) pid: i32,
    /// envd's start time, in clock ticks since boot.
    pub(crate) start_time: u64,
}

/// The version that is written.
pub(crate) const VERSION: u32 = 2;

const NAME: &str = "state.json";
const DRAFT: &str = "state.json.draft";
/// Environment variables are the largest part, and a request may be 1 MiB: no record comes near this.
const MAX_BYTES: u64 = 8 << 20;
/// The field beside those of the record.
const CHECKSUM: &str = "sha256";

/// Why there is no record to rely on. Each text goes on from "the sandbox was lost: ".
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The server died before it could write one.
    #[error("its launch was not finished")]
    Missing,
    /// The kernel says no, or it is no file.
    #[error("its state.json cannot be read: {0}")]
    Unreadable(io::Error),
    /// Only the server writes into this directory.
    #[error("its state.json belongs to user {0}")]
    Foreign(u32),
    /// No record is that long.
    #[error("its state.json has {0} bytes")]
    Huge(u64),
    /// Not what was written.
    #[error("its state.json is damaged: {0}")]
    Damaged(String),
    /// Written by another version of this program.
    #[error("its state.json is of version {0}, this server reads version {VERSION}")]
    Version(Value),
}

/// Writes the record of a sandbox whose envd is process `pid`.
pub(crate) fn record(
    host: &Host,
    spec: &SandboxSpec,
    slot: SlotIndex,
    files: &SandboxFiles,
    pid: i32,
) -> io::Result<()> {
    let state = SandboxState {
        version: VERSION,
        boot_id: host.boot_id.clone(),
        spec: spec.clone(),
        slot,
        backing: host.disks.backing(),
        pid,
        start_time: process::start_time(pid)?,
    };
    state.write(&files.directory)
}

impl SandboxState {
    /// Writes the record whole or not at all.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let draft = directory.join(DRAFT);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&self.seal()?)?;
        fault::point!("create.state-drafted", fallible)?;
        fs::rename(draft, directory.join(NAME))?;
        fault::point!("create.state-written", fallible)
    }

    /// Reads a record.
    pub(crate) fn read(directory: &Path) -> Result<Self, StateError> {
        Self::open(&bytes_of(&directory.join(NAME))?)
    }

    fn seal(&self) -> io::Result<Vec<u8>> {
        let mut record = serde_json::to_value(self)?;
        let sum = checksum(&record);
        record[CHECKSUM] = sum.into();
        Ok(serde_json::to_vec(&record)?)
    }

    fn open(bytes: &[u8]) -> Result<Self, StateError> {
        let damaged = |error: serde_json::Error| StateError::Damaged(error.to_string());
        let mut record: Value = serde_json::from_slice(bytes).map_err(damaged)?;
        let sum = record
            .as_object_mut()
            .and_then(|fields| fields.remove(CHECKSUM));
        match record.get("version") {
            Some(version) if *version == VERSION => {}
            Some(version) if version.is_u64() => return Err(StateError::Version(version.clone())),
            _ => return Err(StateError::Damaged("it has no version".to_owned())),
        }
        if sum != Some(checksum(&record).into()) {
            return Err(StateError::Damaged(
                "its checksum does not match".to_owned(),
            ));
        }
        serde_json::from_value(record).map_err(damaged)
    }
}

/// The record in a file that is believed, as JSON without its checksum.
#[doc(hidden)]
pub fn open_record(file: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(&SandboxState::open(file).ok()?).ok()
}

/// A file for a record that is given as JSON without its checksum.
#[doc(hidden)]
pub fn seal_record(json: &[u8]) -> Option<Vec<u8>> {
    serde_json::from_slice::<SandboxState>(json)
        .ok()?
        .seal()
        .ok()
}

/// Of the text without spaces and with sorted keys, which is how a [`Value`] is written.
fn checksum(record: &Value) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(record.to_string());
    digest
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _written = write!(text, "{byte:02x}");
            text
        })
}

/// Never waits and never follows a link, whatever stands in the place of the record.
fn bytes_of(path: &Path) -> Result<Vec<u8>, StateError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Err(StateError::Missing),
        other => File::from(other.map_err(|error| StateError::Unreadable(error.into()))?),
    };
    let facts = file.metadata().map_err(StateError::Unreadable)?;
    if !facts.is_file() {
        return Err(StateError::Damaged("it is no file".to_owned()));
    }
    if facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateError::Foreign(facts.uid()));
    }
    if facts.len() > MAX_BYTES {
        return Err(StateError::Huge(facts.len()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(StateError::Unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use soulbox_types::slot::Block;
    use soulbox_types::{Limits, NetworkMode, SandboxId, TemplateId, TemplateImage};

    use super::*;

    fn sample() -> SandboxState {
        SandboxState {
            version: VERSION,
            boot_id: "boot".into(),
            spec: SandboxSpec {
                id: SandboxId::random(),
                image: TemplateImage {
                    template_id: TemplateId::random(),
                    layers: vec![],
                    default_user: "user".into(),
                    default_workdir: None,
                },
                limits: Limits::STANDARD,
                network: NetworkMode::Internet,
                env_vars: BTreeMap::from([("A".into(), "1".into())]),
                envd_access_token: "token".into(),
                volumes: Vec::new(),
                team: None,
            },
            slot: SlotIndex::new(Block::new(3).unwrap(), 7).unwrap(),
            backing: Backing::Image,
            pid: 42,
            start_time: 4242,
        }
    }

    fn why(directory: &Path) -> String {
        SandboxState::read(directory).unwrap_err().to_string()
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(why(dir.path()), "its launch was not finished");
        sample().write(dir.path()).unwrap();
        let read = SandboxState::read(dir.path()).unwrap();
        assert_eq!(
            read,
            SandboxState {
                spec: read.spec.clone(),
                ..sample()
            }
        );
        assert_eq!(read.spec.env_vars, sample().spec.env_vars);
    }

    #[test]
    fn no_byte_can_be_lost_or_changed() {
        let whole = sample().seal().unwrap();
        for length in 0..whole.len() {
            assert!(
                SandboxState::open(&whole[..length]).is_err(),
                "{length} bytes"
            );
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let opened = SandboxState::open(&flipped);
                assert!(opened.is_err(), "bit {bit} of byte {at}");
            }
        }
        for garbage in [
            "",
            "null",
            "[]",
            "{}",
            "\"x\"",
            "{\"version\":2}",
            "{\"version\":\"2\"}",
        ] {
            assert!(
                matches!(
                    SandboxState::open(garbage.as_bytes()),
                    Err(StateError::Damaged(_))
                ),
                "{garbage}"
            );
        }
    }

    #[test]
    fn other_versions_are_named() {
        let mut record: Value = serde_json::from_slice(&sample().seal().unwrap()).unwrap();
        record["version"] = 3.into();
        let error = SandboxState::open(record.to_string().as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "its state.json is of version 3, this server reads version 2"
        );
    }

    #[test]
    fn what_is_no_file_of_ours_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        fs::create_dir(&path).unwrap();
        assert_eq!(why(dir.path()), "its state.json is damaged: it is no file");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(why(dir.path()).contains("cannot be read"));
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(why(dir.path()), "its state.json is damaged: it is no file");
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(why(dir.path()), "its state.json has 8388609 bytes");
        if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
            assert_eq!(why(dir.path()), "its state.json belongs to user 12345");
        } else {
            assert!(!rustix::process::geteuid().is_root());
        }
    }
}

//! Files that are whole or absent: temp, fsync, rename, fsync of the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::error::ArtifactError;

/// Replaces `path` by a file with `content`; a crash leaves the old file or the new one.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), ArtifactError> {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else {
        return Err(ArtifactError::io(
            "write",
            path,
            io::Error::from(io::ErrorKind::InvalidInput),
        ));
    };
    let temp = dir.join(format!(
        ".{}.tmp-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let mut file = File::create(&temp).map_err(|e| ArtifactError::io("create", &temp, e))?;
    file.write_all(content)
        .map_err(|e| ArtifactError::io("write", &temp, e))?;
    file.sync_all()
        .map_err(|e| ArtifactError::io("sync", &temp, e))?;
    fs::rename(&temp, path).map_err(|e| ArtifactError::io("rename to", path, e))?;
    sync_dir(dir)
}

/// Brings a directory's own entries (names) to stable storage.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ArtifactError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| ArtifactError::io("sync", dir, e))
}

/// Brings everything on the file system of `path` to stable storage: cheaper than an fsync per file of a big tree.
pub(crate) fn sync_file_system(path: &Path) -> Result<(), ArtifactError> {
    let dir = File::open(path).map_err(|e| ArtifactError::io("open", path, e))?;
    rustix::fs::syncfs(&dir).map_err(|e| ArtifactError::io("sync", path, e))
}

/// An exclusive lock that the kernel drops with the process, however it dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`; calls `waiting` once when somebody else has it.
    pub(crate) fn take(path: &Path, waiting: impl FnOnce()) -> Result<Self, ArtifactError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| ArtifactError::io("open", path, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => waiting(),
            Err(e) => return Err(ArtifactError::io("lock", path, e)),
        }
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(ArtifactError::io("lock", path, e)),
            }
        }
    }
}

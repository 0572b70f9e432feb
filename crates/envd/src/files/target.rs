//! Writing one file the way clients can watch it: CREATE, CHMOD, WRITE, in this order and nothing else.
//!
//! So there is no temporary file and no rename, and a small content is one `write`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown, fchown};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::StatusCode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use soulbox_envd_proto::FileWritten;

use super::metadata;
use crate::app::App;
use crate::directories;
use crate::path::{base_name, parent};
use crate::reply::Refusal;
use crate::user::User;

/// Chunks below this are collected, so that a small file is written at once.
const SMALL: usize = 32 * 1024;
const COLLECT: usize = 256 * 1024;

/// A file being written.
#[derive(Debug)]
pub(crate) struct Target {
    path: String,
    file: File,
    collected: BytesMut,
}

impl Target {
    /// Opens `path` for an account, with the directories above it.
    pub(crate) fn open(app: &App, user: &User, path: String) -> Result<Self, Refusal> {
        directories::ensure(parent(&path), user)
            .map_err(|e| Refusal::internal(format!("error ensuring directories: {e}")))?;
        // Before the file appears: a recursive watch must already be on the directories just made.
        app.watchers.catch_up();
        let exists = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Refusal::bad_request(format!("path is a directory: {path}")));
            }
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(Refusal::internal(format!(
                    "error getting file info: {error}"
                )));
            }
        };
        if exists {
            chown(&path, Some(user.uid), Some(user.gid)).map_err(|e| changing_owner(&e))?;
        }
        // NONBLOCK: a pipe that nobody reads is an error, not a wait.
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o666)
            .custom_flags(flags);
        let file = options
            .open(&path)
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::NOSPC | Errno::DQUOT) => Refusal::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    format!("not enough inodes available: {error}"),
                ),
                _ => Refusal::internal(format!("error opening file: {error}")),
            })?;
        if !exists {
            fchown(&file, Some(user.uid), Some(user.gid)).map_err(|e| changing_owner(&e))?;
        }
        Ok(Self {
            path,
            file,
            collected: BytesMut::new(),
        })
    }

    /// Takes a whole content. What has arrived stays on disk when the rest does not.
    pub(crate) async fn fill(
        &mut self,
        content: impl Stream<Item = io::Result<Bytes>>,
    ) -> Result<(), Refusal> {
        let mut content = std::pin::pin!(content);
        while let Some(chunk) = content.next().await {
            match chunk {
                Ok(chunk) => self.write(&chunk)?,
                Err(error) => {
                    self.flush()?;
                    return Err(unreadable(&error));
                }
            }
        }
        self.flush()
    }

    pub(crate) fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        if self.collected.is_empty() && chunk.len() >= SMALL {
            return self.file.write_all(chunk).map_err(|e| writing(&e));
        }
        self.collected.extend_from_slice(chunk);
        if self.collected.len() >= COLLECT {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), Refusal> {
        let collected = std::mem::take(&mut self.collected);
        if collected.is_empty() {
            Ok(())
        } else {
            self.file.write_all(&collected).map_err(|e| writing(&e))
        }
    }

    /// Sets the metadata and says what was written.
    pub(crate) fn finish(self, wanted: &BTreeMap<String, String>) -> Result<FileWritten, Refusal> {
        metadata::replace(&self.file, wanted)?;
        // Read back: others may have set attributes too.
        let metadata = metadata::read(&self.path).unwrap_or_default();
        Ok(written(self.path, metadata))
    }
}

/// The answer for one file.
pub(crate) fn written(path: String, metadata: BTreeMap<String, String>) -> FileWritten {
    FileWritten {
        name: base_name(&path).to_owned(),
        path,
        kind: "file".to_owned(),
        metadata,
    }
}

/// A body that ended before its time.
pub(crate) fn unreadable(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            Refusal::bad_request(format!("error decompressing request body: {error}"))
        }
        io::ErrorKind::TimedOut => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "upload timed out: no data was received",
        ),
        _ => Refusal::internal(format!("error reading request body: {error}")),
    }
}

pub(crate) fn writing(error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Refusal::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("not enough disk space available: {error}"),
        ),
        _ => Refusal::internal(format!("error writing file: {error}")),
    }
}

fn changing_owner(error: &io::Error) -> Refusal {
    Refusal::internal(format!("error changing file ownership: {error}"))
}

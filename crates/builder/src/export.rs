//! A build as a file to carry away: its root file system, packed inside a sandbox of it, as an OCI image.
//!
//! The sizes stand before the content, so the layer is written to the disk first. That file has no name: when a client
//! hangs up or the server dies, nothing stays.

use std::io::{self, Seek as _, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use soulbox_registry::document::architecture;
use soulbox_store::{Build, Template};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use crate::look::{LookError, Looks, Sink, failed, follow};
use crate::oci::{self, Around, LayerBlob};
use crate::stage::Stage;

const WHAT: &str = "pack the files";
/// Pieces of output that wait to be compressed.
const WAITING: usize = 16;

/// Packs everything of the root file system but what the kernel and the sandbox show. Names stand in order and times of
/// access are left out, so that the same files make the same archive. File capabilities are kept; tar says nothing
/// where there are none.
const PACK: &str = r"
tar --version 2>/dev/null | grep -q GNU || exit 96
exec tar -C / --one-file-system --numeric-owner --sort=name --format=posix \
  --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime' \
  --xattrs --xattrs-include=security.capability \
  --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --exclude=./run/e2b -cf - .
";
/// What [`PACK`] exits with where there is no GNU tar.
const NO_TAR: i32 = 96;

/// An OCI image layout as one tar file.
#[derive(Debug)]
pub struct Archive {
    around: Around,
    layer: tokio::fs::File,
    layer_bytes: u64,
}

impl Archive {
    /// Bytes of the whole file.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.layer_bytes + (self.around.head.len() + self.around.tail.len()) as u64
    }

    /// The file from its beginning.
    pub fn into_reader(self) -> impl AsyncRead + Send + 'static {
        let Around { head, tail } = self.around;
        io::Cursor::new(head)
            .chain(self.layer.take(self.layer_bytes))
            .chain(io::Cursor::new(tail))
    }
}

impl Looks {
    /// Packs a build. Takes as long as reading and compressing all of its files does.
    ///
    /// # Errors
    /// See [`LookError`].
    pub async fn export(&self, template: &Template, build: &Build) -> Result<Archive, LookError> {
        let _room = self.room(1).await;
        let scratch = self.uploads.scratch().await.map_err(full_or_broken)?;
        let scratch = scratch.into_std().await;
        let stage = self.stage(build).await?;
        let (file, layer) = pack(&stage, scratch).await?;
        drop(stage);
        let around = oci::around(template, build, architecture(), &layer);
        Ok(Archive {
            around: around.map_err(LookError::Io)?,
            layer: tokio::fs::File::from_std(file),
            layer_bytes: layer.size_bytes,
        })
    }
}

async fn pack(stage: &Stage, file: std::fs::File) -> Result<(std::fs::File, LayerBlob), LookError> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let compressing = tokio::task::spawn_blocking(move || compress(file, receiver));
    let sent = follow(stage, PACK, Sink::Send(&sender)).await;
    drop(sender);
    let written = compressing.await;
    let written = written.map_err(|error| LookError::Io(io::Error::other(error)))?;
    let written = written.map_err(full_or_broken)?;
    let (end, said) = sent?;
    match (end.exited, end.exit_code) {
        // 1: a file has changed while it was read, or is gone; log files of the sandbox do that.
        (true, 0 | 1) => Ok(written),
        (true, NO_TAR) => Err(LookError::NoProgram {
            what: WHAT,
            program: "GNU tar",
            package: "tar",
        }),
        _ => Err(failed(WHAT, &end, &said)),
    }
}

fn full_or_broken(error: io::Error) -> LookError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LookError::Full,
        _ => LookError::Io(error),
    }
}

/// Compresses what comes into a file, which is at its beginning again when this returns.
fn compress(
    file: std::fs::File,
    mut receiver: mpsc::Receiver<Bytes>,
) -> io::Result<(std::fs::File, LayerBlob)> {
    let counted = Counted {
        inner: file,
        hash: Sha256::new(),
        size_bytes: 0,
    };
    let mut plain = Sha256::new();
    // The fastest level but one: levels above cost twice the time for a tenth of the size.
    let mut encoder = GzEncoder::new(counted, Compression::new(2));
    while let Some(piece) = receiver.blocking_recv() {
        plain.update(&piece);
        encoder.write_all(&piece)?;
    }
    let Counted {
        mut inner,
        hash,
        size_bytes,
    } = encoder.finish()?;
    inner.rewind()?;
    let layer = LayerBlob {
        size_bytes,
        digest: data_encoding::HEXLOWER.encode(&hash.finalize()),
        diff_id: data_encoding::HEXLOWER.encode(&plain.finalize()),
    };
    Ok((inner, layer))
}

/// Counts and hashes what is written.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    size_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_is_written_is_what_was_packed() {
        let (sender, receiver) = mpsc::channel(4);
        let pieces: [&'static [u8]; 3] = [b"one", b"", b"two"];
        for piece in pieces {
            sender.try_send(piece.into()).unwrap();
        }
        drop(sender);
        let (mut file, layer) = compress(tempfile::tempfile().unwrap(), receiver).unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(layer.size_bytes, bytes.len() as u64);
        let hash = |bytes: &[u8]| data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
        assert_eq!(
            (layer.digest, layer.diff_id),
            (hash(&bytes), hash(b"onetwo"))
        );
        let mut plain = String::new();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut plain)
            .unwrap();
        assert_eq!(plain, "onetwo");
    }

    #[test]
    fn a_full_disk_is_told() {
        let (sender, receiver) = mpsc::channel(4);
        sender.try_send(vec![0; 10].into()).unwrap();
        drop(sender);
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = compress(full, receiver).unwrap_err();
        assert!(matches!(full_or_broken(error), LookError::Full));
    }

    #[test]
    fn a_tree_is_packed_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["dev", "etc", "proc", "run/e2b", "tmp"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
            std::fs::write(dir.path().join(sub).join("file"), sub).unwrap();
        }
        let script = PACK.replace("-C /", &format!("-C {}", dir.path().display()));
        let packed = || Command::new("bash").args(["-c", &script]).output().unwrap();
        let first = packed();
        assert!(first.status.success(), "{first:?}");
        let mut archive = tar::Archive::new(&first.stdout[..]);
        let paths = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string());
        let paths: Vec<String> = paths.collect();
        assert_eq!(
            paths,
            [
                "./",
                "./dev/",
                "./etc/",
                "./etc/file",
                "./proc/",
                "./run/",
                "./tmp/",
                "./tmp/file"
            ]
        );
        assert_eq!(packed().stdout, first.stdout);
    }
}

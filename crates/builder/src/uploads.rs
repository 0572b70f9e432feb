//! Files that COPY steps read: archives, by team and hash, in the server's own directory.
//!
//! The hash is the client's and says nothing about the bytes of the archive: it names what the client wants copied.
//! So a name is given to whatever was uploaded last under it, whole, and teams never see each other's.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use soulbox_types::id::random_label;
use soulbox_types::{ErrorKind, TeamId};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

/// Largest archive.
const MAX_BYTES: u64 = 10 << 30;
/// Where the magic of a tar archive stands, and what it is.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// So much is looked at to tell an archive from anything else.
const LOOKED_AT: usize = 512;

/// The archives of all teams.
#[derive(Debug, Clone)]
pub struct Uploads {
    directory: PathBuf,
}

/// An archive on its way. It gets its name from [`Upload::finish`]; dropped before, nothing stays.
#[derive(Debug)]
pub struct Upload {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    expected: u64,
    got: u64,
    /// The first bytes.
    head: Vec<u8>,
    named: bool,
}

/// Why an archive was not stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// More than is taken.
    #[error("the files of one COPY have more than {} MiB\nFIX: copy less at once, or list what is not needed in .dockerignore", limit_bytes >> 20)]
    TooLarge {
        /// What is taken.
        limit_bytes: u64,
    },
    /// The disk of the server is full.
    #[error(
        "no space left for uploaded files\nFIX: free space on the file system of the data directory"
    )]
    Full,
    /// More or less than was announced.
    #[error("{got} bytes came of {expected} that were announced\nFIX: upload again")]
    WrongLength {
        /// Announced.
        expected: u64,
        /// Came.
        got: u64,
    },
    /// Not an archive.
    #[error(
        "the upload is neither a tar archive nor a gzip-compressed one\nFIX: upload what the client packs"
    )]
    NoArchive,
    /// The disk of the server fails.
    #[error("cannot store uploaded files")]
    Io(#[source] io::Error),
}

impl UploadError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } | Self::WrongLength { .. } | Self::NoArchive => {
                ErrorKind::InvalidArgument
            }
            Self::Full => ErrorKind::StorageFull,
            Self::Io(_) => ErrorKind::Internal,
        }
    }
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

impl Uploads {
    /// The archives in this directory, which is made. What an earlier server left half is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        let make = |path: &Path| {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
        };
        make(&directory)?;
        let half = directory.join("half");
        match std::fs::remove_dir_all(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => make(&half)?,
        }
        Ok(Self { directory })
    }

    /// Where files lie that are only needed for a while. What is left there is removed at the next start.
    pub(crate) fn scratch_directory(&self) -> PathBuf {
        self.directory.join("half")
    }

    /// Whether the team has uploaded files under this hash.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn present(&self, team: &TeamId, hash: &str) -> io::Result<bool> {
        fs::try_exists(self.path(team, hash)).await
    }

    /// Begins to store an archive of so many bytes.
    ///
    /// # Errors
    /// When it is too large, or the disk is full or fails.
    pub async fn begin(
        &self,
        team: &TeamId,
        hash: &str,
        expected_bytes: u64,
    ) -> Result<Upload, UploadError> {
        if expected_bytes > MAX_BYTES {
            return Err(UploadError::TooLarge {
                limit_bytes: MAX_BYTES,
            });
        }
        let target = self.path(team, hash);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).await?;
        }
        let temporary = self.directory.join("half").join(random_label(20));
        let file = File::create_new(&temporary).await?;
        Ok(Upload {
            file,
            temporary,
            target,
            expected: expected_bytes,
            got: 0,
            head: Vec::new(),
            named: false,
        })
    }

    /// Opens an archive for reading.
    pub(crate) async fn read(&self, team: &TeamId, hash: &str) -> io::Result<File> {
        File::open(self.path(team, hash)).await
    }

    /// A file without a name: it is gone when nobody holds it any more, also when the server dies.
    pub(crate) async fn scratch(&self) -> io::Result<File> {
        let path = self.directory.join("half").join(random_label(20));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .await?;
        fs::remove_file(&path).await?;
        Ok(file)
    }

    /// The hash is 64 hexadecimal digits: whoever takes it from outside has checked that.
    fn path(&self, team: &TeamId, hash: &str) -> PathBuf {
        debug_assert!(hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        self.directory.join(team.as_str()).join(hash)
    }
}

impl Upload {
    /// Takes the next piece.
    ///
    /// # Errors
    /// When there is more than was announced, or the disk is full or fails.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        self.got += piece.len() as u64;
        if self.got > self.expected {
            return Err(self.wrong_length());
        }
        let missing = LOOKED_AT.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend_from_slice(&piece[..missing]);
        self.file.write_all(piece).await?;
        Ok(())
    }

    /// Gives the archive its name; from then on builds can read it.
    ///
    /// # Errors
    /// When something is missing, it is no archive, or the disk is full or fails.
    pub async fn finish(mut self) -> Result<(), UploadError> {
        if self.got != self.expected {
            return Err(self.wrong_length());
        }
        if !is_archive(&self.head) {
            return Err(UploadError::NoArchive);
        }
        self.file.flush().await?;
        self.file.sync_all().await?;
        fs::rename(&self.temporary, &self.target).await?;
        self.named = true;
        if let Some(parent) = self.target.parent() {
            File::open(parent).await?.sync_all().await?;
        }
        Ok(())
    }

    fn wrong_length(&self) -> UploadError {
        UploadError::WrongLength {
            expected: self.expected,
            got: self.got,
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.named {
            // It may be gone already; what stays is removed at the next start.
            std::fs::remove_file(&self.temporary).ok();
        }
    }
}

fn is_archive(head: &[u8]) -> bool {
    let (at, magic) = TAR_MAGIC;
    // An archive without entries is two blocks of zeros.
    let empty = head.len() == LOOKED_AT && head.iter().all(|byte| *byte == 0);
    head.starts_with(GZIP_MAGIC) || head.get(at..at + magic.len()) == Some(magic) || empty
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads() -> (tempfile::TempDir, Uploads, TeamId) {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(dir.path().join("uploads")).unwrap();
        (dir, uploads, TeamId::random())
    }

    fn hash() -> String {
        "ab".repeat(32)
    }

    #[tokio::test]
    async fn stored_whole_or_not_at_all() {
        let (dir, uploads, team) = uploads();
        let archive = [GZIP_MAGIC, b"rest"].concat();
        for (bytes, announced) in [(&archive[..3], 6), (&archive[..], 5), (b"text!!", 6)] {
            let mut upload = uploads.begin(&team, &hash(), announced).await.unwrap();
            let stored = match upload.write(bytes).await {
                Ok(()) => upload.finish().await,
                Err(error) => {
                    drop(upload);
                    Err(error)
                }
            };
            assert!(stored.is_err(), "{bytes:?}");
            assert!(!uploads.present(&team, &hash()).await.unwrap());
        }
        let half = dir.path().join("uploads/half");
        assert_eq!(std::fs::read_dir(half).unwrap().count(), 0);
        let mut upload = uploads.begin(&team, &hash(), 6).await.unwrap();
        upload.write(&archive[..1]).await.unwrap();
        upload.write(&archive[1..]).await.unwrap();
        upload.finish().await.unwrap();
        assert!(uploads.present(&team, &hash()).await.unwrap());
        assert!(!uploads.present(&TeamId::random(), &hash()).await.unwrap());
    }

    #[tokio::test]
    async fn too_much_is_refused_before_it_comes() {
        let (_dir, uploads, team) = uploads();
        let refused = uploads.begin(&team, &hash(), MAX_BYTES + 1).await;
        assert!(matches!(refused, Err(UploadError::TooLarge { .. })));
    }

    #[test]
    fn archives() {
        let mut tar = vec![1; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
        assert!(is_archive(&[0; 512]));
        assert!(is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b""));
        assert!(!is_archive(&[0; 100]));
    }
}

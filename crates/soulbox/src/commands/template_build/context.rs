//! Packs the files of a Dockerfile: what `.dockerignore` leaves, always in the same order, without times and owners,
//! so that the same files have the same hash wherever they lie.
//!
//! Blocking: called on a thread for it.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use soulbox_dockerfile::Ignore;
use tar::{Builder, EntryType, Header};

use crate::failure::Failure;

/// An archive that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Packed {
    /// A file without a name, at its beginning.
    pub(crate) file: File,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// What the server knows it by, 64 hex digits.
    pub(crate) hash: String,
    /// What is neither file, directory nor link, and was left out.
    pub(crate) skipped: Vec<PathBuf>,
}

/// How far the packing is, for whoever looks on.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// Entries so far.
    pub(crate) entries: AtomicU64,
    /// Bytes of files so far.
    pub(crate) bytes: AtomicU64,
}

/// Packs what is in a directory. The hash is that of the tar before it is compressed.
pub(crate) fn pack(root: &Path, ignore: &Ignore, packing: &Packing) -> Result<Packed, Failure> {
    let scratch = tempfile::tempfile().map_err(|error| no_scratch(&error))?;
    let compressed = GzEncoder::new(BufWriter::new(scratch), Compression::fast());
    let mut builder = Builder::new(Hashing {
        inner: compressed,
        hash: Sha256::new(),
    });
    builder.follow_symlinks(false);
    let mut walk = Walk {
        root,
        ignore,
        packing,
        archive: builder,
        above: Vec::new(),
        skipped: Vec::new(),
    };
    walk.directory(Path::new(""))?;
    let skipped = walk.skipped;
    let finish = || -> io::Result<Packed> {
        let hashing = walk.archive.into_inner()?;
        let file = hashing.inner.finish()?.into_inner()?;
        let length = file.metadata()?.len();
        rewound(file, length, hashing.hash, skipped)
    };
    finish().map_err(|error| no_scratch(&error))
}

/// An archive that is a file already. The hash is that of its bytes.
pub(crate) fn archive(path: &Path, packing: &Packing) -> Result<Packed, Failure> {
    let read = || -> io::Result<Packed> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 18];
        let mut length = 0;
        packing.entries.store(1, Ordering::Relaxed);
        loop {
            let count = file.read(&mut piece)?;
            let Some(piece) = piece.get(..count).filter(|piece| !piece.is_empty()) else {
                return rewound(file, length, hash, Vec::new());
            };
            hash.update(piece);
            length += count as u64;
            packing.bytes.store(length, Ordering::Relaxed);
        }
    };
    read().map_err(|error| {
        let failure = Failure::user(format!("cannot read {}", path.display()));
        match error.kind() {
            io::ErrorKind::IsADirectory => failure.because(error).fix(format!(
                "pack it: tar -C {} -cf rootfs.tar . && soulbox template build NAME --rootfs rootfs.tar",
                path.display()
            )),
            _ => failure.because(error).fix("name a tar archive"),
        }
    })
}

fn rewound(mut file: File, length: u64, hash: Sha256, skipped: Vec<PathBuf>) -> io::Result<Packed> {
    file.rewind()?;
    Ok(Packed {
        file,
        length,
        hash: HEXLOWER.encode(&hash.finalize()),
        skipped,
    })
}

fn no_scratch(error: &io::Error) -> Failure {
    Failure::user("cannot write the packed files")
        .because(anyhow::anyhow!("{error}"))
        .fix(format!(
            "make room in {}, or name another directory with TMPDIR",
            std::env::temp_dir().display()
        ))
}

/// Passes bytes on and hashes them.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hash.update(data.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Walk<'a, W: Write> {
    root: &'a Path,
    ignore: &'a Ignore,
    packing: &'a Packing,
    archive: Builder<W>,
    /// Directories that are left out unless something in them is not.
    above: Vec<(PathBuf, Metadata)>,
    skipped: Vec<PathBuf>,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, relative: &Path) -> Result<(), Failure> {
        let path = self.root.join(relative);
        let unreadable = |error| unreadable(&path, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(unreadable)? {
            names.push(entry.map_err(unreadable)?.file_name());
        }
        names.sort_unstable();
        for name in names {
            self.entry(relative.join(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, relative: PathBuf) -> Result<(), Failure> {
        let path = self.root.join(&relative);
        let metadata = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, error))?;
        let excluded = self.ignore.excludes(&relative.to_string_lossy());
        if metadata.is_dir() {
            if !excluded {
                self.put(&relative, &metadata)?;
                return self.directory(&relative);
            }
            if self.ignore.has_exceptions() {
                let above = self.above.len();
                self.above.push((relative.clone(), metadata));
                self.directory(&relative)?;
                self.above.truncate(above);
            }
            return Ok(());
        }
        if excluded {
            return Ok(());
        }
        if !metadata.is_file() && !metadata.is_symlink() {
            self.skipped.push(relative);
            return Ok(());
        }
        self.put(&relative, &metadata)
    }

    /// Writes one entry, and before it the directories above that nobody has needed so far.
    fn put(&mut self, relative: &Path, metadata: &Metadata) -> Result<(), Failure> {
        for (above, metadata) in std::mem::take(&mut self.above) {
            self.write(&above, &metadata)?;
        }
        self.write(relative, metadata)
    }

    fn write(&mut self, relative: &Path, metadata: &Metadata) -> Result<(), Failure> {
        let path = self.root.join(relative);
        let mut header = Header::new_gnu();
        header.set_mode(metadata.permissions().mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let written = if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            fs::read_link(&path)
                .and_then(|target| self.archive.append_link(&mut header, relative, target))
        } else if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            self.archive.append_data(&mut header, relative, io::empty())
        } else {
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            File::open(&path).and_then(|file| {
                let mut content = Exactly {
                    inner: file,
                    left: metadata.len(),
                    packing: self.packing,
                };
                self.archive
                    .append_data(&mut header, relative, &mut content)
            })
        };
        self.packing.entries.fetch_add(1, Ordering::Relaxed);
        written.map_err(|error| unreadable(&path, error))
    }
}

/// As many bytes of a file as its entry says: one that grows is cut, one that shrinks is an error.
struct Exactly<'a> {
    inner: File,
    left: u64,
    packing: &'a Packing,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let count = self.inner.read(buffer)?;
        if count == 0 {
            return Err(io::Error::other("it became shorter while it was packed"));
        }
        self.left -= count as u64;
        self.packing
            .bytes
            .fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    Failure::user(format!("cannot pack {}", path.display()))
        .because(error)
        .fix("make it readable, or leave it out with .dockerignore")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use flate2::read::GzDecoder;

    use super::*;

    fn packed(root: &Path, ignore: &str) -> Packed {
        let ignore = Ignore::parse(ignore).unwrap();
        pack(root, &ignore, &Packing::default()).unwrap()
    }

    /// `path mode type content` of each entry.
    fn listing(packed: Packed) -> Vec<String> {
        let mut archive = tar::Archive::new(GzDecoder::new(packed.file));
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
                let mode = header.mode().unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut text = String::new();
                match entry.link_name().unwrap() {
                    Some(target) => text = format!("-> {}", target.display()),
                    None => drop(entry.read_to_string(&mut text).unwrap()),
                }
                format!("{path} {mode:o} {text}").trim_end().to_owned()
            })
            .collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/deep")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        for (path, text) in [("a.txt", "a"), ("b/deep/c.txt", "c"), ("b/d.log", "d")] {
            fs::write(root.join(path), text).unwrap();
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o640)).unwrap();
        }
        for path in ["b", "b/deep", "empty"] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o750)).unwrap();
        }
        symlink("nowhere", root.join("link")).unwrap();
        dir
    }

    #[test]
    fn everything_in_order() {
        let dir = tree();
        let first = packed(dir.path(), "");
        assert_eq!(first.hash.len(), 64);
        assert_eq!(first.length, first.file.metadata().unwrap().len());
        let hash = first.hash.clone();
        assert_eq!(
            listing(first),
            [
                "a.txt 640 a",
                "b 750",
                "b/d.log 640 d",
                "b/deep 750",
                "b/deep/c.txt 640 c",
                "empty 750",
                "link 777 -> nowhere"
            ]
        );
        // The same files, made at another time elsewhere.
        let other = tree();
        let touched = File::open(other.path().join("a.txt")).unwrap();
        touched
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(packed(other.path(), "").hash, hash);
        fs::write(other.path().join("a.txt"), "A").unwrap();
        assert_ne!(packed(other.path(), "").hash, hash);
    }

    #[test]
    fn the_hash_is_that_of_the_tar() {
        let dir = tree();
        let packed = packed(dir.path(), "");
        let mut tar = Vec::new();
        GzDecoder::new(packed.file).read_to_end(&mut tar).unwrap();
        assert_eq!(HEXLOWER.encode(&Sha256::digest(&tar)), packed.hash);
    }

    #[test]
    fn what_is_ignored() {
        let dir = tree();
        let ignored = "*\n!b/deep\n";
        let list = listing(packed(dir.path(), ignored));
        assert_eq!(list, ["b 750", "b/deep 750", "b/deep/c.txt 640 c"]);
        let list = listing(packed(dir.path(), "**/*.txt\nlink"));
        assert_eq!(list, ["b 750", "b/d.log 640 d", "b/deep 750", "empty 750"]);
        assert_eq!(listing(packed(dir.path(), "*")).len(), 0);
    }

    #[test]
    fn long_names_and_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("{0}/{0}/{0}", "x".repeat(120));
        fs::create_dir_all(dir.path().join(&long)).unwrap();
        symlink("y".repeat(200), dir.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let packed = packed(dir.path(), "");
        assert_eq!(packed.skipped, [Path::new("s")]);
        let list = listing(packed);
        assert_eq!(list[0], format!("link 777 -> {}", "y".repeat(200)));
        assert!(list[3].starts_with(&long), "{list:?}");
    }

    #[test]
    fn an_archive_goes_as_it_is() {
        let dir = tree();
        let path = dir.path().join("a.txt");
        let packed = archive(&path, &Packing::default()).unwrap();
        assert_eq!(packed.length, 1);
        assert_eq!(packed.hash, HEXLOWER.encode(&Sha256::digest(b"a")));
        let failure = archive(dir.path(), &Packing::default()).unwrap_err();
        assert!(
            failure.render().contains("FIX: pack it: tar -C "),
            "{}",
            failure.render()
        );
    }
}

//! The digest of a tree. The record format is fixed: changing it renames every layer there is.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::{Dir, Xattrs, permissions, xattrs};
use crate::digest::{LayerDigest, LayerFacts};
use crate::error::ArtifactError;

/// First bytes of every listing, so that another format can never give the same digest.
const FORMAT: &[u8] = b"soulbox-layer-1\0";

/// Reads a whole tree and computes its digest; `seen` is told the bytes of content read so far.
///
/// # Errors
/// When something cannot be read, is a mount point, or changes under our hands.
pub fn hash(root: &Path, seen: &mut dyn FnMut(u64)) -> Result<LayerFacts, ArtifactError> {
    let dir = Dir::open_root(root)?;
    let mut walk = Walk {
        listing: blake3::Hasher::new(),
        entries: 0,
        content_bytes: 0,
        buffer: vec![0; 256 * 1024],
        read: HashMap::new(),
        seen,
    };
    walk.listing.update(FORMAT);
    let stat = rustix::fs::fstat(&dir).map_err(|e| ArtifactError::io("stat", root, e))?;
    walk.record(b"", &stat, &xattrs(&dir, c".")?);
    walk.directory(&dir, &mut Vec::new())?;
    let digest = LayerDigest::from_bytes(*walk.listing.finalize().as_bytes());
    Ok(LayerFacts {
        digest,
        entries: walk.entries,
        content_bytes: walk.content_bytes,
    })
}

struct Walk<'a> {
    listing: blake3::Hasher,
    entries: u64,
    content_bytes: u64,
    buffer: Vec<u8>,
    /// What was read of files that have more than one name, by device and inode.
    read: HashMap<(u64, u64), (u64, blake3::Hash)>,
    seen: &'a mut dyn FnMut(u64),
}

impl Walk<'_> {
    fn directory(&mut self, dir: &Dir, path: &mut Vec<u8>) -> Result<(), ArtifactError> {
        for name in dir.names()? {
            let parent_length = path.len();
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            self.entry(dir, &name, path)?;
            path.truncate(parent_length);
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, name: &CStr, path: &mut Vec<u8>) -> Result<(), ArtifactError> {
        let stat = dir.stat(name)?;
        let attributes = xattrs(dir, name)?;
        self.record(path, &stat, &attributes);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.content(dir, name, &stat),
            FileType::Directory => self.directory(&dir.child(name)?, path),
            FileType::Symlink => {
                let target = dir.link_target(name)?;
                self.bytes(target.to_bytes());
                Ok(())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                self.number(stat.st_rdev);
                Ok(())
            }
            FileType::Fifo | FileType::Socket => Ok(()),
            FileType::Unknown => Err(ArtifactError::Tree {
                path: dir.path_of(name),
                what: "has a type that no layer can hold",
            }),
        }
    }

    /// The part that every type of entry has. Lengths come before variable parts, so that records cannot run together.
    fn record(&mut self, path: &[u8], stat: &Stat, attributes: &Xattrs) {
        self.entries += 1;
        self.bytes(path);
        self.listing.update(&[type_byte(stat)]);
        self.listing.update(&permissions(stat).to_le_bytes());
        self.listing.update(&stat.st_uid.to_le_bytes());
        self.listing.update(&stat.st_gid.to_le_bytes());
        self.number(attributes.len() as u64);
        for (name, value) in attributes {
            self.bytes(name.to_bytes());
            self.bytes(value);
        }
    }

    /// Size and hash of a file's content. A file with many names is read once.
    fn content(&mut self, dir: &Dir, name: &CStr, stat: &Stat) -> Result<(), ArtifactError> {
        let key = (stat.st_dev, stat.st_ino);
        let (size, hash) = match self.read.get(&key) {
            Some(known) => *known,
            None => self.read(dir, name)?,
        };
        if stat.st_nlink > 1 {
            self.read.insert(key, (size, hash));
        }
        self.number(size);
        self.listing.update(hash.as_bytes());
        Ok(())
    }

    /// The size is what was read, not what stat promised.
    fn read(&mut self, dir: &Dir, name: &CStr) -> Result<(u64, blake3::Hash), ArtifactError> {
        let mut file = File::from(dir.file(name)?);
        let mut hasher = blake3::Hasher::new();
        let mut size = 0_u64;
        loop {
            let length = file
                .read(&mut self.buffer)
                .map_err(|e| ArtifactError::io("read", dir.path_of(name), e))?;
            if length == 0 {
                break;
            }
            hasher.update(&self.buffer[..length]);
            size += length as u64;
        }
        self.content_bytes += size;
        (self.seen)(self.content_bytes);
        Ok((size, hasher.finalize()))
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.listing.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.listing.update(&number.to_le_bytes());
    }
}

fn type_byte(stat: &Stat) -> u8 {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => b'f',
        FileType::Directory => b'd',
        FileType::Symlink => b'l',
        FileType::CharacterDevice => b'c',
        FileType::BlockDevice => b'b',
        FileType::Fifo => b'p',
        FileType::Socket => b's',
        FileType::Unknown => b'?',
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn sample(root: &Path) {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), b"content").unwrap();
        fs::write(root.join("a/empty"), b"").unwrap();
        symlink("b/file", root.join("a/link")).unwrap();
        symlink("/etc/shadow", root.join("dangling")).unwrap();
        for dir in ["", "a", "a/b"] {
            fs::set_permissions(root.join(dir), PermissionsExt::from_mode(0o755)).unwrap();
        }
        for file in ["a/b/file", "a/empty"] {
            fs::set_permissions(root.join(file), PermissionsExt::from_mode(0o644)).unwrap();
        }
    }

    fn digest(root: &Path) -> LayerDigest {
        hash(root, &mut |_| ()).unwrap().digest
    }

    #[test]
    fn same_content_same_digest() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        sample(one.path());
        sample(two.path());
        let mut read = 0;
        let facts = hash(one.path(), &mut |bytes| read = bytes).unwrap();
        assert_eq!(facts.digest, digest(two.path()));
        assert_eq!((facts.entries, facts.content_bytes, read), (7, 7, 7));
    }

    #[test]
    fn format_is_fixed() {
        if !rustix::process::geteuid().is_root() {
            // uid and gid are part of the digest.
            eprintln!("SKIP format_is_fixed: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        assert_eq!(
            digest(dir.path()).to_string(),
            "30a61b366a852f246697f384eb4c4adfe0da7c7e0882d3735bb2c94ffac1eec5"
        );
    }

    #[test]
    fn every_change_shows() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 9] = [
            ("content", |r| {
                fs::write(r.join("a/b/file"), b"CONTENT").unwrap();
            }),
            ("new file", |r| fs::write(r.join("a/new"), b"").unwrap()),
            ("removed file", |r| {
                fs::remove_file(r.join("a/empty")).unwrap();
            }),
            ("renamed file", |r| {
                fs::rename(r.join("a/empty"), r.join("a/emptier")).unwrap();
            }),
            ("mode", |r| {
                fs::set_permissions(r.join("a/empty"), PermissionsExt::from_mode(0o4644)).unwrap();
            }),
            ("mode of the root", |r| {
                fs::set_permissions(r, PermissionsExt::from_mode(0o777)).unwrap();
            }),
            ("type", |r| {
                fs::remove_file(r.join("a/empty")).unwrap();
                fs::create_dir(r.join("a/empty")).unwrap();
            }),
            ("link target", |r| {
                fs::remove_file(r.join("dangling")).unwrap();
                symlink("/etc/passwd", r.join("dangling")).unwrap();
            }),
            ("attribute", |r| {
                rustix::fs::setxattr(
                    r.join("a/b/file"),
                    "user.soulbox",
                    b"x",
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap();
            }),
        ];
        for (what, change) in changes {
            let dir = tempfile::tempdir().unwrap();
            sample(dir.path());
            let before = digest(dir.path());
            change(dir.path());
            assert_ne!(digest(dir.path()), before, "{what}");
        }
    }

    #[test]
    fn content_may_not_move_between_files() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (root, first, second) in [(one.path(), "ab", "c"), (two.path(), "a", "bc")] {
            fs::write(root.join("1"), first).unwrap();
            fs::write(root.join("2"), second).unwrap();
        }
        assert_ne!(digest(one.path()), digest(two.path()));
    }

    #[test]
    fn times_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let before = digest(dir.path());
        fs::File::open(dir.path().join("a/b/file"))
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(digest(dir.path()), before);
    }

    #[test]
    fn a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("p"),
            FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        assert_eq!(hash(dir.path(), &mut |_| ()).unwrap().entries, 2);
    }

    #[test]
    fn depth_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_path_buf();
        for _ in 0..=super::super::MAX_DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        assert!(matches!(
            hash(dir.path(), &mut |_| ()),
            Err(ArtifactError::Tree { .. })
        ));
    }

    #[test]
    fn a_link_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("layer")).unwrap();
        assert!(matches!(
            hash(&dir.path().join("layer"), &mut |_| ()),
            Err(ArtifactError::Io { .. })
        ));
    }
}

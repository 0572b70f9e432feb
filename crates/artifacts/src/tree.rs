//! Walking file trees through directory fds: hashing, removing, copying.
//!
//! A tree may have been written by hostile code (a snapshot is what a sandbox left behind), so no path of it is ever
//! joined to a string and resolved again: every step is one name under an open directory, links are never followed,
//! and another file system is never entered.
//!
//! The canonical listing that a digest stands for has one record per entry, parents before children, names in byte
//! order: path, type, permission bits, uid, gid, extended attributes, and the size and hash of a file's content, the
//! target of a link or the numbers of a device. Times, inode numbers and link counts are not in it: they do not
//! survive a copy.

mod copy;
mod hash;
mod merge;
mod remove;

pub(crate) use copy::copy;
pub use hash::hash;
pub use merge::Written;
pub(crate) use merge::{save, squash};
pub(crate) use remove::{empty_dir, remove};

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir as ReadDir, FileType, Mode, OFlags, Stat};

use crate::error::ArtifactError;

/// Each level keeps one fd open; a tree deeper than this is an attack, not software.
const MAX_DEPTH: usize = 384;

/// An open directory of a tree, and the path that error messages show for it.
#[derive(Debug)]
struct Dir {
    fd: OwnedFd,
    shown: PathBuf,
    device: u64,
    depth: usize,
}

impl Dir {
    /// Opens the root of a tree. The path is ours, only its last component must not be a link.
    fn open_root(path: &Path) -> Result<Self, ArtifactError> {
        let fd = rustix::fs::open(path, Self::FLAGS, Mode::empty())
            .map_err(|e| ArtifactError::io("open", path, e))?;
        Self::of(fd, path.to_path_buf())
    }

    /// The root of a tree that is open.
    fn of(fd: OwnedFd, shown: PathBuf) -> Result<Self, ArtifactError> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| ArtifactError::io("stat", &shown, e))?;
        Ok(Self {
            fd,
            shown,
            device: stat.st_dev,
            depth: 0,
        })
    }

    /// The same root once more.
    fn again(&self) -> Result<Self, ArtifactError> {
        let fd = rustix::fs::openat(&self.fd, ".", Self::FLAGS, Mode::empty())
            .map_err(|e| ArtifactError::io("open", &self.shown, e))?;
        Self::of(fd, self.shown.clone())
    }

    const FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);

    /// Opens a directory below this one.
    fn child(&self, name: &CStr) -> Result<Self, ArtifactError> {
        let shown = self.path_of(name);
        if self.depth >= MAX_DEPTH {
            return Err(ArtifactError::Tree {
                path: shown,
                what: "is nested too deeply",
            });
        }
        let fd = rustix::fs::openat(&self.fd, name, Self::FLAGS, Mode::empty())
            .map_err(|e| ArtifactError::io("open", &shown, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| ArtifactError::io("stat", &shown, e))?;
        if stat.st_dev != self.device {
            return Err(ArtifactError::Tree {
                path: shown,
                what: "is a mount point of another file system",
            });
        }
        Ok(Self {
            fd,
            shown,
            device: self.device,
            depth: self.depth + 1,
        })
    }

    /// Names in this directory, in byte order.
    fn names(&self) -> Result<Vec<CString>, ArtifactError> {
        let read =
            ReadDir::read_from(&self.fd).map_err(|e| ArtifactError::io("read", &self.shown, e))?;
        let mut names = Vec::new();
        for entry in read {
            let entry = entry.map_err(|e| ArtifactError::io("read", &self.shown, e))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn stat(&self, name: &CStr) -> Result<Stat, ArtifactError> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ArtifactError::io("stat", self.path_of(name), e))
    }

    fn stat_if_there(&self, name: &CStr) -> Result<Option<Stat>, ArtifactError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(ArtifactError::io("stat", self.path_of(name), e)),
            Ok(stat) => Ok(Some(stat)),
        }
    }

    fn own_stat(&self) -> Result<Stat, ArtifactError> {
        rustix::fs::fstat(&self.fd).map_err(|e| ArtifactError::io("stat", &self.shown, e))
    }

    /// Opens a regular file for reading; what became something else meanwhile is refused without blocking on it.
    fn file(&self, name: &CStr) -> Result<OwnedFd, ArtifactError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|e| ArtifactError::io("open", self.path_of(name), e))?;
        let stat =
            rustix::fs::fstat(&fd).map_err(|e| ArtifactError::io("stat", self.path_of(name), e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ArtifactError::Tree {
                path: self.path_of(name),
                what: "changed while it was read",
            });
        }
        Ok(fd)
    }

    fn link_target(&self, name: &CStr) -> Result<CString, ArtifactError> {
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(|e| ArtifactError::io("read link", self.path_of(name), e))
    }

    /// A path to an entry that the kernel resolves through our fd: for calls that have no `at` form.
    fn magic_path(&self, name: &CStr) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
            .join(OsStr::from_bytes(name.to_bytes()))
    }

    fn path_of(&self, name: &CStr) -> PathBuf {
        self.shown.join(OsStr::from_bytes(name.to_bytes()))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The permission bits, set-id and sticky bits included.
fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// Extended attributes, sorted by name.
type Xattrs = Vec<(CString, Vec<u8>)>;

/// Reads the extended attributes of an entry without following it.
///
/// `security.selinux` is left out: the host's policy puts it there, it is no part of what was installed.
fn xattrs(dir: &Dir, name: &CStr) -> Result<Xattrs, ArtifactError> {
    let path = dir.magic_path(name);
    let fail = |e: rustix::io::Errno| ArtifactError::io("read attributes of", dir.path_of(name), e);
    let mut list = Vec::new();
    match rustix::fs::llistxattr_query(&path) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(size) => list.resize(size, 0_u8),
        Err(e) => return Err(fail(e)),
    }
    let length = rustix::fs::llistxattr(&path, &mut list[..]).map_err(fail)?;
    list.truncate(length);
    let mut found = Vec::new();
    for attribute in list
        .split_inclusive(|&b| b == 0)
        .filter_map(|n| CStr::from_bytes_with_nul(n).ok())
    {
        if attribute == c"security.selinux" {
            continue;
        }
        let size = rustix::fs::lgetxattr_query(&path, attribute).map_err(fail)?;
        let mut value = vec![0_u8; size];
        let length = rustix::fs::lgetxattr(&path, attribute, &mut value[..]).map_err(fail)?;
        value.truncate(length);
        found.push((attribute.to_owned(), value));
    }
    found.sort();
    Ok(found)
}

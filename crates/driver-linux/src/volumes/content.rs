//! What is asked of the files of a volume, by people who are not in a sandbox.
//!
//! Nothing here waits for a sandbox: files are opened only when they are regular ones, and then without waiting for
//! locks. What is written is put in its place whole; what is removed is out of the way at once.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fchmod, fchown, fstat,
    fsync, linkat, mkdirat, openat, readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use soulbox_driver::VolumeError;
use soulbox_driver::volumes::{EntryKind, Owned, VolumeEntry};
use soulbox_types::Timestamp;
use soulbox_types::volume::normal_path;

use super::{host, path_of, resolve};
use crate::disk;

/// Ids that a sandbox has; others mean nobody inside.
const IDS: u32 = 65_536;
const MODES: u32 = 0o7777;

/// The two directories of a volume.
#[derive(Debug)]
pub(super) struct Tree {
    /// What sandboxes see.
    pub(super) data: OwnedFd,
    /// What they do not: files that are being written or removed.
    pub(super) work: OwnedFd,
}

/// Where a file shall be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) path: &'p str,
    /// Whether it may take the place of another file.
    pub(super) replace: bool,
}

/// Says why something at a path could not be had.
pub(super) fn refused(
    path: &str,
    operation: &'static str,
) -> impl FnOnce(io::Error) -> VolumeError {
    let path = format!("/{path}");
    move |error| match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
            VolumeError::NotFound(path)
        }
        Some(Errno::EXIST) => VolumeError::InTheWay(path, "already exists".to_owned()),
        Some(Errno::ISDIR | Errno::NOTEMPTY) => {
            VolumeError::InTheWay(path, "is a directory".to_owned())
        }
        Some(Errno::NOSPC | Errno::DQUOT) => VolumeError::Full,
        Some(Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => {
            VolumeError::Invalid(format!("path '{path}' is not possible"))
        }
        Some(Errno::AGAIN) => VolumeError::Busy,
        _ => host(operation)(error),
    }
}

pub(super) fn checked(path: &str) -> Result<String, VolumeError> {
    if path.is_empty() || path.contains('\0') {
        let message = "path must have at least one character, and no zero byte";
        return Err(VolumeError::Invalid(message.to_owned()));
    }
    Ok(normal_path(path))
}

fn check_owner(uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) -> Result<(), VolumeError> {
    for (what, id) in [("uid", uid), ("gid", gid)] {
        if id.is_some_and(|id| id >= IDS) {
            return Err(VolumeError::Invalid(format!("{what} must be below {IDS}")));
        }
    }
    if mode.is_some_and(|mode| mode > MODES) {
        let message = "mode must be at most 4095 (0o7777)";
        return Err(VolumeError::Invalid(message.to_owned()));
    }
    Ok(())
}

fn check_owned(owned: Owned) -> Result<(), VolumeError> {
    check_owner(Some(owned.uid), Some(owned.gid), Some(owned.mode))
}

impl Tree {
    pub(super) fn stat(&self, path: &str) -> Result<VolumeEntry, VolumeError> {
        let path = checked(path)?;
        let found = resolve::at(&self.data, &path, OFlags::NOFOLLOW);
        found
            .and_then(|found| entry(&found, &path))
            .map_err(refused(&path, "look at a file"))
    }

    /// A regular file, and its size.
    pub(super) fn read(&self, path: &str) -> Result<(u64, OwnedFd), VolumeError> {
        let path = checked(path)?;
        let found = resolve::at(&self.data, &path, OFlags::empty());
        let found = found.map_err(refused(&path, "read a file"))?;
        let stat = fstat(&found).map_err(|e| refused(&path, "read a file")(e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(VolumeError::NotFound(format!("/{path}"))),
            _ => {
                let message = format!("path '/{path}' is no regular file");
                return Err(VolumeError::Invalid(message));
            }
        }
        // What was found is what is opened. A sandbox may hold a lease on it, for which nobody waits.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, path_of(&found), flags, Mode::empty());
        let file = file.map_err(|e| refused(&path, "read a file")(e.into()))?;
        Ok((u64::try_from(stat.st_size).unwrap_or_default(), file))
    }

    pub(super) fn make_directory(
        &self,
        path: &str,
        owned: Owned,
        parents: bool,
    ) -> Result<VolumeEntry, VolumeError> {
        let path = checked(path)?;
        check_owned(owned)?;
        let made = if parents {
            self.make_all(&path, owned)
        } else {
            self.make_one(&path, owned)
        };
        made.and_then(|directory| entry(&directory, &path))
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::NOTDIR) if parents => {
                    let reason = "is no directory, or one above it is none";
                    VolumeError::InTheWay(format!("/{path}"), reason.to_owned())
                }
                _ => refused(&path, "make a directory")(error),
            })
    }

    fn make_one(&self, path: &str, owned: Owned) -> io::Result<OwnedFd> {
        let Some((above, name)) = resolve::parent(&self.data, path)? else {
            return Err(Errno::EXIST.into());
        };
        make_in(&above, name, owned)
    }

    fn make_all(&self, path: &str, owned: Owned) -> io::Result<OwnedFd> {
        let mut at = resolve::directory(&self.data, "")?;
        let mut end = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let begin = if end == 0 { 0 } else { end + 1 };
            end = begin + name.len();
            at = match resolve::directory(&self.data, &path[..end]) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => make_in(&at, name, owned)?,
                other => other?,
            };
        }
        Ok(at)
    }

    pub(super) fn change(
        &self,
        path: &str,
        owner: (Option<u32>, Option<u32>),
        mode: Option<u32>,
    ) -> Result<VolumeEntry, VolumeError> {
        let path = checked(path)?;
        check_owner(owner.0, owner.1, mode)?;
        let found = resolve::at(&self.data, &path, OFlags::NOFOLLOW);
        let found = found.map_err(refused(&path, "change a file"))?;
        let changed = (|| {
            if owner != (None, None) {
                let (uid, gid) = (owner.0.map(Uid::from_raw), owner.1.map(Gid::from_raw));
                chownat(&found, "", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            if let Some(mode) = mode {
                chmodat(
                    CWD,
                    path_of(&found),
                    Mode::from_raw_mode(mode),
                    AtFlags::empty(),
                )?;
            }
            entry(&found, &path)
        })();
        changed.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP) => {
                VolumeError::Invalid("the mode of a link cannot be changed".to_owned())
            }
            _ => refused(&path, "change a file")(error),
        })
    }

    /// `aside` is a free name in the directory that sandboxes do not see.
    pub(super) fn remove(&self, path: &str, aside: &str) -> Result<(), VolumeError> {
        let path = checked(path)?;
        let parent = resolve::parent(&self.data, &path).map_err(refused(&path, "remove a file"))?;
        let Some((above, name)) = parent else {
            return Err(VolumeError::NotFound("/".to_owned()));
        };
        match unlinkat(&above, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            other => return other.map_err(|e| refused(&path, "remove a file")(e.into())),
        }
        // Whoever sees the volume sees all of it or nothing.
        renameat(&above, name, &self.work, aside)
            .map_err(|e| refused(&path, "remove a directory")(e.into()))?;
        disk::remove(&path_of(&self.work).join(aside)).map_err(host("remove a directory"))
    }

    /// A file without a name, if it may be where it shall be as far as that can be known now.
    pub(super) fn begin(&self, place: Place<'_>) -> Result<OwnedFd, VolumeError> {
        let path = checked(place.path)?;
        let begun = self.look_ahead(&path, place.replace).and_then(|()| {
            let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(openat(&self.work, ".", flags, Mode::from_raw_mode(0o600))?)
        });
        begun.map_err(refused(&path, "begin a file"))
    }

    fn look_ahead(&self, path: &str, replace: bool) -> io::Result<()> {
        let Some((above, name)) = resolve::parent(&self.data, path)? else {
            return Err(Errno::ISDIR.into());
        };
        let there = match statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            Err(Errno::ISDIR.into())
        } else if replace {
            Ok(())
        } else {
            Err(Errno::EXIST.into())
        }
    }

    /// `aside` is a free name in the directory that sandboxes do not see.
    pub(super) fn finish(
        &self,
        file: &OwnedFd,
        aside: &str,
        place: Place<'_>,
        owned: Owned,
    ) -> Result<VolumeEntry, VolumeError> {
        let path = checked(place.path)?;
        check_owned(owned)?;
        let placed = (|| {
            own(file, owned)?;
            // Durable before it has a name.
            fsync(file)?;
            let Some((above, name)) = resolve::parent(&self.data, &path)? else {
                return Err(Errno::ISDIR.into());
            };
            let (to, named) = if place.replace {
                (&self.work, aside)
            } else {
                (&above, name)
            };
            linkat(CWD, path_of(file), to, named, AtFlags::SYMLINK_FOLLOW)?;
            if place.replace
                && let Err(error) = renameat(&self.work, aside, &above, name)
            {
                unlinkat(&self.work, aside, AtFlags::empty())?;
                return Err(error.into());
            }
            fsync(resolve::readable(&above)?)?;
            entry(file, &path)
        })();
        placed.map_err(refused(&path, "write a file"))
    }
}

/// A new directory, to be read.
pub(super) fn make_in(above: &OwnedFd, name: &str, owned: Owned) -> io::Result<OwnedFd> {
    mkdirat(above, name, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(above, name, flags, Mode::empty())?;
    own(&made, owned)?;
    Ok(made)
}

/// The owner first: it takes set-id bits away.
fn own(file: &OwnedFd, owned: Owned) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owned.uid), Gid::from_raw(owned.gid));
    fchown(file, Some(uid), Some(gid))?;
    Ok(fchmod(file, Mode::from_raw_mode(owned.mode))?)
}

/// How something that was found looks; `path` is where.
pub(super) fn entry(found: &OwnedFd, path: &str) -> io::Result<VolumeEntry> {
    let stat = fstat(found)?;
    let link = || Ok::<_, io::Error>(readlinkat(found, "", Vec::new())?);
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Link(link()?.to_string_lossy().into_owned()),
        _ => EntryKind::Other,
    };
    Ok(described(&stat, kind, path))
}

pub(super) fn described(stat: &Stat, kind: EntryKind, path: &str) -> VolumeEntry {
    let time = |seconds: i64, nanos: u64| {
        let micros = i64::try_from(nanos / 1000).unwrap_or_default();
        Timestamp(seconds.saturating_mul(1_000_000).saturating_add(micros))
    };
    VolumeEntry {
        path: format!("/{path}"),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        owned: Owned {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & MODES,
        },
        accessed: time(stat.st_atime, stat.st_atime_nsec),
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        changed: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

#[cfg(test)]
mod tests;

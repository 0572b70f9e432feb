//! Taking a finished layer over into another data directory, without a second copy of the bytes where that can be had.
//!
//! Order of preference for a file: a reflink (own inode, shared blocks), a hard link (both are immutable layers, so
//! sharing the inode is harmless), a copy.

use std::ffi::CStr;
use std::fs::File;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::{Dir, Xattrs, permissions, xattrs};
use crate::error::ArtifactError;

/// Copies the tree at `from` to `to`, which must not exist yet; `seen` is told how many entries are done.
pub(crate) fn copy(from: &Path, to: &Path, seen: &mut dyn FnMut(u64)) -> Result<(), ArtifactError> {
    std::fs::create_dir(to).map_err(|e| ArtifactError::io("create", to, e))?;
    let (source, target) = (Dir::open_root(from)?, Dir::open_root(to)?);
    let mut copier = Copier {
        entries: 0,
        reflink: true,
        hard_link: true,
        seen,
    };
    copier.directory(&source, &target)
}

struct Copier<'a> {
    entries: u64,
    /// Cleared by the first refusal: the answer is the same for every file of a tree.
    reflink: bool,
    hard_link: bool,
    seen: &'a mut dyn FnMut(u64),
}

impl Copier<'_> {
    /// Fills `target` and then gives it the look of `source`; the time comes last, filling changes it.
    fn directory(&mut self, source: &Dir, target: &Dir) -> Result<(), ArtifactError> {
        for name in source.names()? {
            self.entry(source, target, &name)?;
            self.entries += 1;
            (self.seen)(self.entries);
        }
        let stat =
            rustix::fs::fstat(source).map_err(|e| ArtifactError::io("stat", &source.shown, e))?;
        copy_look(source, target, c".", &stat)
    }

    fn entry(&mut self, source: &Dir, target: &Dir, name: &CStr) -> Result<(), ArtifactError> {
        let stat = source.stat(name)?;
        let fail = |e: Errno| ArtifactError::io("create", target.path_of(name), e);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(target, name, Mode::RWXU).map_err(fail)?;
                return self.directory(&source.child(name)?, &target.child(name)?);
            }
            FileType::RegularFile => {
                if self.file(source, target, name)? == Made::HardLink {
                    return Ok(());
                }
            }
            FileType::Symlink => {
                rustix::fs::symlinkat(&source.link_target(name)?, target, name).map_err(fail)?;
            }
            kind => {
                rustix::fs::mknodat(target, name, kind, Mode::RUSR, stat.st_rdev).map_err(fail)?;
            }
        }
        copy_look(source, target, name, &stat)
    }

    fn file(&mut self, source: &Dir, target: &Dir, name: &CStr) -> Result<Made, ArtifactError> {
        let fail = |e: Errno| ArtifactError::io("create", target.path_of(name), e);
        let create = || {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR).map_err(fail)
        };
        if self.reflink {
            let made = create()?;
            if rustix::fs::ioctl_ficlone(&made, source.file(name)?).is_ok() {
                return Ok(Made::Own);
            }
            self.reflink = false;
            rustix::fs::unlinkat(target, name, AtFlags::empty()).map_err(fail)?;
        }
        if self.hard_link {
            match rustix::fs::linkat(source, name, target, name, AtFlags::empty()) {
                Ok(()) => return Ok(Made::HardLink),
                Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {
                    self.hard_link = false;
                }
                Err(e) => return Err(fail(e)),
            }
        }
        let (mut input, mut output) = (File::from(source.file(name)?), File::from(create()?));
        std::io::copy(&mut input, &mut output)
            .map_err(|e| ArtifactError::io("write", target.path_of(name), e))?;
        Ok(Made::Own)
    }
}

#[derive(PartialEq, Eq)]
enum Made {
    Own,
    HardLink,
}

fn copy_look(source: &Dir, target: &Dir, name: &CStr, stat: &Stat) -> Result<(), ArtifactError> {
    set_look(target, name, stat, &xattrs(source, name)?)
}

/// Owner, mode, attributes and times. Owner first: changing it clears set-id bits and file capabilities.
pub(super) fn set_look(
    target: &Dir,
    name: &CStr,
    stat: &Stat,
    attributes: &Xattrs,
) -> Result<(), ArtifactError> {
    let fail = |e: Errno| ArtifactError::io("set attributes of", target.path_of(name), e);
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(
        target,
        name,
        Some(owner),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // The entry was made by us a moment ago and is no link; `fchmodat` has no flag for links before Linux 6.6.
        rustix::fs::chmodat(
            target,
            name,
            Mode::from_raw_mode(permissions(stat)),
            AtFlags::empty(),
        )
        .map_err(fail)?;
    }
    let path = target.magic_path(name);
    for (attribute, value) in attributes {
        rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty()).map_err(fail)?;
    }
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(target, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::tree::hash;

    fn sample(dir: &Path) -> PathBuf {
        let root = dir.join("from");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/tool"), b"#!/bin/sh").unwrap();
        fs::set_permissions(root.join("a/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
        rustix::fs::setxattr(
            root.join("a/tool"),
            "user.soulbox",
            b"x",
            XattrFlags::empty(),
        )
        .unwrap();
        symlink("/nowhere", root.join("a/b/link")).unwrap();
        fs::set_permissions(root.join("a"), PermissionsExt::from_mode(0o1777)).unwrap();
        root
    }

    #[test]
    fn a_copy_has_the_same_digest_and_root_time() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (sample(dir.path()), dir.path().join("to"));
        copy(&from, &to, &mut |_| ()).unwrap();
        assert_eq!(
            hash(&from, &mut |_| ()).unwrap(),
            hash(&to, &mut |_| ()).unwrap()
        );
        let mtime = |path: &Path| {
            fs::metadata(path)
                .map(|m| (m.mtime(), m.mtime_nsec()))
                .unwrap()
        };
        assert_eq!(mtime(&from), mtime(&to));
    }

    #[test]
    fn without_links_the_bytes_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (sample(dir.path()), dir.path().join("to"));
        fs::create_dir(&to).unwrap();
        let mut copier = Copier {
            entries: 0,
            reflink: false,
            hard_link: false,
            seen: &mut |_| (),
        };
        copier
            .directory(
                &Dir::open_root(&from).unwrap(),
                &Dir::open_root(&to).unwrap(),
            )
            .unwrap();
        assert_eq!(
            hash(&from, &mut |_| ()).unwrap(),
            hash(&to, &mut |_| ()).unwrap()
        );
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_ne!(inode(from.join("a/tool")), inode(to.join("a/tool")));
    }
}

//! How regular files come into a merged tree: those of layers as links, those of a sandbox as copies.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use super::source::Source;
use super::{CREATE, Merge};
use crate::error::ArtifactError;
use crate::tree::copy::set_look;
use crate::tree::{Dir, permissions};

/// Holes of all files of a sandbox. They take no space, but to know the digest of a layer they are read, by everybody
/// who checks it.
pub(super) const HOLE_BYTES: u64 = 64 << 30;

impl Merge<'_> {
    pub(super) fn file(
        &mut self,
        source: &Source,
        target: &Dir,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), ArtifactError> {
        if source.own {
            if self.is_furnished(source, target, name, stat)? {
                return Ok(());
            }
            return self.own_file(source, target, name, stat);
        }
        let linked = rustix::fs::linkat(&source.dir, name, target, name, AtFlags::empty());
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP) => {
                self.copy(source, target, name, stat)
            }
            Err(e) => Err(ArtifactError::io("create", target.path_of(name), e)),
        }
    }

    /// Names of one file stay names of one file.
    fn own_file(
        &mut self,
        source: &Source,
        target: &Dir,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), ArtifactError> {
        if stat.st_nlink < 2 {
            return self.copy(source, target, name, stat);
        }
        let fail = |e: Errno| ArtifactError::io("create", target.path_of(name), e);
        let key = (stat.st_dev, stat.st_ino);
        if let Some(known) = self.linked.get(&key) {
            match rustix::fs::linkat(&self.links, known, target, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // More names than a file can have here, ours included: the rest are names of another copy.
                Err(Errno::MLINK) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        self.copy(source, target, name, stat)?;
        self.links_made += 1;
        let known = CString::new(self.links_made.to_string())
            .map_err(|e| ArtifactError::io("create", target.path_of(name), io::Error::from(e)))?;
        rustix::fs::linkat(target, name, &self.links, &known, AtFlags::empty()).map_err(fail)?;
        self.linked.insert(key, known);
        Ok(())
    }

    fn copy(
        &mut self,
        source: &Source,
        target: &Dir,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), ArtifactError> {
        let input = source.dir.file(name)?;
        self.count_holes(&source.dir, name, stat)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let output = rustix::fs::openat(target, name, CREATE, mode)
            .map_err(|e| ArtifactError::io("create", target.path_of(name), e))?;
        let cloned = self.reflink && rustix::fs::ioctl_ficlone(&output, &input).is_ok();
        if !cloned {
            self.reflink = false;
            copy_data(input, output, size_of(stat))
                .map_err(|e| ArtifactError::io("write", target.path_of(name), e))?;
        }
        let attributes = self.attributes(&source.dir, name, source.own)?;
        set_look(target, name, stat, &attributes)
    }

    fn count_holes(&mut self, dir: &Dir, name: &CStr, stat: &Stat) -> Result<(), ArtifactError> {
        let there = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        let holes = size_of(stat).saturating_sub(there);
        self.hole_bytes = self.hole_bytes.saturating_add(holes);
        if self.hole_bytes > HOLE_BYTES {
            return Err(ArtifactError::Tree {
                path: dir.path_of(name),
                what: "and other sparse files have more than 64 GiB of holes",
            });
        }
        Ok(())
    }

    /// Whether a file is one that the server has put there, as it was.
    fn is_furnished(
        &self,
        source: &Source,
        target: &Dir,
        name: &CStr,
        stat: &Stat,
    ) -> Result<bool, ArtifactError> {
        let (Ok(name_text), parent) = (name.to_str(), self.visible(target)) else {
            return Ok(false);
        };
        let is = |path: &str| {
            let path = Path::new(path);
            path.parent() == Some(parent) && path.file_name().is_some_and(|n| n == name_text)
        };
        let Some((_, content)) = self.furnished.iter().find(|(path, _)| is(path)) else {
            return Ok(false);
        };
        let plain = permissions(stat) == 0o644 && (stat.st_uid, stat.st_gid) == (0, 0);
        if !plain || size_of(stat) != content.len() as u64 {
            return Ok(false);
        }
        let mut found = Vec::new();
        File::from(source.dir.file(name)?)
            .take(content.len() as u64)
            .read_to_end(&mut found)
            .map_err(|e| ArtifactError::io("read", source.dir.path_of(name), e))?;
        Ok(found == content.as_bytes() && self.attributes(&source.dir, name, true)?.is_empty())
    }
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Holes stay holes.
fn copy_data(input: OwnedFd, output: OwnedFd, size: u64) -> io::Result<()> {
    let (mut input, mut output) = (File::from(input), File::from(output));
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&input, rustix::fs::SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let end = rustix::fs::seek(&input, rustix::fs::SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        input.seek(SeekFrom::Start(start))?;
        output.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut (&mut input).take(end - start), &mut output)?;
        if copied < end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    output.set_len(size)
}

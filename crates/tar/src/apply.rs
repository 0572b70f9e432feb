//! Lays one archive over a tree. Of a layer of an image, names that begin with `.wh.` take away what layers below have, and
//! directories get what the layer says of them; of other files, names are names, and directories that are there stay as
//! they are.
//!
//! Paths are resolved by the kernel with the tree as their root: no link leads out of it, and nothing is written across a
//! mount. Device nodes are left out; nobody inside could use them.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};

/// Begins the name of what takes something away.
const WHITEOUT: &[u8] = b".wh.";
/// The name that takes away everything the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Begins the names of what another file system once kept for itself.
const FOREIGN: &[u8] = b".wh..wh.";
/// The ids of a sandbox go so far; what belongs to a higher one belongs to nobody.
const HIGHEST_ID: u64 = 65_533;
const NOBODY: u32 = 65_534;
/// An archive may grow by this factor and not more, when it is larger than what is always allowed.
const MOST_GROWTH: u64 = 200;
const ALWAYS_ALLOWED: u64 = 256 << 20;
const XATTR: &str = "SCHILY.xattr.";
/// Archives consist of these.
const BLOCK: usize = 512;
const COPY_BUFFER: usize = 256 * 1024;

/// What an archive may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of files.
    pub(crate) bytes: u64,
    /// Entries.
    pub(crate) entries: u64,
}

impl Limits {
    /// With so many compressed bytes no more than they can reasonably stand for.
    pub(crate) fn for_compressed(self, compressed: u64) -> Self {
        let growth = compressed.saturating_mul(MOST_GROWTH).max(ALWAYS_ALLOWED);
        Self {
            bytes: self.bytes.min(growth),
            ..self
        }
    }
}

/// How an archive is meant.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// A layer of an image, for the root.
    Layer,
    /// The same, and somebody has said what its content is: a last block that is cut short where it holds nothing is then
    /// what its maker wrote, and some do.
    PromisedLayer,
    /// Files for a directory.
    Files(PathBuf),
    /// One file, for a path or for the directory that is there.
    File(PathBuf),
}

impl Meaning {
    fn is_layer(&self) -> bool {
        matches!(self, Self::Layer | Self::PromisedLayer)
    }
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Device nodes and attributes that a sandbox cannot have, and what lies where something is mounted.
    pub(crate) left_out: u64,
    /// SHA-256 of the archive, in hex.
    pub(crate) diff_id: String,
}

/// Why an archive cannot be laid over the tree. The text is for the owner of the image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("cannot read the layer: {0}")]
    Read(io::Error),
    #[error("{path}: {source}")]
    Write { path: String, source: io::Error },
    #[error("{0}: the entry leads out of the image")]
    Outside(String),
    #[error("{0}: a hard link to what is not there")]
    NoTarget(String),
    #[error("the layer unpacks to more than {0} bytes")]
    TooLarge(u64),
    #[error("the layer holds more than {0} entries")]
    TooMany(u64),
    #[error("the layer's content is not what the image says")]
    WrongContent,
}

impl UnpackError {
    pub(crate) fn read(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Unpacks an archive over the tree below `root`.
pub(crate) fn archive(
    root: &OwnedFd,
    archive: impl Read,
    meaning: &Meaning,
    limits: Limits,
) -> Result<Done, UnpackError> {
    let mut input = Hashing {
        inner: BufReader::with_capacity(COPY_BUFFER, archive),
        hash: Sha256::new(),
    };
    let mut tree = Tree {
        root,
        meaning,
        parent: None,
        made: HashSet::new(),
        times: Vec::new(),
        done: Done::default(),
        limits,
    };
    let pads = matches!(meaning, Meaning::PromisedLayer);
    {
        let mut archive = Archive::new(Whole {
            inner: &mut input,
            pads,
            over: 0,
        });
        for entry in archive.entries().map_err(UnpackError::read)? {
            tree.entry(&mut entry.map_err(UnpackError::read)?)?;
        }
    }
    tree.set_times();
    let mut done = tree.done;
    // What comes after the last entry belongs to the content, too.
    io::copy(&mut input, &mut io::sink()).map_err(UnpackError::read)?;
    done.diff_id = input
        .hash
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    Ok(done)
}

/// Fills up the last block with zeros, if it is to.
struct Whole<R> {
    inner: R,
    pads: bool,
    /// Bytes of the block that has begun.
    over: usize,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 || !self.pads || self.over == 0 {
            self.over = (self.over + n) % BLOCK;
            return Ok(n);
        }
        let n = buffer.len().min(BLOCK - self.over);
        buffer[..n].fill(0);
        self.over = (self.over + n) % BLOCK;
        Ok(n)
    }
}

/// Hashes what goes through.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

struct Tree<'a> {
    root: &'a OwnedFd,
    meaning: &'a Meaning,
    /// The directory that the last entry went to: the next one often goes there, too.
    parent: Option<(PathBuf, OwnedFd)>,
    /// What this archive has made: its own whiteouts do not take that away.
    made: HashSet<PathBuf>,
    /// Directories get their times at the end, when nothing changes in them any more.
    times: Vec<(PathBuf, i64)>,
    done: Done,
    limits: Limits,
}

impl Tree<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::read)?.into_owned();
        let path = self.destination(inside(&path)?.unwrap_or_default())?;
        if path.as_os_str().is_empty() {
            // The root itself; its mode is the sandbox's.
            return Ok(());
        }
        self.count(entry)?;
        match self.place(entry, &path) {
            // Something is mounted there, or the sandbox may not have it.
            Err(UnpackError::Write { source, .. })
                if [Errno::XDEV, Errno::BUSY]
                    .map(|e| Some(e.raw_os_error()))
                    .contains(&source.raw_os_error()) =>
            {
                self.done.left_out += 1;
                Ok(())
            }
            other => other,
        }
    }

    /// Where in the tree an entry goes.
    fn destination(&self, path: PathBuf) -> Result<PathBuf, UnpackError> {
        Ok(match self.meaning {
            Meaning::Layer | Meaning::PromisedLayer => path,
            Meaning::Files(directory) => inside(directory)?.unwrap_or_default().join(path),
            Meaning::File(target) => {
                let target = inside(target)?.unwrap_or_default();
                match self.directory(&target) {
                    Ok(_) => target.join(path),
                    Err(_) => target,
                }
            }
        })
    }

    fn count(&mut self, entry: &Entry<'_, impl Read>) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::TooMany(self.limits.entries));
        }
        if matches!(
            entry.header().entry_type(),
            EntryType::Regular | EntryType::GNUSparse
        ) {
            self.done.bytes = self.done.bytes.saturating_add(entry.size());
        }
        if self.done.bytes > self.limits.bytes {
            return Err(UnpackError::TooLarge(self.limits.bytes));
        }
        Ok(())
    }

    fn place(&mut self, entry: &mut Entry<'_, impl Read>, path: &Path) -> Result<(), UnpackError> {
        let name = path.file_name().unwrap_or_default().as_bytes().to_owned();
        if self.meaning.is_layer() && name.starts_with(WHITEOUT) {
            return self.take_away(path, &name);
        }
        let written = |source: Errno| UnpackError::Write {
            path: path.display().to_string(),
            source: source.into(),
        };
        let kind = entry.header().entry_type();
        let parent = self.parent_of(path).map_err(written)?;
        let at = name.as_slice();
        if kind.is_dir() {
            let made = make_directory(&parent, at).map_err(written)?;
            // Where something is mounted, nothing is the image's.
            if !made && (!self.meaning.is_layer() || self.is_mount(path)) {
                return Ok(());
            }
        } else if kind.is_hard_link() {
            let target = entry.link_name().map_err(UnpackError::read)?;
            let target = target.map(|target| inside(&target)).transpose()?.flatten();
            let target = match (target, self.meaning) {
                (Some(target), Meaning::Files(directory)) => inside(&directory.join(target))?,
                (target, _) => target,
            };
            let target = target.ok_or_else(|| UnpackError::NoTarget(path.display().to_string()))?;
            self.link(&target, path, &parent)?;
        } else if kind.is_symlink() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            remove(&parent, at).map_err(written)?;
            rustix::fs::symlinkat(target.as_slice(), &parent, at).map_err(written)?;
        } else if kind.is_file() || kind.is_gnu_sparse() || kind.is_contiguous() {
            remove(&parent, at).map_err(written)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, at, flags, Mode::from_raw_mode(0o600));
            let mut file = fs::File::from(file.map_err(written)?);
            io::copy(entry, &mut file).map_err(|source| UnpackError::Write {
                path: path.display().to_string(),
                source,
            })?;
        } else if kind.is_fifo() {
            remove(&parent, at).map_err(written)?;
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(&parent, at, rustix::fs::FileType::Fifo, mode, 0)
                .map_err(written)?;
        } else {
            self.done.left_out += 1;
            return Ok(());
        }
        if !kind.is_hard_link() {
            self.dress(entry, &parent, at, path).map_err(written)?;
        }
        // A link may have replaced a directory that is remembered.
        if !kind.is_dir() && !kind.is_file() {
            self.parent = None;
        } else {
            self.parent = path.parent().map(|to| (to.to_owned(), parent));
        }
        // With the directories above: what is in them is this archive's.
        let mut parts = path.ancestors();
        while parts
            .next()
            .is_some_and(|part| self.made.insert(part.to_owned()))
        {}
        Ok(())
    }

    /// The directory that an entry belongs in, made where it is missing.
    fn parent_of(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        let wanted = path.parent().unwrap_or(Path::new(""));
        match self.parent.take() {
            Some((known, directory)) if known == wanted => Ok(directory),
            _ => match self.directory(wanted) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_parents(wanted)?;
                    self.directory(wanted)
                }
                other => other,
            },
        }
    }

    fn is_mount(&self, path: &Path) -> bool {
        matches!(self.directory(path), Err(Errno::XDEV))
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        resolve(self.root, path, flags)
    }

    fn make_parents(&self, path: &Path) -> Result<(), Errno> {
        let mut so_far = PathBuf::new();
        for part in path.iter() {
            let above = self.directory(&so_far)?;
            so_far.push(part);
            match self.directory(&so_far) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    make_directory(&above, part.as_bytes())?;
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::chmodat(&above, part.as_bytes(), mode, AtFlags::empty())?;
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// A second name for what is there.
    fn link(&self, target: &Path, path: &Path, parent: &OwnedFd) -> Result<(), UnpackError> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let written = |source: Errno| match source {
            Errno::NOENT | Errno::NOTDIR => UnpackError::NoTarget(path.display().to_string()),
            source => UnpackError::Write {
                path: path.display().to_string(),
                source: source.into(),
            },
        };
        if target == path {
            return Ok(());
        }
        let from = self
            .directory(target.parent().unwrap_or(Path::new("")))
            .map_err(written)?;
        let old = target.file_name().unwrap_or_default().as_bytes();
        // Looked at before something is removed for it.
        rustix::fs::statat(&from, old, AtFlags::SYMLINK_NOFOLLOW).map_err(written)?;
        remove(parent, name).map_err(written)?;
        rustix::fs::linkat(&from, old, parent, name, AtFlags::empty()).map_err(written)
    }

    /// Owner, mode, attributes and time, in an order in which none undoes another.
    fn dress(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &[u8],
        path: &Path,
    ) -> Result<(), Errno> {
        let header = entry.header();
        let id = |id: io::Result<u64>| match id {
            Ok(id) if id <= HIGHEST_ID => u32::try_from(id).unwrap_or(NOBODY),
            _ => NOBODY,
        };
        let (user, group) = (id(header.uid()), id(header.gid()));
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::chownat(
            parent,
            name,
            Some(user),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let kind = header.entry_type();
        let mode = header.mode().unwrap_or(0o644) & 0o7777;
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        if !kind.is_symlink() {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            self.attributes(entry, parent, name)?;
        }
        if kind.is_dir() {
            self.times.push((path.to_owned(), seconds));
            return Ok(());
        }
        rustix::fs::utimensat(parent, name, &times(seconds), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn attributes(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), Errno> {
        let Ok(Some(extensions)) = entry.pax_extensions() else {
            return Ok(());
        };
        for extension in extensions.flatten() {
            let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR)) else {
                continue;
            };
            let path = in_descriptor(parent, name);
            match rustix::fs::lsetxattr(path, key, extension.value_bytes(), XattrFlags::empty()) {
                // Powers over files that only a host can give, and kinds that this file system does not know.
                Err(Errno::PERM | Errno::NOTSUP | Errno::INVAL | Errno::ACCESS) => {
                    self.done.left_out += 1;
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn take_away(&mut self, path: &Path, name: &[u8]) -> Result<(), UnpackError> {
        let above = path.parent().unwrap_or(Path::new(""));
        let written = |source: Errno| UnpackError::Write {
            path: path.display().to_string(),
            source: source.into(),
        };
        self.parent = None;
        let directory = match self.directory(above) {
            // Nothing below has it.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other.map_err(written)?,
        };
        if name == OPAQUE {
            return self.empty(&directory, above).map_err(written);
        }
        if name.starts_with(FOREIGN) {
            return Ok(());
        }
        let name = &name[WHITEOUT.len()..];
        let named = above.join(std::ffi::OsStr::from_bytes(name));
        // `.wh...` would be the directory above.
        if matches!(name, b"" | b"." | b"..") {
            return Err(UnpackError::Outside(path.display().to_string()));
        }
        if self.made.contains(&named) {
            return Ok(());
        }
        remove(&directory, name).map_err(written)
    }

    /// Removes what layers below have in a directory, and keeps what this one has put there.
    fn empty(&self, directory: &OwnedFd, path: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        let names: Result<Vec<Vec<u8>>, Errno> = rustix::fs::Dir::read_from(&readable)?
            .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
            .collect();
        for name in names? {
            if matches!(name.as_slice(), b"." | b"..") {
                continue;
            }
            let child = path.join(std::ffi::OsStr::from_bytes(&name));
            if !self.made.contains(&child) {
                remove(directory, &name)?;
            } else if let Ok(below) = resolve(
                self.root,
                &child,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
            ) {
                self.empty(&below, &child)?;
            }
        }
        Ok(())
    }

    fn set_times(&self) {
        for (path, seconds) in self.times.iter().rev() {
            // A directory that was replaced meanwhile has the time of what replaced it.
            if let Ok(directory) = self.directory(path) {
                let path = in_descriptor(&directory, b".");
                let _replaced = rustix::fs::utimensat(
                    rustix::fs::CWD,
                    path,
                    &times(*seconds),
                    AtFlags::empty(),
                );
            }
        }
    }
}

/// A path in an archive, without what means nothing; `None` for the root.
fn inside(path: &Path) -> Result<Option<PathBuf>, UnpackError> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(UnpackError::Outside(path.display().to_string()));
            }
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

fn resolve(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // Something was renamed meanwhile, somewhere.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Makes a directory, or keeps the one that is there; anything else gives way. Whether it was made.
fn make_directory(parent: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(facts) if rustix::fs::FileType::from_raw_mode(facts.st_mode).is_dir() => {
            return Ok(false);
        }
        Ok(_) => remove(parent, name)?,
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).map(|()| true)
}

/// Removes whatever has this name, if anything.
fn remove(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => match fs::remove_dir_all(in_descriptor(parent, name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        },
        other => other,
    }
}

/// A name of an entry of an open directory that is good for calls that take none.
fn in_descriptor(directory: &OwnedFd, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

fn times(seconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    }
}

#[cfg(test)]
mod tests;

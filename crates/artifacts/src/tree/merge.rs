//! One tree of several that lie on each other, as overlayfs would show them: what makes a layer of a sandbox's own files,
//! and one layer of many.
//!
//! What is made is a layer again: a name that hides something below it stays as a whiteout, a directory that shows
//! nothing of what is below it is marked opaque, and there is no other mark of overlayfs in it.
//! A directory that a sandbox has moved is a reference into the layers below (a redirect) in its own files. In a layer it
//! becomes what it looks like: its content is linked in, so layers never refer to each other.

mod file;
mod source;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::copy::set_look;
use super::{Dir, permissions, xattrs};
use crate::error::ArtifactError;
use source::{MERGED, OPAQUE, Seen, Source, look_up};

/// At the top of a sandbox's own files: places that are mounted over in every sandbox.
const MOUNT_POINTS: [&CStr; 3] = [c"proc", c"sys", c"dev"];
/// Where envd says at every start which sandbox this is: that of the next one is another.
const IDENTITY: (&str, &CStr) = ("run", c"e2b");

/// A sandbox's own files, as its overlay has left them.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The overlay's upper directory. Nobody writes to it any more.
    pub upper: BorrowedFd<'a>,
    /// The host's number of the sandbox's root: file capabilities name it.
    pub first_id: u32,
    /// Files that the server has put there, by path and content. They are left out where they are still the same.
    pub furnished: &'a [(&'a str, String)],
}

/// Makes a tree at `to`, which must not exist, of what a sandbox has written over these layers, topmost first. `links`
/// is an empty directory on the same file system. Whether there is anything in the tree.
pub(crate) fn save(
    written: &Written<'_>,
    below: Vec<PathBuf>,
    to: &Path,
    links: &Path,
) -> Result<bool, ArtifactError> {
    let shown = PathBuf::from("/");
    let upper = rustix::fs::openat(written.upper, ".", Dir::FLAGS, Mode::empty())
        .map_err(|e| ArtifactError::io("open", &shown, e))?;
    let upper = Source::own(Dir::of(upper, shown)?);
    let mut merge = Merge::new(to, links, below)?;
    merge.first_id = written.first_id;
    merge.furnished = written.furnished;
    merge.run(&[upper])
}

/// Makes a tree at `to` of these, topmost first. Files become links to theirs.
pub(crate) fn squash(from: &[PathBuf], to: &Path, links: &Path) -> Result<(), ArtifactError> {
    let sources: Result<Vec<_>, _> = from.iter().map(|path| Source::layer(path)).collect();
    Merge::new(to, links, Vec::new())?.run(&sources?).map(drop)
}

struct Merge<'a> {
    to: Dir,
    /// Names for files of a sandbox that have several: where the first one lies may be too deep for a path.
    links: Dir,
    linked: HashMap<(u64, u64), CString>,
    links_made: u64,
    below: Vec<PathBuf>,
    first_id: u32,
    furnished: &'a [(&'a str, String)],
    /// Cleared by the first refusal: the answer is the same for every file of a tree.
    reflink: bool,
    hole_bytes: u64,
}

impl Merge<'_> {
    fn new(to: &Path, links: &Path, below: Vec<PathBuf>) -> Result<Self, ArtifactError> {
        std::fs::create_dir(to).map_err(|e| ArtifactError::io("create", to, e))?;
        Ok(Self {
            to: Dir::open_root(to)?,
            links: Dir::open_root(links)?,
            linked: HashMap::new(),
            links_made: 0,
            below,
            first_id: 0,
            furnished: &[],
            reflink: true,
            hole_bytes: 0,
        })
    }

    fn run(&mut self, sources: &[Source]) -> Result<bool, ArtifactError> {
        let root = self.to.again()?;
        self.fill(sources, &root, false)?;
        let written = !root.names()?.is_empty();
        self.directory_look(&sources[0].dir, &root)?;
        Ok(written)
    }

    /// `covered` says that nothing below can be seen here, whatever this directory has. Whether there are whiteouts now.
    fn fill(
        &mut self,
        sources: &[Source],
        target: &Dir,
        covered: bool,
    ) -> Result<bool, ArtifactError> {
        let mut names = BTreeSet::new();
        for source in sources {
            names.extend(source.dir.names()?);
        }
        let top = target.depth == 0 && sources[0].own;
        let mut hides = false;
        let identity = sources[0].own && self.visible(target) == Path::new(IDENTITY.0);
        for name in names {
            let left_out = top && MOUNT_POINTS.contains(&name.as_c_str())
                || identity && name.as_c_str() == IDENTITY.1;
            if !left_out {
                hides |= self.entry(sources, target, &name, covered)?;
            }
        }
        Ok(hides)
    }

    /// Whether it is a whiteout now.
    fn entry(
        &mut self,
        sources: &[Source],
        target: &Dir,
        name: &CStr,
        covered: bool,
    ) -> Result<bool, ArtifactError> {
        match look_up(sources, name)? {
            Seen::Nothing => {}
            Seen::Hidden if covered => {}
            Seen::Hidden => {
                whiteout(target, name)?;
                return Ok(true);
            }
            Seen::Entry(source, stat) => self.leaf(source, target, name, &stat)?,
            Seen::Directory { mut stack, closed } => {
                let mut closed = closed;
                if stack[0].moved {
                    stack.truncate(1);
                    let origin = stack[0].origin.clone();
                    stack.extend(self.origin(origin.as_deref())?);
                    closed = true;
                }
                self.directory(&stack, target, name, (closed, covered))?;
            }
        }
        Ok(false)
    }

    fn directory(
        &mut self,
        stack: &[Source],
        target: &Dir,
        name: &CStr,
        (closed, covered): (bool, bool),
    ) -> Result<(), ArtifactError> {
        let fail = |e: Errno| ArtifactError::io("create", target.path_of(name), e);
        rustix::fs::mkdirat(target, name, Mode::RWXU).map_err(fail)?;
        let made = target.child(name)?;
        let hides = self.fill(stack, &made, covered || closed)?;
        if stack.len() == 1 && !closed && self.only_furnished(&stack[0], &made)? {
            return rustix::fs::unlinkat(target, name, AtFlags::REMOVEDIR).map_err(fail);
        }
        if closed && !covered {
            rustix::fs::fsetxattr(&made.fd, OPAQUE, b"y", XattrFlags::empty()).map_err(fail)?;
        }
        if hides {
            rustix::fs::fsetxattr(&made.fd, MERGED, b"", XattrFlags::empty()).map_err(fail)?;
        }
        self.directory_look(&stack[0].dir, &made)
    }

    /// Whether a directory is there only because of the files that were put into it and are left out.
    fn only_furnished(&self, source: &Source, made: &Dir) -> Result<bool, ArtifactError> {
        let path = self.visible(made);
        let furnished = self.furnished.iter();
        let mut parents = furnished
            .filter_map(|(file, _)| Path::new(file).parent())
            .chain([Path::new(IDENTITY.0)]);
        if !source.own || !parents.any(|parent| parent == path) || !made.names()?.is_empty() {
            return Ok(false);
        }
        let stat = source.dir.own_stat()?;
        let plain = permissions(&stat) == 0o755 && (stat.st_uid, stat.st_gid) == (0, 0);
        Ok(plain && self.attributes(&source.dir, c".", true)?.is_empty())
    }

    /// The path of a directory that is being made, as seen inside.
    fn visible<'d>(&self, target: &'d Dir) -> &'d Path {
        let below = target.shown.strip_prefix(&self.to.shown);
        below.unwrap_or(&target.shown)
    }

    fn directory_look(&self, source: &Dir, made: &Dir) -> Result<(), ArtifactError> {
        let attributes = self.attributes(source, c".", true)?;
        set_look(made, c".", &source.own_stat()?, &attributes)
    }

    /// The same path in the layers below.
    fn origin(&self, path: Option<&[CString]>) -> Result<Vec<Source>, ArtifactError> {
        let Some(path) = path else {
            return Ok(Vec::new());
        };
        let roots: Result<Vec<_>, _> = self.below.iter().map(|path| Source::layer(path)).collect();
        let mut level = roots?;
        for name in path {
            level = match look_up(&level, name)? {
                Seen::Directory { stack, .. } => stack,
                _ => return Ok(Vec::new()),
            };
        }
        Ok(level)
    }

    fn leaf(
        &mut self,
        source: &Source,
        target: &Dir,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), ArtifactError> {
        let fail = |e: Errno| ArtifactError::io("create", target.path_of(name), e);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(source, target, name, stat),
            FileType::Symlink => {
                let link = source.dir.link_target(name)?;
                rustix::fs::symlinkat(&link, target, name).map_err(fail)?;
            }
            kind => {
                rustix::fs::mknodat(target, name, kind, Mode::RUSR, 0).map_err(fail)?;
            }
        }
        let attributes = self.attributes(&source.dir, name, source.own)?;
        set_look(target, name, stat, &attributes)
    }

    /// The attributes of an entry that mean something in a layer: none of those by which overlayfs remembers where a
    /// file came from, and file capabilities as an image has them.
    fn attributes(
        &self,
        dir: &Dir,
        name: &CStr,
        own: bool,
    ) -> Result<super::Xattrs, ArtifactError> {
        let mut kept = Vec::new();
        for (attribute, value) in xattrs(dir, name)? {
            let bytes = attribute.to_bytes();
            if attribute.as_c_str() == c"security.capability" {
                let value = if own {
                    source::capability(&value, self.first_id)
                } else {
                    Some(value)
                };
                kept.extend(value.map(|value| (attribute, value)));
            } else if bytes.starts_with(b"user.") || bytes.starts_with(b"system.posix_acl_") {
                kept.push((attribute, value));
            }
        }
        Ok(kept)
    }
}

fn whiteout(target: &Dir, name: &CStr) -> Result<(), ArtifactError> {
    rustix::fs::mknodat(target, name, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|e| ArtifactError::io("create", target.path_of(name), e))?;
    // Nobody sees it: all have the same look, whoever made them.
    let mut stat = target.stat(name)?;
    (stat.st_uid, stat.st_gid) = (0, 0);
    (stat.st_atime, stat.st_atime_nsec) = (0, 0);
    (stat.st_mtime, stat.st_mtime_nsec) = (0, 0);
    set_look(target, name, &stat, &Vec::new())
}

/// How a file is made in the new tree.
const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests;

//! Finding things below the root of a volume. Sandboxes change it at the same time and may have put anything there: the
//! kernel resolves every path, and the root is the root for `..` and for every link.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// The kernel gives up when directories are moved meanwhile; so often it is asked again.
const TRIES: u32 = 64;
/// Never out of the volume, never through `/proc`, never into another file system.
const IN_VOLUME: ResolveFlags = ResolveFlags::IN_ROOT
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// What is at a path, without opening it: nothing waits, and no device does anything.
pub(super) fn at(root: impl AsFd, path: &str, more: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        match openat2(root.as_fd(), path, flags, Mode::empty(), IN_VOLUME) {
            Err(Errno::AGAIN) => last = Errno::AGAIN,
            other => return Ok(other?),
        }
    }
    Err(last.into())
}

/// The directory at a path; links are followed.
pub(super) fn directory(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    at(root, path, OFlags::DIRECTORY)
}

/// The directory that holds what a path names, and its name in there. None for the root, which is in no directory.
pub(super) fn parent(root: impl AsFd, path: &str) -> io::Result<Option<(OwnedFd, &str)>> {
    if path.is_empty() {
        return Ok(None);
    }
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok(Some((directory(root, above)?, name)))
}

/// A directory that was found, to be read. It is the same one, whatever has happened to its name.
pub(super) fn readable(directory: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, ".", flags, Mode::empty())?)
}

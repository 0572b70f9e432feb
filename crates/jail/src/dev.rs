//! The device nodes of a sandbox: the eight that every program expects, and the usual links.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mkdirat, mknodat, symlinkat,
};

/// Name, major, minor: kernel `Documentation/admin-guide/devices.txt`.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Fills an empty directory. `owner` is the host's id of root inside.
pub(crate) fn populate(dev: impl AsFd, owner: u32) -> io::Result<()> {
    let dev = dev.as_fd();
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in NODES {
        mknodat(
            dev,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
        chmodat(dev, name, mode, AtFlags::empty())?;
        chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (target, name) in LINKS {
        symlinkat(target, dev, name)?;
        chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for name in ["pts", "shm"] {
        mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
        chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

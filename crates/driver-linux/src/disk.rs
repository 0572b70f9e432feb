//! The files of one sandbox on the host: made before the launch, measured while it runs, removed after.
//!
//! `backing` decides how the kernel keeps them within their limit; `image` and `quota` are the two ways.

mod backing;
mod image;
mod quota;

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use soulbox_fault as fault;
use soulbox_types::{SandboxSpec, SlotIndex};

use crate::host::Host;
use crate::plan::SandboxFiles;
use crate::slot::Slot;
use crate::view;

pub use backing::{Backing, BackingChoice, DiskSettings, NoBacking, probe};
pub(crate) use backing::{Disk, Disks};
pub(crate) use image::{Image, Template, bind, mount_lasting, open_root, remove_file};

/// A directory itself, never what a link leads to.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Entries that one measurement looks at. A sandbox with more is measured low rather than slow.
const USAGE_ENTRIES: usize = 5000;

/// How often directories that were emptied may turn out not to be.
const TRIES: u32 = 10_000;

/// Makes the directory of a sandbox and what it shows of the host.
fn create(host: &Host, files: &SandboxFiles, spec: &SandboxSpec) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(&files.directory)?;
    fault::point!("create.directory-made");
    let cpus = host.visible_cpus(spec.limits.vcpu_count);
    view::create(files, &host.texts, spec, cpus)
}

/// Makes the directory of a sandbox, and its disk.
pub(crate) fn make(
    host: &Host,
    slot: &mut Slot,
    files: &SandboxFiles,
    spec: &SandboxSpec,
) -> io::Result<Disk> {
    create(host, files, spec)?;
    (host.disks).fit(&mut slot.ahead, slot.index, files, &spec.limits)
}

/// Writes what the sandbox's network needs in `/etc` straight into its own layer: no mounts, and root inside may change
/// it like on any machine.
pub(crate) fn furnish(disk: &Disk, spec: &SandboxSpec, slot: SlotIndex) -> io::Result<()> {
    let upper = disk.upper()?;
    mkdirat(&upper, "etc", Mode::from_raw_mode(0o755))?;
    furnished(spec, slot)
        .iter()
        .try_for_each(|(path, text)| write(&upper, path, text))
}

/// The files that [`furnish`] makes, by path and content.
pub(crate) fn furnished(spec: &SandboxSpec, slot: SlotIndex) -> [(&'static str, String); 3] {
    [
        ("etc/hostname", format!("{}\n", spec.id)),
        ("etc/hosts", hosts(spec.id.as_str())),
        (
            "etc/resolv.conf",
            format!("nameserver {}\n", slot.block().gateway()),
        ),
    ]
}

fn write(directory: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    File::from(file).write_all(text.as_bytes())
}

fn hosts(name: &str) -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n")
}

/// Removes the files. The guest has chosen the shape of the tree: links are removed, never followed, and depth costs
/// neither stack nor descriptors. A directory that is not empty moves up, beside the entries that only the server
/// makes, before its turn comes.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    let top = match openat(CWD, directory, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut waiting = Vec::new();
    let (mut moved, mut again) = (0_u64, 0_u32);
    empty(&top, &mut |name| {
        waiting.push(name.to_owned());
        Ok(())
    })?;
    fault::point!("kill.files-half-removed");
    while let Some(name) = waiting.pop() {
        let child = openat(&top, name.as_c_str(), DIRECTORY, Mode::empty())?;
        empty(&child, &mut |inner| {
            waiting.push(move_up(&child, inner, &top, &mut moved)?);
            Ok(())
        })?;
        match unlinkat(&top, name.as_c_str(), AtFlags::REMOVEDIR) {
            // Reading a directory that changes may miss some of it. Where a sandbox fills it all the time there is no end.
            Err(Errno::NOTEMPTY) if again < TRIES => {
                again += 1;
                waiting.push(name);
            }
            other => other?,
        }
    }
    fs::remove_dir(directory)
}

/// Moves a directory to the top under a name that is free there. An earlier removal may have been cut short.
fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<CString> {
    loop {
        *moved += 1;
        let place = CString::new(format!("remove-{moved}"))?;
        match renameat(from, name, top, place.as_c_str()) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            other => return other.map(|()| place).map_err(io::Error::from),
        }
    }
}

/// Removes what a directory holds, but for directories that are not empty, which `full` deals with.
fn empty(directory: &OwnedFd, full: &mut impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    let mut reader = Dir::read_from(directory)?;
    while let Some(entry) = reader.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match unlinkat(directory, name, AtFlags::empty()) {
            // A directory: Linux says the first, POSIX the second.
            Err(Errno::ISDIR | Errno::PERM) => {
                match unlinkat(directory, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY) => full(name)?,
                    other => other?,
                }
            }
            other => other?,
        }
    }
    Ok(())
}

/// Bytes that a sandbox's own layer takes on the disk.
pub(crate) fn usage(upper: impl AsFd) -> io::Result<u64> {
    let mut pending = vec![openat(upper, ".", DIRECTORY, Mode::empty())?];
    let (mut bytes, mut entries) = (0, 0);
    while let Some(directory) = pending.pop() {
        let mut reader = Dir::read_from(&directory)?;
        while let Some(Ok(entry)) = reader.read() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            entries += 1;
            if entries > USAGE_ENTRIES {
                return Ok(bytes);
            }
            // The guest works on the same tree: what vanishes in between does not count.
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && pending.len() < 64
                && let Ok(child) = openat(&directory, name, DIRECTORY, Mode::empty())
            {
                pending.push(child);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/f"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let top = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        let bytes = usage(top).unwrap();
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn trees_of_any_shape_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, tree) = (dir.path().join("kept"), dir.path().join("tree"));
        fs::write(&kept, "x").unwrap();
        fs::create_dir_all(tree.join("disk/upper/a/b/c")).unwrap();
        fs::create_dir_all(tree.join("remove-1/remove-2")).unwrap();
        fs::write(tree.join("remove-1/remove-2/remove-3"), "x").unwrap();
        fs::write(tree.join("state.json"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("disk/upper/link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), tree.join("disk/upper/a/up")).unwrap();
        for n in 0..500 {
            fs::create_dir_all(tree.join(format!("disk/upper/wide/{n}/x"))).unwrap();
        }
        // Deeper than any path, stack or table of descriptors.
        let mut at = openat(CWD, &tree, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(kept).unwrap(), "x");
        remove(&tree).unwrap();
    }
}

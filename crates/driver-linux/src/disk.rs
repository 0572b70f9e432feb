//! The files of one sandbox on the host: made before the launch, measured while it runs, removed after.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use soulbox_driver::GuestStats;
use soulbox_types::{SandboxSpec, SlotIndex};

use crate::host::Host;
use crate::plan::SandboxFiles;
use crate::shadow;

/// Entries that one measurement looks at. A sandbox with more is measured low rather than slow.
const USAGE_ENTRIES: usize = 5000;

/// Makes the files. What the sandbox's network needs in `/etc` is written straight into its own layer: no mounts, and
/// root inside may change it like on any machine.
pub(crate) fn create(
    host: &Host,
    files: &SandboxFiles,
    spec: &SandboxSpec,
    slot: SlotIndex,
) -> io::Result<()> {
    let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
    private(&files.directory)?;
    private(&files.disk())?;
    DirBuilder::new().mode(0o755).create(files.upper())?;
    private(&files.work())?;
    let etc = files.upper().join("etc");
    DirBuilder::new().mode(0o755).create(&etc)?;
    fs::write(etc.join("hostname"), format!("{}\n", spec.id))?;
    fs::write(etc.join("hosts"), hosts(spec.id.as_str()))?;
    fs::write(
        etc.join("resolv.conf"),
        format!("nameserver {}\n", slot.block().gateway()),
    )?;
    fs::create_dir(files.directory.join("proc"))?;
    fs::write(
        files.proc_file("meminfo"),
        shadow::meminfo(&spec.limits, &GuestStats::default()),
    )?;
    fs::write(
        files.proc_file("cpuinfo"),
        shadow::cpuinfo(&host.cpuinfo, spec.limits.vcpu_count),
    )
}

fn hosts(name: &str) -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n")
}

/// Removes the files. Links inside are removed, never followed.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes that a sandbox's own layer takes on the disk.
pub(crate) fn usage(upper: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut pending = vec![openat(CWD, upper, flags, Mode::empty())?];
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
                && let Ok(child) = openat(&directory, name, flags, Mode::empty())
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
        let bytes = usage(dir.path()).unwrap();
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
    }
}

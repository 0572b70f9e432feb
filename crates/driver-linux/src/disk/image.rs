//! A file system of its own for each sandbox: a sparse ext4 image on a loop device.
//!
//! The file system is mounted, but nowhere: it is held by a descriptor until the sandbox's overlay holds it. When both
//! are gone the kernel unmounts it and frees the loop device, whoever was killed in between. Only the image file needs
//! a hand to remove it.
//!
//! There is no journal and nothing is flushed: what is in an image is worthless once its sandbox has ended.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, OFlags, fstatfs, memfd_create, mkdirat, openat};
use soulbox_fault as fault;
use soulbox_linux::filesystem;
use soulbox_linux::loopdev::LoopDevice;
use soulbox_linux::mount::{self, Attributes};

const BLOCK_BYTES: u64 = 4096;
/// What a bitmap of one block can describe.
const BLOCKS_PER_GROUP: u64 = BLOCK_BYTES * 8;
const INODES_PER_BLOCK: u64 = BLOCK_BYTES / 256;
const DESCRIPTORS_PER_BLOCK: u64 = BLOCK_BYTES / 64;
/// `mke2fs` leaves out a last group with less room than this beyond its own tables.
const SMALLEST_GROUP: u64 = 50;
/// One inode for so many bytes, as is usual.
const BYTES_PER_INODE: u64 = 16 << 10;
const FEWEST_INODES: u64 = 32_768;
const MOST_INODES: u64 = 4 << 20;
/// More than this in a file system that ends is dropped by stopping it first, which the kernel's log mentions; less is
/// written faster than that.
const WORTH_STOPPING: u64 = 2 << 20;
/// How often a device that somebody may write to is tried again, and after how long.
const BUSY_TRIES: u32 = 200;
const BUSY_WAIT: Duration = Duration::from_millis(2);
/// So much less in use than before is given back to the host while the sandbox runs.
const WORTH_TRIMMING: u64 = 64 << 20;
/// Where distributions put `mke2fs`; the path of a service often lacks `sbin`.
const MKE2FS: [&str; 5] = [
    "/usr/sbin/mke2fs",
    "/sbin/mke2fs",
    "/usr/bin/mke2fs",
    "/bin/mke2fs",
    "/usr/local/sbin/mke2fs",
];
const FEATURES: &str = "none,sparse_super2,filetype,extent,flex_bg,large_file,huge_file,dir_index,dir_nlink,\
                        extra_isize,ext_attr,uninit_bg,64bit";

/// Journal of a file system that lasts.
const JOURNAL_MIB: u32 = 16;

/// How large an image must be so that the sandbox gets what its limit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    /// Blocks of the image, tables included.
    blocks: u64,
    /// Inodes.
    inodes: u64,
}

/// Inodes of a sandbox with so much disk.
pub(crate) fn inodes(disk_mib: u32) -> u64 {
    let wanted = (u64::from(disk_mib) << 20) / BYTES_PER_INODE;
    wanted.clamp(FEWEST_INODES, MOST_INODES)
}

/// The tables come on top of the limit, so that `df` shows the limit.
fn geometry(disk_mib: u32) -> Geometry {
    let usable = (u64::from(disk_mib) << 20) / BLOCK_BYTES;
    let mut groups = usable.div_ceil(BLOCKS_PER_GROUP).max(1);
    loop {
        let per_group = inodes(disk_mib)
            .div_ceil(groups)
            .next_multiple_of(INODES_PER_BLOCK);
        // Two bitmaps and a part of the inode table for each group; the superblock; the descriptors.
        let tables = 2 + per_group / INODES_PER_BLOCK;
        let mut blocks = usable + groups * tables + 1 + groups.div_ceil(DESCRIPTORS_PER_BLOCK);
        let last = blocks % BLOCKS_PER_GROUP;
        if last != 0 {
            blocks += (tables + SMALLEST_GROUP).saturating_sub(last);
        }
        let needed = blocks.div_ceil(BLOCKS_PER_GROUP);
        if needed <= groups {
            return Geometry {
                blocks,
                inodes: per_group * groups,
            };
        }
        groups = needed;
    }
}

/// An empty file system of one size, as the few blocks of it that are not zero.
#[derive(Debug)]
pub(crate) struct Template {
    disk_mib: u32,
    bytes: u64,
    blocks: Vec<(u64, Vec<u8>)>,
}

impl Template {
    /// Makes it in memory. Takes some milliseconds; once for each size.
    pub(crate) fn make(disk_mib: u32) -> io::Result<Self> {
        Self::of(disk_mib, geometry(disk_mib), &[])
    }

    /// The same for files that must outlast a crash of the host: with a journal, which comes on top of the limit.
    pub(crate) fn lasting(disk_mib: u32) -> io::Result<Self> {
        let geometry = geometry(disk_mib + JOURNAL_MIB);
        let journal = ["-J", &format!("size={JOURNAL_MIB}")];
        Self::of(disk_mib, geometry, &journal)
    }

    fn of(disk_mib: u32, geometry: Geometry, more: &[&str]) -> io::Result<Self> {
        let bytes = geometry.blocks * BLOCK_BYTES;
        let mut file = File::from(memfd_create("soulbox-disk", MemfdFlags::CLOEXEC)?);
        file.set_len(bytes)?;
        format(&file, geometry, more)?;
        Ok(Self {
            disk_mib,
            bytes,
            blocks: data(&mut file)?,
        })
    }

    /// Makes a file an image of it.
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(self.bytes)?;
        self.blocks
            .iter()
            .try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
    }
}

fn format(file: &File, geometry: Geometry, more: &[&str]) -> io::Result<()> {
    let program = MKE2FS.iter().find(|path| Path::new(path).exists());
    let program = program
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "mke2fs is not installed"))?;
    let made = Command::new(program)
        .args([
            "-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-I", "256",
        ])
        .args(["-O", FEATURES, "-e", "remount-ro"])
        // Eight times as many groups as are packed together are read before the first directory is made.
        .args(["-G", "1"])
        .args(more)
        .args([
            "-E",
            "lazy_itable_init=1,num_backup_sb=0,nodiscard,root_owner=0:0",
        ])
        .args(["-N", &geometry.inodes.to_string(), "/proc/self/fd/0"])
        .arg(geometry.blocks.to_string())
        .env_clear()
        // What the host's administrator likes in file systems is of no use in these.
        .env("MKE2FS_CONFIG", "/dev/null")
        .stdin(Stdio::from(file.try_clone()?))
        .output()?;
    if made.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&made.stderr);
        Err(io::Error::other(format!(
            "{program}: {}: {said}",
            made.status
        )))
    }
}

/// The blocks of a sparse file that hold anything, neighbours together.
fn data(file: &mut File) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut block = vec![0; usize::try_from(BLOCK_BYTES).map_err(io::Error::other)?];
    let mut offset = 0;
    loop {
        offset = match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(offset)) {
            Err(rustix::io::Errno::NXIO) => return Ok(found),
            other => other?,
        };
        let end = rustix::fs::seek(&*file, rustix::fs::SeekFrom::Hole(offset))?;
        file.seek(SeekFrom::Start(offset))?;
        while offset < end {
            file.read_exact_at(&mut block, offset)?;
            if block.iter().any(|byte| *byte != 0) {
                match found.last_mut() {
                    Some((start, bytes)) if *start + bytes.len() as u64 == offset => {
                        bytes.extend_from_slice(&block);
                    }
                    _ => found.push((offset, block.clone())),
                }
            }
            offset += BLOCK_BYTES;
        }
    }
}

/// The file system of one sandbox. Dropping it leaves it to whoever else holds it; [`Image::discard`] ends it.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    disk_mib: u32,
    root: OwnedFd,
    mount: Option<OwnedFd>,
    /// The most that was in use since what is not used was given back to the host.
    peak: AtomicU64,
}

impl Image {
    /// Makes an empty one, with `upper` and `work` in its root. Takes about two milliseconds.
    pub(crate) fn make(template: &Template, path: PathBuf, scratch: &Path) -> io::Result<Self> {
        remove_file(&path)?;
        let made = (|| {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            template.write(&file)?;
            fault::point!("start.disk-written");
            let device = bind(&file, scratch)?;
            fault::point!("start.disk-bound");
            let root = open_root(&mount_device(&device)?)?;
            fault::point!("start.disk-mounted");
            // Another mount of the same file system. Ids of a mount can be mapped only while nobody has a file of it open
            // for writing, and the server's files are open for a moment in every process that it is starting.
            let mount = mount_device(&device)?;
            mkdirat(&root, "upper", Mode::from_raw_mode(0o755))?;
            mkdirat(&root, "work", Mode::from_raw_mode(0o700))?;
            Ok((root, mount))
        })();
        match made {
            Ok((root, mount)) => Ok(Self {
                path,
                disk_mib: template.disk_mib,
                root,
                mount: Some(mount),
                peak: AtomicU64::new(0),
            }),
            Err(error) => {
                remove_file(&path)?;
                Err(error)
            }
        }
    }

    /// Finds the one that a running sandbox has, on the loop device with this number.
    pub(crate) fn reopen(
        path: PathBuf,
        disk_mib: u32,
        number: u32,
        scratch: &Path,
    ) -> io::Result<Self> {
        // The kernel gives the file system that the device has already, not a second one.
        let mount = mount_device(&LoopDevice::open(number, scratch)?)?;
        Ok(Self {
            path,
            disk_mib,
            root: open_root(&mount)?,
            mount: None,
            // What was deleted before is not known: the next look gives it back.
            peak: AtomicU64::new(u64::MAX),
        })
    }

    pub(crate) fn disk_mib(&self) -> u32 {
        self.disk_mib
    }

    /// Its root directory.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// What to give back to the host now that so much is in use, if that is worth it: an open directory for
    /// [`filesystem::trim`].
    pub(crate) fn worth_trimming(&self, used: u64) -> io::Result<Option<OwnedFd>> {
        let peak = self.peak.fetch_max(used, Ordering::Relaxed);
        if peak.saturating_sub(used) < WORTH_TRIMMING {
            return Ok(None);
        }
        self.peak.store(used, Ordering::Relaxed);
        self.root.try_clone().map(Some)
    }

    /// The mount, to be attached where the sandbox is built. There is none any more in a sandbox that was adopted.
    pub(crate) fn mount(&self) -> Option<&OwnedFd> {
        self.mount.as_ref()
    }

    /// Ends it: what was not written never will be, and the image is removed.
    pub(crate) fn discard(self) -> io::Result<()> {
        let Self {
            path, root, mount, ..
        } = self;
        let stopped = stop(&root);
        drop((root, mount));
        fault::point!("kill.disk-unmounted");
        remove_file(&path)?;
        stopped
    }
}

fn stop(root: &OwnedFd) -> io::Result<()> {
    let stat = fstatfs(root)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree) * BLOCK_BYTES;
    if used > WORTH_STOPPING {
        filesystem::shut_down(root)
    } else {
        Ok(())
    }
}

/// Past the host's page cache where its file system can.
pub(crate) fn bind(file: &File, scratch: &Path) -> io::Result<LoopDevice> {
    match LoopDevice::bind(file, true, scratch) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            LoopDevice::bind(file, false, scratch)
        }
        other => other,
    }
}

/// Without barriers and without zeroing the tables, which a sparse file need not be told; and without a thread that reads
/// all bitmaps ahead, since most sandboxes write little. Errors make it read-only, so
/// that a host without space is not made worse by half-written tables.
fn mount_device(device: &LoopDevice) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        no_dev: true,
        ..Attributes::default()
    };
    mount_patiently(
        device,
        &[
            ("nobarrier", ""),
            ("noinit_itable", ""),
            ("no_prefetch_block_bitmaps", ""),
        ],
        attributes,
    )
}

/// A file system that lasts: barriers stay, and what is deleted the host has back.
pub(crate) fn mount_lasting(device: &LoopDevice) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        no_dev: true,
        no_suid: true,
        ..Attributes::default()
    };
    mount_patiently(
        device,
        &[("noinit_itable", ""), ("discard", "")],
        attributes,
    )
}

fn mount_patiently(
    device: &LoopDevice,
    more: &[(&str, &str)],
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    let source = device.path();
    let options = [
        &[("source", source.as_str()), ("errors", "remount-ro")],
        more,
    ]
    .concat();
    // A child that is just starting has copies of all our descriptors until it executes its program, those that may
    // write to the device included; a hardened kernel refuses the mount for so long.
    for _ in 0..BUSY_TRIES {
        match mount::new_filesystem("ext4", &options, attributes) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(BUSY_WAIT);
            }
            other => return other,
        }
    }
    mount::new_filesystem("ext4", &options, attributes)
}

pub(crate) fn open_root(mount: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(mount, ".", flags, Mode::empty())?)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether this host can do it: makes a small one and looks at it.
pub(crate) fn try_in(directory: &Path) -> io::Result<()> {
    const MIB: u32 = 64;
    let path = directory.join(format!("disk-probe-{}.img", std::process::id()));
    let image = Image::make(&Template::make(MIB)?, path, directory)?;
    let shown = fstatfs(image.root())?.f_blocks * BLOCK_BYTES;
    let Image {
        path, root, mount, ..
    } = image;
    drop((root, mount));
    remove_file(&path)?;
    if shown == u64::from(MIB) << 20 {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "an image for {MIB} MiB shows {shown} bytes"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_follow_the_size_within_bounds() {
        assert_eq!(inodes(64), 32_768);
        assert_eq!(inodes(512), 32_768);
        assert_eq!(inodes(10_240), 655_360);
        assert_eq!(inodes(16_777_216), 4 << 20);
    }

    #[test]
    fn tables_come_on_top_of_the_limit() {
        assert_eq!(
            geometry(64),
            Geometry {
                blocks: 16_384 + 2 + 2048 + 1 + 1,
                inodes: 32_768
            }
        );
        for disk_mib in (64..4096).chain([10_240, 65_536, 1 << 20, 1 << 24]) {
            let Geometry { blocks, inodes } = geometry(disk_mib);
            let usable = u64::from(disk_mib) * 256;
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
            assert!(inodes >= super::inodes(disk_mib), "{disk_mib} MiB");
            assert!(inodes <= groups * BLOCKS_PER_GROUP, "{disk_mib} MiB");
            assert!(inodes <= u64::from(u32::MAX), "{disk_mib} MiB");
            let overhead = blocks - usable;
            assert!(overhead > inodes / INODES_PER_BLOCK, "{disk_mib} MiB");
            assert!(overhead < usable / 8 + 8192, "{disk_mib} MiB: {overhead}");
        }
    }

    #[test]
    fn templates_are_small() {
        if !MKE2FS.iter().any(|path| Path::new(path).exists()) {
            eprintln!("SKIP templates_are_small: no mke2fs on this machine");
            return;
        }
        for disk_mib in [64, 100, 10_240] {
            let template = Template::make(disk_mib).unwrap();
            let bytes: usize = template.blocks.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes < 128 << 10, "{disk_mib} MiB: {bytes}");
            let file = tempfile::tempfile().unwrap();
            template.write(&file).unwrap();
            let mut magic = [0; 2];
            file.read_exact_at(&mut magic, 1024 + 56).unwrap();
            assert_eq!(magic, [0x53, 0xef]);
        }
    }
}

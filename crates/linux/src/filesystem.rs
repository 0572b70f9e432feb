//! What file systems offer beyond files: dropping one, and limits for a tree by project quota.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Of `linux/magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// Neither journal nor dirty pages are written any more.
const NO_LOG_FLUSH: u32 = 2;
/// `FITRIM` of `linux/fs.h`.
const TRIM: libc::c_ulong = 0xC018_5879;
/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` of `linux/fs.h`.
const GET_XATTR: libc::c_ulong = 0x801C_581F;
const SET_XATTR: libc::c_ulong = 0x401C_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
const PROJECT_INHERIT: u32 = 0x200;
/// `Q_SETQUOTA` of `linux/quota.h`, for the type `PRJQUOTA`.
const SET_PROJECT_QUOTA: u32 = 0x0080_0008 << 8 | 2;
/// `QIF_BLIMITS | QIF_ILIMITS`.
const LIMITS_ARE_VALID: u32 = 1 | 4;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const _: () = assert!(std::mem::size_of::<Attributes>() == 28);

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Quota {
    block_hard_limit: u64,
    block_soft_limit: u64,
    space: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// Whether a directory lies in memory: on a `tmpfs`.
///
/// # Errors
/// When it cannot be examined.
pub fn is_in_memory(directory: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(directory)?.f_type;
    Ok(kind as i64 == TMPFS_MAGIC)
}

/// Stops an ext4 file system for good: what was not written is dropped, and everything that still uses it fails.
/// For file systems whose content nobody will read again.
///
/// # Errors
/// When the directory belongs to another kind of file system.
pub fn shut_down(directory: impl AsFd) -> io::Result<()> {
    // SAFETY: the request reads one u32, which outlives the call.
    let result = unsafe {
        libc::ioctl(
            directory.as_fd().as_raw_fd(),
            SHUTDOWN,
            std::ptr::from_ref(&NO_LOG_FLUSH),
        )
    };
    check(result)
}

/// Gives back to the device what the file system does not use any more. Takes as long as the device needs for that.
///
/// # Errors
/// When the file system or its device cannot.
pub fn trim(directory: impl AsFd) -> io::Result<()> {
    /// `struct fstrim_range`.
    #[repr(C)]
    struct Range {
        start: u64,
        length: u64,
        shortest: u64,
    }
    let mut range = Range {
        start: 0,
        length: u64::MAX,
        shortest: 0,
    };
    // SAFETY: the request reads and writes one `struct fstrim_range`, whose layout `Range` has.
    let result = unsafe {
        libc::ioctl(
            directory.as_fd().as_raw_fd(),
            TRIM,
            std::ptr::from_mut(&mut range),
        )
    };
    check(result)
}

/// Puts a directory, and what will be made in it, into a project.
///
/// # Errors
/// When the file system has no projects.
pub fn set_project(directory: impl AsFd, project: u32) -> io::Result<()> {
    let fd = directory.as_fd().as_raw_fd();
    let mut attributes = Attributes::default();
    // SAFETY: the request writes one `struct fsxattr`, whose layout `Attributes` has.
    check(unsafe { libc::ioctl(fd, GET_XATTR, std::ptr::from_mut(&mut attributes)) })?;
    attributes.project = project;
    attributes.flags |= PROJECT_INHERIT;
    // SAFETY: the request reads one `struct fsxattr`, which outlives the call.
    check(unsafe { libc::ioctl(fd, SET_XATTR, std::ptr::from_ref(&attributes)) })
}

/// Limits a project of the file system that an open file or directory is on. Zero is unlimited.
///
/// # Errors
/// When the file system is not mounted with project quotas, or the kernel was built without.
pub fn set_project_limits(on: impl AsFd, project: u32, bytes: u64, inodes: u64) -> io::Result<()> {
    let quota = Quota {
        // In units of 1024 bytes, whatever the file system's blocks are.
        block_hard_limit: bytes.div_ceil(1024),
        inode_hard_limit: inodes,
        valid: LIMITS_ARE_VALID,
        ..Quota::default()
    };
    // SAFETY: quotactl_fd(2) with Q_SETQUOTA reads one `struct if_dqblk`, whose layout `Quota` has.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            on.as_fd().as_raw_fd(),
            SET_PROJECT_QUOTA,
            project,
            std::ptr::from_ref(&quota),
        )
    };
    check(if result == 0 { 0 } else { -1 })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

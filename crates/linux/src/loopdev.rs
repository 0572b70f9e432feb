//! Loop devices: a file as a block device.
//!
//! Every device is bound with the flag that clears it when its last user is gone, so that a process that is killed
//! leaves none behind.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};

/// `LOOP_CTL_GET_FREE`, `LOOP_CONFIGURE` and `LOOP_GET_STATUS64` of `linux/loop.h`.
const GET_FREE: libc::c_ulong = 0x4C82;
const CONFIGURE: libc::c_ulong = 0x4C0A;
const GET_STATUS: libc::c_ulong = 0x4C05;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Major number of loop devices.
const MAJOR: u32 = 7;
/// Others may take the free device that was found; that many in a row means something else.
const TRIES: u32 = 256;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice_offset_and_size: [u64; 3],
    number_and_encryption: [u32; 3],
    flags: u32,
    names_and_key: [u8; 160],
    init: [u64; 2],
}

impl Info {
    const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice_offset_and_size: [0; 3],
        number_and_encryption: [0; 3],
        flags: 0,
        names_and_key: [0; 160],
        init: [0; 2],
    };
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(std::mem::size_of::<Config>() == 304);

/// A loop device that is held open. It stays bound for as long as it is open or mounted.
#[derive(Debug)]
pub struct LoopDevice {
    fd: OwnedFd,
}

impl LoopDevice {
    /// Binds a free device to a file. Reads and writes bypass the host's page cache where `direct` says so and the file
    /// system can: what is cached above the device need not be cached twice.
    ///
    /// `scratch` is a directory for a device node where `/dev` lacks it (containers).
    ///
    /// # Errors
    /// When the kernel has no loop driver, or refuses.
    pub fn bind(file: &File, direct: bool, scratch: &Path) -> io::Result<Self> {
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        for _ in 0..TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
            let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
            let writable = open_node(number, OFlags::RDWR, scratch)?;
            match configure(&writable, file, direct) {
                Ok(()) => {
                    // Kept by a descriptor that cannot write: hardened kernels mount nothing that others may write to.
                    let fd = open_node(number, OFlags::RDONLY, scratch)?;
                    return Ok(Self { fd });
                }
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Opens the device with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(number: u32, scratch: &Path) -> io::Result<Self> {
        let fd = open_node(number, OFlags::RDONLY, scratch)?;
        Ok(Self { fd })
    }

    /// Device and inode of the file that it is bound to, as in `st_dev` and `st_ino`. What is open stays bound to it.
    ///
    /// # Errors
    /// When it is not bound.
    pub fn file(&self) -> io::Result<(u64, u64)> {
        let info = status(&self.fd)?;
        Ok((info.device, info.inode))
    }

    /// A name of the device that is good in this process while it is open.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A device and the file behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The device's number.
    pub number: u32,
    /// Device of the file, as in `st_dev`.
    pub device: u64,
    /// Inode of the file, as in `st_ino`.
    pub inode: u64,
}

/// Every bound device. By the file's identity: its path may be another one for whoever looks, or none any more.
///
/// # Errors
/// When `/sys/block` cannot be read.
pub fn bound(scratch: &Path) -> io::Result<Vec<Bound>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("loop"))
            .and_then(|number| number.parse().ok());
        let Some(number) = number else { continue };
        if !entry.path().join("loop").exists() {
            continue;
        }
        let device = open_node(number, OFlags::RDONLY, scratch)?;
        // Otherwise it is not bound any more.
        if let Ok(info) = status(&device) {
            found.push(Bound {
                number,
                device: info.device,
                inode: info.inode,
            });
        }
    }
    Ok(found)
}

fn status(device: &OwnedFd) -> io::Result<Info> {
    let mut info = Info::ZERO;
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, whose layout `Info` has.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            GET_STATUS,
            std::ptr::from_mut(&mut info),
        )
    };
    if result == 0 {
        Ok(info)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn configure(device: &OwnedFd, file: &File, direct: bool) -> io::Result<()> {
    let config = Config {
        fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_size: 0,
        info: Info {
            flags: AUTOCLEAR | if direct { DIRECT_IO } else { 0 },
            ..Info::ZERO
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout `Config` has, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, std::ptr::from_ref(&config)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens a node of `/dev`, or one made for the moment where a container's `/dev` does not follow the kernel.
fn open_node(number: u32, mode: OFlags, scratch: &Path) -> io::Result<OwnedFd> {
    let flags = mode | OFlags::CLOEXEC;
    match open(format!("/dev/loop{number}"), flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let node = scratch.join(format!("loop{number}-{}", std::process::id()));
    match mknodat(
        CWD,
        &node,
        FileType::BlockDevice,
        Mode::RUSR | Mode::WUSR,
        makedev(MAJOR, number),
    ) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let opened = open(&node, flags, Mode::empty());
    fs::remove_file(&node)?;
    Ok(opened?)
}

//! Mounts, through the file-descriptor based interface (fsopen, fsmount, open_tree, move_mount, mount_setattr).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, mount, mount_change,
    move_mount, open_tree, unmount,
};

/// `PROC_SUPER_MAGIC` of `linux/magic.h`.
const PROC_MAGIC: i64 = 0x9fa0;

/// What the kernel reads of the options of a mount, without the zero at their end.
const MOST_OPTION_BYTES: usize = 4095;

/// Attributes of a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Nothing can be written.
    pub read_only: bool,
    /// Set-id bits and file capabilities mean nothing.
    pub no_suid: bool,
    /// Device nodes mean nothing.
    pub no_dev: bool,
    /// Programs cannot be run from it.
    pub no_exec: bool,
}

impl Attributes {
    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags
    }
}

/// Makes every mount of this mount namespace private.
///
/// # Errors
/// When the kernel refuses.
pub fn make_all_private() -> io::Result<()> {
    Ok(mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?)
}

/// Lets every mount of this mount namespace follow the one it was copied from: what is unmounted there is let go of
/// here, too, and nothing that is mounted here shows there.
///
/// # Errors
/// When the kernel refuses.
pub fn make_all_followers() -> io::Result<()> {
    Ok(mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?)
}

/// Gives the file system at a mount point exactly these flags of its own kind, for all of its mounts.
///
/// # Errors
/// When the kernel does not know a flag, or this process has no right to.
pub fn set_flags(path: &Path, flags: &[&str]) -> io::Result<()> {
    let picked = fspick(CWD, path, FsPickFlags::FSPICK_CLOEXEC)?;
    for flag in flags {
        fsconfig_set_flag(picked.as_fd(), *flag)?;
    }
    Ok(fsconfig_reconfigure(picked.as_fd())?)
}

/// Makes a file system that is mounted nowhere yet.
///
/// # Errors
/// When the kernel does not know the file system or refuses an option; the error names the option.
pub fn new_filesystem(
    kind: &str,
    options: &[(&str, &str)],
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        let set = if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *key)
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)
        };
        set.map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("{kind} option {key}: {e}"),
            )
        })?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes.flags(),
    )?)
}

/// Makes a file system and mounts it at a path, in one call: for options that are longer than the 256 bytes that
/// [`new_filesystem`] can hand over. All of them together have room in 4095 bytes; none may hold a comma.
///
/// # Errors
/// When there is no room for the options, or the kernel refuses something.
pub fn mount_at(
    kind: &str,
    options: &[(&str, &str)],
    attributes: Attributes,
    target: &Path,
) -> io::Result<()> {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, attributes.read_only);
    flags.set(MountFlags::NOSUID, attributes.no_suid);
    flags.set(MountFlags::NODEV, attributes.no_dev);
    flags.set(MountFlags::NOEXEC, attributes.no_exec);
    let texts: Vec<String> = options
        .iter()
        .map(|(key, value)| match value.is_empty() {
            true => (*key).to_owned(),
            false => format!("{key}={value}"),
        })
        .collect();
    let text = texts.join(",");
    if text.len() > MOST_OPTION_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::ArgumentListTooLong,
            format!("{kind}: {} bytes of options", text.len()),
        ));
    }
    let text = std::ffi::CString::new(text)?;
    Ok(mount(kind, target, kind, flags, text.as_c_str())?)
}

/// Attaches a detached mount at a path.
///
/// # Errors
/// When the path does not exist or is of the wrong kind.
pub fn attach(mount: impl AsFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(
        mount.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// Attaches a detached mount on an open file or directory.
///
/// # Errors
/// When the target is of the wrong kind.
pub fn attach_to(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount.as_fd(), "", target.as_fd(), "", flags)?)
}

/// Makes a detached copy of the mount at a path (one mount, not those below it).
///
/// # Errors
/// When the path does not exist.
pub fn detached_copy(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?)
}

/// Sets attributes of a detached mount and, if given, maps its ids through a user namespace.
///
/// # Errors
/// When the file system cannot be id-mapped, or the kernel refuses.
pub fn set_attributes(
    mount: impl AsFd,
    attributes: Attributes,
    idmap: Option<&OwnedFd>,
) -> io::Result<()> {
    let mut attr_set = u64::from(attributes.flags().bits());
    let mut userns_fd = 0;
    if let Some(namespace) = idmap {
        attr_set |= libc::MOUNT_ATTR_IDMAP;
        userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
    }
    let attr = libc::mount_attr {
        attr_set,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    set_attr(mount, &attr)
}

fn set_attr(mount: impl AsFd, attr: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: mount_setattr(2) reads `attr`, whose size is passed along, and the empty path; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes a detached mount of a program: it can be read and run, whatever the mount that it lies on says, and nothing else.
///
/// # Errors
/// When the path does not exist, or the caller may not change the mount's attributes.
pub fn detached_program(path: &Path) -> io::Result<OwnedFd> {
    let mount = detached_copy(path)?;
    let attributes = Attributes {
        read_only: true,
        no_suid: true,
        no_dev: true,
        no_exec: false,
    };
    let attr = libc::mount_attr {
        attr_set: u64::from(attributes.flags().bits()),
        attr_clr: u64::from(MountAttrFlags::MOUNT_ATTR_NOEXEC.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    set_attr(&mount, &attr)?;
    Ok(mount)
}

/// Makes an empty file in a directory below another, to have something mounted on it. No link is followed, and nothing may
/// be there by that name.
///
/// # Errors
/// When the directory is not there, or the name is taken.
pub fn make_file_below(root: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let (Some(directory), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = open_below(root, directory)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        directory,
        name,
        flags | OFlags::RDONLY,
        Mode::from_raw_mode(0o444),
    )?)
}

/// Opens a path below a directory without following any link and without leaving it. For mount points.
///
/// # Errors
/// When it does not exist, or a component is a link.
pub fn open_below(root: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(
        root,
        relative,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}

/// Opens a directory below another, which is the root for `..` and for every link on the way. It and those above it are
/// made where they are missing. No other mount is entered.
///
/// # Errors
/// When something on the way is no directory, or another mount.
pub fn make_directory_in(root: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let open = |path: &Path| openat2(&root, path, flags, Mode::empty(), resolve);
    let mut at = open(Path::new("."))?;
    let mut path = std::path::PathBuf::new();
    for part in relative.components() {
        path.push(part);
        at = match open(&path) {
            Err(rustix::io::Errno::NOENT) => {
                // The mask of whoever started this process says nothing about directories inside.
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::mkdirat(&at, part.as_os_str(), mode)?;
                rustix::fs::chmodat(&at, part.as_os_str(), mode, AtFlags::empty())?;
                open(&path)?
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Opens a file as a process would that has this directory for a root: links are followed, and lead nowhere else. `None`
/// when there is no such file.
///
/// # Errors
/// When something on the way cannot be passed.
pub fn open_file_in(root: &Path, relative: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, relative, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(Some(file)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Detaches the mount at a path, whoever still uses it.
///
/// # Errors
/// When nothing is mounted there.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(unmount(path, UnmountFlags::DETACH)?)
}

/// Detaches the mount whose root is open.
///
/// # Errors
/// When nothing is mounted there.
pub fn detach_open(root: impl AsFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
    detach(Path::new(&path))
}

/// Makes `new_root` the root directory and detaches the old one.
///
/// # Errors
/// When `new_root` is not a mount point.
pub fn pivot_root(new_root: &Path) -> io::Result<()> {
    rustix::process::chdir(new_root)?;
    // Old and new root at the same place: the old one ends up on top and is then detached (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Whether an open file belongs to a `procfs`.
///
/// # Errors
/// When it cannot be examined.
pub fn is_procfs(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstatfs(fd.as_fd())?;
    Ok(stat.f_type as i64 == PROC_MAGIC)
}

//! The calls themselves, in the order in which our own sandboxes need them: from a process of the host's root to the first
//! process of a sandbox that runs a program of its own root file system.
//!
//! What is left out is what makes a sandbox more than that: cgroups, what it is shown in `/proc`, filter, capabilities.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, Uid, makedev, mknodat};
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use soulbox_linux::link::Netlink;
use soulbox_linux::mount::{self, Attributes};
use soulbox_linux::namespace::{self, Clocks, Cloned, Owned};
use soulbox_linux::{capability, exec};

use super::program::now;
use super::{FIRST_UID, UIDS};

/// Name, major, minor of the devices that every program expects.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// For documentation and tests only (RFC 5737): nobody is reached by these.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PROGRAM: &str = "/bin/true";

/// Where a sandbox is made.
#[derive(Debug)]
pub(super) struct Place {
    /// What it stands on.
    pub(super) rootfs: PathBuf,
    /// Its own directory, which does not exist yet.
    pub(super) files: PathBuf,
    /// Name of its network link on the host, if it has one.
    pub(super) link: Option<String>,
}

/// Becomes the program, or returns its exit code; also as the process that has cloned the first one of the sandbox.
pub(super) fn run(place: &Place, words: File) -> u8 {
    let mut told = Told { words };
    match launch(place, &mut told) {
        Ok(()) => 0,
        Err((step, error)) => {
            // Without anybody who reads there is nobody to tell.
            told.say(&format!("{step}: {error}\n")).ok();
            126
        }
    }
}

type Failed = (&'static str, io::Error);

/// Tells what is done, and when.
struct Told {
    words: File,
}

impl Told {
    fn say(&mut self, line: &str) -> io::Result<()> {
        self.words.write_all(line.as_bytes())
    }

    fn done<T>(&mut self, step: &'static str, outcome: io::Result<T>) -> Result<T, Failed> {
        let value = outcome.map_err(|error| (step, error))?;
        self.say(&format!("{} {step}\n", now()))
            .map_err(|error| (step, error))?;
        Ok(value)
    }
}

fn launch(place: &Place, told: &mut Told) -> Result<(), Failed> {
    told.done("begin", Ok(()))?;
    let mut clocks = Clocks::now();
    let owned = told.done("namespaces", namespace::create_owned(FIRST_UID, UIDS))?;
    told.done("network", network(&owned, place.link.as_deref()))?;
    let host_mounts = told.done("enter", enter(&owned))?;
    told.done("overlay", overlay(place, &owned))?;
    let root = place.files.join("root");
    told.done("devices", devices(&root))?;
    told.done("pivot-root", mount::pivot_root(&root))?;
    let cloned = namespace::clone_pid1().map_err(|error| ("clone", error))?;
    if let Cloned::Parent { .. } = cloned {
        return Ok(());
    }
    told.done("clone", Ok(()))?;
    told.done("proc", proc(&owned, &host_mounts))?;
    clocks.open_offsets().map_err(|error| ("identity", error))?;
    told.done("identity", become_root(&owned, clocks))?;
    Err(("exec", become_program()))
}

fn network(owned: &Owned, link: Option<&str>) -> io::Result<()> {
    let mut host = Netlink::open()?;
    let host_namespace = namespace::open(Path::new("/proc/self/ns/net"))?;
    namespace::enter_network(&owned.network)?;
    let mut inner = Netlink::open()?;
    let loopback = inner.link_index("lo")?;
    inner.set_up(loopback)?;
    let Some(link) = link else { return Ok(()) };
    inner.add_veth("eth0", link, &host_namespace)?;
    let outer = host.link_index(link)?;
    host.set_up(outer)?;
    let eth0 = inner.link_index("eth0")?;
    inner.add_address(eth0, ADDRESS)?;
    inner.set_up(eth0)?;
    inner.add_host_route(GATEWAY, eth0)?;
    inner.add_default_route(GATEWAY, eth0)
}

fn enter(owned: &Owned) -> io::Result<OwnedFd> {
    let host_mounts = namespace::open(Path::new("/proc/self/ns/mnt"))?;
    namespace::enter_mount_ipc_uts(owned)?;
    namespace::unshare(UnshareFlags::NEWCGROUP)?;
    mount::make_all_private()?;
    Ok(host_mounts)
}

fn idmap(path: &Path, read_only: bool, owned: &Owned) -> io::Result<()> {
    let copy = mount::detached_copy(path)?;
    let attributes = Attributes {
        read_only,
        ..Attributes::default()
    };
    mount::set_attributes(&copy, attributes, Some(&owned.user))?;
    mount::attach(copy, path)
}

fn overlay(place: &Place, owned: &Owned) -> io::Result<()> {
    let disk = place.files.join("disk");
    let (upper, work, root) = (
        disk.join("upper"),
        disk.join("work"),
        place.files.join("root"),
    );
    fs::create_dir(&place.files)?;
    for directory in [&disk, &upper, &work, &root] {
        fs::create_dir(directory)?;
    }
    idmap(&place.rootfs, true, owned)?;
    idmap(&disk, false, owned)?;
    let text = |path: &Path| path.display().to_string();
    let (lower, upper, work) = (text(&place.rootfs), text(&upper), text(&work));
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
        ("volatile", ""),
    ];
    capability::set_fs_ids(FIRST_UID, FIRST_UID)?;
    let mounted = mount::mount_at("overlay", &options, Attributes::default(), &root);
    capability::set_fs_ids(0, 0)?;
    mounted
}

fn devices(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    let tmpfs = mount::new_filesystem("tmpfs", &[("mode", "755")], Attributes::default())?;
    mount::attach(tmpfs, &dev)?;
    let directory = File::open(&dev)?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            &directory,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
    }
    for (kind, name) in [("devpts", "pts"), ("tmpfs", "shm")] {
        let options: &[(&str, &str)] = match kind {
            "devpts" => &[("newinstance", "")],
            _ => &[],
        };
        fs::create_dir(dev.join(name))?;
        let made = mount::new_filesystem(kind, options, Attributes::default())?;
        mount::attach(made, &dev.join(name))?;
    }
    Ok(())
}

/// Made among the host's mounts: elsewhere the kernel makes one only where another can be seen whole.
fn proc(owned: &Owned, host_mounts: &OwnedFd) -> io::Result<()> {
    namespace::enter_mount(host_mounts)?;
    let made = mount::new_filesystem("proc", &[], Attributes::default());
    namespace::enter_mount(&owned.mount)?;
    mount::attach(made?, Path::new("/proc"))
}

fn become_root(owned: &Owned, clocks: Clocks) -> io::Result<()> {
    namespace::enter_user(&owned.user)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    clocks.enter_from_zero()
}

fn become_program() -> io::Error {
    let ready = || -> io::Result<(OwnedFd, CString)> {
        Ok((File::open(PROGRAM)?.into(), CString::new(PROGRAM)?))
    };
    match ready() {
        Ok((program, name)) => exec::exec_fd(program.as_fd(), &[name], &[]),
        Err(error) => error,
    }
}

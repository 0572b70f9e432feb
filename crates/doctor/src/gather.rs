//! Looking at the machine. No judgement here, and nothing that stays.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Resource;
use soulbox_artifacts::{KEYRINGS, Suite, keyring_suites};
use soulbox_linux::{host, mount};

use crate::facts::{Asked, CgroupLayout, Facts, Kvm, Numbers, Port, Probe};
use crate::forwarding;
use crate::modules::{self, ModuleTexts};

mod mounts;

/// Probing programs do one small thing each.
const DEADLINE: Duration = Duration::from_secs(10);

/// Namespaces that a sandbox is made of, as `/proc/self/ns` names them.
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Looks at this machine, for a server with this data directory (which need not exist yet).
///
/// Blocking; starts short programs (`unshare`, `nft`, `ip`). Not for a thread of an async runtime.
#[must_use]
pub fn gather(data_dir: &Path, asked: Asked) -> Facts {
    let server_runs = is_locked(&data_dir.join("lock"));
    let data_dir = nearest_existing(data_dir);
    let (idmapped_mount, overlay) = mounts::probe(&data_dir);
    let space = rustix::fs::statvfs(&data_dir).ok();
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    Facts {
        is_root: rustix::process::geteuid().is_root(),
        architecture: std::env::consts::ARCH,
        kernel_build: uname.version().to_string_lossy().into_owned(),
        kernel_signature: read("/proc/version_signature"),
        missing_namespaces: NAMESPACES
            .into_iter()
            .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
            .collect(),
        openat2: mount::open_below(&data_dir, Path::new("."))
            .map(|_| ())
            .map_err(|error| error.to_string()),
        pidfd: pidfd(),
        namespaces: in_new_namespaces(
            &[
                "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--time", "--user",
                "--fork",
            ],
            "true",
        ),
        idmapped_mount,
        overlay,
        seccomp_actions: read("/proc/sys/kernel/seccomp/actions_avail"),
        cgroups: cgroup_layout(&read("/proc/self/mountinfo").unwrap_or_default(), |root| {
            read(root.join("cgroup.controllers"))
        }),
        nft: in_new_namespaces(&["--net"], "nft add table inet soulbox_doctor"),
        links: in_new_namespaces(
            &["--net"],
            "ip link add sbdoctor type bridge && ip link add sbdoctor0 type veth peer name sbdoctor1",
        ),
        ip_forward: read("/proc/sys/net/ipv4/ip_forward").map(|text| text.trim() == "1"),
        forward_drops: forward_drops(),
        has_mmdebstrap: find_program("mmdebstrap").is_some(),
        has_debootstrap: find_program("debootstrap").is_some(),
        keyring_suites: keys(),
        free_bytes: space
            .as_ref()
            .map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize)),
        free_inodes: space.filter(|s| s.f_files > 0).map(|s| s.f_favail),
        open_files: rustix::process::getrlimit(Resource::Nofile).maximum,
        ksm: read("/sys/kernel/mm/ksm/run"),
        smt: read("/sys/devices/system/cpu/smt/control"),
        core_scheduling: host::has_core_scheduling(),
        landlock: host::landlock_version(),
        clock_kept: host::clock_is_kept().ok(),
        swaps: read("/proc/swaps"),
        proc_options: options_of(&read("/proc/self/mountinfo").unwrap_or_default(), "/proc"),
        numbers: numbers(),
        configuration: asked.configuration,
        port: asked.listen.map(|address| Port {
            address: address.to_string(),
            free: TcpListener::bind(address)
                .map(|_| ())
                .map_err(|error| error.to_string()),
            server_runs,
        }),
        disk_backing: asked.disk_backing,
        criu: asked.criu,
        https_certificate: asked.https_certificate,
        acme_dns_command: asked.acme_dns_command,
        modules: risky_modules(&release),
        unprivileged_user_namespaces: read("/proc/sys/kernel/unprivileged_userns_clone")
            .map(|text| text.trim() == "1"),
        security_modules: read("/sys/kernel/security/lsm"),
        runsc: find_program("runsc"),
        kvm: kvm(),
        qemu: find_program("qemu-system-x86_64"),
        kernel_release: release,
        data_dir,
    }
}

/// The directory itself or what it would be made in.
fn nearest_existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    path.ancestors()
        .find(|p| p.is_dir())
        .unwrap_or(Path::new("/"))
        .into()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn pidfd() -> Probe {
    let own = rustix::process::getpid();
    rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Whether somebody holds this lock. A lock that cannot be asked for is nobody's.
fn is_locked(path: &Path) -> bool {
    fs::File::open(path)
        .is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

fn numbers() -> Numbers {
    let number = |name: &str| read(Path::new("/proc/sys").join(name))?.trim().parse().ok();
    Numbers {
        aio_requests: number("fs/aio-max-nr"),
        tracked_connections: number("net/netfilter/nf_conntrack_max"),
        inotify_instances: number("fs/inotify/max_user_instances"),
        process_numbers: number("kernel/pid_max"),
        threads: number("kernel/threads-max"),
        open_files: number("fs/file-max"),
    }
}

/// Options of the last mount on a place, in the text of `/proc/self/mountinfo`: its own and the file system's.
fn options_of(mountinfo: &str, place: &str) -> Option<String> {
    let line = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(place))?;
    let (mount, filesystem) = line.split_once(" - ")?;
    let own = mount.split(' ').nth(5)?;
    Some(format!("{own},{}", filesystem.split(' ').nth(2)?))
}

/// Runs a shell line in new namespaces, which end with it.
fn in_new_namespaces(kinds: &[&str], script: &str) -> Probe {
    let mut command =
        Command::new(find_program("unshare").ok_or("the program unshare is not installed")?);
    command.args(kinds).args(["--", "/bin/sh", "-c", script]);
    run(command).map(|_| ())
}

/// Runs a program to its end, or to the deadline; its standard output, or the last line of its errors.
fn run(mut command: Command) -> Result<String, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let streams = (child.stdout.take(), child.stderr.take());
    let reader = std::thread::spawn(move || {
        let text = |stream: Option<String>| stream.unwrap_or_default();
        (
            text(streams.0.and_then(|s| std::io::read_to_string(s).ok())),
            text(streams.1.and_then(|s| std::io::read_to_string(s).ok())),
        )
    });
    let end = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                // Fails only when it has just ended.
                child.kill().ok();
                child.wait().ok();
                return Err("it did not answer in time".into());
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let (output, errors) = reader.join().unwrap_or_default();
    if status.success() {
        return Ok(output);
    }
    let reason = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it failed without a word");
    Err(reason.trim().to_owned())
}

/// Controllers in the text of `/proc/self/mountinfo`; `controllers` reads what a v2 mount offers.
fn cgroup_layout(mountinfo: &str, controllers: impl Fn(&Path) -> Option<String>) -> CgroupLayout {
    let mut layout = CgroupLayout::default();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let point = Path::new(mount.split(' ').nth(4).unwrap_or_default());
        let mut fields = filesystem.split(' ');
        match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => {
                let offered = controllers(point).unwrap_or_default();
                layout.unified = Some(offered.split_whitespace().map(str::to_owned).collect());
            }
            (Some("cgroup"), Some(options)) => {
                layout.legacy.extend(options.split(',').map(str::to_owned));
            }
            _ => {}
        }
    }
    layout
}

fn forward_drops() -> Vec<String> {
    let mut nft = Command::new("nft");
    nft.args(["list", "ruleset"]);
    let mut found = forwarding::nft_drops(&run(nft).unwrap_or_default());
    let mut legacy = Command::new("iptables-legacy");
    legacy.args(["-S", "FORWARD"]);
    if forwarding::iptables_drops(&run(legacy).unwrap_or_default()) {
        found.push("iptables-legacy FORWARD".into());
    }
    found
}

fn keys() -> Vec<Suite> {
    let mut suites: Vec<Suite> = KEYRINGS
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .flat_map(|bytes| keyring_suites(&bytes))
        .collect();
    suites.sort();
    suites.dedup();
    suites
}

fn risky_modules(release: &str) -> Vec<(&'static str, modules::ModuleState)> {
    let dir = Path::new("/lib/modules").join(release);
    let text = |path: PathBuf| read(path).unwrap_or_default();
    let (dep, builtin) = (
        text(dir.join("modules.dep")),
        text(dir.join("modules.builtin")),
    );
    let loaded = text("/proc/modules".into());
    let configured = ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"]
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok());
    let modprobe: String = configured
        .flatten()
        .flatten()
        .map(|entry| text(entry.path()) + "\n")
        .collect();
    let texts = ModuleTexts {
        dep: &dep,
        builtin: &builtin,
        loaded: &loaded,
        modprobe: &modprobe,
    };
    modules::RISKY
        .into_iter()
        .map(|name| (name, modules::state(name, &texts)))
        .collect()
}

fn kvm() -> Kvm {
    let path = "/dev/kvm";
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Kvm::Usable,
        Err(_) if Path::new(path).exists() => Kvm::NoAccess,
        Err(_) => Kvm::Absent,
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| {
        file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_layouts() {
        let hybrid = "30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:5 - cgroup cgroup rw,memory\n\
            32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = cgroup_layout(hybrid, |_| Some(String::new()));
        assert_eq!(layout.unified, Some(Vec::new()));
        assert!(
            ["memory", "cpu", "cpuacct"]
                .iter()
                .all(|c| layout.legacy.iter().any(|l| l == c))
        );
        let unified = "31 22 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let layout = cgroup_layout(unified, |path| {
            (path == Path::new("/sys/fs/cgroup")).then(|| "cpu memory\n".into())
        });
        assert_eq!(
            layout,
            CgroupLayout {
                unified: Some(vec!["cpu".into(), "memory".into()]),
                legacy: Vec::new()
            }
        );
        assert_eq!(
            cgroup_layout("nonsense\n", |_| None),
            CgroupLayout::default()
        );
    }

    #[test]
    fn a_lock_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_locked(&path));
        let file = fs::File::create(&path).unwrap();
        assert!(!is_locked(&path));
        file.lock().unwrap();
        assert!(is_locked(&path));
    }

    #[test]
    fn options_of_mounts() {
        let text = "20 1 0:5 / /proc rw,nosuid - proc proc rw\n25 1 0:9 / /proc rw,relatime shared:3 - proc proc rw,hidepid=invisible\n";
        assert_eq!(
            options_of(text, "/proc").unwrap(),
            "rw,relatime,rw,hidepid=invisible"
        );
        assert_eq!(options_of(text, "/sys"), None);
    }

    #[test]
    fn a_probe_says_what_the_tool_said() {
        let sh = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            run(command)
        };
        assert_eq!(sh("echo out").unwrap(), "out\n");
        assert_eq!(
            sh("echo first >&2; echo second >&2; exit 1").unwrap_err(),
            "second"
        );
        assert!(run(Command::new("/nonexistent")).is_err());
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = Asked {
            configuration: Ok(()),
            listen: Some(listener.local_addr().unwrap()),
            disk_backing: Ok("image".into()),
            criu: Ok(()),
            https_certificate: None,
            acme_dns_command: None,
        };
        let facts = gather(&dir.path().join("not/there/yet"), asked);
        let port = facts.port.as_ref().unwrap();
        assert!(port.free.is_err() && !port.server_runs, "{port:?}");
        assert_eq!(facts.data_dir, dir.path());
        assert!(facts.free_bytes > 0);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
        eprintln!("{}", crate::judge(&facts));
    }
}

//! What was seen on the machine, before any judgement.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use soulbox_artifacts::Suite;

use crate::modules::ModuleState;

/// Outcome of trying something; the text is what the kernel or the tool said.
pub type Probe = Result<(), String>;

/// Which cgroup hierarchies have the controllers that limits need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupLayout {
    /// Controllers of the v2 hierarchy, where there is one.
    pub unified: Option<Vec<String>>,
    /// Controllers that are mounted as v1 hierarchies.
    pub legacy: Vec<String>,
}

/// Whether hardware virtualisation can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kvm {
    /// `/dev/kvm` is not there.
    #[default]
    Absent,
    /// It is there and cannot be opened.
    NoAccess,
    /// It can be opened.
    Usable,
}

/// What this kernel and its settings allow in numbers. `None` where the file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// `fs.aio-max-nr`.
    pub aio_requests: Option<u64>,
    /// `net.netfilter.nf_conntrack_max`; the file comes with the module.
    pub tracked_connections: Option<u64>,
    /// `fs.inotify.max_user_instances`.
    pub inotify_instances: Option<u64>,
    /// `kernel.pid_max`.
    pub process_numbers: Option<u64>,
    /// `kernel.threads-max`.
    pub threads: Option<u64>,
    /// `fs.file-max`.
    pub open_files: Option<u64>,
}

/// The address that the server would listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The address.
    pub address: String,
    /// It can be listened on, or why not.
    pub free: Probe,
    /// A server runs on this data directory now.
    pub server_runs: bool,
}

/// Who gets the next certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewedBy {
    /// Whoever writes its files.
    Operator,
    /// The server, which asks an authority for it.
    Server,
}

/// How long a certificate lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// From its first moment to its last.
    pub whole: Duration,
    /// What is left of that; zero when it has ended.
    pub left: Duration,
}

/// The certificate that clients are shown over HTTPS, where it is not made by the server itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsCertificate {
    /// Where it comes from.
    pub from: String,
    /// Who gets the next one.
    pub renewed_by: RenewedBy,
    /// How long it lives, or why there is nothing to say about that.
    pub life: Result<Life, String>,
}

/// What only the caller knows or can try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What is wrong with the configuration.
    pub configuration: Probe,
    /// Where the server would listen; `None` when the configuration does not say.
    pub listen: Option<SocketAddr>,
    /// By what means disks would be limited, or why not at all.
    pub disk_backing: Result<String, String>,
    /// Whether there is a CRIU that can keep memory of sandboxes on disk. The error ends with a line `FIX: …`.
    pub criu: Probe,
    /// The certificate of HTTPS, if somebody else makes it.
    pub https_certificate: Option<HttpsCertificate>,
    /// Whether `acme_dns_command` can be run, if there is one.
    pub acme_dns_command: Option<Probe>,
}

/// Everything the checks look at. Missing files are `None`, not errors: many machines lack some of them.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Effective uid is 0.
    pub is_root: bool,
    /// Machine architecture, as Rust names it.
    pub architecture: &'static str,
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// As `uname -v` prints it.
    pub kernel_build: String,
    /// Contents of `/proc/version_signature`, which Ubuntu's kernels have.
    pub kernel_signature: Option<String>,
    /// Kinds of namespaces that this kernel does not have at all.
    pub missing_namespaces: Vec<&'static str>,
    /// All namespaces of a sandbox made at once.
    pub namespaces: Probe,
    /// Opening a path below a directory without leaving it (`openat2`).
    pub openat2: Probe,
    /// Holding a process by a descriptor (`pidfd_open`).
    pub pidfd: Probe,
    /// A mount with mapped ids, on the data directory's file system.
    pub idmapped_mount: Probe,
    /// An overlay with such a mount as lower and the data directory as upper.
    pub overlay: Probe,
    /// The data directory, or the nearest directory above it that exists.
    pub data_dir: PathBuf,
    /// Contents of `/proc/sys/kernel/seccomp/actions_avail`.
    pub seccomp_actions: Option<String>,
    /// Where controllers are.
    pub cgroups: CgroupLayout,
    /// A table made by `nft` in a network namespace of its own.
    pub nft: Probe,
    /// A veth pair and a bridge made there.
    pub links: Probe,
    /// `net.ipv4.ip_forward`.
    pub ip_forward: Option<bool>,
    /// Chains of others that drop forwarded packets by default.
    pub forward_drops: Vec<String>,
    /// `mmdebstrap` is installed.
    pub has_mmdebstrap: bool,
    /// `debootstrap` is installed.
    pub has_debootstrap: bool,
    /// Debian releases whose keys are here.
    pub keyring_suites: Vec<Suite>,
    /// Free bytes on the data directory's file system.
    pub free_bytes: u64,
    /// Free inodes there; 0 of 0 on file systems that have no fixed number.
    pub free_inodes: Option<u64>,
    /// Hard limit of open files; `None` is unlimited.
    pub open_files: Option<u64>,
    /// Contents of `/sys/kernel/mm/ksm/run`.
    pub ksm: Option<String>,
    /// Contents of `/sys/devices/system/cpu/smt/control`.
    pub smt: Option<String>,
    /// Kernel modules with a history of exploits, and whether they can come in.
    pub modules: Vec<(&'static str, ModuleState)>,
    /// Whether SMT siblings can be kept apart by owner; `None` when the kernel does not say.
    pub core_scheduling: Option<bool>,
    /// Version of Landlock that is switched on.
    pub landlock: Option<u32>,
    /// Somebody keeps the clock right; `None` when the kernel does not say.
    pub clock_kept: Option<bool>,
    /// Contents of `/proc/swaps`.
    pub swaps: Option<String>,
    /// Options of the mount on `/proc`.
    pub proc_options: Option<String>,
    /// Limits of the whole machine.
    pub numbers: Numbers,
    /// What is wrong with the configuration.
    pub configuration: Probe,
    /// Where the server would listen.
    pub port: Option<Port>,
    /// By what means disks would be limited, or why not at all.
    pub disk_backing: Result<String, String>,
    /// Whether there is a CRIU that can keep memory of sandboxes on disk. The error ends with a line `FIX: …`.
    pub criu: Probe,
    /// As [`Asked::https_certificate`].
    pub https_certificate: Option<HttpsCertificate>,
    /// As [`Asked::acme_dns_command`].
    pub acme_dns_command: Option<Probe>,
    /// Whether any user may make a user namespace; `None` when the kernel has no such switch.
    pub unprivileged_user_namespaces: Option<bool>,
    /// Contents of `/sys/kernel/security/lsm`.
    pub security_modules: Option<String>,
    /// gVisor's runtime.
    pub runsc: Option<PathBuf>,
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// QEMU for this architecture.
    pub qemu: Option<PathBuf>,
}

//! What was seen on the machine, before any judgement.

use std::path::PathBuf;

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

/// Everything the checks look at. Missing files are `None`, not errors: many machines lack some of them.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Effective uid is 0.
    pub is_root: bool,
    /// Machine architecture, as Rust names it.
    pub architecture: &'static str,
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// All namespaces of a sandbox made at once.
    pub namespaces: Probe,
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

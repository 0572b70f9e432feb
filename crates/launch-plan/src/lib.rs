//! The ordered list of steps that turns a process into a sandbox, as data.
//!
//! This is the security-critical text of the product: an auditor reads it beside `docs/sandbox-launch.md`,
//! tests print it, `soulbox debug plan` shows it. Steps carry only resolved values: whoever carries them out
//! (`soulbox-jail`) has nothing left to decide.
//!
//! A plan has two halves. The *slot* half is carried out ahead of time, when nobody waits: cgroups, network,
//! namespaces. The *launch* half is carried out when a sandbox is created: root file system, process, filter.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub mod probed;
mod text;
mod validate;

pub use validate::{PlanViolation, validate};

/// Name of [`LaunchStep::MountVolume`]: the one step that fails because of what a template and a caller have chosen.
pub const MOUNT_VOLUME: &str = "mount-volume";

/// Name of [`LaunchStep::ExecRestorer`]: the last step of a plan that brings a sandbox back.
const EXEC_RESTORER: &str = "exec-restorer";

/// The first message to a jail: what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Prepare a slot and wait for a launch.
    Slot(SlotPlan),
    /// Write a checkpoint.
    Dump(DumpPlan),
    /// Give a sandbox that is being brought back its `/proc`.
    Proc(ProcPlan),
}

/// How the program is run that writes a checkpoint: on the host but for its network, as the owner of the sandbox's user
/// namespace, with the capabilities of the caller. Becomes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpPlan {
    /// First host id of the sandbox, the owner.
    pub owner: u32,
    /// A process of the sandbox, whose network it stands in: it need not look into another one.
    pub network_of: i32,
    /// The loader of the program, on the host.
    pub loader: PathBuf,
    /// Arguments, the loader's name first.
    pub argv: Vec<String>,
}

/// Steps that are carried out with the host's root among the processes and the mounts of a sandbox that is being brought
/// back, none of which runs yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcPlan {
    /// Number of its first process on the host.
    pub pid: i32,
    /// The steps: what is held first, then those of `/proc`.
    pub steps: Vec<LaunchStep>,
}

/// What is done ahead of time, in the host's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPlan {
    /// The steps, in order.
    pub steps: Vec<SlotStep>,
}

/// One step of preparing a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotStep {
    /// Starts a session of its own, so that no signal meant for the server's terminal arrives.
    NewSession,
    /// Moves this process into cgroups by writing to each `cgroup.procs`.
    /// Slow (several milliseconds), which is why it happens here and the sandbox inherits it.
    JoinCgroups {
        /// Absolute paths of `cgroup.procs` files.
        procs_files: Vec<PathBuf>,
    },
    /// Keeps files of the user's cgroups open for envd: it puts a successor of its fork server back into the user's
    /// limits, and knows when one of the user's processes was killed for lack of memory.
    KeepCgroups {
        /// Absolute paths of `cgroup.procs` files, to be written.
        procs_files: Vec<PathBuf>,
        /// Absolute path of the file that counts kills, to be read.
        oom_file: PathBuf,
    },
    /// Makes the user namespace of the sandbox, maps its ids, and makes the mount, network, IPC and UTS namespaces that
    /// belong to it. All are kept by file descriptors; that of users is joined last.
    CreateNamespaces {
        /// First host id; inner id 0.
        uid_base: u32,
        /// How many ids.
        count: u32,
    },
    /// Enters the network namespace and sets it up.
    EnterNetwork(Network),
    /// Enters the mount, IPC and UTS namespaces, and a new cgroup namespace, which belongs to the host.
    EnterMountIpcUtsCgroup,
    /// Makes every mount private, so that nothing done here shows on the host.
    MakeMountsPrivate,
}

/// What the network namespace holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Loopback only.
    Loopback,
    /// Loopback and one cable to the host.
    Cable {
        /// Name of the host's end.
        host_link: String,
        /// Address inside, a /32.
        address: Ipv4Addr,
        /// Gateway and DNS server, an address of the host.
        gateway: Ipv4Addr,
        /// Without it there is no IPv6 but on loopback.
        ipv6: Option<Ipv6Ends>,
    },
}

/// Both ends of a cable in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Ends {
    /// Address inside, a /128.
    pub address: Ipv6Addr,
    /// Where packets leave.
    pub gateway: Ipv6Addr,
}

/// What is done when a sandbox is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The steps, in order.
    pub steps: Vec<LaunchStep>,
}

/// One step of launching a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchStep {
    /// Puts a directory over itself as an id-mapped mount: ids on disk 0..65535 appear as the sandbox's host ids.
    IdmapInPlace {
        /// Directory on the host.
        path: PathBuf,
        /// For layers; the sandbox's own directory is writable.
        read_only: bool,
    },
    /// Puts the file system that came with the plan, the sandbox's own, over a directory, under the sandbox's ids.
    AttachDisk {
        /// Directory on the host.
        target: PathBuf,
    },
    /// Mounts the overlay that is the sandbox's root.
    MountOverlay {
        /// Directory that the paths below are relative to, if they are: the sandbox can read how its root was mounted
        /// and need not learn where the host keeps things.
        base: PathBuf,
        /// Layers, topmost first.
        lower: Vec<PathBuf>,
        /// The sandbox's own files.
        upper: PathBuf,
        /// Scratch directory of the overlay, on the same file system as `upper`.
        work: PathBuf,
        /// Where the new root is mounted until it becomes `/`.
        target: PathBuf,
        /// Host id of root inside, as whom the overlay works on `upper`.
        owner: u32,
        /// Whether `upper` is on another file system than the layers. Inode numbers are then made unique across both,
        /// so that all files still seem to be on one.
        two_disks: bool,
    },
    /// Mounts an empty `tmpfs` below the new root.
    MountTmpfs {
        /// Directory below the new root, for example `dev`.
        target: PathBuf,
        /// Size limit.
        size_bytes: u64,
        /// Mode of its root.
        mode: u32,
        /// Host id that owns its root.
        owner: u32,
    },
    /// Creates the ordinary device nodes and links in a directory below the new root.
    PopulateDev {
        /// Directory below the new root.
        target: PathBuf,
        /// Host id that owns the nodes.
        owner: u32,
    },
    /// Mounts a `devpts` of its own below the new root.
    MountDevpts {
        /// Directory below the new root.
        target: PathBuf,
        /// Host id of the group `tty` inside.
        tty_gid: u32,
    },
    /// Shows envd's program, whose mount came with the plan, below the new root, in a file that is made for it. There must
    /// be a file: a program without a name could not be found again by what brings a sandbox back from disk.
    ShowEnvd {
        /// Where it appears, below the new root.
        target: PathBuf,
    },
    /// Shows a host file or directory read-only below the new root.
    BindReadOnly {
        /// File or directory on the host.
        source: PathBuf,
        /// Where it appears, below the new root.
        target: PathBuf,
    },
    /// Shows the next volume that came with the plan below the new root, under the sandbox's ids: its directory `data`.
    /// Directories on the way are made where they are missing.
    MountVolume {
        /// An empty directory on the host to have the volume's file system at until the pivot.
        scratch: PathBuf,
        /// Where it appears, below the new root.
        target: PathBuf,
        /// Host id of root inside, who owns the directories that are made.
        owner: u32,
    },
    /// Keeps a read-only copy of a host file or directory for use after the pivot, under a name.
    HoldReadOnly {
        /// Name by which later steps ask for it.
        name: String,
        /// File or directory on the host.
        source: PathBuf,
    },
    /// Makes the new root `/` and lets go of the host's.
    PivotRoot {
        /// The mounted root.
        new_root: PathBuf,
    },
    /// Sets the host name of the UTS namespace.
    SetHostname {
        /// The name.
        name: String,
    },
    /// Continues as the first process of a new PID namespace.
    /// Everything after this step runs in that process.
    ClonePid1,
    /// Starts a session of its own in the new PID namespace: that of the jail has no number there.
    NewSession,
    /// Mounts a fresh `procfs` on `/proc` and checks that it is one.
    MountProc,
    /// Covers entries of `/proc` with what is held as `empty-file` and `empty-directory`. Missing entries are an
    /// error: the plan names only those that this kernel has.
    MaskProc {
        /// Names below `/proc`.
        files: Vec<String>,
        /// Names below `/proc`.
        directories: Vec<String>,
    },
    /// Makes a directory below `/proc` read-only.
    ReadOnlyProc {
        /// Name below `/proc`.
        name: String,
    },
    /// Covers an entry of `/proc` with the file held under the same name, which tells the sandbox's limits.
    ShadowProc {
        /// Name below `/proc`, and of what is held.
        name: String,
    },
    /// Restricts the process to some CPUs, so that `nproc` tells the limit.
    SetCpus {
        /// CPU numbers.
        cpus: Vec<u32>,
    },
    /// Protects envd from the memory killer; what it starts raises the value again.
    SetOomScore {
        /// Value of `oom_score_adj`.
        value: i32,
    },
    /// Sets a resource limit, soft and hard.
    SetRlimit {
        /// Which.
        resource: Rlimit,
        /// Value; `u64::MAX` is unlimited.
        value: u64,
    },
    /// Joins the sandbox's user namespace and becomes its root. From here the process holds no power over the host.
    BecomeGuestRoot,
    /// Enters a time namespace in which the machine has just been started. It belongs to the sandbox's user namespace.
    NewTimeNamespace,
    /// Enters a Landlock domain without signals or tracing across its border. Needs CAP_SYS_ADMIN in the user namespace,
    /// as the filter does.
    RestrictScope,
    /// Drops every capability but these, from every set.
    KeepCapabilities {
        /// Capability numbers (`linux/capability.h`).
        keep: Vec<u8>,
    },
    /// Installs the system call filter. Needs CAP_SYS_ADMIN in the user namespace, which the next exec of an
    /// unprivileged program does not carry on: hence before the capabilities are dropped.
    InstallSeccomp {
        /// Classic BPF instructions: code, jt, jf, k.
        program: Vec<(u16, u8, u8, u32)>,
    },
    /// Mounts a whole `procfs` of the host's processes below the new root, with nothing over it: the kernel lets a restorer
    /// make one of its own only where such a one can be seen. It is replaced before anything of the guest's runs.
    MountWholeProc {
        /// Directory below the new root.
        target: PathBuf,
    },
    /// Covers the guest's `/etc/ld.so.preload`, if it has one, with what is held as `empty-file`: the loader of a program that
    /// is run inside would load what it names.
    CoverPreload,
    /// Takes away what [`LaunchStep::CoverPreload`] has put there.
    UncoverPreload,
    /// Takes away the whole `procfs` and mounts one of the sandbox's own processes in its place.
    ReplaceProc,
    /// Enters a time namespace whose clocks go on from these readings.
    ResumeTimeNamespace {
        /// The sandbox's clock since boot, in nanoseconds.
        boottime_ns: i64,
        /// The same without time of suspension.
        monotonic_ns: i64,
    },
    /// Hands over the restorer's files (3), the images (4), its working directory (5) and the kept files of cgroups (6 and
    /// up), closes everything else and becomes the loader of the restorer.
    ExecRestorer {
        /// The loader, below the restorer's files.
        loader: PathBuf,
        /// Arguments, the loader's name first.
        argv: Vec<String>,
    },
    /// Hands over the boot document (3), the status pipe (4) and the kept files of cgroups (5 and up, the counter of
    /// kills last), closes everything else and becomes envd.
    ExecEnvd {
        /// Arguments, the program's name first.
        argv: Vec<String>,
    },
}

/// Resource limits that a plan sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rlimit {
    /// Size of core dumps.
    Core,
    /// Open files.
    OpenFiles,
    /// Bytes in POSIX message queues.
    MessageQueue,
    /// Bytes that may be locked into memory.
    LockedMemory,
}

/// What the jail answers on its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The order is carried out, and there is nothing to hand over.
    Done,
    /// The slot half is done; the network namespace comes along as a file descriptor.
    SlotReady,
    /// The process that is becoming envd exists; its pidfd comes along.
    Cloned {
        /// Its pid on the host.
        pid: i32,
    },
    /// The launch half is done but for its last step, which replaces the program that answers.
    AllButLast {
        /// When the plan was there, and when each step was done: nanoseconds since 1970.
        moments: Vec<u64>,
    },
    /// A step failed; nothing after it was done.
    Failed {
        /// Name of the step.
        step: String,
        /// Error number.
        errno: i32,
        /// On which thing.
        detail: String,
    },
}

/// The bytes are not a plan or reply of this version.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}")]
pub struct CodecError {
    what: &'static str,
    #[source]
    source: postcard::Error,
}

macro_rules! codec {
    ($($name:ident => $what:literal),*) => {$(
        impl $name {
            /// Writes it for the socket between server and jail.
            ///
            /// # Errors
            /// Never for values that fit in memory; the codec's type says otherwise.
            pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
                postcard::to_stdvec(self).map_err(|source| CodecError { what: $what, source })
            }

            /// Reads what [`Self::encode`] wrote.
            ///
            /// # Errors
            /// When the bytes are anything else.
            pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                postcard::from_bytes(bytes).map_err(|source| CodecError { what: $what, source })
            }
        }
    )*};
}
codec!(Order => "order", SlotPlan => "slot plan", LaunchPlan => "launch plan", Reply => "jail reply");

impl SlotStep {
    /// The step's name, as in logs and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NewSession => "new-session",
            Self::JoinCgroups { .. } => "join-cgroups",
            Self::KeepCgroups { .. } => "keep-cgroups",
            Self::CreateNamespaces { .. } => "create-namespaces",
            Self::EnterNetwork(_) => "enter-network",
            Self::EnterMountIpcUtsCgroup => "enter-mount-ipc-uts-cgroup",
            Self::MakeMountsPrivate => "make-mounts-private",
        }
    }
}

impl LaunchStep {
    /// The step's name, as in logs and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::IdmapInPlace { .. } => "idmap-in-place",
            Self::AttachDisk { .. } => "attach-disk",
            Self::MountOverlay { .. } => "mount-overlay",
            Self::MountTmpfs { .. } => "mount-tmpfs",
            Self::PopulateDev { .. } => "populate-dev",
            Self::MountDevpts { .. } => "mount-devpts",
            Self::ShowEnvd { .. } => "show-envd",
            Self::BindReadOnly { .. } => "bind-read-only",
            Self::MountVolume { .. } => MOUNT_VOLUME,
            Self::HoldReadOnly { .. } => "hold-read-only",
            Self::PivotRoot { .. } => "pivot-root",
            Self::SetHostname { .. } => "set-hostname",
            Self::ClonePid1 => "clone-pid-1",
            Self::NewSession => "new-session",
            Self::MountProc => "mount-proc",
            Self::MaskProc { .. } => "mask-proc",
            Self::ReadOnlyProc { .. } => "read-only-proc",
            Self::ShadowProc { .. } => "shadow-proc",
            Self::SetCpus { .. } => "set-cpus",
            Self::SetOomScore { .. } => "set-oom-score",
            Self::SetRlimit { .. } => "set-rlimit",
            Self::BecomeGuestRoot => "become-guest-root",
            Self::NewTimeNamespace => "new-time-namespace",
            Self::RestrictScope => "restrict-scope",
            Self::KeepCapabilities { .. } => "keep-capabilities",
            Self::InstallSeccomp { .. } => "install-seccomp",
            Self::MountWholeProc { .. } => "mount-whole-proc",
            Self::CoverPreload => "cover-preload",
            Self::UncoverPreload => "uncover-preload",
            Self::ReplaceProc => "replace-proc",
            Self::ResumeTimeNamespace { .. } => "resume-time-namespace",
            Self::ExecRestorer { .. } => EXEC_RESTORER,
            Self::ExecEnvd { .. } => "exec-envd",
        }
    }
}

impl fmt::Display for SlotPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps
            .iter()
            .try_for_each(|step| text::slot_step(f, step))
    }
}

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps
            .iter()
            .try_for_each(|step| text::launch_step(f, step))
    }
}

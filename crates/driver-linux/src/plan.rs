//! Every decision about a launch, as pure functions: what is to be run and what the host is like, in; a plan, out.
//!
//! `docs/sandbox-launch.md` explains the steps one by one. Tests print whole plans.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use soulbox_launch_plan::{
    Ipv6Ends, LaunchPlan, LaunchStep, Network, ProcPlan, Rlimit, SlotPlan, SlotStep,
};
use soulbox_linux::seccomp::Instruction;
use soulbox_types::slot::UIDS_PER_SLOT;
use soulbox_types::{LayerDigest, NetworkMode, SandboxSpec, SlotIndex};

use crate::cgroup::SlotCgroup;
use crate::shadow;

/// What the plan depends on besides the sandbox itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs that may be used.
    pub cpus: Vec<u32>,
    /// Names below `/proc` that this kernel has, other than processes; below `/proc/sys` those that are shadowed.
    pub proc_entries: BTreeSet<String>,
    /// Hierarchies in which the user's processes have limits of their own.
    pub limit_hierarchies: usize,
    /// Whether each sandbox gets a file system of its own.
    pub own_disks: bool,
    /// Whether the kernel has Landlock with scopes.
    pub has_scopes: bool,
    /// Whether this server may lower `oom_score_adj` (CAP_SYS_RESOURCE).
    pub may_protect_envd: bool,
    /// Highest limit of open files that this server may hand on.
    pub open_files_limit: u64,
}

/// Directories and files on the host that launches use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The server's data directory.
    pub data: PathBuf,
    /// Where layers are, each in a directory named by its digest.
    pub layers: PathBuf,
    /// An empty directory, on which each jail mounts its root (in a mount namespace of its own).
    pub root: PathBuf,
    /// An empty file, to cover others with.
    pub empty_file: PathBuf,
    /// An empty directory, to cover others with.
    pub empty_directory: PathBuf,
    /// What appears as `/sys`.
    pub sys: PathBuf,
}

impl Places {
    /// The layers of a sandbox, topmost first.
    pub(crate) fn layer_paths(&self, spec: &SandboxSpec) -> Vec<PathBuf> {
        let path = |digest: &LayerDigest| self.layers.join(digest.to_string());
        spec.image.layers.iter().map(path).collect()
    }
}

/// Files of one sandbox on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFiles {
    /// `<data>/sandboxes/<id>`.
    pub directory: PathBuf,
    /// What covers entries of `/proc`: `<run directory>/views/<block>/<id>`. The sandbox can read this path.
    pub view: PathBuf,
}

impl SandboxFiles {
    /// What is shown inside under the sandbox's ids.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// The sandbox's own files.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.directory.join("disk/upper")
    }

    /// The overlay's scratch directory.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.directory.join("disk/work")
    }

    /// Where the file system of a volume is while the sandbox is built: by its place among the sandbox's volumes.
    #[must_use]
    pub fn volume(&self, number: usize) -> PathBuf {
        self.directory.join(format!("volume-{number}"))
    }

    /// A file that covers an entry of `/proc`.
    #[must_use]
    pub fn proc_file(&self, name: &str) -> PathBuf {
        self.view.join(name)
    }
}

/// Files of `/proc` that tell about the host or its kernel and that no sandbox needs.
const MASKED_FILES: [&str; 36] = [
    "bootconfig",
    "buddyinfo",
    "cmdline",
    "config.gz",
    "consoles",
    "crypto",
    "diskstats",
    "dma",
    "fb",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "locks",
    "mdstat",
    "misc",
    "modules",
    "mtrr",
    "pagetypeinfo",
    "partitions",
    "sched_debug",
    "schedstat",
    "slabinfo",
    "softirqs",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
    "zoneinfo",
];

/// Directories of `/proc` that tell about the host's hardware and load.
const MASKED_DIRECTORIES: [&str; 9] = [
    "acpi",
    "asound",
    "bus",
    "driver",
    "dynamic_debug",
    "fs",
    "irq",
    "pressure",
    "scsi",
];

/// Capabilities of root inside, `linux/capability.h`. Most namespaces of the sandbox belong to its user namespace, so none
/// may be here that means something to a network, a mount, a clock or a host name; these reach the sandbox's own files and
/// processes and nothing else: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL,
/// SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, AUDIT_WRITE, SETFCAP.
const CAPABILITIES: [u8; 12] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31];

/// Where envd's program is, below the root. On the `tmpfs` of devices, which no template has a say in.
const ENVD_PATH: &str = "dev/.envd";
/// Group `tty` on Debian, which owns terminals.
const TTY_GID: u32 = 5;
const DEV_BYTES: u64 = 1024 * 1024;
const OPEN_FILES: u64 = 65_536;
/// Below any user process, above what must never be killed.
const ENVD_OOM_SCORE: i32 = -900;

/// What is prepared ahead. With `has_ipv6`, a cable is one of IPv6, too.
#[must_use]
pub fn slot_plan(
    slot: SlotIndex,
    cgroup: &SlotCgroup,
    network: &NetworkMode,
    has_ipv6: bool,
) -> SlotPlan {
    let network = match network {
        NetworkMode::Offline => Network::Loopback,
        NetworkMode::Internet | NetworkMode::Filtered(_) => Network::Cable {
            host_link: slot.link_name(),
            address: slot.address(),
            gateway: slot.block().gateway(),
            ipv6: has_ipv6.then(|| Ipv6Ends {
                address: slot.address_v6(),
                gateway: slot.block().gateway_v6(),
            }),
        },
    };
    SlotPlan {
        steps: vec![
            SlotStep::NewSession,
            SlotStep::JoinCgroups {
                procs_files: cgroup.user_procs_files(),
            },
            SlotStep::KeepCgroups {
                procs_files: cgroup.limit_procs_files(),
                oom_file: cgroup.user_oom_file(),
            },
            SlotStep::CreateNamespaces {
                uid_base: slot.uid_base(),
                count: UIDS_PER_SLOT,
            },
            SlotStep::EnterNetwork(network),
            SlotStep::EnterMountIpcUtsCgroup,
            SlotStep::MakeMountsPrivate,
        ],
    }
}

/// What turns a prepared slot into the sandbox `spec`.
#[must_use]
pub fn launch_plan(
    spec: &SandboxSpec,
    slot: SlotIndex,
    files: &SandboxFiles,
    places: &Places,
    host: &HostFacts,
    seccomp: &[Instruction],
) -> LaunchPlan {
    let mut steps = file_steps(spec, slot, files, places, host);
    let cut_cpus = cuts_cpus(spec, host);
    steps.extend(hold_steps(files, places, host, cut_cpus));
    steps.extend([
        LaunchStep::PivotRoot {
            new_root: places.root.clone(),
        },
        LaunchStep::SetHostname {
            name: spec.id.to_string(),
        },
        LaunchStep::ClonePid1,
        LaunchStep::NewSession,
    ]);
    steps.extend(proc_steps(host, cut_cpus));
    if cut_cpus {
        steps.push(LaunchStep::SetCpus {
            cpus: choose_cpus(&host.cpus, spec.limits.vcpu_count, slot),
        });
    }
    if host.may_protect_envd {
        steps.push(LaunchStep::SetOomScore {
            value: ENVD_OOM_SCORE,
        });
    }
    steps.extend([
        LaunchStep::SetRlimit {
            resource: Rlimit::Core,
            // Not 0: with that, a handler in the host's core_pattern is still run (coredump.c).
            value: 1,
        },
        LaunchStep::SetRlimit {
            resource: Rlimit::OpenFiles,
            value: OPEN_FILES.min(host.open_files_limit),
        },
        LaunchStep::BecomeGuestRoot,
        LaunchStep::NewTimeNamespace,
    ]);
    steps.extend(host.has_scopes.then_some(LaunchStep::RestrictScope));
    steps.extend([
        LaunchStep::InstallSeccomp {
            program: seccomp.to_vec(),
        },
        LaunchStep::KeepCapabilities {
            keep: CAPABILITIES.to_vec(),
        },
        LaunchStep::ExecEnvd {
            argv: envd_argv(host.limit_hierarchies),
        },
    ]);
    LaunchPlan { steps }
}

/// What turns a prepared slot into a sandbox that was written to disk: `criu` are the restorer's arguments, `clocks` the
/// sandbox's two clocks since boot, in nanoseconds. The root is that of [`launch_plan`].
#[must_use]
pub fn restore_plan(
    (spec, slot): (&SandboxSpec, SlotIndex),
    files: &SandboxFiles,
    places: &Places,
    host: &HostFacts,
    clocks: [i64; 2],
    (loader, criu): (PathBuf, Vec<String>),
) -> LaunchPlan {
    let mut steps = file_steps(spec, slot, files, places, host);
    steps.extend([
        LaunchStep::MountWholeProc {
            target: PathBuf::from("proc"),
        },
        hold("empty-file", &places.empty_file),
        LaunchStep::CoverPreload,
        LaunchStep::PivotRoot {
            new_root: places.root.clone(),
        },
        LaunchStep::SetHostname {
            name: spec.id.to_string(),
        },
    ]);
    if cuts_cpus(spec, host) {
        steps.push(LaunchStep::SetCpus {
            cpus: choose_cpus(&host.cpus, spec.limits.vcpu_count, slot),
        });
    }
    if host.may_protect_envd {
        // What comes back may take a value down to this one.
        steps.push(LaunchStep::SetOomScore {
            value: ENVD_OOM_SCORE,
        });
    }
    let [boottime_ns, monotonic_ns] = clocks;
    steps.extend([
        LaunchStep::BecomeGuestRoot,
        LaunchStep::ResumeTimeNamespace {
            boottime_ns,
            monotonic_ns,
        },
    ]);
    steps.extend(host.has_scopes.then_some(LaunchStep::RestrictScope));
    steps.push(LaunchStep::ExecRestorer { loader, argv: criu });
    LaunchPlan { steps }
}

/// What gives a sandbox that is being brought back the `/proc` of a launch; `pid` is its first process.
#[must_use]
pub fn proc_plan(
    spec: &SandboxSpec,
    pid: i32,
    files: &SandboxFiles,
    places: &Places,
    host: &HostFacts,
) -> ProcPlan {
    let cut_cpus = cuts_cpus(spec, host);
    let mut steps = hold_steps(files, places, host, cut_cpus);
    let usual = proc_steps(host, cut_cpus).into_iter();
    steps.extend(usual.map(|step| match step {
        LaunchStep::MountProc => LaunchStep::ReplaceProc,
        other => other,
    }));
    steps.push(LaunchStep::UncoverPreload);
    ProcPlan { pid, steps }
}

fn cuts_cpus(spec: &SandboxSpec, host: &HostFacts) -> bool {
    usize::try_from(spec.limits.vcpu_count).is_ok_and(|n| n < host.cpus.len())
}

/// The files that a sandbox sees, `/proc` aside.
fn file_steps(
    spec: &SandboxSpec,
    slot: SlotIndex,
    files: &SandboxFiles,
    places: &Places,
    host: &HostFacts,
) -> Vec<LaunchStep> {
    let mut steps = Vec::with_capacity(32);
    let owner = slot.uid_base();
    steps.extend(root_steps(spec, files, places, host.own_disks, owner));
    steps.extend(device_steps(owner, spec.limits.memory_bytes() / 2));
    steps.push(LaunchStep::ShowEnvd {
        target: PathBuf::from(ENVD_PATH),
    });
    steps.push(LaunchStep::BindReadOnly {
        source: places.sys.clone(),
        target: PathBuf::from("sys"),
    });
    steps.extend(volume_steps(spec, files, owner));
    steps
}

/// Descriptors 3 and 4 are the boot document and the status pipe; the kept files of cgroups follow, the counter of kills
/// last.
fn envd_argv(limit_hierarchies: usize) -> Vec<String> {
    let mut argv = ["envd", "--boot-fd", "3", "--status-fd", "4"]
        .map(str::to_owned)
        .to_vec();
    for number in 5..5 + limit_hierarchies {
        argv.extend(["--user-cgroup-fd".to_owned(), number.to_string()]);
    }
    argv.extend(["--oom-fd".to_owned(), (5 + limit_hierarchies).to_string()]);
    argv
}

fn root_steps(
    spec: &SandboxSpec,
    files: &SandboxFiles,
    places: &Places,
    own_disk: bool,
    owner: u32,
) -> Vec<LaunchStep> {
    let layers = places.layer_paths(spec);
    let mut steps: Vec<LaunchStep> = layers
        .iter()
        .map(|path| LaunchStep::IdmapInPlace {
            path: path.clone(),
            read_only: true,
        })
        .collect();
    steps.push(if own_disk {
        LaunchStep::AttachDisk {
            target: files.disk(),
        }
    } else {
        LaunchStep::IdmapInPlace {
            path: files.disk(),
            read_only: false,
        }
    });
    let relative = |path: &Path| path.strip_prefix(&places.data).unwrap_or(path).to_owned();
    steps.push(LaunchStep::MountOverlay {
        base: places.data.clone(),
        lower: layers.iter().map(|path| relative(path)).collect(),
        upper: relative(&files.upper()),
        work: relative(&files.work()),
        target: places.root.clone(),
        owner,
        two_disks: own_disk,
    });
    steps
}

fn device_steps(uid_base: u32, shm_bytes: u64) -> [LaunchStep; 4] {
    let at = |path: &str| PathBuf::from(path);
    [
        LaunchStep::MountTmpfs {
            target: at("dev"),
            size_bytes: DEV_BYTES,
            mode: 0o755,
            owner: uid_base,
        },
        LaunchStep::PopulateDev {
            target: at("dev"),
            owner: uid_base,
        },
        LaunchStep::MountDevpts {
            target: at("dev/pts"),
            tty_gid: uid_base + TTY_GID,
        },
        LaunchStep::MountTmpfs {
            target: at("dev/shm"),
            size_bytes: shm_bytes,
            mode: 0o1777,
            owner: uid_base,
        },
    ]
}

fn volume_steps(
    spec: &SandboxSpec,
    files: &SandboxFiles,
    owner: u32,
) -> impl Iterator<Item = LaunchStep> {
    let mounts = spec.volumes.iter().enumerate();
    mounts.map(move |(number, mount)| LaunchStep::MountVolume {
        scratch: files.volume(number),
        target: PathBuf::from(mount.path.trim_matches('/')),
        owner,
    })
}

fn hold(name: &str, source: &Path) -> LaunchStep {
    LaunchStep::HoldReadOnly {
        name: name.to_owned(),
        source: source.to_owned(),
    }
}

fn hold_steps(
    files: &SandboxFiles,
    places: &Places,
    host: &HostFacts,
    cut_cpus: bool,
) -> Vec<LaunchStep> {
    let mut steps = vec![
        hold("empty-file", &places.empty_file),
        hold("empty-directory", &places.empty_directory),
    ];
    let shadowed = shadowed(host, cut_cpus);
    steps.extend(shadowed.map(|name| hold(name, &files.proc_file(name))));
    steps
}

/// What is covered with files that tell of the sandbox, of what this kernel has.
fn shadowed(host: &HostFacts, cut_cpus: bool) -> impl Iterator<Item = &'static str> {
    let names = shadow::NAMES
        .into_iter()
        .filter(|name| host.proc_entries.contains(*name));
    names.chain(cut_cpus.then_some("cpuinfo"))
}

fn proc_steps(host: &HostFacts, cut_cpus: bool) -> Vec<LaunchStep> {
    let present = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .filter(|name| host.proc_entries.contains(**name))
            .map(|name| (*name).to_owned())
            .collect()
    };
    let mut steps = vec![
        LaunchStep::MountProc,
        LaunchStep::MaskProc {
            files: present(&MASKED_FILES),
            directories: present(&MASKED_DIRECTORIES),
        },
        LaunchStep::ReadOnlyProc {
            name: "sys".to_owned(),
        },
    ];
    steps.extend(shadowed(host, cut_cpus).map(|name| LaunchStep::ShadowProc {
        name: name.to_owned(),
    }));
    steps
}

/// Spreads sandboxes over the CPUs: slot after slot takes the next ones.
fn choose_cpus(cpus: &[u32], count: u32, slot: SlotIndex) -> Vec<u32> {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(cpus.len());
    let first = usize::from(slot.index()).wrapping_mul(count);
    (0..count).map(|i| cpus[(first + i) % cpus.len()]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use soulbox_launch_plan::validate;
    use soulbox_types::slot::Block;
    use soulbox_types::{Limits, TemplateImage, VolumeId, VolumeMount};

    use super::*;

    fn spec(limits: Limits) -> SandboxSpec {
        SandboxSpec {
            id: "iabcdefghij0123456789".parse().unwrap(),
            image: TemplateImage {
                template_id: "basebasebasebasebase".parse().unwrap(),
                layers: [0xbb, 0xaa]
                    .map(|byte| LayerDigest::from_bytes([byte; 32]))
                    .into(),
                default_user: "user".to_owned(),
                default_workdir: None,
            },
            limits,
            network: NetworkMode::Internet,
            env_vars: BTreeMap::new(),
            envd_access_token: "secret".to_owned(),
            volumes: Vec::new(),
            team: None,
        }
    }

    fn plan(limits: Limits, cpus: u32) -> LaunchPlan {
        plan_on(limits, cpus, true)
    }

    fn plan_on(limits: Limits, cpus: u32, own_disks: bool) -> LaunchPlan {
        plan_of(&spec(limits), cpus, own_disks)
    }

    fn plan_of(spec: &SandboxSpec, cpus: u32, own_disks: bool) -> LaunchPlan {
        let slot = SlotIndex::new(Block::new(0).unwrap(), 3).unwrap();
        let files = SandboxFiles {
            directory: PathBuf::from("/d/sandboxes/x"),
            view: PathBuf::from("/r/views/sb0/x"),
        };
        let places = Places {
            data: PathBuf::from("/d"),
            layers: PathBuf::from("/d/layers"),
            root: PathBuf::from("/d/run/root"),
            empty_file: PathBuf::from("/d/run/empty-file"),
            empty_directory: PathBuf::from("/d/run/empty"),
            sys: PathBuf::from("/d/run/sys-2"),
        };
        let proc_entries = ["keys", "bus", "meminfo", "sys", "cpuinfo", "sys/fs/file-nr"]
            .map(str::to_owned)
            .into();
        let host = HostFacts {
            cpus: (0..cpus).collect(),
            proc_entries,
            limit_hierarchies: 2,
            own_disks,
            has_scopes: true,
            may_protect_envd: true,
            open_files_limit: 1 << 20,
        };
        launch_plan(spec, slot, &files, &places, &host, &[(6, 0, 0, 0)])
    }

    #[test]
    fn whole_plan_with_fewer_cpus_than_the_host() {
        insta::assert_snapshot!(plan(Limits::STANDARD, 4));
    }

    #[test]
    fn every_plan_is_valid() {
        for vcpu_count in 1..8 {
            let plan = plan(
                Limits {
                    vcpu_count,
                    ..Limits::STANDARD
                },
                4,
            );
            validate(&plan).unwrap();
            assert_eq!(LaunchPlan::decode(&plan.encode().unwrap()).unwrap(), plan);
        }
    }

    #[test]
    fn disks_are_attached_or_are_directories_of_the_data_directory() {
        for (own_disks, step) in [
            (true, "attach-disk /d/sandboxes/x/disk\n"),
            (false, "idmap-in-place /d/sandboxes/x/disk rw\n"),
        ] {
            let plan = plan_on(Limits::STANDARD, 4, own_disks);
            validate(&plan).unwrap();
            let text = plan.to_string();
            assert!(text.contains(step), "{text}");
            assert_eq!(
                text.matches("sandboxes/x/disk\n").count(),
                usize::from(own_disks)
            );
            assert_eq!(text.contains(" two-disks\n"), own_disks);
        }
    }

    #[test]
    fn volumes_come_after_all_that_the_sandbox_itself_is_given() {
        let mut spec = spec(Limits::STANDARD);
        spec.volumes = ["/data", "/mnt/other/"]
            .map(|path| VolumeMount {
                volume: VolumeId::random(),
                path: path.to_owned(),
            })
            .into();
        let plan = plan_of(&spec, 4, true);
        validate(&plan).unwrap();
        let text = plan.to_string();
        let wanted = "bind-read-only /d/run/sys-2 at sys\n\
             mount-volume data by /d/sandboxes/x/volume-0 owner=1879244800\n\
             mount-volume mnt/other by /d/sandboxes/x/volume-1 owner=1879244800\n\
             hold-read-only";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn a_plan_names_no_secret() {
        assert!(!format!("{:?}", plan(Limits::STANDARD, 4)).contains("secret"));
    }

    #[test]
    fn slot_plans() {
        let slot = SlotIndex::new(Block::new(0).unwrap(), 3).unwrap();
        let root = PathBuf::from("/cg");
        let cgroup = SlotCgroup::new(crate::cgroup::Hierarchies::Unified { root }, slot);
        insta::assert_snapshot!(slot_plan(slot, &cgroup, &NetworkMode::Internet, true));
    }

    #[test]
    fn cpus_are_spread() {
        let slot = |i| SlotIndex::new(Block::new(0).unwrap(), i).unwrap();
        assert_eq!(choose_cpus(&[0, 1, 2, 3], 2, slot(0)), [0, 1]);
        assert_eq!(choose_cpus(&[0, 1, 2, 3], 2, slot(1)), [2, 3]);
        assert_eq!(choose_cpus(&[0, 1, 2], 2, slot(1)), [2, 0]);
    }
}

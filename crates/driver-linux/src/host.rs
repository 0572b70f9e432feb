//! What this server needs from its host, gathered and prepared once at start.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use soulbox_launch_plan::{LaunchPlan, SlotPlan};
use soulbox_linux::seccomp::Instruction;
use soulbox_linux::{exec, landlock, mount};
use soulbox_types::slot::Block;
use soulbox_types::{SandboxSpec, SlotIndex};

use crate::cgroup::{Hierarchies, SlotCgroup, make_shared_dir};
use crate::disk::{self, Backing, BackingChoice, Disks};
use crate::driver::Settings;
use crate::layers::Layers;
use crate::memory::Criu;
use crate::plan::{HostFacts, Places, SandboxFiles, launch_plan, slot_plan};
use crate::policies::Policies;
use crate::view::HostTexts;
use crate::volumes::Volumes;
use crate::{program, seccomp, shadow, view};

/// The programs that the driver brings into sandboxes.
#[derive(Debug, Clone, Copy)]
pub struct Programs<'a> {
    /// `soulbox-jail`.
    pub jail: &'a [u8],
    /// `soulbox-envd`.
    pub envd: &'a [u8],
    /// `soulbox-tar`.
    pub tar: &'a [u8],
}

/// Directory beside the views of sandboxes that holds what they share. No sandbox's id begins with a dot.
const COVERS: &str = ".covers";

/// Everything that launches share. Read-only after start.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) block: Block,
    /// Whether cables have IPv6.
    pub(crate) has_ipv6: bool,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) disks: Disks,
    pub(crate) layers: Layers,
    pub(crate) volumes: Volumes,
    pub(crate) policies: Policies,
    pub(crate) facts: HostFacts,
    pub(crate) texts: HostTexts,
    pub(crate) seccomp: Vec<Instruction>,
    pub(crate) jail: OwnedFd,
    /// envd's program, in a directory that is named by what is in it.
    envd: PathBuf,
    pub(crate) boot_id: String,
    /// What writes sandboxes to disk, or why there is nothing that does.
    pub(crate) criu: Result<Criu, String>,
    data: PathBuf,
    layers_dir: PathBuf,
    run: PathBuf,
    sandboxes: PathBuf,
}

impl Host {
    pub(crate) fn prepare(settings: &Settings, programs: Programs<'_>) -> io::Result<Self> {
        let (data_dir, layers_dir) = (settings.data_dir.as_path(), settings.layers_dir.as_path());
        let block = settings.block;
        let hierarchies = Hierarchies::detect()?;
        hierarchies.prepare_block(&block.prefix())?;
        if let Err(error) = Hierarchies::move_fast() {
            tracing::info!(%error, "this host moves processes between cgroups slowly: creates take some milliseconds more");
        }
        let run = data_dir.join("run");
        let sandboxes = data_dir.join("sandboxes");
        // 0700: the files of sandboxes carry set-id bits and owners that must mean nothing to users of the host.
        let memory = data_dir.join("memory");
        for directory in [data_dir, &run, &sandboxes, &memory, &run.join("root")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        for directory in [&run, &sandboxes, &memory] {
            fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        }
        view::prepare(block)?;
        // What covers others with it is read by users inside.
        let covers = view::directory(block).join(COVERS);
        let empty = covers.join("empty");
        make_shared_dir(&empty)?;
        fs::set_permissions(&empty, Permissions::from_mode(0o755))?;
        fs::write(covers.join("empty-file"), "")?;
        let envd = program::keep(&covers, programs.envd)?;
        let disks = Disks::prepare(data_dir, settings.disk)?;
        Ok(Self {
            block,
            has_ipv6: settings.has_ipv6,
            policies: Policies::of(settings),
            facts: facts(&hierarchies, disks.backing())?,
            criu: settings.criu_dir.as_deref().map_or_else(
                || Err("no CRIU is configured\nFIX: soulbox criu".to_owned()),
                Criu::find,
            ),
            disks,
            hierarchies,
            texts: HostTexts::read()?,
            seccomp: seccomp::program(),
            jail: exec::sealed_memfd("soulbox-jail", programs.jail, true)?,
            envd,
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?
                .trim()
                .to_owned(),
            data: data_dir.to_owned(),
            layers: Layers::new(layers_dir, programs.tar)?,
            volumes: Volumes::prepare(data_dir)?,
            layers_dir: layers_dir.to_owned(),
            run,
            sandboxes,
        })
    }

    pub(crate) fn sandboxes_dir(&self) -> &Path {
        &self.sandboxes
    }

    /// Where memory of sandboxes is.
    pub(crate) fn memory_dir(&self) -> PathBuf {
        self.data.join("memory")
    }

    /// What sandboxes are shown of the host lies here.
    pub(crate) fn covers(&self) -> PathBuf {
        view::directory(self.block).join(COVERS)
    }

    /// A mount of envd's program for one sandbox.
    pub(crate) fn mount_envd(&self) -> io::Result<OwnedFd> {
        mount::detached_program(&self.envd)
    }

    pub(crate) fn files(&self, id: &str) -> SandboxFiles {
        SandboxFiles {
            directory: self.sandboxes.join(id),
            view: view::directory(self.block).join(id),
        }
    }

    /// How many CPUs a sandbox sees that may use this many.
    pub(crate) fn visible_cpus(&self, vcpu_count: u32) -> u32 {
        u32::try_from(self.facts.cpus.len()).map_or(vcpu_count, |cpus| vcpu_count.min(cpus))
    }

    /// The places for a sandbox with this many CPUs; makes its `/sys` when it is the first of its size.
    pub(crate) fn places(&self, vcpu_count: u32) -> io::Result<Places> {
        let visible = usize::try_from(vcpu_count)
            .unwrap_or(usize::MAX)
            .min(self.facts.cpus.len());
        let covers = view::directory(self.block).join(COVERS);
        let sys = covers.join(format!("sys-{visible}"));
        if !sys.exists() {
            make_sys(&covers, &sys, visible)?;
        }
        Ok(Places {
            data: self.data.clone(),
            layers: self.layers_dir.clone(),
            root: self.run.join("root"),
            empty_file: covers.join("empty-file"),
            empty_directory: covers.join("empty"),
            sys,
        })
    }
}

/// The plans that a sandbox would be made by on this host, for people to read. Changes nothing.
///
/// # Errors
/// When the host lacks something that a driver needs.
pub fn plans_for(
    spec: &SandboxSpec,
    data_dir: &Path,
    slot: SlotIndex,
) -> io::Result<(SlotPlan, LaunchPlan)> {
    let hierarchies = Hierarchies::detect()?;
    // What cannot be tried here is taken to be what most hosts have.
    let backing = disk::probe(data_dir, BackingChoice::Auto).unwrap_or(Backing::Image);
    let facts = facts(&hierarchies, backing)?;
    let run = data_dir.join("run");
    let visible = usize::try_from(spec.limits.vcpu_count)
        .unwrap_or(usize::MAX)
        .min(facts.cpus.len());
    let covers = view::directory(slot.block()).join(COVERS);
    let places = Places {
        data: data_dir.to_owned(),
        layers: data_dir.join("layers"),
        root: run.join("root"),
        empty_file: covers.join("empty-file"),
        empty_directory: covers.join("empty"),
        sys: covers.join(format!("sys-{visible}")),
    };
    let files = SandboxFiles {
        directory: data_dir.join("sandboxes").join(spec.id.as_str()),
        view: view::directory(slot.block()).join(spec.id.as_str()),
    };
    let launch = launch_plan(spec, slot, &files, &places, &facts, &seccomp::program());
    Ok((
        slot_plan(
            slot,
            &SlotCgroup::new(hierarchies, slot),
            &spec.network,
            false,
        ),
        launch,
    ))
}

fn facts(hierarchies: &Hierarchies, backing: Backing) -> io::Result<HostFacts> {
    let cpus = rustix::thread::sched_getaffinity(None)?;
    let cpus = (0..u32::try_from(rustix::thread::CpuSet::MAX_CPU).unwrap_or(1024))
        .filter(|cpu| usize::try_from(*cpu).is_ok_and(|cpu| cpus.is_set(cpu)))
        .collect();
    let mut proc_entries = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        proc_entries.extend(
            name.to_str()
                .filter(|n| !n.starts_with(|c: char| c.is_ascii_digit()))
                .map(str::to_owned),
        );
    }
    let nested = shadow::NAMES.iter().filter(|name| name.contains('/'));
    let there = nested.filter(|name| Path::new("/proc").join(name).exists());
    proc_entries.extend(there.map(|name| (*name).to_owned()));
    let effective = rustix::thread::capabilities(None)?.effective;
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    Ok(HostFacts {
        cpus,
        proc_entries,
        limit_hierarchies: hierarchies.split_count(),
        own_disks: backing == Backing::Image,
        has_scopes: landlock::abi() >= landlock::ABI_WITH_SCOPES,
        may_protect_envd: effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE),
        open_files_limit: open_files.unwrap_or(u64::MAX),
    })
}

/// A directory that answers what programs ask of `/sys`: how many CPUs there are. Everything else of the host's stays
/// outside. Made beside its place and renamed, so that two launches cannot see it half made.
fn make_sys(run: &Path, target: &Path, cpus: usize) -> io::Result<()> {
    let draft = run.join(format!("sys-draft-{}", soulbox_types::id::random_label(8)));
    let cpu = draft.join("devices/system/cpu");
    fs::create_dir_all(&cpu)?;
    for directory in ["fs/cgroup", "class/net", "kernel", "block", "bus"] {
        fs::create_dir_all(draft.join(directory))?;
    }
    let list = if cpus <= 1 {
        "0\n".to_owned()
    } else {
        format!("0-{}\n", cpus - 1)
    };
    for name in ["online", "possible", "present"] {
        fs::write(cpu.join(name), &list)?;
    }
    for number in 0..cpus {
        fs::create_dir_all(cpu.join(format!("cpu{number}")))?;
    }
    match fs::rename(&draft, target) {
        Ok(()) => Ok(()),
        // Another launch was first.
        Err(_) if target.exists() => fs::remove_dir_all(&draft),
        Err(error) => Err(error),
    }
}

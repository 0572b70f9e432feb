//! The slot half of a plan: what can be done before anybody asks for a sandbox.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::thread::UnshareFlags;
use soulbox_launch_plan::{SlotPlan, SlotStep};
use soulbox_linux::namespace::{self, Owned};
use soulbox_linux::{exec, mount};

use crate::{Failure, network};

/// What a prepared slot holds on to.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The sandbox's user namespace, and those that belong to it.
    pub(crate) namespaces: Owned,
    /// The host's mounts: file systems that the kernel lets nobody make in a namespace like the sandbox's are made there,
    /// and nothing is ever attached.
    pub(crate) host_mounts: OwnedFd,
    /// `cgroup.procs` files of the user's limits, then the counter of kills.
    pub(crate) cgroups: Vec<OwnedFd>,
}

pub(crate) fn prepare(plan: &SlotPlan) -> Result<Slot, Failure> {
    let mut made = None;
    let mut host_mounts = None;
    let mut cgroups = Vec::new();
    for step in &plan.steps {
        let fail = |detail: &str, source: io::Error| Failure::new(step.name(), detail, source);
        match step {
            SlotStep::NewSession => {
                rustix::process::setsid().map_err(|e| fail("setsid", e.into()))?;
            }
            SlotStep::JoinCgroups { procs_files } => {
                for file in procs_files {
                    fs::write(file, "0").map_err(|e| fail(&file.display().to_string(), e))?;
                }
            }
            SlotStep::KeepCgroups {
                procs_files,
                oom_file,
            } => {
                let to_write = procs_files.iter().map(|path| (path, true));
                for (path, write) in to_write.chain([(oom_file, false)]) {
                    let opened = fs::File::options().write(write).read(!write).open(path);
                    let file = opened.map_err(|e| fail(&path.display().to_string(), e))?;
                    cgroups.push(exec::lift(file).map_err(|e| fail("cgroup file", e))?);
                }
            }
            SlotStep::CreateNamespaces { uid_base, count } => {
                let namespaces = namespace::create_owned(*uid_base, *count);
                made = Some(namespaces.map_err(|e| fail("user namespace", e))?);
            }
            SlotStep::EnterNetwork(plan) => {
                let namespaces = made.as_ref().ok_or_else(lacks_namespaces)?;
                network::enter(&namespaces.network, plan).map_err(|(what, e)| fail(what, e))?;
            }
            SlotStep::EnterMountIpcUtsCgroup => {
                let opened = namespace::open(Path::new("/proc/self/ns/mnt"));
                host_mounts = Some(opened.map_err(|e| fail("/proc/self/ns/mnt", e))?);
                let namespaces = made.as_ref().ok_or_else(lacks_namespaces)?;
                namespace::enter_mount_ipc_uts(namespaces).map_err(|e| fail("setns", e))?;
                namespace::unshare(UnshareFlags::NEWCGROUP).map_err(|e| fail("unshare", e))?;
            }
            SlotStep::MakeMountsPrivate => {
                mount::make_all_private().map_err(|e| fail("/", e))?;
            }
        }
    }
    match (made, host_mounts) {
        (Some(namespaces), Some(host_mounts)) => Ok(Slot {
            namespaces,
            host_mounts,
            cgroups,
        }),
        _ => Err(lacks_namespaces()),
    }
}

fn lacks_namespaces() -> Failure {
    Failure::new(
        "read-plan",
        "slot plan lacks a namespace",
        io::ErrorKind::InvalidData.into(),
    )
}

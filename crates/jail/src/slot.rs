//! The slot half of a plan: what can be done before anybody asks for a sandbox.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::thread::UnshareFlags;
use soulbox_launch_plan::{SlotPlan, SlotStep};
use soulbox_linux::{exec, mount, namespace};

use crate::{Failure, network};

/// What a prepared slot holds on to.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The sandbox's network namespace.
    pub(crate) network: OwnedFd,
    /// The sandbox's user namespace.
    pub(crate) user: OwnedFd,
    /// `cgroup.procs` files of the user's limits, then the counter of kills.
    pub(crate) cgroups: Vec<OwnedFd>,
}

pub(crate) fn prepare(plan: &SlotPlan) -> Result<Slot, Failure> {
    let mut network = None;
    let mut user = None;
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
            SlotStep::CreateUserNamespace { uid_base, count } => {
                let made = namespace::create_user_namespace(*uid_base, *count);
                user = Some(made.map_err(|e| fail("user namespace", e))?);
            }
            SlotStep::UnshareNetwork(plan) => {
                network::enter(plan).map_err(|(what, e)| fail(what, e))?;
                let opened = namespace::open(Path::new("/proc/self/ns/net"));
                network = Some(opened.map_err(|e| fail("/proc/self/ns/net", e))?);
            }
            SlotStep::UnshareMountIpcUtsCgroup => {
                let flags = UnshareFlags::NEWNS
                    | UnshareFlags::NEWIPC
                    | UnshareFlags::NEWUTS
                    | UnshareFlags::NEWCGROUP;
                namespace::unshare(flags).map_err(|e| fail("unshare", e))?;
            }
            SlotStep::MakeMountsPrivate => {
                mount::make_all_private().map_err(|e| fail("/", e))?;
            }
        }
    }
    match (network, user) {
        (Some(network), Some(user)) => Ok(Slot {
            network,
            user,
            cgroups,
        }),
        _ => Err(Failure::new(
            "read-plan",
            "slot plan lacks a namespace",
            io::ErrorKind::InvalidData.into(),
        )),
    }
}

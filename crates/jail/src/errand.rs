//! What a jail does instead of waiting in a slot.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use soulbox_launch_plan::{DumpPlan, LaunchStep, ProcPlan, Reply};
use soulbox_linux::namespace::{self, Owned};
use soulbox_linux::{capability, exec};

use crate::slot::Slot;
use crate::{Failure, answer, launch};

/// A program that is to read what a guest has written finds nothing of the host's by its environment.
pub(crate) const BARE_ENVIRONMENT: [&str; 2] = ["PATH=/nonexistent", "HOME=/nonexistent"];
/// The same, and where CRIU keeps what it knows about the kernel: its working directory is descriptor 5.
pub(crate) const RESTORER_ENVIRONMENT: [&str; 3] = [
    BARE_ENVIRONMENT[0],
    BARE_ENVIRONMENT[1],
    "XDG_RUNTIME_DIR=/proc/self/fd/5/runtime",
];

/// Returns only on failure.
pub(crate) fn become_dumper(plan: &DumpPlan) -> Failure {
    let become_it = || -> io::Result<io::Error> {
        rustix::process::setsid()?;
        let loader: OwnedFd = File::open(&plan.loader)?.into();
        let null = exec::lift(File::options().read(true).write(true).open("/dev/null")?)?;
        let loader = exec::lift(loader)?;
        let network = format!("/proc/{}/ns/net", plan.network_of);
        namespace::enter_network(namespace::open(Path::new(&network))?)?;
        capability::become_with_all(plan.owner)?;
        exec::keep_only_fds(&[null.as_fd(), null.as_fd(), null.as_fd()])?;
        let strings = |list: &mut dyn Iterator<Item = &str>| -> io::Result<Vec<CString>> {
            list.map(|text| CString::new(text).map_err(io::Error::from))
                .collect()
        };
        let argv = strings(&mut plan.argv.iter().map(String::as_str))?;
        let environment = strings(&mut BARE_ENVIRONMENT.into_iter())?;
        Ok(exec::exec_fd(loader.as_fd(), &argv, &environment))
    };
    let loader = plan.loader.display().to_string();
    let (Ok(error) | Err(error)) = become_it();
    Failure::new("exec-dumper", loader, error)
}

/// Enters the namespaces of processes and mounts of a sandbox of which nothing runs yet, and carries out the steps there.
pub(crate) fn replace_proc(control: &OwnedFd, plan: &ProcPlan) -> Result<(), Failure> {
    let fail = |detail: &str, source: io::Error| Failure::new("replace-proc", detail, source);
    let of = |name: &str| namespace::open(Path::new(&format!("/proc/{}/ns/{name}", plan.pid)));
    let open = || -> io::Result<(OwnedFd, Slot)> {
        let namespaces = Owned {
            user: of("user")?,
            mount: of("mnt")?,
            network: of("net")?,
            ipc: of("ipc")?,
            uts: of("uts")?,
        };
        let slot = Slot {
            namespaces,
            host_mounts: namespace::open(Path::new("/proc/self/ns/mnt"))?,
            cgroups: Vec::new(),
        };
        Ok((of("pid")?, slot))
    };
    let (processes, slot) = open().map_err(|e| fail("namespaces", e))?;
    let (held, rest): (Vec<_>, Vec<_>) = plan
        .steps
        .iter()
        .partition(|step| matches!(step, LaunchStep::HoldReadOnly { .. }));
    let mut steps = launch::steps_of(&slot);
    steps.carry_out(&held)?;
    let code = namespace::among_processes_of(&processes, || {
        let done = namespace::enter_mount(&slot.namespaces.mount)
            .map_err(|e| fail("setns", e))
            .and_then(|()| steps.carry_out(&rest));
        match done {
            Ok(()) => 0,
            Err(failure) => {
                // Nobody else can tell what went wrong.
                drop(answer(control, &failure.reply(), &[]));
                126
            }
        }
    });
    match code.map_err(|e| fail("child", e))? {
        0 => answer(control, &Reply::Done, &[]),
        // It has answered.
        _ => Ok(()),
    }
}

//! Carries out a launch plan, then becomes envd.
//!
//! The server starts this program once per slot with one socket as standard input. It reads a slot plan, carries it
//! out, answers, and waits. When a sandbox is created it reads the launch plan with its descriptors (a mount of envd's
//! program, the boot document, the status pipe, the mounts of disks), carries that out and is replaced by envd.
//! When the server goes away before that, so does this process.
//!
//! Two errands come in the place of a slot plan: to become the program that writes a checkpoint, and to give a sandbox that
//! is being brought back its `/proc`. Under the name of an action script it asks the server whether CRIU may go on.
//!
//! It is a program of its own because what it does (new namespaces, fork) is forbidden in a process with threads.
//! It decides nothing: every choice is in the plan.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use soulbox_launch_plan::{LaunchPlan, Order, Reply, SlotPlan, validate};
use soulbox_linux::{exec, socket};

mod dev;
mod errand;
mod hook;
mod launch;
mod network;
mod slot;

/// Larger than any plan; a longer message is refused.
const MESSAGE_LIMIT: usize = 128 * 1024;

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    step: &'static str,
    detail: String,
    source: io::Error,
}

impl Failure {
    pub(crate) fn new(step: &'static str, detail: impl Into<String>, source: io::Error) -> Self {
        Self {
            step,
            detail: detail.into(),
            source,
        }
    }

    fn reply(&self) -> Reply {
        Reply::Failed {
            step: self.step.to_owned(),
            errno: self.source.raw_os_error().unwrap_or(0),
            detail: format!("{}: {}", self.detail, self.source),
        }
    }
}

fn main() -> ExitCode {
    if let Some(action) = std::env::var_os(hook::ACTION) {
        return hook::ask(&action);
    }
    let Ok(control) = exec::lift(io::stdin()) else {
        return ExitCode::from(126);
    };
    match serve(&control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The server may be gone; then nobody is left to tell.
            drop(answer(&control, &failure.reply(), &[]));
            ExitCode::from(126)
        }
    }
}

/// Returns `Ok` in the parent when its work is done, or when the server is gone; never in the process that became envd.
fn serve(control: &OwnedFd) -> Result<(), Failure> {
    let Some((bytes, _)) = receive(control)? else {
        return Ok(());
    };
    match Order::decode(&bytes).map_err(|e| malformed(&e))? {
        Order::Slot(plan) => wait_in_slot(control, &plan),
        Order::Dump(plan) => Err(errand::become_dumper(&plan)),
        Order::Proc(plan) => errand::replace_proc(control, &plan),
    }
}

fn wait_in_slot(control: &OwnedFd, plan: &SlotPlan) -> Result<(), Failure> {
    let slot = slot::prepare(plan)?;
    answer(
        control,
        &Reply::SlotReady,
        &[slot.namespaces.network.as_fd()],
    )?;

    let Some((bytes, fds)) = receive(control)? else {
        return Ok(());
    };
    let plan = LaunchPlan::decode(&bytes).map_err(|e| malformed(&e))?;
    validate(&plan).map_err(|e| malformed(&e))?;
    let handed = launch::Handed::from_fds(fds, &plan)?;
    launch::carry_out(&plan, &slot, handed, |reply, fd| {
        let fds: Vec<_> = fd.map(AsFd::as_fd).into_iter().collect();
        answer(control, &reply, &fds)
    })
}

/// A message and the descriptors that came with it.
type Message = (Vec<u8>, Vec<OwnedFd>);

fn receive(control: &OwnedFd) -> Result<Option<Message>, Failure> {
    socket::receive(control, MESSAGE_LIMIT)
        .map_err(|e| Failure::new("receive-plan", "control socket", e))
}

fn answer(
    control: &OwnedFd,
    reply: &Reply,
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> Result<(), Failure> {
    let bytes = reply.encode().map_err(|e| malformed(&e))?;
    socket::send(control, &bytes, fds).map_err(|e| Failure::new("answer", "control socket", e))
}

fn malformed(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        "read-plan",
        error.to_string(),
        io::Error::from(io::ErrorKind::InvalidData),
    )
}

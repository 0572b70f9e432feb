//! Plans as text, one step a line, for `soulbox debug plan` and for snapshot tests.

use std::fmt::{self, Formatter};

use crate::{Ipv6Ends, LaunchStep, Network, SlotStep};

pub(crate) fn slot_step(f: &mut Formatter<'_>, step: &SlotStep) -> fmt::Result {
    write!(f, "{}", step.name())?;
    match step {
        SlotStep::NewSession | SlotStep::EnterMountIpcUtsCgroup | SlotStep::MakeMountsPrivate => {}
        SlotStep::KeepCgroups {
            procs_files,
            oom_file,
        } => {
            for file in procs_files.iter().chain([oom_file]) {
                write!(f, " {}", file.display())?;
            }
        }
        SlotStep::JoinCgroups { procs_files } => {
            for file in procs_files {
                write!(f, " {}", file.display())?;
            }
        }
        SlotStep::CreateNamespaces { uid_base, count } => {
            write!(f, " 0..{count} -> {uid_base}")?;
        }
        SlotStep::EnterNetwork(Network::Loopback) => write!(f, " loopback only")?,
        SlotStep::EnterNetwork(Network::Cable {
            host_link,
            address,
            gateway,
            ipv6,
        }) => {
            write!(f, " {address} via {gateway}, ")?;
            if let Some(Ipv6Ends { address, gateway }) = ipv6 {
                write!(f, "{address} via {gateway}, ")?;
            }
            write!(f, "host end {host_link}")?;
        }
    }
    writeln!(f)
}

pub(crate) fn launch_step(f: &mut Formatter<'_>, step: &LaunchStep) -> fmt::Result {
    write!(f, "{}", step.name())?;
    match step {
        LaunchStep::NewTimeNamespace
        | LaunchStep::ClonePid1
        | LaunchStep::NewSession
        | LaunchStep::MountProc
        | LaunchStep::BecomeGuestRoot
        | LaunchStep::CoverPreload
        | LaunchStep::UncoverPreload
        | LaunchStep::ReplaceProc
        | LaunchStep::RestrictScope => {}
        LaunchStep::IdmapInPlace { path, read_only } => {
            write!(
                f,
                " {}{}",
                path.display(),
                if *read_only { " ro" } else { " rw" }
            )?;
        }
        LaunchStep::AttachDisk { target }
        | LaunchStep::ShowEnvd { target }
        | LaunchStep::MountWholeProc { target } => write!(f, " {}", target.display())?,
        LaunchStep::MountOverlay { .. } => overlay(f, step)?,
        LaunchStep::MountTmpfs {
            target,
            size_bytes,
            mode,
            owner,
        } => {
            write!(
                f,
                " {} size={size_bytes} mode={mode:o} owner={owner}",
                target.display()
            )?;
        }
        LaunchStep::PopulateDev { target, owner } => {
            write!(f, " {} owner={owner}", target.display())?;
        }
        LaunchStep::MountDevpts { target, tty_gid } => {
            write!(f, " {} gid={tty_gid}", target.display())?;
        }
        LaunchStep::BindReadOnly { source, target } => {
            write!(f, " {} at {}", source.display(), target.display())?;
        }
        LaunchStep::MountVolume { .. } => volume(f, step)?,
        LaunchStep::PivotRoot { new_root } => write!(f, " {}", new_root.display())?,
        LaunchStep::SetHostname { name } => write!(f, " {name}")?,
        LaunchStep::MaskProc { files, directories } => {
            write!(
                f,
                " files={} directories={}",
                files.join(","),
                directories.join(",")
            )?;
        }
        LaunchStep::ReadOnlyProc { name } => write!(f, " {name}")?,
        LaunchStep::HoldReadOnly { name, source } => write!(f, " {name} = {}", source.display())?,
        LaunchStep::ShadowProc { name } => write!(f, " {name}")?,
        LaunchStep::SetCpus { cpus } => write!(f, " {cpus:?}")?,
        LaunchStep::SetOomScore { value } => write!(f, " {value}")?,
        LaunchStep::SetRlimit { resource, value } => write!(f, " {resource:?}={value}")?,
        LaunchStep::KeepCapabilities { keep } => write!(f, " {keep:?}")?,
        LaunchStep::InstallSeccomp { program } => write!(f, " {} instructions", program.len())?,
        LaunchStep::ResumeTimeNamespace { .. } | LaunchStep::ExecRestorer { .. } => {
            of_restores(f, step)?;
        }
        LaunchStep::ExecEnvd { argv } => write!(f, " {}", argv.join(" "))?,
    }
    writeln!(f)
}

fn overlay(f: &mut Formatter<'_>, step: &LaunchStep) -> fmt::Result {
    let LaunchStep::MountOverlay {
        lower,
        upper,
        work,
        target,
        owner,
        base,
        two_disks,
    } = step
    else {
        return Ok(());
    };

    let lower: Vec<_> = lower.iter().map(|p| p.display().to_string()).collect();
    let (upper, work, target) = (upper.display(), work.display(), target.display());
    write!(
        f,
        " {target} base={} lower={} upper={upper} work={work} owner={owner}{}",
        base.display(),
        lower.join(","),
        if *two_disks { " two-disks" } else { "" }
    )
}

fn of_restores(f: &mut Formatter<'_>, step: &LaunchStep) -> fmt::Result {
    match step {
        LaunchStep::ResumeTimeNamespace {
            boottime_ns,
            monotonic_ns,
        } => write!(f, " boottime={boottime_ns} monotonic={monotonic_ns}"),
        LaunchStep::ExecRestorer { loader, argv } => {
            write!(f, " {} {}", loader.display(), argv.join(" "))
        }
        _ => Ok(()),
    }
}

fn volume(f: &mut Formatter<'_>, step: &LaunchStep) -> fmt::Result {
    let LaunchStep::MountVolume {
        scratch,
        target,
        owner,
    } = step
    else {
        return Ok(());
    };
    let (target, scratch) = (target.display(), scratch.display());
    write!(f, " {target} by {scratch} owner={owner}")
}

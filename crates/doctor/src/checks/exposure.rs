//! What a program inside could make use of if a first fence did not hold, and what users of this machine can see.

use crate::facts::Facts;
use crate::modules::ModuleState;
use crate::report::Check;
use crate::vulnerabilities::{self, Running, Verdict, Vulnerability};

pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks: Vec<Check> = vulnerabilities::ALL
        .iter()
        .map(|bug| vulnerability(bug, facts))
        .collect();
    checks.extend([
        modules(facts),
        landlock(facts),
        security_modules(facts),
        user_namespaces(facts),
        ksm(facts),
        smt(facts),
        hidden_processes(facts),
    ]);
    checks
}

fn vulnerability(bug: &Vulnerability, facts: &Facts) -> Check {
    let running = Running::from_texts(
        &facts.kernel_release,
        &facts.kernel_build,
        facts.kernel_signature.as_deref(),
    );
    let Some(running) = running else {
        return Check::warn(
            bug.id,
            format!("{}: this kernel's version is not understood", bug.what),
            "boot the kernel of a distribution",
        );
    };
    let state = |name: &str| {
        let known = facts.modules.iter().find(|(module, _)| *module == name);
        known.map(|(_, state)| *state)
    };
    let (major, minor, patch) = vulnerabilities::way_out(bug, running.version);
    match vulnerabilities::judge(bug, running, state) {
        Verdict::Absent => Check::ok(bug.id, format!("{}: not in this version", bug.what)),
        Verdict::Unreachable => Check::ok(
            bug.id,
            format!("{}: its code cannot be loaded here", bug.what),
        ),
        Verdict::Present => Check::warn(
            bug.id,
            format!("{}: in this kernel. In its way: {}", bug.what, bug.barrier),
            format!("boot Linux {major}.{minor}.{patch} or newer"),
        ),
        Verdict::CannotTell => Check::warn(
            bug.id,
            format!(
                "{}: cannot tell for this distribution's kernel. In its way: {}",
                bug.what, bug.barrier
            ),
            "update the kernel, and ask the distribution's security tracker for this number",
        ),
    }
}

fn landlock(facts: &Facts) -> Check {
    match facts.landlock {
        Some(version) => Check::ok("landlock", format!("version {version}")),
        None => Check::warn(
            "landlock",
            "off: a second fence around files and sockets is missing",
            "boot with landlock in front of the list lsm=, on a kernel that has it",
        ),
    }
}

fn hidden_processes(facts: &Facts) -> Check {
    let hides = facts.proc_options.as_deref().is_some_and(|options| {
        options.split(',').any(|option| {
            option.starts_with("hidepid=") && !["hidepid=0", "hidepid=off"].contains(&option)
        })
    });
    let found = if hides {
        "of other users are hidden from users of this machine"
    } else {
        "are shown to every user of this machine, never to sandboxes"
    };
    Check::ok("processes", found)
}

fn ksm(facts: &Facts) -> Check {
    match facts.ksm.as_deref().map(str::trim) {
        Some("1") => Check::warn(
            "memory merging",
            "on: timing tells a sandbox what is in another's memory",
            "echo 2 > /sys/kernel/mm/ksm/run",
        ),
        _ => Check::ok("memory merging", "off"),
    }
}

fn smt(facts: &Facts) -> Check {
    match facts.smt.as_deref().map(str::trim) {
        Some("on") => Check::warn(
            "smt",
            format!(
                "on: sandboxes on one core share its caches; matters when tenants distrust each other{}",
                match facts.core_scheduling {
                    Some(true) =>
                        "; the kernel could keep them apart (core scheduling), SoulBox does not ask it to",
                    _ => "",
                }
            ),
            "echo off > /sys/devices/system/cpu/smt/control",
        ),
        Some(other) => Check::ok("smt", other.to_owned()),
        None => Check::ok("smt", "not known to this kernel"),
    }
}

fn modules(facts: &Facts) -> Check {
    let open = |(_, state): &&(&str, ModuleState)| {
        matches!(
            state,
            ModuleState::Loadable | ModuleState::Loaded | ModuleState::BuiltIn
        )
    };
    let names: Vec<&str> = facts
        .modules
        .iter()
        .filter(open)
        .map(|(name, _)| *name)
        .collect();
    if names.is_empty() {
        return Check::ok("risky modules", "none can be loaded");
    }
    let lines: Vec<String> = names
        .iter()
        .map(|name| format!("install {name} /bin/false"))
        .collect();
    let fix = format!(
        "printf '{}\\n' > /etc/modprobe.d/soulbox.conf",
        lines.join("\\n")
    );
    Check::warn(
        "risky modules",
        format!(
            "present: {}; no sandbox needs them, exploits do",
            names.join(", ")
        ),
        fix,
    )
}

fn user_namespaces(facts: &Facts) -> Check {
    let name = "user namespaces of others";
    match facts.unprivileged_user_namespaces {
        Some(true) => Check::warn(
            name,
            "any user of the host may make them, and many exploits begin so; sandboxes may not",
            "sysctl -w kernel.unprivileged_userns_clone=0 (rootless containers and browsers need them)",
        ),
        Some(false) => Check::ok(name, "root only; sandboxes are not affected"),
        None => Check::ok(
            name,
            "no switch in this kernel; sandboxes may not make them",
        ),
    }
}

/// One of those that confine programs by rules of the administrator.
const CONFINING: [&str; 4] = ["apparmor", "selinux", "smack", "tomoyo"];

fn security_modules(facts: &Facts) -> Check {
    let Some(list) = facts.security_modules.as_deref().map(str::trim) else {
        return Check::ok("security modules", "not known");
    };
    if list.split(',').any(|name| CONFINING.contains(&name)) {
        Check::ok("security modules", list)
    } else {
        Check::warn(
            "security modules",
            format!("{list}: none that confines programs of the host"),
            "boot with lsm=landlock,lockdown,yama,apparmor",
        )
    }
}

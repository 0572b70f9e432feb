//! The judgements. Each is a pure function from facts to a check.

use soulbox_artifacts::Suite;

use crate::facts::{Facts, Probe};
use crate::modules::ModuleState;
use crate::report::Check;

/// Overlayfs takes lower layers with mapped ids since this version (commit bc70682a497c, "ovl: support idmapped layers").
const OLDEST_KERNEL: (u32, u32) = (5, 19);
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
const GIB: u64 = 1 << 30;
/// Every sandbox holds a few dozen descriptors of the server.
const OPEN_FILES: u64 = 65_536;

/// Every check, those that sandboxes cannot do without first.
pub(crate) fn all(facts: &Facts) -> Vec<Check> {
    vec![
        root(facts),
        kernel(facts),
        probe(
            "namespaces",
            "user, mount, pid, net, ipc, uts, cgroup and time can be made",
            &facts.namespaces,
            NAMESPACES_FIX,
        ),
        probe(
            "idmapped mounts",
            "work on the data directory",
            &facts.idmapped_mount,
            "put --data-dir on ext4, xfs or btrfs",
        ),
        probe(
            "overlay",
            "works on the data directory",
            &facts.overlay,
            "put --data-dir on ext4, xfs or btrfs; modprobe overlay",
        ),
        seccomp(facts),
        cgroups(facts),
        probe(
            "nft",
            "works",
            &facts.nft,
            "apt-get install nftables; modprobe nf_tables",
        ),
        probe(
            "network links",
            "veth pairs and bridges can be made",
            &facts.links,
            "modprobe veth bridge; apt-get install iproute2",
        ),
        ip_forward(facts),
        forward_policy(facts),
        disk(facts),
        open_files(facts),
        bootstrap_tool(facts),
        keyring(facts),
        ksm(facts),
        smt(facts),
        modules(facts),
        user_namespaces(facts),
        security_modules(facts),
    ]
}

const NAMESPACES_FIX: &str = "sysctl -w user.max_user_namespaces=65536; inside a container: run SoulBox on the machine itself";

fn root(facts: &Facts) -> Check {
    if facts.is_root {
        Check::ok("root", "yes")
    } else {
        Check::fail("root", "no", "sudo soulbox doctor")
    }
}

fn kernel(facts: &Facts) -> Check {
    let found = format!("{} on {}", facts.kernel_release, facts.architecture);
    let (major, minor) = OLDEST_KERNEL;
    if facts.architecture != "x86_64" {
        return Check::fail("kernel", found, "use a machine with x86_64");
    }
    match version(&facts.kernel_release) {
        Some(version) if version >= OLDEST_KERNEL => Check::ok("kernel", found),
        _ => Check::fail(
            "kernel",
            found,
            format!("boot Linux {major}.{minor} or newer"),
        ),
    }
}

/// Major and minor of a release like `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn probe(name: &'static str, good: &str, outcome: &Probe, fix: &str) -> Check {
    match outcome {
        Ok(()) => Check::ok(name, good),
        Err(reason) => Check::fail(name, reason.clone(), fix),
    }
}

fn seccomp(facts: &Facts) -> Check {
    let Some(actions) = &facts.seccomp_actions else {
        return Check::fail(
            "seccomp",
            "the kernel has no system-call filters",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        );
    };
    let needed = ["kill_process", "errno", "allow"];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|action| !actions.split_whitespace().any(|a| a == *action))
        .collect();
    if missing.is_empty() {
        Check::ok("seccomp", "filters with kill_process, errno and allow")
    } else {
        Check::fail(
            "seccomp",
            format!("actions missing: {}", missing.join(", ")),
            "boot a newer kernel",
        )
    }
}

fn cgroups(facts: &Facts) -> Check {
    let missing_in = |have: &[String]| -> Vec<&str> {
        CONTROLLERS
            .into_iter()
            .filter(|c| !have.iter().any(|h| h == c))
            .collect()
    };
    let layout = &facts.cgroups;
    if let Some(unified) = &layout.unified
        && missing_in(unified).is_empty()
    {
        return Check::ok("cgroups", "v2 with memory, cpu and pids");
    }
    let missing = missing_in(&layout.legacy);
    if missing.is_empty() {
        let kind = if layout.unified.is_some() {
            "v1 with memory, cpu and pids, beside v2 (hybrid)"
        } else {
            "v1 with memory, cpu and pids"
        };
        return Check::ok("cgroups", kind);
    }
    let fix = "boot with systemd.unified_cgroup_hierarchy=1 (and cgroup_enable=memory where memory is missing)";
    Check::fail(
        "cgroups",
        format!("no hierarchy has {}", missing.join(", ")),
        fix,
    )
}

fn ip_forward(facts: &Facts) -> Check {
    match facts.ip_forward {
        Some(true) => Check::ok("ip forwarding", "on"),
        _ => Check::warn(
            "ip forwarding",
            "off: sandboxes would have no internet",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

fn forward_policy(facts: &Facts) -> Check {
    if facts.forward_drops.is_empty() {
        return Check::ok(
            "forward policy",
            "no other firewall drops forwarded packets by default",
        );
    }
    let found = format!(
        "dropped by default in {}: sandboxes may have no internet",
        facts.forward_drops.join(", ")
    );
    let fix = "iptables -I FORWARD -i sb+ -j ACCEPT && iptables -I FORWARD -o sb+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT \
        (with Docker: in the chain DOCKER-USER)";
    Check::warn("forward policy", found, fix)
}

fn disk(facts: &Facts) -> Check {
    let shown = facts.data_dir.display();
    let found = format!("{:.1} GiB free on {shown}", precise_gib(facts.free_bytes));
    let more = "free space there, or choose another --data-dir";
    if facts.free_bytes < GIB {
        Check::fail("disk", found, more)
    } else if facts.free_bytes < 5 * GIB {
        Check::warn("disk", found, more)
    } else if facts.free_inodes.is_some_and(|inodes| inodes < 200_000) {
        Check::warn(
            "disk",
            format!("{found}, few inodes"),
            "remove many small files there, or choose another --data-dir",
        )
    } else {
        Check::ok("disk", found)
    }
}

/// Tenths of a GiB are enough for a person, and no float has to hold a whole u64.
fn precise_gib(bytes: u64) -> f64 {
    let tenths = u32::try_from(bytes / (GIB / 10)).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}

fn open_files(facts: &Facts) -> Check {
    match facts.open_files {
        Some(limit) if limit < OPEN_FILES => {
            let fix = "ulimit -Hn 1048576 (as root), or LimitNOFILE=1048576 in the service's unit";
            Check::warn(
                "open files",
                format!("at most {limit}: enough for few sandboxes"),
                fix,
            )
        }
        Some(limit) => Check::ok("open files", format!("at most {limit}")),
        None => Check::ok("open files", "unlimited"),
    }
}

fn bootstrap_tool(facts: &Facts) -> Check {
    match (facts.has_mmdebstrap, facts.has_debootstrap) {
        (true, _) => Check::ok("bootstrap tool", "mmdebstrap"),
        (false, true) => Check::warn(
            "bootstrap tool",
            "debootstrap: works, slower",
            "apt-get install mmdebstrap",
        ),
        (false, false) => Check::warn(
            "bootstrap tool",
            "none: the base template cannot be built here",
            "apt-get install mmdebstrap",
        ),
    }
}

fn keyring(facts: &Facts) -> Check {
    let names: Vec<&str> = facts
        .keyring_suites
        .iter()
        .map(|suite| suite.description())
        .collect();
    if facts.keyring_suites.contains(&Suite::Trixie) {
        return Check::ok("debian keys", names.join(", "));
    }
    let found = if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    };
    Check::warn(
        "debian keys",
        found,
        "apt-get install --only-upgrade debian-archive-keyring",
    )
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
            "on: sandboxes on one core share its caches; matters when tenants distrust each other",
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
    let found = match facts.unprivileged_user_namespaces {
        Some(true) => "any user of the host may make them; sandboxes may not",
        Some(false) => "root only; sandboxes are not affected",
        None => "no switch in this kernel; sandboxes may not make them",
    };
    Check::ok("user namespaces of others", found)
}

fn security_modules(facts: &Facts) -> Check {
    Check::ok(
        "security modules",
        facts
            .security_modules
            .as_deref()
            .map_or("not known", str::trim),
    )
}

#[cfg(test)]
mod tests;

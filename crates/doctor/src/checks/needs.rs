//! What sandboxes cannot do without.

use crate::facts::{Facts, Probe};
use crate::report::Check;

/// Overlayfs takes lower layers with mapped ids since this version (commit bc70682a497c, "ovl: support idmapped layers").
const OLDEST_KERNEL: (u32, u32) = (5, 19);
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
const V2_FIX: &str = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all";
const NAMESPACES_FIX: &str = "sysctl -w user.max_user_namespaces=65536; inside a container: run SoulBox on the machine itself";

/// Those without which nothing runs first.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    vec![
        root(facts),
        configuration(facts),
        kernel(facts),
        namespaces(facts),
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
        probe(
            "openat2",
            "works",
            &facts.openat2,
            "inside a container: run SoulBox on the machine itself",
        ),
        probe(
            "pidfd",
            "works",
            &facts.pidfd,
            "inside a container: run SoulBox on the machine itself",
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
        disk_limits(facts),
    ]
}

fn root(facts: &Facts) -> Check {
    if facts.is_root {
        Check::ok("root", "yes")
    } else {
        Check::fail("root", "no", "sudo soulbox doctor")
    }
}

fn configuration(facts: &Facts) -> Check {
    match &facts.configuration {
        Ok(()) => Check::ok("configuration", "can be read"),
        Err(problem) => Check::fail("configuration", problem.clone(), "soulbox config check"),
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

fn namespaces(facts: &Facts) -> Check {
    if !facts.missing_namespaces.is_empty() {
        let missing = facts.missing_namespaces.join(", ");
        return Check::fail(
            "namespaces",
            format!("this kernel has none of these: {missing}"),
            "boot the kernel of a distribution",
        );
    }
    probe(
        "namespaces",
        "user, mount, pid, net, ipc, uts, cgroup and time can be made",
        &facts.namespaces,
        NAMESPACES_FIX,
    )
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
        return Check::warn(
            "cgroups",
            format!("{kind}: works, and gets no more care from the kernel's developers"),
            V2_FIX,
        );
    }
    let fix = "boot with systemd.unified_cgroup_hierarchy=1 (and cgroup_enable=memory where memory is missing)";
    Check::fail(
        "cgroups",
        format!("no hierarchy has {}", missing.join(", ")),
        fix,
    )
}

fn disk_limits(facts: &Facts) -> Check {
    let fix = "apt-get install e2fsprogs && modprobe loop; or mount the data directory's file system with prjquota";
    match facts.disk_backing.as_deref() {
        Ok("none") => Check::warn(
            "disk limits",
            "off by the configuration: one sandbox can fill the disk",
            "set disk_backing to auto",
        ),
        Ok(backing) => Check::ok("disk limits", format!("by {backing}")),
        Err(reason) => Check::fail("disk limits", reason.to_owned(), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("5.19"), Some((5, 19)));
        assert_eq!(version("6"), None);
        assert_eq!(version(""), None);
    }
}

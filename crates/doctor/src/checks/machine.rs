//! How much of this machine sandboxes can use, and what would get into their way.

use soulbox_artifacts::Suite;

use crate::facts::Facts;
use crate::report::Check;

const GIB: u64 = 1 << 30;
/// Every sandbox holds a few dozen descriptors of the server.
const OPEN_FILES: u64 = 65_536;

pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![ip_forward(facts), forward_policy(facts)];
    checks.extend(port(facts));
    checks.extend([disk(facts), open_files(facts)]);
    checks.extend(NUMBERS.iter().filter_map(|number| number.judge(facts)));
    checks.extend([
        swap(facts),
        clock(facts),
        bootstrap_tool(facts),
        keyring(facts),
        hibernation(facts),
    ]);
    checks
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
    Check::warn("forward policy", found, forward_fix(&facts.forward_drops))
}

fn forward_fix(drops: &[String]) -> String {
    let of_ipv6 = |chain: &&String| chain.starts_with("ip6 ");
    let count = drops.iter().filter(of_ipv6).count();
    let programs = [("iptables", count < drops.len()), ("ip6tables", count > 0)];
    let commands = programs
        .into_iter()
        .filter(|(_, meant)| *meant)
        .map(|(program, _)| {
            format!(
                "{program} -I FORWARD -i sb+ -j ACCEPT && \
             {program} -I FORWARD -o sb+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
            )
        });
    let commands = commands.collect::<Vec<_>>().join(" && ");
    format!("{commands} (with Docker: in the chain DOCKER-USER)")
}

fn port(facts: &Facts) -> Option<Check> {
    let port = facts.port.as_ref()?;
    let address = &port.address;
    Some(match &port.free {
        Ok(()) => Check::ok("port", format!("{address} can be listened on")),
        Err(_) if port.server_runs => {
            Check::ok("port", format!("{address} is in use; a server runs here"))
        }
        Err(reason) => Check::warn(
            "port",
            format!("{address} cannot be listened on: {reason}"),
            "soulbox serve --listen with another address",
        ),
    })
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

/// A limit of the whole machine that many sandboxes together may reach.
struct Number {
    name: &'static str,
    setting: &'static str,
    of: fn(&Facts) -> Option<u64>,
    enough: u64,
    better: u64,
    else_what: &'static str,
}

const NUMBERS: [Number; 6] = [
    Number {
        name: "process numbers",
        setting: "kernel.pid_max",
        of: |facts| facts.numbers.process_numbers,
        // Sixty-four sandboxes at their limit of processes.
        enough: 65_536,
        better: 4_194_304,
        else_what: "a few sandboxes at their limits use them up",
    },
    Number {
        name: "threads",
        setting: "kernel.threads-max",
        of: |facts| facts.numbers.threads,
        enough: 32_768,
        better: 262_144,
        else_what: "a few sandboxes at their limits use them up",
    },
    Number {
        name: "files of the machine",
        setting: "fs.file-max",
        of: |facts| facts.numbers.open_files,
        enough: 524_288,
        better: 4_194_304,
        else_what: "a few sandboxes can use up the host's open files",
    },
    Number {
        name: "watches",
        setting: "fs.inotify.max_user_instances",
        of: |facts| facts.numbers.inotify_instances,
        enough: 64,
        better: 512,
        else_what: "programs inside that watch files run out of instances; every sandbox has as many",
    },
    Number {
        name: "asynchronous I/O",
        setting: "fs.aio-max-nr",
        of: |facts| facts.numbers.aio_requests,
        enough: 65_536,
        better: 1_048_576,
        else_what: "databases inside may not start; all sandboxes share them",
    },
    Number {
        name: "tracked connections",
        setting: "net.netfilter.nf_conntrack_max",
        of: |facts| facts.numbers.tracked_connections,
        enough: 65_536,
        better: 262_144,
        else_what: "a few sandboxes can fill the table, and new connections of the host fail then",
    },
];

impl Number {
    /// `None` where this kernel has no such limit, or not yet.
    fn judge(&self, facts: &Facts) -> Option<Check> {
        let value = (self.of)(facts)?;
        let found = format!("{} = {value}", self.setting);
        Some(if value >= self.enough {
            Check::ok(self.name, found)
        } else {
            Check::warn(
                self.name,
                format!("{found}: {}", self.else_what),
                format!("sysctl -w {}={}", self.setting, self.better),
            )
        })
    }
}

/// Lines after the heading are swaps.
fn swap(facts: &Facts) -> Check {
    let count = facts
        .swaps
        .as_deref()
        .map_or(0, |text| text.lines().skip(1).count());
    if count == 0 {
        Check::ok("swap", "none")
    } else {
        Check::warn(
            "swap",
            "on: what sandboxes had in memory may stay on the disk",
            "swapoff -a, or encrypt it",
        )
    }
}

fn clock(facts: &Facts) -> Check {
    match facts.clock_kept {
        Some(true) => Check::ok("clock", "kept right by a time service"),
        Some(false) => Check::warn(
            "clock",
            "nobody keeps it right: end times and signatures go by it",
            "apt-get install chrony",
        ),
        None => Check::ok("clock", "not known whether it is kept right"),
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

/// Without it everything works but snapshots and forks with memory, and memory on disk.
fn hibernation(facts: &Facts) -> Check {
    match &facts.criu {
        Ok(()) => Check::ok("hibernation", "CRIU 4.2"),
        Err(reason) => {
            let (found, fix) = reason.split_once("\nFIX: ").unwrap_or((reason, ""));
            let found = format!(
                "{found}: no memory in snapshots and forks, and what is paused stays in the host's"
            );
            Check::warn("hibernation", found, fix)
        }
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

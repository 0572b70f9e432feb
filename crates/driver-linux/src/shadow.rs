//! What a sandbox reads in files of `/proc` that the kernel has no namespace for, instead of the host's numbers.
//!
//! Plain texts, made from what the sandbox may use and does use. `view` keeps them in files that are mounted over the
//! kernel's. Everything here is pure.

use std::time::Duration;

use soulbox_driver::GuestStats;
use soulbox_types::Limits;

/// What is known of a sandbox at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// What it may use.
    pub limits: Limits,
    /// What it uses.
    pub stats: GuestStats,
    /// Of the CPU time, how much was spent in the kernel, in microseconds.
    pub kernel_us: u64,
    /// CPUs it sees.
    pub cpus: u32,
    /// Time since it was started.
    pub age: Duration,
    /// When it was started, in seconds since 1970.
    pub started_at: u64,
    /// Load over one, five and fifteen minutes.
    pub load: Load,
}

/// Averages of the number of CPUs in use, as a kernel's load averages fade.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load(pub [f64; 3]);

impl Load {
    /// After `elapsed` more, in which `used` CPU time was spent.
    #[must_use]
    pub fn after(self, elapsed: Duration, used: Duration) -> Self {
        let elapsed = elapsed.as_secs_f64();
        if elapsed <= 0.0 {
            return self;
        }
        let busy = used.as_secs_f64() / elapsed;
        let fade = |average: f64, minutes: f64| {
            let keep = (-elapsed / (minutes * 60.0)).exp();
            average * keep + busy * (1.0 - keep)
        };
        let [one, five, fifteen] = self.0;
        Self([fade(one, 1.0), fade(five, 5.0), fade(fifteen, 15.0)])
    }
}

/// Names below `/proc` of [`changing`] and [`fixed`], in the order in which they are covered.
pub const NAMES: [&str; 15] = [
    "meminfo",
    "stat",
    "loadavg",
    "uptime",
    "vmstat",
    "version",
    "cgroups",
    "swaps",
    "sys/fs/file-nr",
    "sys/fs/inode-nr",
    "sys/fs/inode-state",
    "sys/fs/dentry-state",
    "sys/fs/aio-nr",
    "sys/kernel/pty/nr",
    "sys/kernel/random/boot_id",
];

/// The files whose text changes while a sandbox runs.
#[must_use]
pub fn changing(reading: &Reading) -> [(&'static str, String); 5] {
    [
        ("meminfo", meminfo(&reading.limits, &reading.stats)),
        ("stat", stat(reading)),
        ("loadavg", loadavg(reading)),
        ("uptime", uptime(reading)),
        ("vmstat", vmstat(reading)),
    ]
}

/// The files whose text stays. `release` is the kernel's, `cgroups` the host's `/proc/cgroups`, `boot_id` one that is
/// the sandbox's own.
#[must_use]
pub fn fixed(release: &str, cgroups: &str, boot_id: &str) -> [(&'static str, String); 10] {
    let zeros = |count: usize| format!("{}\n", vec!["0"; count].join("\t"));
    [
        ("version", format!("Linux version {release} #1 SMP\n")),
        ("cgroups", self::cgroups(cgroups)),
        (
            "swaps",
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned(),
        ),
        ("sys/fs/file-nr", format!("0\t0\t{}\n", i64::MAX)),
        ("sys/fs/inode-nr", zeros(2)),
        ("sys/fs/inode-state", zeros(7)),
        ("sys/fs/dentry-state", zeros(6)),
        ("sys/fs/aio-nr", zeros(1)),
        ("sys/kernel/pty/nr", zeros(1)),
        ("sys/kernel/random/boot_id", format!("{boot_id}\n")),
    ]
}

/// The text of `/proc/meminfo` for a sandbox: the lines that `free`, `top`, Node, Java and psutil read.
#[must_use]
pub fn meminfo(limits: &Limits, stats: &GuestStats) -> String {
    let Memory {
        total,
        used,
        cached,
        free,
    } = Memory::of(limits, stats);
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free + cached),
        ("Buffers", 0),
        ("Cached", cached),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", cached),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
    ];
    rows.iter()
        .map(|(name, kib)| format!("{:<15} {kib:>8} kB\n", format!("{name}:")))
        .collect()
}

/// In KiB; the parts add up to the total.
struct Memory {
    total: u64,
    used: u64,
    cached: u64,
    free: u64,
}

impl Memory {
    fn of(limits: &Limits, stats: &GuestStats) -> Self {
        let total = limits.memory_bytes() / 1024;
        let used = (stats.memory_used_bytes / 1024).min(total);
        let cached = (stats.memory_cache_bytes / 1024).min(total - used);
        Self {
            total,
            used,
            cached,
            free: total - used - cached,
        }
    }
}

/// `/proc/stat`: CPU time in hundredths of a second, spread evenly over the CPUs.
fn stat(reading: &Reading) -> String {
    let cpus = u64::from(reading.cpus.max(1));
    let hundredths = |us: u64| us / 10_000;
    let all = hundredths(reading.stats.cpu_usage_us);
    let system = hundredths(reading.kernel_us).min(all);
    let user = all - system;
    let there = u64::try_from(reading.age.as_millis() / 10).unwrap_or(u64::MAX);
    let idle = there.saturating_mul(cpus).saturating_sub(all);
    let line = |name: &str, share: u64| {
        let (user, system, idle) = (user / share, system / share, idle / share);
        format!("{name} {user} 0 {system} {idle} 0 0 0 0 0 0\n")
    };
    let mut text = line("cpu ", 1);
    for cpu in 0..cpus {
        text.push_str(&line(&format!("cpu{cpu}"), cpus));
    }
    let running = u64::from(reading.load.0[0] >= 0.5).max(1);
    text.push_str(&format!(
        "intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running {running}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        reading.started_at, reading.stats.pids
    ));
    text
}

fn loadavg(reading: &Reading) -> String {
    let [one, five, fifteen] = reading.load.0;
    let pids = reading.stats.pids;
    format!("{one:.2} {five:.2} {fifteen:.2} 1/{pids} {pids}\n")
}

fn uptime(reading: &Reading) -> String {
    let age = reading.age.as_secs_f64();
    let busy = Duration::from_micros(reading.stats.cpu_usage_us).as_secs_f64();
    let idle = (age * f64::from(reading.cpus) - busy).max(0.0);
    format!("{age:.2} {idle:.2}\n")
}

/// `/proc/vmstat`: the lines that `vmstat` and `sar` ask for.
fn vmstat(reading: &Reading) -> String {
    let Memory { cached, free, .. } = Memory::of(&reading.limits, &reading.stats);
    let page = 4;
    let rows = [
        ("nr_free_pages", free / page),
        ("nr_file_pages", cached / page),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", 0),
        ("pgmajfault", 0),
        ("oom_kill", reading.stats.oom_kills),
    ];
    rows.iter()
        .map(|(name, value)| format!("{name} {value}\n"))
        .collect()
}

/// `/proc/cgroups` with one group in each hierarchy: how many the host has tells how many sandboxes there are.
fn cgroups(host: &str) -> String {
    let line = |line: &str| match *line.split('\t').collect::<Vec<_>>() {
        [name, hierarchy, _, enabled] if !name.starts_with('#') => {
            format!("{name}\t{hierarchy}\t1\t{enabled}\n")
        }
        _ => format!("{line}\n"),
    };
    host.lines().map(line).collect()
}

/// The first `count` processors of a host's `/proc/cpuinfo`.
#[must_use]
pub fn cpuinfo(host: &str, count: u32) -> String {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    host.split("\n\n")
        .filter(|block| block.starts_with("processor"))
        .take(count)
        .fold(String::new(), |mut text, block| {
            text.push_str(block.trim_end());
            text.push_str("\n\n");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading {
            limits: Limits::STANDARD,
            stats: GuestStats {
                cpu_usage_us: 3_000_000,
                memory_used_bytes: 100 << 20,
                memory_cache_bytes: 50 << 20,
                pids: 7,
                oom_kills: 2,
                ..GuestStats::default()
            },
            kernel_us: 1_000_000,
            cpus: 2,
            age: Duration::from_secs(10),
            started_at: 1_700_000_000,
            load: Load([1.0, 0.25, 0.0]),
        }
    }

    fn text_of(name: &str) -> String {
        let texts = changing(&reading());
        texts.into_iter().find(|(n, _)| *n == name).unwrap().1
    }

    #[test]
    fn every_name_has_a_text() {
        let mut names: Vec<&str> = changing(&reading()).iter().map(|(name, _)| *name).collect();
        names.extend(fixed("6.1", "", "id").iter().map(|(name, _)| *name));
        assert_eq!(names, NAMES);
    }

    #[test]
    fn meminfo_adds_up() {
        let text = text_of("meminfo");
        assert!(text.starts_with("MemTotal:         524288 kB\n"), "{text}");
        assert!(text.contains("MemFree:          370688 kB"), "{text}");
        assert!(text.contains("MemAvailable:     421888 kB"), "{text}");
    }

    #[test]
    fn use_beyond_the_limit_does_not_underflow() {
        let stats = GuestStats {
            memory_used_bytes: u64::MAX,
            memory_cache_bytes: u64::MAX,
            cpu_usage_us: u64::MAX,
            ..GuestStats::default()
        };
        let beyond = Reading {
            stats,
            kernel_us: u64::MAX,
            cpus: 0,
            ..reading()
        };
        let texts = changing(&beyond);
        assert!(texts[0].1.contains("MemFree:               0 kB"));
        assert!(texts[3].1.ends_with(" 0.00\n"), "{}", texts[3].1);
    }

    #[test]
    fn cpu_time_is_split_and_the_rest_is_idle() {
        let text = text_of("stat");
        assert!(
            text.starts_with(
                "cpu  200 0 100 1700 0 0 0 0 0 0\ncpu0 100 0 50 850 0 0 0 0 0 0\ncpu1 100 0 50 850 0 0 0 0 0 0\nintr"
            ),
            "{text}"
        );
        assert!(text.contains("\nbtime 1700000000\nprocesses 7\n"), "{text}");
        assert_eq!(text_of("uptime"), "10.00 17.00\n");
        assert_eq!(text_of("loadavg"), "1.00 0.25 0.00 1/7 7\n");
        assert!(text_of("vmstat").ends_with("oom_kill 2\n"));
    }

    #[test]
    fn load_rises_and_fades() {
        let second = Duration::from_secs(1);
        let mut load = Load::default();
        for _ in 0..60 {
            load = load.after(second, second * 2);
        }
        assert!((load.0[0] - 2.0 * (1.0 - (-1.0_f64).exp())).abs() < 1e-9);
        assert!(load.0[0] > load.0[1] && load.0[1] > load.0[2]);
        assert_eq!(load.after(Duration::ZERO, second), load);
        assert!(load.after(Duration::from_secs(3600), Duration::ZERO).0[0] < 0.01);
    }

    #[test]
    fn cgroups_are_not_counted() {
        let host = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t196\t1\n";
        assert_eq!(
            cgroups(host),
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1\t1\n"
        );
    }

    #[test]
    fn cpuinfo_is_cut() {
        let host = "processor\t: 0\nmodel: x\n\nprocessor\t: 1\nmodel: x\n\n";
        assert_eq!(cpuinfo(host, 1), "processor\t: 0\nmodel: x\n\n");
        assert_eq!(cpuinfo(host, 8), host);
    }
}

//! What a sandbox reads in `/proc/meminfo` and `/proc/cpuinfo` instead of the host's numbers.
//!
//! The kernel has no namespace for these. The driver writes plain files that are mounted over them: at the start, and
//! again each time the sandbox is measured.

use soulbox_driver::GuestStats;
use soulbox_types::Limits;

/// The text of `/proc/meminfo` for a sandbox: the lines that `free`, `top`, Node, Java and psutil read.
#[must_use]
pub fn meminfo(limits: &Limits, stats: &GuestStats) -> String {
    let total = limits.memory_bytes() / 1024;
    let used = (stats.memory_used_bytes / 1024).min(total);
    let cached = (stats.memory_cache_bytes / 1024).min(total - used);
    let free = total - used - cached;
    let available = free + cached;
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", available),
        ("Buffers", 0),
        ("Cached", cached),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", cached),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("SReclaimable", 0),
    ];
    rows.iter()
        .map(|(name, kib)| format!("{:<15} {kib:>8} kB\n", format!("{name}:")))
        .collect()
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

    #[test]
    fn meminfo_adds_up() {
        let stats = GuestStats {
            memory_used_bytes: 100 << 20,
            memory_cache_bytes: 50 << 20,
            ..GuestStats::default()
        };
        let text = meminfo(&Limits::STANDARD, &stats);
        assert!(text.starts_with("MemTotal:         524288 kB\n"), "{text}");
        assert!(text.contains("MemFree:          370688 kB"), "{text}");
        assert!(text.contains("MemAvailable:     421888 kB"), "{text}");
    }

    #[test]
    fn use_beyond_the_limit_does_not_underflow() {
        let stats = GuestStats {
            memory_used_bytes: u64::MAX,
            memory_cache_bytes: u64::MAX,
            ..GuestStats::default()
        };
        assert!(meminfo(&Limits::STANDARD, &stats).contains("MemFree:               0 kB"));
    }

    #[test]
    fn cpuinfo_is_cut() {
        let host = "processor\t: 0\nmodel: x\n\nprocessor\t: 1\nmodel: x\n\n";
        assert_eq!(cpuinfo(host, 1), "processor\t: 0\nmodel: x\n\n");
        assert_eq!(cpuinfo(host, 8), host);
    }
}

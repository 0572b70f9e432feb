//! `GET /metrics`: what the sandbox uses, by the numbers that its processes see too.

use std::fs;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use soulbox_envd_proto::Metrics;

use crate::reply::Refusal;
use crate::sync::lock;

/// Remembers the last reading, since processor use is a difference.
#[derive(Debug)]
pub(crate) struct Meter(Mutex<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    /// Processor time used by everything, in seconds.
    busy_seconds: f64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Reading {
            at: Instant::now(),
            busy_seconds: busy_seconds().unwrap_or_default(),
        }))
    }

    pub(crate) fn read(&self) -> Result<Metrics, Refusal> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Refusal::internal(format!("reading {what}: {error}"))
        };
        let memory =
            fs::read_to_string("/proc/meminfo").map_err(|e| failed("/proc/meminfo", &e))?;
        let disk = rustix::fs::statvfs("/").map_err(|e| failed("the root file system", &e))?;
        let (mem_total, available) = (field(&memory, "MemTotal:"), field(&memory, "MemAvailable:"));
        let mem_used = mem_total.saturating_sub(available);
        let disk_total = disk.f_blocks.saturating_mul(disk.f_frsize);
        // Not what is available: file systems keep some of what is free for themselves.
        let disk_free = disk.f_bfree.saturating_mul(disk.f_frsize);
        let cpu_count =
            std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Metrics {
            ts: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            cpu_count,
            cpu_used_pct: self.cpu_used_pct(cpu_count),
            mem_total_mib: mem_total >> 20,
            mem_used_mib: mem_used >> 20,
            mem_total,
            mem_used,
            mem_cache: field(&memory, "Cached:"),
            disk_used: disk_total.saturating_sub(disk_free),
            disk_total,
        })
    }

    fn cpu_used_pct(&self, cpu_count: u32) -> f64 {
        let now = Reading {
            at: Instant::now(),
            busy_seconds: busy_seconds().unwrap_or_default(),
        };
        let last = std::mem::replace(&mut *lock(&self.0), now);
        let elapsed = now.at.duration_since(last.at).as_secs_f64() * f64::from(cpu_count);
        if elapsed <= 0.0 {
            return 0.0;
        }
        let share = ((now.busy_seconds - last.busy_seconds) / elapsed).clamp(0.0, 1.0);
        (share * 10_000.0).round() / 100.0
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn field(meminfo: &str, name: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    let kib: u64 = line
        .split_ascii_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    kib.saturating_mul(1024)
}

/// From the cgroup where the sandbox sees one, else from `/proc/stat`, which its launcher may shadow.
fn busy_seconds() -> Option<f64> {
    if let Ok(text) = fs::read_to_string("/sys/fs/cgroup/cpu.stat") {
        let used = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        if let Some(micros) = used.and_then(|number| number.trim().parse::<f64>().ok()) {
            return Some(micros / 1e6);
        }
    }
    let stat = fs::read_to_string("/proc/stat").ok()?;
    busy_of(stat.lines().next()?)
}

/// The `cpu` line: user nice system idle iowait irq softirq …, in hundredths of a second.
fn busy_of(line: &str) -> Option<f64> {
    let numbers: Vec<f64> = line
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .take(8)
        .filter_map(|n| n.parse().ok())
        .collect();
    let idle: f64 = numbers.iter().skip(3).take(2).sum();
    Some((numbers.iter().sum::<f64>() - idle) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "MemTotal:        2048 kB\nMemAvailable:    1024 kB\nCached: 8 kB\n";
        assert_eq!(
            (
                field(text, "MemTotal:"),
                field(text, "Cached:"),
                field(text, "X:")
            ),
            (2048 << 10, 8 << 10, 0)
        );
        assert_eq!(busy_of("cpu  100 0 50 1000 5 10 40 0 0 0"), Some(2.0));
        assert_eq!(busy_of("intr 5"), None);
    }

    #[test]
    fn a_reading_is_plausible() {
        let metrics = Meter::new().read().unwrap();
        assert!(
            metrics.cpu_count >= 1
                && metrics.mem_total > metrics.mem_used
                && metrics.disk_total > 0
        );
        assert!((0.0..=100.0).contains(&metrics.cpu_used_pct));
    }
}

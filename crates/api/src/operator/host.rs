//! What `GET /nodes` says about the machine, from `/proc` and the data directory's file system.
//!
//! Apart from the rest because it alone touches files. The parsers are plain functions on text; what cannot be read
//! counts as zero, since a report without a CPU model is still a report.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use soulbox_api_types::admin::{DiskMetrics, MachineInfo, NodeMetrics};

/// Reads the machine, and remembers CPU times between two readings.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostReader {
    last_cpu: Arc<Mutex<CpuTimes>>,
}

/// One reading. What sandboxes have been promised is not in it.
#[derive(Debug, Default)]
pub(crate) struct HostReading {
    pub(crate) machine: MachineInfo,
    pub(crate) metrics: NodeMetrics,
}

/// Ticks since boot, over all CPUs; see `proc_stat`(5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl HostReader {
    /// Takes a reading on a thread that may block. The error is that the thread could not be run.
    pub(crate) async fn read(
        &self,
        data_dir: &Path,
    ) -> Result<HostReading, tokio::task::JoinError> {
        let (reader, data_dir) = (self.clone(), data_dir.to_owned());
        tokio::task::spawn_blocking(move || reader.read_blocking(&data_dir)).await
    }

    fn read_blocking(&self, data_dir: &Path) -> HostReading {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let total = meminfo_bytes(&memory, "MemTotal");
        HostReading {
            machine: machine(&text("/proc/cpuinfo")),
            metrics: NodeMetrics {
                cpu_percent: self.cpu_percent(cpu_times(&text("/proc/stat"))),
                cpu_count: u32::try_from(cpus).unwrap_or(u32::MAX),
                memory_total_bytes: total,
                memory_used_bytes: total.saturating_sub(meminfo_bytes(&memory, "MemAvailable")),
                huge_pages_total: meminfo_number(&memory, "HugePages_Total"),
                huge_pages_used: meminfo_number(&memory, "HugePages_Total")
                    .saturating_sub(meminfo_number(&memory, "HugePages_Free")),
                huge_pages_reserved: meminfo_number(&memory, "HugePages_Rsvd"),
                huge_page_size_bytes: meminfo_bytes(&memory, "Hugepagesize"),
                disks: disk(data_dir, &text("/proc/self/mountinfo"))
                    .into_iter()
                    .collect(),
                ..NodeMetrics::default()
            },
        }
    }

    /// Since the reading before; since boot for the first one.
    fn cpu_percent(&self, now: CpuTimes) -> u32 {
        let mut last = self.last_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, now);
        let busy = now.busy.saturating_sub(before.busy);
        let total = now.total.saturating_sub(before.total);
        u32::try_from(busy.saturating_mul(100).checked_div(total).unwrap_or(0)).unwrap_or(100)
    }
}

fn cpu_times(stat: &str) -> CpuTimes {
    let line = stat
        .lines()
        .find(|line| line.starts_with("cpu "))
        .unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let total = ticks.iter().sum();
    // The fourth and fifth are idle and waiting for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    CpuTimes {
        busy: total - idle,
        total,
    }
}

fn meminfo_number(meminfo: &str, name: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn meminfo_bytes(meminfo: &str, name: &str) -> u64 {
    meminfo_number(meminfo, name).saturating_mul(1024)
}

fn machine(cpuinfo: &str) -> MachineInfo {
    let field = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    MachineInfo {
        cpu_family: field("cpu family"),
        cpu_model: field("model"),
        cpu_model_name: field("model name"),
        cpu_architecture: std::env::consts::ARCH.to_owned(),
    }
}

/// The file system that holds the data directory.
fn disk(data_dir: &Path, mountinfo: &str) -> Option<DiskMetrics> {
    let stat = rustix::fs::statvfs(data_dir).ok()?;
    let (mount_point, device, filesystem_type) = mount_of(data_dir, mountinfo).unwrap_or_default();
    let total_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
    Some(DiskMetrics {
        mount_point,
        device,
        filesystem_type,
        used_bytes: total_bytes.saturating_sub(stat.f_bfree.saturating_mul(stat.f_frsize)),
        total_bytes,
    })
}

/// Mount point, device and type of the longest mount point that leads to a path; see `proc_pid_mountinfo`(5).
fn mount_of(path: &Path, mountinfo: &str) -> Option<(String, String, String)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut source = after.split(' ');
        let (filesystem_type, device) = (source.next()?, source.next()?);
        Some((
            before.split(' ').nth(4)?.to_owned(),
            device.to_owned(),
            filesystem_type.to_owned(),
        ))
    });
    mounts
        .filter(|(point, ..)| path.starts_with(point))
        .max_by_key(|(point, ..)| point.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_percent_is_between_two_readings() {
        let stat = "cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 2 3";
        assert_eq!(
            cpu_times(stat),
            CpuTimes {
                busy: 20,
                total: 100
            }
        );
        let reader = HostReader::default();
        assert_eq!(
            reader.cpu_percent(CpuTimes {
                busy: 20,
                total: 100
            }),
            20
        );
        assert_eq!(
            reader.cpu_percent(CpuTimes {
                busy: 70,
                total: 200
            }),
            50
        );
        assert_eq!(
            reader.cpu_percent(CpuTimes {
                busy: 70,
                total: 200
            }),
            0
        );
        assert_eq!(cpu_times(""), CpuTimes::default());
    }

    #[test]
    fn proc_texts() {
        let meminfo = "MemTotal:        2048 kB\nMemAvailable: 1024 kB\nHugePages_Total:       3\n";
        assert_eq!(meminfo_bytes(meminfo, "MemTotal"), 2 * 1024 * 1024);
        assert_eq!(meminfo_number(meminfo, "HugePages_Total"), 3);
        assert_eq!(meminfo_number(meminfo, "Missing"), 0);
        let cpu =
            machine("processor : 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Some CPU\n");
        assert_eq!(
            (
                cpu.cpu_family.as_str(),
                cpu.cpu_model.as_str(),
                cpu.cpu_model_name.as_str()
            ),
            ("6", "85", "Some CPU")
        );
    }

    #[test]
    fn the_longest_mount_point_wins() {
        let mounts =
            "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /data rw shared:1 - xfs /dev/b rw\n";
        let (point, device, kind) = mount_of(Path::new("/data/x"), mounts).unwrap();
        assert_eq!(
            (point.as_str(), device.as_str(), kind.as_str()),
            ("/data", "/dev/b", "xfs")
        );
        assert_eq!(mount_of(Path::new("/database"), mounts).unwrap().0, "/");
    }
}

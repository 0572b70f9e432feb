//! Control groups of sandboxes, on unified (v2) and legacy (v1, hybrid) hosts.
//!
//! Layout below each hierarchy: `soulbox/<block>/<slot>` with two children, `user` for everything the guest starts and
//! `envd` for the daemon alone. The slot's own limits are a little above the user's, so that memory pressure of the
//! user's processes never takes envd with it, and a guest that moves a process into envd's place gains nothing.
//! Hierarchies without per-child limits (cpu, freezer) hold the slot only.
//!
//! Everything is plain file access; the decisions (which file, which value) are pure and tested as such.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use soulbox_driver::GuestStats;
use soulbox_types::{Limits, SlotIndex};

/// Memory that envd may use beyond the user's limit.
const ENVD_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
/// Processes that envd may have beyond the user's limit.
const ENVD_PIDS: u32 = 32;
/// Scheduling period; quotas are multiples of it.
const CPU_PERIOD_US: u64 = 100_000;

/// The controllers that a sandbox needs.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where the controllers of this host are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchies {
    /// cgroup v2 with memory, pids and cpu.
    Unified {
        /// Mount point.
        root: PathBuf,
    },
    /// One hierarchy per controller.
    Legacy {
        /// Mount point of each: memory, pids, cpu, cpuacct, freezer.
        memory: PathBuf,
        /// Process counts.
        pids: PathBuf,
        /// CPU quota.
        cpu: PathBuf,
        /// CPU use.
        cpuacct: PathBuf,
        /// Freezing.
        freezer: PathBuf,
    },
}

impl Hierarchies {
    /// Finds the controllers of this host.
    ///
    /// # Errors
    /// When a needed controller is not mounted; the text names it and the way out.
    pub fn detect() -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let controllers =
            |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        Self::from_mountinfo(&mountinfo, controllers).map_err(|missing| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no cgroup controller {missing}. FIX: boot with cgroup v2, or mount the {missing} controller"),
            )
        })
    }

    /// Makes the kernel move processes between cgroups without waiting for every processor first, which takes it about ten
    /// milliseconds, in which nobody on the host can start or end a process. That is one flag for all hierarchies, which the
    /// unified one has (`favordynmods`, Linux 6.0); each fork costs some nanoseconds more with it.
    ///
    /// # Errors
    /// When the kernel does not know it, or this process has no right to: all works, slower.
    pub fn move_fast() -> io::Result<()> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let mut mounts = mountinfo.lines().filter_map(CgroupMount::parse);
        let unified = mounts.find(|mount| mount.unified).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no unified hierarchy is mounted")
        })?;
        match flags_to_move_fast(&unified.options) {
            Some(flags) => soulbox_linux::mount::set_flags(&unified.path, &flags),
            None => Ok(()),
        }
    }

    /// The pure part of [`Self::detect`]. `controllers` tells what a v2 mount offers. The error is what is missing.
    fn from_mountinfo(
        text: &str,
        controllers: impl Fn(&Path) -> String,
    ) -> Result<Self, &'static str> {
        let mounts: Vec<CgroupMount> = text.lines().filter_map(CgroupMount::parse).collect();
        if let Some(unified) = mounts.iter().find(|m| m.unified) {
            let offered = controllers(&unified.path);
            if CONTROLLERS
                .iter()
                .all(|c| offered.split_ascii_whitespace().any(|o| o == *c))
            {
                return Ok(Self::Unified {
                    root: unified.path.clone(),
                });
            }
        }
        let find = |controller: &'static str| {
            mounts
                .iter()
                .find(|m| !m.unified && m.options.iter().any(|o| o == controller))
                .map(|m| m.path.clone())
                .ok_or(controller)
        };
        Ok(Self::Legacy {
            memory: find("memory")?,
            pids: find("pids")?,
            cpu: find("cpu")?,
            cpuacct: find("cpuacct")?,
            freezer: find("freezer")?,
        })
    }

    /// Every distinct hierarchy.
    fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Self::Unified { root } => vec![root],
            Self::Legacy {
                memory,
                pids,
                cpu,
                cpuacct,
                freezer,
            } => vec![memory, pids, cpu, cpuacct, freezer],
        };
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// In how many hierarchies `user` and `envd` are told apart.
    #[must_use]
    pub fn split_count(&self) -> usize {
        self.split_roots().len()
    }

    /// Hierarchies in which `user` and `envd` are told apart.
    fn split_roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Self::Unified { root } => vec![root],
            Self::Legacy { memory, pids, .. } => vec![memory, pids],
        };
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// Creates the block's directory in every hierarchy and, on v2, passes the controllers down.
    ///
    /// # Errors
    /// When a directory cannot be made or a controller cannot be passed on.
    pub fn prepare_block(&self, prefix: &str) -> io::Result<()> {
        for root in self.roots() {
            let top = root.join("soulbox");
            let block = top.join(prefix);
            make_shared_dir(&block)?;
            if matches!(self, Self::Unified { .. }) {
                for directory in [root, &top, &block] {
                    fs::write(
                        directory.join("cgroup.subtree_control"),
                        "+cpu +memory +pids",
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Removes the block's directories, and `soulbox` when no other server uses it.
    ///
    /// # Errors
    /// When sandboxes are still there.
    pub fn remove_block(&self, prefix: &str) -> io::Result<()> {
        for root in self.roots() {
            remove_dir(&root.join("soulbox").join(prefix))?;
            // Not empty when another server has a block: then it stays.
            let _other_server = fs::remove_dir(root.join("soulbox"));
        }
        Ok(())
    }

    /// Numbers of the slots that have a directory in a block, alive or left over.
    ///
    /// # Errors
    /// When a hierarchy cannot be read.
    pub fn slots_of(&self, prefix: &str) -> io::Result<Vec<u16>> {
        let mut found = Vec::new();
        for root in self.roots() {
            let entries = match fs::read_dir(root.join("soulbox").join(prefix)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                found.extend(
                    entry?
                        .file_name()
                        .to_str()
                        .and_then(|name| name.parse::<u16>().ok()),
                );
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// One line of `/proc/self/mountinfo` that is a cgroup mount.
struct CgroupMount {
    path: PathBuf,
    unified: bool,
    options: Vec<String>,
}

impl CgroupMount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let path = before.split_ascii_whitespace().nth(4)?;
        let mut after = after.split_ascii_whitespace();
        let kind = after.next()?;
        let options = after.nth(1)?.split(',').map(str::to_owned).collect();
        let unified = kind == "cgroup2";
        (unified || kind == "cgroup").then(|| Self {
            path: PathBuf::from(path),
            unified,
            options,
        })
    }
}

/// The flags that a unified hierarchy with these options is to have; `None` when it has them. Those that are not named would
/// be taken away.
fn flags_to_move_fast(options: &[String]) -> Option<Vec<&str>> {
    const FLAG: &str = "favordynmods";
    if options.iter().any(|option| option == FLAG) {
        return None;
    }
    // Not of this kind of file system.
    let others = ["rw", "ro", "seclabel"];
    let own = options.iter().map(String::as_str);
    let own = own.filter(|option| !others.contains(option));
    Some(own.chain([FLAG]).collect())
}

/// The cgroups of one slot.
#[derive(Debug, Clone)]
pub struct SlotCgroup {
    hierarchies: Hierarchies,
    relative: PathBuf,
}

impl SlotCgroup {
    /// The cgroups of `slot`, which need not exist yet.
    #[must_use]
    pub fn new(hierarchies: Hierarchies, slot: SlotIndex) -> Self {
        let relative = Path::new("soulbox")
            .join(slot.block().prefix())
            .join(slot.index().to_string());
        Self {
            hierarchies,
            relative,
        }
    }

    /// Creates the directories, empty and without limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(&self) -> io::Result<()> {
        for root in self.hierarchies.roots() {
            make_dir(&root.join(&self.relative))?;
        }
        if let Hierarchies::Unified { root } = &self.hierarchies {
            fs::write(
                root.join(&self.relative).join("cgroup.subtree_control"),
                "+memory +pids",
            )?;
        }
        for root in self.hierarchies.split_roots() {
            for child in ["user", "envd"] {
                make_dir(&root.join(&self.relative).join(child))?;
            }
        }
        Ok(())
    }

    /// The `cgroup.procs` files that put a process, and all it starts, into the user's part.
    #[must_use]
    pub fn user_procs_files(&self) -> Vec<PathBuf> {
        let split = self.hierarchies.split_roots();
        self.hierarchies
            .roots()
            .into_iter()
            .map(|root| {
                let slot = root.join(&self.relative);
                if split.contains(&root) {
                    slot.join("user/cgroup.procs")
                } else {
                    slot.join("cgroup.procs")
                }
            })
            .collect()
    }

    /// Of those, the ones that hold the user's own limits.
    #[must_use]
    pub fn limit_procs_files(&self) -> Vec<PathBuf> {
        let split = self.hierarchies.split_roots().into_iter();
        split
            .map(|root| root.join(&self.relative).join("user/cgroup.procs"))
            .collect()
    }

    /// The file that counts the user's processes that were killed for lack of memory, as `oom_kill N`.
    #[must_use]
    pub fn user_oom_file(&self) -> PathBuf {
        let (root, name) = match &self.hierarchies {
            Hierarchies::Unified { root } => (root, "user/memory.events"),
            Hierarchies::Legacy { memory, .. } => (memory, "user/memory.oom_control"),
        };
        root.join(&self.relative).join(name)
    }

    /// Moves envd out of the user's part. Takes milliseconds of waiting for the kernel: not on the path of a create.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn separate_envd(&self, pid: i32) -> io::Result<()> {
        for root in self.hierarchies.split_roots() {
            fs::write(
                root.join(&self.relative).join("envd/cgroup.procs"),
                pid.to_string(),
            )?;
        }
        Ok(())
    }

    /// Sets the limits. The slot's are set before the user's, which lie below them.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        for (path, value) in limit_files(&self.hierarchies, &self.relative, limits) {
            fs::write(&path, value)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        }
        for (path, value) in swap_files(&self.hierarchies, &self.relative, limits) {
            match fs::write(&path, value) {
                // A kernel that does not account for swap.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?,
            }
        }
        Ok(())
    }

    /// Reads what the slot uses.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn stats(&self) -> io::Result<GuestStats> {
        let read =
            |root: &Path, file: &str| fs::read_to_string(root.join(&self.relative).join(file));
        match &self.hierarchies {
            Hierarchies::Unified { root } => {
                let stat = read(root, "memory.stat")?;
                Ok(GuestStats {
                    cpu_usage_us: keyed(&read(root, "cpu.stat")?, "usage_usec"),
                    memory_used_bytes: number(&read(root, "memory.current")?)
                        .saturating_sub(keyed(&stat, "file")),
                    memory_cache_bytes: keyed(&stat, "file"),
                    disk_used_bytes: 0,
                    pids: number(&read(root, "pids.current")?),
                    oom_kills: keyed(&read(root, "user/memory.events")?, "oom_kill"),
                    oom_kills_named: 0,
                })
            }
            Hierarchies::Legacy {
                memory,
                pids,
                cpuacct,
                ..
            } => {
                let stat = read(memory, "memory.stat")?;
                let cache = keyed(&stat, "total_cache");
                Ok(GuestStats {
                    cpu_usage_us: number(&read(cpuacct, "cpuacct.usage")?) / 1000,
                    memory_used_bytes: number(&read(memory, "memory.usage_in_bytes")?)
                        .saturating_sub(cache),
                    memory_cache_bytes: cache,
                    disk_used_bytes: 0,
                    pids: number(&read(pids, "pids.current")?),
                    oom_kills: keyed(&read(memory, "user/memory.oom_control")?, "oom_kill"),
                    oom_kills_named: 0,
                })
            }
        }
    }

    /// CPU time used, in microseconds. One small file.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn cpu_usage_us(&self) -> io::Result<u64> {
        self.cpu_meter()?.usage_us()
    }

    /// The same, to be read again and again.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn cpu_meter(&self) -> io::Result<CpuMeter> {
        let (root, name) = match &self.hierarchies {
            Hierarchies::Unified { root } => (root, "cpu.stat"),
            Hierarchies::Legacy { cpuacct, .. } => (cpuacct, "cpuacct.usage"),
        };
        Ok(CpuMeter {
            file: File::open(root.join(&self.relative).join(name))?,
            is_unified: matches!(self.hierarchies, Hierarchies::Unified { .. }),
        })
    }

    /// Of the CPU time used, how much was spent in the kernel, in microseconds.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn kernel_us(&self) -> io::Result<u64> {
        /// `cpuacct.stat` counts in hundredths of a second.
        const US_PER_TICK: u64 = 10_000;
        match &self.hierarchies {
            Hierarchies::Unified { root } => {
                let stat = fs::read_to_string(root.join(&self.relative).join("cpu.stat"))?;
                Ok(keyed(&stat, "system_usec"))
            }
            Hierarchies::Legacy { cpuacct, .. } => {
                let file = cpuacct.join(&self.relative).join("cpuacct.stat");
                Ok(keyed(&fs::read_to_string(file)?, "system") * US_PER_TICK)
            }
        }
    }

    /// Stops every process in the slot, or lets them go on; false as long as some still run. To be asked again then.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn set_frozen(&self, frozen: bool) -> io::Result<bool> {
        let (file, value) = self.freezer(frozen);
        fs::write(&file, value)?;
        self.is_frozen().map(|now| now == frozen)
    }

    /// Whether every process in the slot stands still.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn is_frozen(&self) -> io::Result<bool> {
        match &self.hierarchies {
            Hierarchies::Unified { root } => {
                let events = fs::read_to_string(root.join(&self.relative).join("cgroup.events"))?;
                Ok(keyed(&events, "frozen") == 1)
            }
            Hierarchies::Legacy { .. } => {
                Ok(fs::read_to_string(self.freezer(true).0)?.trim() == "FROZEN")
            }
        }
    }

    /// Where it is asked for, and how.
    fn freezer(&self, frozen: bool) -> (PathBuf, &'static str) {
        match &self.hierarchies {
            Hierarchies::Unified { root } => (
                root.join(&self.relative).join("cgroup.freeze"),
                if frozen { "1" } else { "0" },
            ),
            Hierarchies::Legacy { freezer, .. } => (
                freezer.join(&self.relative).join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            ),
        }
    }

    /// What a process needs to write to that has opened the kept files as root of the guest: those themselves, and with one
    /// hierarchy for all also the slot's, from where it moves processes.
    #[must_use]
    pub fn kept_files(&self) -> Vec<PathBuf> {
        let mut files = self.limit_procs_files();
        files.push(self.user_oom_file());
        if let Hierarchies::Unified { root } = &self.hierarchies {
            files.push(root.join(&self.relative).join("cgroup.procs"));
        }
        files
    }

    /// The directory whose processes are stopped together.
    #[must_use]
    pub fn freezer_directory(&self) -> PathBuf {
        match &self.hierarchies {
            Hierarchies::Unified { root } => root.join(&self.relative),
            Hierarchies::Legacy { freezer, .. } => freezer.join(&self.relative),
        }
    }

    /// Every process in the slot, by the host's numbers.
    ///
    /// # Errors
    /// When a hierarchy cannot be read.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for root in self.hierarchies.roots() {
            for part in ["", "user", "envd"] {
                match fs::read_to_string(root.join(&self.relative).join(part).join("cgroup.procs"))
                {
                    Ok(text) => {
                        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
                    }
                    // Removed before it was opened, or between that and the reading.
                    Err(error)
                        if error.kind() == io::ErrorKind::NotFound
                            || error.raw_os_error() == Some(libc::ENODEV) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes the directories. `ResourceBusy` while a process is still in one of them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self) -> io::Result<()> {
        for root in self.hierarchies.roots() {
            for part in ["user", "envd", ""] {
                remove_dir(&root.join(&self.relative).join(part))?;
            }
        }
        Ok(())
    }
}

/// The files that hold a slot's limits, in the order in which they must be written.
fn limit_files(
    hierarchies: &Hierarchies,
    relative: &Path,
    limits: &Limits,
) -> Vec<(PathBuf, String)> {
    let memory_user = limits.memory_bytes();
    let memory_slot = memory_user + ENVD_MEMORY_BYTES;
    let pids_slot = limits.pids.saturating_add(ENVD_PIDS);
    let quota = u64::from(limits.vcpu_count) * CPU_PERIOD_US;
    let at = |root: &Path, file: &str, value: String| (root.join(relative).join(file), value);
    match hierarchies {
        Hierarchies::Unified { root } => vec![
            at(root, "cpu.max", format!("{quota} {CPU_PERIOD_US}")),
            at(root, "memory.max", memory_slot.to_string()),
            at(root, "pids.max", pids_slot.to_string()),
            at(root, "user/memory.max", memory_user.to_string()),
            at(root, "user/pids.max", limits.pids.to_string()),
        ],
        Hierarchies::Legacy {
            memory, pids, cpu, ..
        } => vec![
            at(cpu, "cpu.cfs_period_us", CPU_PERIOD_US.to_string()),
            at(cpu, "cpu.cfs_quota_us", quota.to_string()),
            at(memory, "memory.limit_in_bytes", memory_slot.to_string()),
            at(
                memory,
                "user/memory.limit_in_bytes",
                memory_user.to_string(),
            ),
            at(pids, "pids.max", pids_slot.to_string()),
            at(pids, "user/pids.max", limits.pids.to_string()),
        ],
    }
}

/// The files that keep a slot out of the host's swap, where the kernel has them: with swap, the limit of memory would be
/// none. On v1 they hold memory and swap together, which can only be set after memory alone.
fn swap_files(
    hierarchies: &Hierarchies,
    relative: &Path,
    limits: &Limits,
) -> Vec<(PathBuf, String)> {
    let user = limits.memory_bytes();
    let at =
        |root: &Path, file: &str, value: u64| (root.join(relative).join(file), value.to_string());
    match hierarchies {
        Hierarchies::Unified { root } => vec![at(root, "memory.swap.max", 0)],
        Hierarchies::Legacy { memory, .. } => vec![
            at(
                memory,
                "memory.memsw.limit_in_bytes",
                user + ENVD_MEMORY_BYTES,
            ),
            at(memory, "user/memory.memsw.limit_in_bytes", user),
        ],
    }
}

/// The value behind `key` in lines of `key value`; 0 when it is not there.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map_or(0, |(_, value)| number(value))
}

/// The CPU time of a sandbox. Its file stays open: to find it is most of what a reading costs.
#[derive(Debug)]
pub struct CpuMeter {
    file: File,
    is_unified: bool,
}

impl CpuMeter {
    /// CPU time used, in microseconds.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn usage_us(&self) -> io::Result<u64> {
        // The number stands at the beginning of either file.
        let mut bytes = [0; 256];
        let count = self.file.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
        Ok(match self.is_unified {
            true => keyed(&text, "usage_usec"),
            false => number(&text) / 1000,
        })
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes a directory and those above it. Of those, some belong to all servers of the host, and whoever leaves one empty
/// removes it, perhaps right now.
pub(crate) fn make_shared_dir(path: &Path) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let begin = Instant::now();
    loop {
        match fs::create_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && begin.elapsed() < PATIENCE => {
                // Two that take turns in the same rhythm would go on for long.
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_hierarchy_keeps_its_other_flags() {
        let flags = |options: &str| {
            let options: Vec<String> = options.split(',').map(str::to_owned).collect();
            flags_to_move_fast(&options).map(|flags| flags.join(","))
        };
        assert_eq!(flags("rw").as_deref(), Some("favordynmods"));
        assert_eq!(
            flags("rw,seclabel,nsdelegate,memory_recursiveprot").as_deref(),
            Some("nsdelegate,memory_recursiveprot,favordynmods")
        );
        assert_eq!(flags("rw,nsdelegate,favordynmods"), None);
    }

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 30 0:31 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
36 30 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn hybrid_hosts_use_the_legacy_hierarchies() {
        let found = Hierarchies::from_mountinfo(HYBRID, |_| "hugetlb".to_owned()).unwrap();
        let Hierarchies::Legacy { cpu, cpuacct, .. } = &found else {
            panic!("{found:?}")
        };
        assert_eq!(cpu, cpuacct);
        assert_eq!(found.roots().len(), 4);
        let slot = SlotIndex::new(soulbox_types::slot::Block::new(2).unwrap(), 5).unwrap();
        let files = SlotCgroup::new(found, slot).user_procs_files();
        assert!(files.contains(&PathBuf::from(
            "/sys/fs/cgroup/memory/soulbox/sb2/5/user/cgroup.procs"
        )));
        assert!(files.contains(&PathBuf::from(
            "/sys/fs/cgroup/freezer/soulbox/sb2/5/cgroup.procs"
        )));
    }

    #[test]
    fn a_shared_directory_is_made_while_another_server_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("soulbox");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _not_empty = fs::remove_dir(&shared);
                }
            });
            for _ in 0..2000 {
                let made = make_shared_dir(&shared.join("sb1"));
                let removed = made.and_then(|()| fs::remove_dir(shared.join("sb1")));
                if removed.is_err() {
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                removed.unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn unified_hosts_use_one() {
        let text = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        let all = |_: &Path| "cpuset cpu io memory pids".to_owned();
        assert_eq!(
            Hierarchies::from_mountinfo(text, all),
            Ok(Hierarchies::Unified {
                root: PathBuf::from("/sys/fs/cgroup")
            })
        );
        assert_eq!(
            Hierarchies::from_mountinfo(text, |_| "cpu".to_owned()),
            Err("memory")
        );
    }

    #[test]
    fn user_limits_lie_below_the_slots() {
        let root = Hierarchies::Unified {
            root: PathBuf::from("/cg"),
        };
        let files = limit_files(&root, Path::new("soulbox/sb0/1"), &Limits::STANDARD);
        let value = |suffix: &str| -> u64 {
            let (_, text) = files.iter().find(|(p, _)| p.ends_with(suffix)).unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("1/memory.max") > value("user/memory.max"));
        assert!(value("1/pids.max") > value("user/pids.max"));
        assert_eq!(value("cpu.max"), 200_000);
    }

    #[test]
    fn swap_adds_nothing_to_the_memory_limit() {
        let root = PathBuf::from("/cg");
        let slot = Path::new("soulbox/sb0/1");
        let unified = Hierarchies::Unified { root: root.clone() };
        assert_eq!(
            swap_files(&unified, slot, &Limits::STANDARD),
            [(root.join("soulbox/sb0/1/memory.swap.max"), "0".to_owned())]
        );
        let legacy = Hierarchies::from_mountinfo(HYBRID, |_| String::new()).unwrap();
        let limits = limit_files(&legacy, slot, &Limits::STANDARD);
        for (path, value) in swap_files(&legacy, slot, &Limits::STANDARD) {
            let alone = path.with_file_name("memory.limit_in_bytes");
            assert!(limits.contains(&(alone, value)), "{}", path.display());
        }
    }

    #[test]
    fn keyed_values() {
        assert_eq!(keyed("anon 5\nfile 7\nfile_mapped 9", "file"), 7);
        assert_eq!(keyed("", "file"), 0);
    }
}

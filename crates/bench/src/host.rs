//! What the kernel says about processes on this machine: the server's memory and that of sandboxes.
//!
//! Only for a server on this machine, and mostly only for root; where it cannot be read the answer is None, and the
//! report says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// What a reader of numbers has to know of the machine that they come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Release of the kernel.
    pub kernel: String,
    /// What the processor calls itself.
    pub processor: String,
    /// How many processors this program may use.
    pub processors: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How many wanted to run in the last minute, on average: what else the machine was doing.
    pub load: f64,
}

/// Facts of this machine; what cannot be read is empty.
#[must_use]
pub fn facts() -> Facts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let first = |text: String| {
        text.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
    };
    Facts {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        processor: processor(&read("/proc/cpuinfo")).to_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default() / 1024,
        load: first(read("/proc/loadavg")).unwrap_or_default(),
    }
}

fn processor(cpuinfo: &str) -> &str {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or("", |(_, name)| name.trim())
}

/// How long the threads of these processes have run so far. None when one of them cannot be seen.
#[must_use]
pub fn running_time(pids: impl IntoIterator<Item = u32>) -> Option<Duration> {
    let mut all = Duration::ZERO;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
            let path = thread.ok()?.path().join("schedstat");
            match fs::read_to_string(path) {
                Ok(text) => all += on_processor(&text)?,
                // A thread may end between the listing and the reading.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
    }
    Some(all)
}

/// How long these processes have run so far, with threads that have ended; in hundredths of a second. None when one of
/// them cannot be seen.
#[must_use]
pub fn used_time(pids: &[u32]) -> Option<Duration> {
    let of = |pid: &u32| ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    let all: Option<u64> = pids.iter().map(of).sum();
    Some(Duration::from_millis(all? * 10))
}

/// Fields 14 and 15 of `/proc/<pid>/stat`. The second field is the program's name in parentheses and may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// The children of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let is_child = |other: &u32| {
        let stat = fs::read_to_string(format!("/proc/{other}/stat")).ok();
        stat.is_some_and(|stat| parent(&stat) == Some(pid))
    };
    pids().into_iter().filter(is_child).collect()
}

/// Field 4.
fn parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The first number of `schedstat`: nanoseconds on a processor.
fn on_processor(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Memory of one process, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss_kib: u64,
    /// Its fair share: what is shared is divided by those who share it.
    pub pss_kib: u64,
}

/// Memory of the process, from `smaps_rollup`.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    parse_rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_rollup(text: &str) -> Option<Memory> {
    Some(Memory {
        rss_kib: kib(text, "Rss:")?,
        pss_kib: kib(text, "Pss:")?,
    })
}

/// Resident memory of the process in KiB. Cheap: for sampling.
#[must_use]
pub fn rss_kib(pid: u32) -> Option<u64> {
    kib(
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        "VmRSS:",
    )
}

fn kib(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.strip_prefix(field)?
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()
}

/// The processes of each sandbox, known by the sandbox's name in what they are confined with: the path of a cgroup,
/// or a directory that their root is mounted from.
#[must_use]
pub fn processes_by_sandbox(ids: &[String]) -> BTreeMap<String, Vec<u32>> {
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for pid in pids() {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        // Who sees our mounts is in no sandbox; most processes of a machine are done with here.
        if fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == ours {
            continue;
        }
        let id = read("cgroup")
            .and_then(|text| named(&text, &ids))
            .or_else(|| read("mountinfo").and_then(|text| named(&text, &ids)));
        if let Some(id) = id {
            found.entry(id).or_default().push(pid);
        }
    }
    found
}

/// The sandbox that a text names as a word of its own.
fn named(text: &str, ids: &BTreeSet<&str>) -> Option<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| ids.contains(word))
        .map(ToOwned::to_owned)
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The process that listens on this TCP port of this machine.
#[must_use]
pub fn listener(port: u16) -> Option<u32> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let wanted = format!("socket:[{inode}]");
    pids()
        .into_iter()
        .find(|pid| holds(Path::new(&format!("/proc/{pid}/fd")), &wanted))
}

fn holds(directory: &Path, wanted: &str) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted))
}

/// Finds a socket in the kernel's table (proc(5), `/proc/net/tcp`): local address, state 0A = LISTEN, inode.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        (local.ends_with(&suffix) && state == "0A")
            .then(|| inode.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:0BB9 0100007F:0BB8 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
";

    #[test]
    fn finds_the_listening_socket_only() {
        assert_eq!(listening_inode(TABLE, 3000), Some(4711));
        assert_eq!(listening_inode(TABLE, 3001), None);
    }

    #[test]
    fn finds_ourselves() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            listener(socket.local_addr().unwrap().port()),
            Some(std::process::id())
        );
        assert!(rss_kib(std::process::id()).is_some_and(|kib| kib > 100));
    }

    #[test]
    fn this_machine() {
        let facts = facts();
        assert!(facts.processors > 0 && facts.memory_mib > 0 && !facts.kernel.is_empty());
        assert_eq!(
            processor("processor\t: 0\nmodel name\t: A B @ 2\n"),
            "A B @ 2"
        );
        assert_eq!(processor(""), "");
    }

    #[test]
    fn time_on_a_processor() {
        assert_eq!(
            on_processor("1500 20 3\n"),
            Some(Duration::from_nanos(1500))
        );
        assert_eq!(on_processor("\n"), None);
        assert!(running_time([std::process::id()]).is_some_and(|time| time > Duration::ZERO));
        assert_eq!(running_time([0]), None);
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 1 0 9";
        assert_eq!((ticks(stat), parent(stat)), (Some(42), Some(3)));
        assert_eq!(ticks("7 (a)"), None);
        assert!(used_time(&[std::process::id()]).is_some());
    }

    #[test]
    fn rollup() {
        let text = "00400000-7fff [rollup]\nRss:                2048 kB\nPss:                1024 kB\nPss_Anon: 3 kB\n";
        assert_eq!(
            parse_rollup(text),
            Some(Memory {
                rss_kib: 2048,
                pss_kib: 1024
            })
        );
        assert_eq!(parse_rollup("nothing"), None);
    }

    #[test]
    fn sandboxes_are_named_as_words() {
        let ids = BTreeSet::from(["i0abc"]);
        let found = |text: &str| named(text, &ids).is_some();
        assert!(found("0::/soulbox/i0abc/user\n"));
        assert!(found("4:memory:/sb0-i0abc.scope\n"));
        assert!(found(
            "396 1605 0:83 / / rw - overlay x rw,upperdir=/var/lib/soulbox/sandboxes/i0abc/disk/upper"
        ));
        assert!(!found("0::/soulbox/i0abcd\n"));
    }
}

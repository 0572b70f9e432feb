//! What a sandbox sees: mounts, devices, `/proc`, `/sys`, its own size and name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;
use soulbox_types::Limits;

use crate::support::{on_stage, spec};

/// Entries that tell about the host or its kernel. Which of them exist is up to the kernel.
const MASKED_FILES: [&str; 36] = [
    "bootconfig",
    "buddyinfo",
    "cmdline",
    "config.gz",
    "consoles",
    "crypto",
    "diskstats",
    "dma",
    "fb",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "locks",
    "mdstat",
    "misc",
    "modules",
    "mtrr",
    "pagetypeinfo",
    "partitions",
    "sched_debug",
    "schedstat",
    "slabinfo",
    "softirqs",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
    "zoneinfo",
];
const MASKED_DIRECTORIES: [&str; 9] = [
    "acpi",
    "asound",
    "bus",
    "driver",
    "dynamic_debug",
    "fs",
    "irq",
    "pressure",
    "scsi",
];

/// Entries that tell of the sandbox instead.
const SHADOWED: [&str; 15] = [
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

fn present<'a>(names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    names
        .iter()
        .copied()
        .filter(|name| Path::new("/proc").join(name).exists())
}

#[test]
fn mounts_are_exactly_the_planned_ones() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let text = sandbox.root("cat /proc/self/mountinfo").await;
        let mut found: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
        for line in text.lines() {
            let (left, right) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = left.split(' ').collect();
            assert!(fields.len() == 6, "a mount with propagation: {line}");
            found.insert(
                fields[4],
                (
                    right.split(' ').next().unwrap(),
                    fields[5].split(',').collect(),
                ),
            );
        }
        let read_only = ["ro", "nosuid", "nodev", "noexec"].as_slice();
        let mut expected: BTreeMap<String, &[&str]> = BTreeMap::from([
            ("/".to_owned(), ["rw", "nodev"].as_slice()),
            ("/dev".to_owned(), &["rw", "nosuid"]),
            ("/dev/.envd".to_owned(), &["ro", "nosuid", "nodev"]),
            ("/dev/pts".to_owned(), &["rw", "nosuid", "noexec"]),
            ("/dev/shm".to_owned(), &["rw", "nosuid"]),
            ("/sys".to_owned(), read_only),
            ("/proc".to_owned(), &["rw", "nosuid", "nodev", "noexec"]),
            ("/proc/sys".to_owned(), read_only),
        ]);
        let masked = present(&MASKED_FILES)
            .chain(present(&MASKED_DIRECTORIES))
            .chain(present(&SHADOWED));
        expected.extend(masked.map(|name| (format!("/proc/{name}"), read_only)));
        // Not there when the host has no more CPUs than the sandbox.
        if found.contains_key("/proc/cpuinfo") {
            expected.insert("/proc/cpuinfo".to_owned(), read_only);
        }
        let points: Vec<&str> = found.keys().copied().collect();
        assert_eq!(
            points,
            expected.keys().map(String::as_str).collect::<Vec<_>>()
        );
        for (point, flags) in expected {
            let (_, options) = &found[point.as_str()];
            assert!(
                flags.iter().all(|flag| options.contains(flag)),
                "{point}: {options:?}"
            );
        }
        assert_eq!(
            (found["/"].0, found["/proc"].0, found["/dev/pts"].0),
            ("overlay", "proc", "devpts")
        );
    });
}

#[test]
fn mounts_tell_nothing_of_the_data_directory() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let text = sandbox
            .root("cat /proc/mounts /proc/self/mountstats /proc/self/mountinfo")
            .await;
        assert!(text.contains("lowerdir="), "{text}");
        let ours = stage.place.data_dir.display().to_string();
        // Nor by a part of it, as when it lies on a file system of its own.
        let name = stage.place.data_dir.file_name().unwrap().to_str().unwrap();
        assert!(!text.contains(&ours) && !text.contains(name), "{text}");
    });
}

#[test]
fn root_can_neither_mount_nor_unmount() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let before = sandbox.root("cat /proc/self/mountinfo").await;
        for attempt in [
            "mount -t tmpfs none /mnt",
            "mount -t proc none /mnt",
            "mount --bind /etc /mnt",
            "mount --rbind / /mnt",
            "mount -o remount,rw /sys",
            "mount -o remount,bind,rw /proc/sys",
            "mount -o remount,suid,dev /",
            "mount --make-shared /",
            "umount /proc/meminfo",
            "umount -l /proc",
            "umount -l /sys",
            "chroot / mount -t tmpfs none /mnt",
            "unshare -m true",
            "unshare -r true",
            "nsenter -t 1 -m true",
        ] {
            assert!(!sandbox.succeeds("root", attempt).await, "{attempt}");
        }
        assert_eq!(sandbox.root("cat /proc/self/mountinfo").await, before);
    });
}

#[test]
fn root_cannot_make_device_nodes() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for (directory, node) in [
            ("/tmp", "b 8 0"),
            ("/tmp", "c 1 1"),
            ("/dev", "c 1 3"),
            ("/dev/shm", "c 5 1"),
        ] {
            assert!(
                !sandbox
                    .succeeds("root", &format!("mknod {directory}/made {node}"))
                    .await,
                "{directory} {node}"
            );
        }
        // What needs no privilege stays possible.
        assert_eq!(
            sandbox
                .root("mkfifo /tmp/pipe && test -p /tmp/pipe && echo made")
                .await,
            "made\n"
        );
    });
}

#[test]
fn devices_are_exactly_the_listed_ones() {
    const LISTING: &str = "cd /dev && for f in $(find .[!.]* * | sort); do echo \"$f $(readlink $f) $(stat -c '%F %a %u %t:%T' $f)\"; done";
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let found = sandbox.root(LISTING).await;
        let expected = "\
.envd  regular file 555 65534 0:0
fd /proc/self/fd symbolic link 777 0 0:0
full  character special file 666 0 1:7
null  character special file 666 0 1:3
ptmx pts/ptmx symbolic link 777 0 0:0
pts  directory 755 65534 0:0
pts/ptmx  character special file 666 65534 5:2
random  character special file 666 0 1:8
shm  directory 1777 0 0:0
stderr /proc/self/fd/2 symbolic link 777 0 0:0
stdin /proc/self/fd/0 symbolic link 777 0 0:0
stdout /proc/self/fd/1 symbolic link 777 0 0:0
tty  character special file 666 0 5:0
urandom  character special file 666 0 1:9
zero  character special file 666 0 1:5
";
        assert_eq!(found, expected);
        assert_eq!(
            sandbox
                .root("find / -xdev \\( -type b -o -type c \\) 2>/dev/null")
                .await,
            ""
        );
    });
}

#[test]
fn sys_is_a_sketch_and_read_only() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let found = sandbox
            .root("find /sys -type f | sort; find /sys -mindepth 1 -maxdepth 1 | sort")
            .await;
        let expected = "/sys/devices/system/cpu/online\n/sys/devices/system/cpu/possible\n/sys/devices/system/cpu/present\n\
                        /sys/block\n/sys/bus\n/sys/class\n/sys/devices\n/sys/fs\n/sys/kernel\n";
        assert_eq!(found, expected);
        for attempt in [
            "touch /sys/x",
            "echo 0 > /sys/devices/system/cpu/online",
            "mkdir /sys/fs/cgroup/x",
        ] {
            assert!(!sandbox.succeeds("root", attempt).await, "{attempt}");
        }
    });
}

#[test]
fn masked_entries_of_proc_are_empty() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for name in present(&MASKED_FILES) {
            assert_eq!(
                sandbox.root(&format!("cat /proc/{name}")).await,
                "",
                "{name}"
            );
            assert!(
                !sandbox
                    .succeeds("root", &format!("echo b > /proc/{name}"))
                    .await,
                "{name}"
            );
        }
        for name in present(&MASKED_DIRECTORIES) {
            assert_eq!(
                sandbox.root(&format!("ls -A /proc/{name}")).await,
                "",
                "{name}"
            );
            assert!(
                !sandbox
                    .succeeds("root", &format!("touch /proc/{name}/x"))
                    .await,
                "{name}"
            );
        }
    });
}

#[test]
fn nothing_of_proc_but_own_processes_can_be_written() {
    const OPEN_ALL: &str = r#"
import json, os
opened, refused = [], 0
for place, directories, files in os.walk("/proc"):
    if place == "/proc":
        directories[:] = [d for d in directories if not d.isdigit() and d not in ("self", "thread-self")]
    for name in files:
        path = os.path.join(place, name)
        if os.path.islink(path): continue
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            opened.append(path)
        except OSError:
            refused += 1
print(json.dumps([opened, refused > 300]))
"#;
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        assert_eq!(sandbox.python("root", OPEN_ALL).await, json!([[], true]));
        // Not only opening: names that route elsewhere.
        for attempt in [
            "echo x > /proc/sys/kernel/core_pattern",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "sysctl -w vm.drop_caches=1",
        ] {
            assert!(!sandbox.succeeds("root", attempt).await, "{attempt}");
        }
    });
}

/// Settings that its own root would be allowed to write, because they are those of its network and its queues: only that
/// the mount is read-only is in the way.
#[test]
fn settings_of_its_own_namespaces_stay() {
    const OPEN_OWN: &str = r#"
import errno, json, os
only_the_mount, opened = 0, []
for place, _, files in os.walk("/proc/sys"):
    for name in files:
        path = os.path.join(place, name)
        try: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)); opened.append(path)
        except OSError as error: only_the_mount += error.errno == errno.EROFS
for place, _, files in os.walk("/proc/self/net"):
    for name in files:
        try: os.close(os.open(os.path.join(place, name), os.O_WRONLY | os.O_NONBLOCK)); opened.append(name)
        except OSError: pass
try: os.write(os.open("/proc/self/timens_offsets", os.O_WRONLY), b"monotonic 100 0\n"); opened.append("timens_offsets")
except OSError: pass
print(json.dumps([only_the_mount > 0, opened]))
"#;
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        assert_eq!(sandbox.python("root", OPEN_OWN).await, json!([true, []]));
    });
}

#[test]
fn other_processes_are_invisible() {
    on_stage(async |stage| {
        let (sandbox, _other) = (stage.create().await, stage.create().await);
        let pids = sandbox.root("ls /proc | grep -x '[0-9]*' | sort -n").await;
        let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids[0], 1);
        assert!(
            pids.len() < 8 && pids.iter().all(|pid| *pid < 100),
            "{pids:?}"
        );
        let names = sandbox.root("cat /proc/[0-9]*/comm | sort -u").await;
        assert!(
            names
                .lines()
                .all(|name| ["cat", "sh", "sort", "envd"].contains(&name)),
            "{names}"
        );
    });
}

#[test]
fn its_size_is_the_templates_not_the_hosts() {
    on_stage(async |stage| {
        let mut wanted = spec(&stage.needs);
        wanted.limits = Limits {
            vcpu_count: 1,
            memory_mib: 300,
            ..Limits::STANDARD
        };
        let sandbox = stage.create_as(&wanted).await;
        let sizes = "import json, os; print(json.dumps([os.cpu_count(), len(os.sched_getaffinity(0)), os.sysconf('SC_NPROCESSORS_ONLN')]))";
        assert_eq!(sandbox.python("user", sizes).await, json!([1, 1, 1]));
        assert_eq!(
            sandbox
                .root("nproc; grep -c ^processor /proc/cpuinfo")
                .await,
            "1\n1\n"
        );
        assert_eq!(
            sandbox
                .root("grep MemTotal /proc/meminfo | tr -d ' '")
                .await,
            "MemTotal:307200kB\n"
        );
        let before: u64 = sandbox
            .root("awk '/MemFree/ {print $2}' /proc/meminfo")
            .await
            .trim()
            .parse()
            .unwrap();
        assert!(before <= 307_200);
        let eater = sandbox
            .serve(
                "user",
                "x = bytearray(100 << 20); print('up'); import time; time.sleep(60)",
            )
            .await;
        // The driver refreshes the file when it measures.
        sandbox.guest.stats().await.unwrap();
        let after: u64 = sandbox
            .root("awk '/MemFree/ {print $2}' /proc/meminfo")
            .await
            .trim()
            .parse()
            .unwrap();
        assert!(after + 90_000 < before, "{before} {after}");
        drop(eater);
    });
}

/// What programs read about the machine, inside: what tells of CPUs, load and age.
const READINGS: &str = r#"
import json, os
text = lambda name: open("/proc/" + name).read()
stat = text("stat").splitlines()
cpu = [int(n) for n in stat[0].split()[1:]]
facts = dict(line.split(None, 1) for line in stat if not line.startswith("cpu"))
print(json.dumps({
    "cpus": sum(line[:3] == "cpu" and line[3].isdigit() for line in stat),
    "busy": (cpu[0] + cpu[2]) / 100, "all": sum(cpu) / 100, "btime": int(facts["btime"]),
    "uptime": [float(n) for n in text("uptime").split()], "load": [float(n) for n in text("loadavg").split()[:3]],
    "version": text("version"), "cgroups": [l.split()[2] for l in text("cgroups").splitlines()[1:]],
    "vmstat": sorted(line.split()[0] for line in text("vmstat").splitlines()),
    "boot_id": text("sys/kernel/random/boot_id").strip(), "files": text("sys/fs/file-nr").split()[0],
}))
"#;

#[test]
fn load_age_and_kernel_are_its_own() {
    on_stage(async |stage| {
        let mut wanted = spec(&stage.needs);
        wanted.limits.vcpu_count = 1;
        let sandbox = stage.create_as(&wanted).await;
        // Two seconds of one CPU.
        sandbox
            .python(
                "user",
                "import time\nwhile time.process_time() < 2: pass\nprint(0)",
            )
            .await;
        sandbox.guest.stats().await.unwrap();
        let read = sandbox.python("user", READINGS).await;
        let number = |name: &str| read[name].as_f64().unwrap();
        assert_eq!(read["cpus"], 1);
        assert!((2.0..20.0).contains(&number("busy")), "{read}");
        let (age, idle) = (
            read["uptime"][0].as_f64().unwrap(),
            read["uptime"][1].as_f64().unwrap(),
        );
        assert!((2.0..60.0).contains(&age) && idle < age, "{read}");
        assert!((number("all") - age).abs() < 1.0, "{read}");
        let started = std::time::UNIX_EPOCH + std::time::Duration::from_secs_f64(number("btime"));
        assert!(started.elapsed().unwrap().as_secs() < 120, "{read}");
        let load = read["load"][0].as_f64().unwrap();
        assert!(load > 0.0 && load < 1.5, "{read}");
        assert_eq!(
            read["version"],
            json!(format!(
                "Linux version {} #1 SMP\n",
                rustix::system::uname().release().to_str().unwrap()
            ))
        );
        assert!(
            read["cgroups"]
                .as_array()
                .unwrap()
                .iter()
                .all(|count| count == "1"),
            "{read}"
        );
        assert!(
            read["vmstat"]
                .as_array()
                .unwrap()
                .contains(&json!("oom_kill"))
        );
        let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_ne!(read["boot_id"].as_str().unwrap(), host.trim());
        assert_eq!(read["files"], "0");
    });
}

/// The file follows what happens without anybody asking for statistics, within about a second.
#[test]
fn what_it_sees_of_itself_is_kept_up_to_date() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let free = async || -> i64 {
            let text = sandbox
                .root("awk '/MemFree/ {print $2}' /proc/meminfo")
                .await;
            text.trim().parse().unwrap()
        };
        let before = free().await;
        let eater = sandbox
            .serve(
                "user",
                "x = bytearray(100 << 20); print('up'); import time; time.sleep(60)",
            )
            .await;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while free().await + 90_000 > before {
            assert!(std::time::Instant::now() < deadline, "{before}");
        }
        drop(eater);
    });
}

#[test]
fn tools_that_ask_about_the_machine_work() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for command in [
            "ps aux | grep -q ps",
            "ps -eo pid,etime,pcpu,comm | grep -q ps",
            "free -m | grep -q '^Mem: *512 '",
            "uptime | grep -q 'load average'",
            "top -b -n 1 | grep -q '%Cpu'",
            "vmstat 1 2 | tail -1 | grep -q '^ *[0-9]'",
            "nproc && cat /proc/interrupts /proc/diskstats",
        ] {
            let tool = command.split(' ').next().unwrap();
            if !sandbox
                .succeeds("root", &format!("command -v {tool}"))
                .await
            {
                println!("SKIP {tool}: not in this template");
                continue;
            }
            let output = sandbox.run("user", &["sh", "-c", command]).await;
            assert!(
                output.code == 0 && output.stderr.is_empty(),
                "{command}: {output:?}"
            );
        }
    });
}

#[test]
fn its_clock_since_boot_begins_with_it() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let uptime: f64 = sandbox
            .root("cut -d' ' -f1 /proc/uptime")
            .await
            .trim()
            .parse()
            .unwrap();
        let clock = sandbox.python("user", "import json, time; print(json.dumps([time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)]))").await;
        assert!(uptime < 30.0, "{uptime}");
        assert!(
            clock[0].as_f64().unwrap() < 30.0 && clock[1].as_f64().unwrap() < 30.0,
            "{clock}"
        );
    });
}

#[test]
fn its_name_is_its_own() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let id = sandbox.guest.spec().id.to_string();
        assert_eq!(
            sandbox.root("hostname; cat /etc/hostname; uname -n").await,
            format!("{id}\n{id}\n{id}\n")
        );
        assert!(!sandbox.succeeds("root", "hostname stolen").await);
        assert!(
            !sandbox
                .succeeds("root", "echo stolen > /proc/sys/kernel/hostname")
                .await
        );
        assert_ne!(rustix::system::uname().nodename().to_str().unwrap(), id);
    });
}

#[test]
fn names_lead_to_itself_and_to_the_gateway() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let gateway = stage.place.block.gateway();
        assert_eq!(
            sandbox.root("cat /etc/resolv.conf").await,
            format!("nameserver {gateway}\n")
        );
        let id = sandbox.guest.spec().id.to_string();
        assert_eq!(
            sandbox.root("cat /etc/hosts").await,
            format!(
                "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {id}\n"
            )
        );
        assert!(
            sandbox
                .root("getent hosts $(hostname)")
                .await
                .contains("127.0.1.1")
        );
        // Ordinary files of the sandbox, which root inside may change.
        assert_eq!(
            sandbox
                .root("echo 127.0.0.9 added >> /etc/hosts && getent hosts added | cut -d' ' -f1")
                .await,
            "127.0.0.9\n"
        );
    });
}

//! Limits: enforced by the kernel, survived by envd, and not shared with other sandboxes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use soulbox_driver_linux::cgroup::Hierarchies;
use soulbox_types::Limits;

use crate::commands::{Output, Sandbox};
use crate::support::{Place, eventually, on_stage};

const ENVD_MEMORY_BYTES: u64 = 64 << 20;
const ENVD_PIDS: u32 = 32;

/// Every limit of a slot, by hierarchy-independent names.
fn limits_in_kernel(place: &Place, sandbox: &Sandbox) -> BTreeMap<&'static str, String> {
    let relative = format!("soulbox/{}/{}", place.block.prefix(), sandbox.slot.index());
    let files: Vec<(&'static str, PathBuf)> = match &place.hierarchies {
        Hierarchies::Unified { root } => vec![
            ("cpu", root.join(&relative).join("cpu.max")),
            ("memory", root.join(&relative).join("memory.max")),
            (
                "memory of user",
                root.join(&relative).join("user/memory.max"),
            ),
            ("pids", root.join(&relative).join("pids.max")),
            ("pids of user", root.join(&relative).join("user/pids.max")),
        ],
        Hierarchies::Legacy {
            memory, pids, cpu, ..
        } => vec![
            ("cpu", cpu.join(&relative).join("cpu.cfs_quota_us")),
            (
                "memory",
                memory.join(&relative).join("memory.limit_in_bytes"),
            ),
            (
                "memory of user",
                memory.join(&relative).join("user/memory.limit_in_bytes"),
            ),
            ("pids", pids.join(&relative).join("pids.max")),
            ("pids of user", pids.join(&relative).join("user/pids.max")),
        ],
    };
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        text.split_ascii_whitespace().next().unwrap().to_owned()
    };
    files
        .into_iter()
        .map(|(name, path)| (name, read(path)))
        .collect()
}

/// Waits until envd stands in a cgroup of its own, which happens after the create.
async fn separated(sandbox: &Sandbox) {
    eventually("envd's own cgroup", || {
        let cgroups = sandbox.envd_cgroups();
        let own = cgroups
            .lines()
            .filter(|line| line.ends_with("/envd"))
            .count();
        let shared = cgroups
            .lines()
            .filter(|line| line.ends_with("/user"))
            .count();
        (own > 0 && shared == 0).then_some(()).ok_or(cgroups)
    })
    .await;
}

#[test]
fn limits_are_the_templates() {
    on_stage(async |stage| {
        let mut spec = stage.spec();
        spec.limits = Limits {
            vcpu_count: 1,
            memory_mib: 256,
            pids: 100,
            ..Limits::STANDARD
        };
        let sandbox = stage.create_as(&spec).await;
        let memory = spec.limits.memory_bytes();
        let expected = BTreeMap::from([
            ("cpu", "100000".to_owned()),
            ("memory", (memory + ENVD_MEMORY_BYTES).to_string()),
            ("memory of user", memory.to_string()),
            ("pids", (100 + ENVD_PIDS).to_string()),
            ("pids of user", "100".to_owned()),
        ]);
        assert_eq!(limits_in_kernel(&stage.place, &sandbox), expected);
        assert_eq!(sandbox.root("ulimit -c").await, "0\n");
        let files: u64 = sandbox.root("ulimit -Hn").await.trim().parse().unwrap();
        assert!((1024..=65_536).contains(&files), "{files}");
    });
}

#[test]
fn programs_stand_in_the_users_cgroup_and_see_no_path_of_the_host() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        separated(&sandbox).await;
        let sleeper = sandbox
            .serve(
                "user",
                "import os, time; print(os.getpid()); time.sleep(60)",
            )
            .await;
        let place = format!(
            "/soulbox/{}/{}/user",
            stage.place.block.prefix(),
            sandbox.slot.index()
        );
        let in_slot = stage
            .place
            .slots()
            .iter()
            .flat_map(|slot| slot.processes().unwrap())
            .collect::<Vec<_>>();
        let outside = in_slot
            .iter()
            .filter(|pid| **pid != sandbox.pid)
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap());
        assert!(outside.clone().count() >= 1);
        assert!(
            outside
                .clone()
                .all(|text| text.lines().any(|line| line.ends_with(&place))),
            "{:?}",
            outside.collect::<Vec<_>>()
        );
        let inside = sandbox.root("cat /proc/self/cgroup").await;
        assert!(!inside.contains("soulbox"), "{inside}");
        drop(sleeper);
    });
}

#[test]
fn memory_limit_kills_the_greedy_and_spares_envd() {
    on_stage(async |stage| {
        let mut spec = stage.spec();
        spec.limits.memory_mib = 200;
        let sandbox = stage.create_as(&spec).await;
        separated(&sandbox).await;
        assert_eq!(sandbox.guest.stats().await.unwrap().oom_kills, 0);
        let greedy = sandbox
            .run(
                "user",
                &["python3", "-c", "x = bytearray(400 << 20); print(len(x))"],
            )
            .await;
        assert_ne!(greedy.code, 0, "{greedy:?}");
        assert_eq!(greedy.stdout, "");
        assert!(sandbox.guest.stats().await.unwrap().oom_kills >= 1);
        assert_eq!(sandbox.root("echo alive").await, "alive\n");
        // What lies in memory without belonging to a process counts, too.
        let shared = sandbox
            .run(
                "user",
                &["sh", "-c", "head -c 300M /dev/zero > /dev/shm/big"],
            )
            .await;
        assert_ne!(shared.code, 0);
        assert_eq!(
            sandbox.root("rm -f /dev/shm/big; echo alive").await,
            "alive\n"
        );
    });
}

/// Whether this machine lets its server read who was killed. Elsewhere the name is left out, visibly.
fn names_are_known() -> bool {
    let known = fs::File::open("/dev/kmsg").is_ok();
    if !known {
        println!("SKIP names of killed processes: /dev/kmsg cannot be read here");
    }
    known
}

const EAT: &str = "x = bytearray(400 << 20)";

#[test]
fn a_process_killed_for_memory_is_reported_by_name_and_number() {
    on_stage(async |stage| {
        let mut spec = stage.spec();
        spec.limits.memory_mib = 200;
        let sandbox = stage.create_as(&spec).await;
        separated(&sandbox).await;
        let mut reports = sandbox.guest.oom_kills();
        // The command itself.
        let mut running = sandbox.start("user", &["python3", "-c", EAT]).await;
        let (mut output, mut pid) = (Output::default(), None);
        while let Some(event) = running.next().await {
            pid = pid.or(event["start"]["pid"].as_i64());
            output.take(&event);
        }
        let pid = pid.unwrap();
        assert_eq!(output.code, -1, "{output:?}");
        if names_are_known() {
            let expected = format!("signal: killed (out of memory: killed python3, pid {pid})");
            assert_eq!(output.status, expected);
            let kill = reports.recv().await.unwrap();
            assert_eq!(
                (kill.name.as_str(), kill.pid.map(i64::from)),
                ("python3", Some(pid))
            );
        } else {
            assert_eq!(output.status, "signal: killed (out of memory)");
        }
        // A child of it, whose end the command survives. Another command beside it is told nothing.
        let mut beside = sandbox
            .start("user", &["sh", "-c", "echo up; sleep 2; exit 1"])
            .await;
        let script = format!("python3 -c '{EAT}' & echo child $!; wait $!; exit 3");
        let output = sandbox.run("user", &["bash", "-c", &script]).await;
        let child = output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("child "));
        let child = child.unwrap();
        assert_eq!(output.code, 3, "{output:?}");
        if names_are_known() {
            let expected = format!("exit status 3 (out of memory: killed python3, pid {child})");
            assert_eq!(output.status, expected);
            assert_eq!(reports.recv().await.unwrap().pid, child.parse().ok());
        }
        let mut other = Output::default();
        while let Some(event) = beside.next().await {
            other.take(&event);
        }
        assert_eq!(other.status, "exit status 1");
        // What does not end for memory says nothing of it.
        let killed = sandbox.run("user", &["sh", "-c", "kill -9 $$"]).await;
        assert_eq!(killed.status, "signal: killed");
        assert_eq!(sandbox.root("echo usable").await, "usable\n");
        let stats = sandbox.guest.stats().await.unwrap();
        assert_eq!(stats.oom_kills, 2);
        assert_eq!(stats.oom_kills_named, if names_are_known() { 2 } else { 0 });
    });
}

/// Processes that each open as many files as they may, and keep them: 800,000 in all.
const OPEN_WITHOUT_END: &str = r#"
import os, resource, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for _ in range(800_000 // hard + 1):
    if os.fork() == 0:
        try:
            while True: os.open("/dev/null", os.O_RDONLY)
        except OSError as error:
            # In one piece: another may say so at the same time.
            os.write(1, b"stopped by %d of %d\n" % (error.errno, hard))
            time.sleep(600)
time.sleep(600)
"#;

/// A process is stopped by its own limit. What bounds a sandbox, which has many, is the memory that open files cost
/// the kernel: it is the sandbox's own, and without it all of these would live.
#[test]
fn open_files_are_limited_for_a_process_and_charged_to_the_sandbox() {
    on_stage(async |stage| {
        let mut spec = stage.spec();
        spec.limits.memory_mib = 100;
        let sandbox = stage.create_as(&spec).await;
        separated(&sandbox).await;
        let mut greedy = sandbox
            .start("user", &["python3", "-u", "-c", OPEN_WITHOUT_END])
            .await;
        let mut said = Output::default();
        while !said.stdout.contains('\n') {
            said.take(&greedy.next().await.unwrap());
        }
        let first = said.stdout.lines().next().unwrap();
        // The highest limit is the host's where that is lower.
        let most: u64 = first.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(first, format!("stopped by 24 of {most}"), "EMFILE");
        assert!((1024..=65_536).contains(&most), "{most}");
        for _ in 0..600 {
            if sandbox.guest.stats().await.unwrap().oom_kills > 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(sandbox.guest.stats().await.unwrap().oom_kills > 0);
        assert_eq!(sandbox.root("echo usable").await, "usable\n");
    });
}

/// Forks without end, and says how far it came.
const FORK_WITHOUT_END: &str = r#"
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600); os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno)
time.sleep(600)
"#;

#[test]
fn processes_are_limited_and_the_rest_goes_on() {
    on_stage(async |stage| {
        let mut spec = stage.spec();
        spec.limits.pids = 150;
        let sandbox = stage.create_as(&spec).await;
        separated(&sandbox).await;
        let beside = stage.create().await;
        let mut bomb = sandbox
            .start("user", &["python3", "-u", "-c", FORK_WITHOUT_END])
            .await;
        let mut said = Output::default();
        while !said.stdout.contains('\n') {
            said.take(&bomb.next().await.unwrap());
        }
        let (made, errno) = said.stdout.trim().split_once(' ').unwrap();
        assert!(
            (100..150).contains(&made.parse::<u32>().unwrap()) && errno == "11",
            "{said:?}"
        );
        assert!(
            sandbox.guest.stats().await.unwrap().pids <= u64::from(spec.limits.pids + ENVD_PIDS)
        );
        assert_eq!(beside.root("echo beside").await, "beside\n");
        // envd still answers, needing no process for it; killing ends all of them.
        assert!(sandbox.guest.dial(crate::commands::ENVD_PORT).await.is_ok());
        sandbox.guest.kill().await.unwrap();
        drop((bomb, sandbox));
        eventually("the bomb to be gone", || {
            let left = stage.place.slots().len();
            (left == 1).then_some(()).ok_or(format!("{left} slots"))
        })
        .await;
    });
}

/// envd starts programs through a process that root inside may kill. What comes after must be limited all the same.
#[test]
fn killing_the_fork_server_frees_nobody_from_limits() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        separated(&sandbox).await;
        let server = sandbox.root("for p in /proc/[0-9]*; do test $(cat $p/comm) = $(cat /proc/1/comm) && echo ${p#/proc/}; done; true").await;
        let servers: Vec<&str> = server.lines().filter(|pid| *pid != "1").collect();
        assert_eq!(servers.len(), 1, "{server}");
        sandbox
            .run("root", &["sh", "-c", &format!("kill -9 {}", servers[0])])
            .await;
        let sleeper = sandbox
            .serve("user", "import time; print('up'); time.sleep(60)")
            .await;
        let users = format!(
            "/soulbox/{}/{}/user",
            stage.place.block.prefix(),
            sandbox.slot.index()
        );
        let pids = stage
            .place
            .slots()
            .iter()
            .flat_map(|slot| slot.processes().unwrap())
            .filter(|pid| *pid != sandbox.pid)
            .collect::<Vec<_>>();
        assert!(pids.len() >= 2, "{pids:?}");
        for pid in pids {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            assert!(
                cgroups.lines().any(|line| line.ends_with(&users)),
                "{cgroups}"
            );
        }
        drop(sleeper);
    });
}

/// Two threads that turn; how much CPU time they got in a second.
const SPIN: &str = r#"
import json, os, time
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        end = time.monotonic() + 1
        while time.monotonic() < end: pass
        os._exit(0)
    children.append(pid)
before = time.monotonic()
for pid in children: os.waitpid(pid, 0)
used = os.times()
print(json.dumps([used.children_user + used.children_system, time.monotonic() - before]))
"#;

#[test]
fn cpu_time_is_limited() {
    on_stage(async |stage| {
        let mut spec = stage.spec();
        spec.limits.vcpu_count = 1;
        let sandbox = stage.create_as(&spec).await;
        let measured = sandbox.python("user", SPIN).await;
        let (used, elapsed) = (measured[0].as_f64().unwrap(), measured[1].as_f64().unwrap());
        assert!(
            used <= elapsed * 1.2 + 0.1,
            "{used} s of CPU time in {elapsed} s"
        );
    });
}

#[test]
fn users_programs_die_before_envd() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let score = |path: PathBuf| {
            fs::read_to_string(path)
                .unwrap()
                .trim()
                .parse::<i32>()
                .unwrap()
        };
        let users: i32 = sandbox
            .run("user", &["cat", "/proc/self/oom_score_adj"])
            .await
            .stdout
            .trim()
            .parse()
            .unwrap();
        assert!(score(sandbox.proc("oom_score_adj")) < users);
        assert!(
            !sandbox
                .succeeds("root", "echo -1000 > /proc/self/oom_score_adj")
                .await
        );
    });
}

/// Takes as many of something as the kernel gives, and holds them.
fn hoard(take: &str) -> String {
    format!(
        "import ctypes, json, os, resource, time\nlibc = ctypes.CDLL(None, use_errno=True)\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n\
         def call(*args):\n    result = libc.syscall(*args)\n    if result < 0: raise OSError(ctypes.get_errno(), 'x')\n    return result\n\
         held = 0\ntry:\n    while held < 100000:\n        {take}\n        held += 1\nexcept OSError: pass\n\
         print(held)\ntime.sleep(600)\n"
    )
}

/// The kernel counts some things per user and user namespace, and again for whoever made the namespace. Were that the
/// host's root for all sandboxes, one could take everything from the others and from the host.
#[test]
#[cfg(target_arch = "x86_64")]
fn what_the_kernel_counts_per_user_is_not_shared() {
    on_stage(async |stage| {
        let (greedy, other) = (stage.create().await, stage.create().await);
        for (what, take, enough) in [
            ("inotify instances", "call(294, 0)", 100),
            (
                "message queues",
                "call(240, b'q%d' % held, 0o102, 0o600, 0)",
                5,
            ),
            (
                "pending signals",
                "call(222, 1, 0, ctypes.byref(ctypes.c_int()))",
                1000,
            ),
        ] {
            let _hoard = greedy.serve("root", &hoard(take)).await;
            let mut others = other
                .start("root", &["python3", "-u", "-c", &hoard(take)])
                .await;
            let mut said = Output::default();
            while !said.stdout.contains('\n') {
                said.take(&others.next().await.unwrap());
            }
            let got: u64 = said.stdout.trim().parse().unwrap();
            assert!(got >= enough, "{what}: the other sandbox got {got}");
        }
    });
}

#[test]
fn terminals_are_limited_for_each() {
    on_stage(async |stage| {
        let (greedy, other) = (stage.create().await, stage.create().await);
        let take = "os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)";
        let mut hoarding = greedy
            .start("root", &["python3", "-u", "-c", &hoard(take)])
            .await;
        let mut said = Output::default();
        while !said.stdout.contains('\n') {
            said.take(&hoarding.next().await.unwrap());
        }
        let got: u64 = said.stdout.trim().parse().unwrap();
        assert!((64..=256).contains(&got), "{got}");
        assert_eq!(
            other
                .root("python3 -c 'import pty; pty.openpty()' && echo opened")
                .await,
            "opened\n"
        );
    });
}

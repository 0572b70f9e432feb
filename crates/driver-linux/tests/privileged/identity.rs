//! Who a sandbox is: namespaces, ids, capabilities, and envd itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use soulbox_types::slot::UIDS_PER_SLOT;

use crate::commands::Sandbox;
use crate::support::{names_in, on_stage};

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

fn namespace(proc: &Path, name: &str) -> String {
    fs::read_link(proc.join("ns").join(name))
        .unwrap()
        .display()
        .to_string()
}

fn namespaces(sandbox: &Sandbox) -> BTreeSet<String> {
    NAMESPACES
        .iter()
        .map(|name| namespace(&sandbox.proc(""), name))
        .collect()
}

/// The value of a line of `/proc/<pid>/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim()
}

#[test]
fn every_namespace_is_its_own() {
    on_stage(async |stage| {
        let (one, other) = (stage.create().await, stage.create().await);
        let host: BTreeSet<String> = NAMESPACES
            .iter()
            .map(|name| namespace(Path::new("/proc/self"), name))
            .collect();
        let (one, other) = (namespaces(&one), namespaces(&other));
        assert_eq!(one.len(), NAMESPACES.len());
        assert!(one.is_disjoint(&host), "{one:?}");
        assert!(one.is_disjoint(&other), "{one:?} {other:?}");
    });
}

/// Those that a checkpoint must be able to make again belong to the sandbox's users, the others to the host's.
#[test]
fn namespaces_belong_to_the_hosts_users_or_its_own() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let number = |proc: &Path| {
            let link = namespace(proc, "user");
            let number = link.trim_start_matches("user:[").trim_end_matches(']');
            number.to_owned()
        };
        let (host, own) = (number(Path::new("/proc/self")), number(&sandbox.proc("")));
        assert_ne!(host, own);
        let output = Command::new("lsns")
            .args([
                "--noheadings",
                "--raw",
                "--output",
                "TYPE,NS,ONS",
                "--task",
                &sandbox.pid.to_string(),
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let owners: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| Some((line.split(' ').next()?, line.split(' ').nth(2)?)))
            .collect();
        assert_eq!(owners.len(), NAMESPACES.len(), "{text}");
        for (kind, owner) in owners {
            let expected = match kind {
                "ipc" | "mnt" | "net" | "time" | "uts" => &own,
                _ => &host,
            };
            assert_eq!(owner, expected, "owner of {kind}: {text}");
        }
    });
}

#[test]
fn ids_are_a_range_of_64k() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let expected = format!("0 {} {UIDS_PER_SLOT}", sandbox.slot.uid_base());
        for file in ["uid_map", "gid_map"] {
            let outside = fs::read_to_string(sandbox.proc(file)).unwrap();
            assert_eq!(
                outside
                    .split_ascii_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
                expected
            );
            let inside = sandbox.root(&format!("cat /proc/self/{file}")).await;
            assert_eq!(
                inside
                    .split_ascii_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
                expected
            );
        }
    });
}

#[test]
fn sandboxes_share_no_ids() {
    on_stage(async |stage| {
        let (one, other) = (stage.create().await, stage.create().await);
        assert!(one.slot.uid_base().abs_diff(other.slot.uid_base()) >= UIDS_PER_SLOT);
        for sandbox in [&one, &other] {
            let status = fs::read_to_string(sandbox.proc("status")).unwrap();
            let base = sandbox.slot.uid_base().to_string();
            for name in ["Uid", "Gid"] {
                assert_eq!(field(&status, name), [base.as_str(); 4].join("\t"));
            }
            assert_eq!(field(&status, "Groups"), "");
        }
    });
}

#[test]
fn capabilities_are_exactly_the_listed_ones() {
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, AUDIT_WRITE,
    // SETFCAP: linux/capability.h.
    const LISTED: u64 = 1
        | 1 << 1
        | 1 << 3
        | 1 << 4
        | 1 << 5
        | 1 << 6
        | 1 << 7
        | 1 << 8
        | 1 << 10
        | 1 << 18
        | 1 << 29
        | 1 << 31;
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let check = |who: &str, status: &str, held: u64| {
            let expected = [
                ("Inh", 0),
                ("Prm", held),
                ("Eff", held),
                ("Bnd", LISTED),
                ("Amb", 0),
            ];
            for (set, value) in expected {
                assert_eq!(
                    field(status, &format!("Cap{set}")),
                    format!("{value:016x}"),
                    "{who}: {set}"
                );
            }
        };
        check(
            "envd",
            &fs::read_to_string(sandbox.proc("status")).unwrap(),
            LISTED,
        );
        check("root", &sandbox.root("cat /proc/self/status").await, LISTED);
        check(
            "user",
            &sandbox
                .run("user", &["cat", "/proc/self/status"])
                .await
                .stdout,
            0,
        );
        check(
            "sudo",
            &sandbox
                .run("user", &["sudo", "cat", "/proc/self/status"])
                .await
                .stdout,
            LISTED,
        );
    });
}

#[test]
fn every_process_is_filtered() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let envd = fs::read_to_string(sandbox.proc("status")).unwrap();
        let user = sandbox
            .run("user", &["cat", "/proc/self/status"])
            .await
            .stdout;
        let sudo = sandbox
            .run("user", &["sudo", "cat", "/proc/self/status"])
            .await
            .stdout;
        for status in [&envd, &user, &sudo] {
            assert_eq!(
                (field(status, "Seccomp"), field(status, "Seccomp_filters")),
                ("2", "1")
            );
            // sudo must be able to become root of the sandbox.
            assert_eq!(field(status, "NoNewPrivs"), "0");
        }
    });
}

#[test]
fn envd_is_process_one_from_a_file_that_stays() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let status = fs::read_to_string(sandbox.proc("status")).unwrap();
        assert_eq!(field(&status, "NSpid"), format!("{}\t1", sandbox.pid));
        let exe = fs::read_link(sandbox.proc("exe")).unwrap();
        assert_eq!(exe, Path::new("/dev/.envd"));
        for attempt in [
            "echo x >> /dev/.envd",
            "echo x >> /proc/1/exe",
            "truncate -s 0 /dev/.envd",
            "rm -f /dev/.envd",
            "mv /dev/.envd /dev/other",
            "touch /dev/x && mv -f /dev/x /dev/.envd",
            "chmod 777 /dev/.envd",
            "chown 0 /dev/.envd",
            "umount -l /dev/.envd",
            "mount -o remount,bind,rw /dev/.envd",
        ] {
            assert!(!sandbox.succeeds("root", attempt).await, "{attempt}");
        }
        let shown = fs::read(sandbox.proc("root/dev/.envd")).unwrap();
        assert!(shown == stage.needs.envd, "another program");
        assert!(fs::read(sandbox.proc("exe")).unwrap() == stage.needs.envd);
    });
}

const REACH_FOR_ENVD: &str = r#"
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
done = []
def attempt(name, action):
    try:
        action(); done.append(name)
    except (OSError, ValueError):
        pass
def call(*args):
    if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno())
for name in ("mem", "environ", "maps", "auxv", "stack", "syscall", "io", "pagemap"):
    attempt(name, lambda: open("/proc/1/" + name, "rb").read(1))
for name in ("exe", "cwd", "root", "ns/net", "ns/user"):
    attempt(name, lambda: os.readlink("/proc/1/" + name))
# How many there are root may see, not what they are.
for number in range(64):
    attempt(f"fd {number}", lambda: os.readlink(f"/proc/1/fd/{number}"))
    attempt(f"open fd {number}", lambda: os.open(f"/proc/1/fd/{number}", os.O_RDONLY))
    attempt(f"fdinfo {number}", lambda: open(f"/proc/1/fdinfo/{number}").read())
attempt("exe write", lambda: os.open("/proc/1/exe", os.O_WRONLY))
attempt("ptrace attach", lambda: call(101, 16, 1, 0, 0))
attempt("ptrace seize", lambda: call(101, 0x4206, 1, 0, 0))
buffer = ctypes.create_string_buffer(8)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
part = Part(ctypes.addressof(buffer), 8)
attempt("process_vm_readv", lambda: call(310, 1, ctypes.byref(part), 1, ctypes.byref(part), 1, 0))
attempt("pidfd_getfd", lambda: call(438, os.pidfd_open(1), 0, 0))
print(json.dumps(done))
"#;

#[test]
fn envd_cannot_be_looked_into() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["user", "root"] {
            let done = sandbox.python(user, REACH_FOR_ENVD).await;
            assert_eq!(done, serde_json::json!([]), "{user}");
        }
    });
}

#[test]
fn envd_ignores_signals_from_inside() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        sandbox
            .root("for signal in KILL STOP TERM INT HUP QUIT SEGV; do kill -$signal 1; done")
            .await;
        assert_eq!(sandbox.root("echo alive").await, "alive\n");
    });
}

#[test]
fn envd_holds_no_descriptor_of_the_host_but_its_own_limits() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let mounts = fs::read_to_string(sandbox.proc("mountinfo")).unwrap();
        let own_mounts: BTreeSet<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let user_limits = format!(
            "/soulbox/{}/{}/user/cgroup.procs",
            stage.place.block.prefix(),
            sandbox.slot.index()
        );
        let numbers = names_in(&sandbox.proc("fd"));
        assert!(numbers.len() < 24, "{numbers:?}");
        for number in numbers {
            let Ok(target) = fs::read_link(sandbox.proc("fd").join(&number)) else {
                continue;
            };
            let target = target.display().to_string();
            let kernel = ["socket:[", "pipe:[", "anon_inode:["]
                .iter()
                .any(|kind| target.starts_with(kind));
            let info = fs::read_to_string(sandbox.proc("fdinfo").join(&number)).unwrap_or_default();
            let mount = info
                .lines()
                .find_map(|line| line.strip_prefix("mnt_id:"))
                .unwrap_or_default()
                .trim();
            let own = target == "/dev/null" && own_mounts.contains(mount);
            // Through these envd puts a new fork server under the user's limits. Only to write: a process number.
            let write_only = info
                .lines()
                .any(|line| line.starts_with("flags:") && line.ends_with('1'));
            let limits = target.ends_with(&user_limits) && write_only;
            // From this one it learns that something was killed for lack of memory. Only to read.
            let read_only = info
                .lines()
                .any(|line| line.starts_with("flags:") && line.ends_with('0'));
            let counts = ["memory.events", "memory.oom_control"]
                .iter()
                .any(|name| target.ends_with(&user_limits.replace("cgroup.procs", name)));
            let limits = limits || (counts && read_only);
            assert!(
                kernel || own || limits,
                "{number} -> {target}, mount {mount}: {info}"
            );
        }
    });
}

#[test]
fn programs_inherit_standard_streams_only() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let numbers =
            "import json, os; print(json.dumps(sorted(map(int, os.listdir('/proc/self/fd')))))";
        // 3 is the directory that is being listed.
        for user in ["user", "root"] {
            assert_eq!(
                sandbox.python(user, numbers).await,
                serde_json::json!([0, 1, 2, 3])
            );
        }
    });
}

#[test]
fn envd_has_a_session_of_its_own_and_no_terminal() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let stat = |path: &Path| {
            let text = fs::read_to_string(path.join("stat")).unwrap();
            let fields = text
                .rsplit_once(')')
                .unwrap()
                .1
                .split_ascii_whitespace()
                .map(str::to_owned);
            fields.collect::<Vec<_>>()
        };
        let (own, envd) = (stat(Path::new("/proc/self")), stat(&sandbox.proc("")));
        // After state and parent: group, session, terminal.
        assert_ne!(envd[2], own[2]);
        assert_ne!(envd[3], own[3]);
        assert_eq!(envd[4], "0");
        // Both are the leader's own, also as seen inside.
        let status = fs::read_to_string(sandbox.proc("status")).unwrap();
        for name in ["NSsid", "NSpgid"] {
            let expected = format!("{}\t1", sandbox.pid);
            assert_eq!(field(&status, name), expected, "{name}");
        }
    });
}

#[test]
fn envd_stands_in_the_new_root_with_a_bare_environment() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        assert_eq!(fs::read_link(sandbox.proc("cwd")).unwrap(), Path::new("/"));
        assert_eq!(fs::read_link(sandbox.proc("root")).unwrap(), Path::new("/"));
        let seen = fs::read_to_string(sandbox.proc("root/etc/hostname")).unwrap();
        assert_eq!(seen.trim(), sandbox.guest.spec().id.as_str());
        let environment = fs::read_to_string(sandbox.proc("environ")).unwrap();
        assert_eq!(
            environment,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0"
        );
        let arguments = fs::read_to_string(sandbox.proc("cmdline")).unwrap();
        let rest = arguments
            .strip_prefix("envd\0--boot-fd\x003\0--status-fd\x004\0")
            .unwrap();
        assert!(
            rest.split_terminator('\0')
                .all(|word| ["--user-cgroup-fd", "--oom-fd"].contains(&word)
                    || word.parse::<u8>().is_ok()),
            "{rest}"
        );
    });
}

/// Tries to end a process and says the error number, 0 for none.
const END: &str = "import json, os, sys\ntry: os.kill(int(sys.argv[1]), 9); print(0)\nexcept OSError as e: print(e.errno)";

/// A process of the host that has come to stand among a sandbox's processes, under the very id of its root: the Landlock
/// domain is a second wall where another has a hole.
#[test]
fn signals_do_not_leave_the_domain() {
    on_stage(async |stage| {
        if soulbox_linux::landlock::abi() < soulbox_linux::landlock::ABI_WITH_SCOPES {
            println!("SKIP the Landlock domain: this kernel has no scopes");
            return;
        }
        let sandbox = stage.create().await;
        let (base, envd) = (sandbox.slot.uid_base().to_string(), sandbox.pid.to_string());
        let mut stranger = Command::new("nsenter")
            .args(["--target", &envd, "--pid", "--"])
            .args([
                "setpriv",
                "--reuid",
                &base,
                "--regid",
                &base,
                "--clear-groups",
            ])
            .args(["sleep", "65.4321"])
            .spawn()
            .unwrap();
        let find = "import json, os\nfound = []\nfor p in filter(str.isdigit, os.listdir('/proc')):\n    \
                    try: found += [int(p)] if b'65.4321' in open(f'/proc/{p}/cmdline', 'rb').read() and int(p) != os.getpid() else []\n    \
                    except OSError: pass\nprint(json.dumps(found))";
        let inside = loop {
            let found = sandbox.python("root", find).await;
            if let Some(number) = found.as_array().and_then(|found| found.first()) {
                break number.to_string();
            }
        };
        let output = sandbox.run("root", &["python3", "-c", END, &inside]).await;
        assert_eq!(output.stdout.trim(), libc::EPERM.to_string(), "{output:?}");
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        // Among themselves they signal each other as ever, and find each other by abstract names.
        assert_eq!(
            sandbox.root("sleep 60 & kill $! && echo signalled").await,
            "signalled\n"
        );
        let inside = "import json, socket; a = socket.socket(socket.AF_UNIX); a.bind('\\0outside'); a.listen(); \
                      b = socket.socket(socket.AF_UNIX); b.connect('\\0outside'); print(json.dumps(True))";
        assert_eq!(
            sandbox.python("user", inside).await,
            serde_json::json!(true)
        );
    });
}

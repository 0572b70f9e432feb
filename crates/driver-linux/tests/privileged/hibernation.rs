//! Memory that is written to disk, and sandboxes that go on from it. Needs CRIU: `SOULBOX_TEST_CRIU` names its directory.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;
use soulbox_driver::{Driver as _, DriverError};
use soulbox_types::{LayerDigest, MemoryId, SandboxId, SandboxSpec};

use crate::commands::Sandbox;
use crate::support::{Stage, eventually, in_place, names_in, on_stage, soon, spec};

thread_local! {
    /// Layers that a test has made among those of the set-up. Each is like no other: the sandbox's id is in it.
    static MADE: RefCell<Vec<LayerDigest>> = const { RefCell::new(Vec::new()) };
}

/// Removes them, when no sandbox stands on them any more.
fn remove_layers(layers_dir: &Path) {
    for layer in MADE.take() {
        let path = layers_dir.join(layer.to_string());
        // One that was made twice is gone already.
        let _gone = (
            fs::remove_dir_all(&path),
            fs::remove_file(path.with_extension("json")),
        );
    }
}

/// Runs a test on a stage whose driver can write sandboxes to disk.
fn on_stage_with_criu(test: impl AsyncFnOnce(&Stage)) {
    if std::env::var_os("SOULBOX_TEST_CRIU").is_none() {
        assert!(
            std::env::var_os("SOULBOX_TEST_STRICT").is_none(),
            "SOULBOX_TEST_CRIU is not set"
        );
        println!("SKIP: SOULBOX_TEST_CRIU names no directory with CRIU");
        return;
    }
    on_stage(async |stage| {
        stage.driver.hibernation().await.unwrap();
        test(stage).await;
        stage.driver.settle().await;
        remove_layers(&stage.needs.layers_dir);
        let left = names_in(&stage.place.data_dir.join("memory"));
        assert!(left.is_empty(), "{left:?}");
    });
}

/// What a guest that goes on from it is made of.
struct Saved {
    memory: MemoryId,
    spec: SandboxSpec,
}

async fn capture(sandbox: &Sandbox) -> Result<Saved, DriverError> {
    sandbox.guest.freeze().await.unwrap();
    let mut spec = sandbox.guest.spec().clone();
    let files = soon("snapshot", sandbox.guest.snapshot()).await?;
    if let Some(layer) = files {
        soulbox_types::digest::lay(&mut spec.image.layers, layer.digest);
        MADE.with_borrow_mut(|made| made.push(layer.digest));
    }
    let memory = MemoryId::random();
    soon("capture", sandbox.guest.capture(&memory)).await?;
    Ok(Saved { memory, spec })
}

async fn wake(stage: &Stage, saved: &Saved) -> Sandbox {
    let woken = stage.driver.wake(&saved.spec, &saved.memory);
    Sandbox::new(soon("wake", woken).await.unwrap(), &stage.place)
}

/// Its successor, after its end.
async fn again(stage: &Stage, sandbox: Sandbox) -> Sandbox {
    let saved = capture(&sandbox).await.unwrap();
    sandbox.guest.kill().await.unwrap();
    drop(sandbox);
    let sandbox = wake(stage, &saved).await;
    stage.driver.forget_memory(&saved.memory).await.unwrap();
    sandbox
}

/// Counts in memory, talks to itself over TCP and by an abstract name, and answers on port 8000 what it has.
const COUNTER: &str = r#"
import json, os, socket, threading, time, zlib
block = os.urandom(4 << 20); crc = zlib.crc32(block)
count = 0
listener = socket.create_server(("127.0.0.1", 0)); one = socket.create_connection(listener.getsockname()); other = listener.accept()[0]
named = socket.socket(socket.AF_UNIX); named.bind("\0counter"); named.listen()
deleted = open("/tmp/deleted", "w+b"); deleted.write(b"still here"); deleted.flush(); os.unlink("/tmp/deleted")
began = time.monotonic()
def tick():
    global count
    while True: count += 1; time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
server = socket.create_server(("0.0.0.0", 8000)); print("up", flush=True)
while True:
    peer = server.accept()[0]
    one.sendall(b"ping"); said = other.recv(4).decode()
    client = socket.socket(socket.AF_UNIX); client.connect("\0counter"); client.close(); named.accept()[0].close()
    deleted.seek(0)
    peer.sendall(json.dumps([os.getpid(), count, zlib.crc32(block) == crc, said, deleted.read().decode(), time.monotonic() - began]).encode())
    peer.close()
"#;

const ASK: &str = "import json, socket; s = socket.create_connection(('127.0.0.1', 8000)); print(s.makefile().read())";

#[test]
fn memory_processes_and_files_come_back() {
    on_stage_with_criu(async |stage| {
        let mut sandbox = stage.create().await;
        let lines = COUNTER.replace('\'', "\"");
        sandbox
            .root(&format!("cat > /tmp/counter.py <<'END'\n{lines}\nEND\nsetsid nohup python3 -u /tmp/counter.py </dev/null >/tmp/said 2>&1 & until grep -q up /tmp/said; do :; done"))
            .await;
        sandbox
            .root("echo kept > /root/kept; setsid nohup sleep 4321 </dev/null >/dev/null 2>&1 &")
            .await;
        let before = sandbox.python("root", ASK).await;
        for _ in 0..3 {
            sandbox = again(stage, sandbox).await;
            assert_eq!(sandbox.root("cat /root/kept").await, "kept\n");
        }
        let after = sandbox.python("root", ASK).await;
        assert_eq!(before[0], after[0], "{before} {after}");
        assert!(before[1].as_i64() < after[1].as_i64(), "{before} {after}");
        assert_eq!(after[2], json!(true));
        assert_eq!(after[3], json!("ping"));
        assert_eq!(after[4], json!("still here"));
        let elapsed = after[5].as_f64().unwrap() - before[5].as_f64().unwrap();
        assert!((0.0..60.0).contains(&elapsed), "{before} {after}");
        assert_eq!(
            sandbox.root("pgrep -c -x sleep").await.trim(),
            "1",
            "what was started before is there"
        );
        sandbox.guest.kill().await.unwrap();
    });
}

/// What must be the same after it.
async fn walls(sandbox: &Sandbox) -> serde_json::Value {
    let status = fs::read_to_string(sandbox.proc("status")).unwrap();
    let fields = ["Cap", "NoNewPrivs", "Seccomp", "Groups", "NStgid", "NSsid"];
    let lines: Vec<String> = status
        .lines()
        .filter(|line| fields.iter().any(|name| line.starts_with(name)))
        .map(|line| line.split('\t').next_back().unwrap_or_default().to_owned())
        .collect();
    let mounts = sandbox.root("cut -d' ' -f5,6 /proc/self/mountinfo").await;
    let mounts: BTreeSet<&str> = mounts.lines().collect();
    let inside = sandbox
        .root("grep -E 'Cap|NoNewPrivs|Seccomp' /proc/self/status; cat /proc/self/uid_map | tr -s ' ' | cut -d' ' -f2,4; hostname; ulimit -Hc; ulimit -Hn")
        .await;
    json!([lines, mounts, inside])
}

#[test]
fn walls_are_as_before() {
    on_stage_with_criu(async |stage| {
        let sandbox = stage.create().await;
        // A loader that finds this would load it into the restorer.
        sandbox.root("echo /tmp/evil.so > /etc/ld.so.preload").await;
        let before = walls(&sandbox).await;
        let sandbox = again(stage, sandbox).await;
        assert_eq!(walls(&sandbox).await, before);
        assert_eq!(
            sandbox.root("cat /etc/ld.so.preload").await,
            "/tmp/evil.so\n"
        );
        for attempt in [
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 1 > /proc/sys/kernel/shmmax",
            "mount -t tmpfs none /mnt",
            "unshare -r true",
            "ip address add 1.2.3.4/32 dev lo",
            "echo x >> /dev/.envd",
        ] {
            assert!(!sandbox.succeeds("root", attempt).await, "{attempt}");
        }
        let pids = sandbox.root("ls /proc | grep -c -x '[0-9]*'").await;
        assert!(pids.trim().parse::<u32>().unwrap() < 10, "{pids}");
        assert!(
            !sandbox
                .root("ip -4 -o address show dev lo")
                .await
                .contains("198.18."),
            "the address of the time before stays"
        );
        sandbox.guest.kill().await.unwrap();
    });
}

/// Another sandbox, with another id, while the first one goes on.
#[test]
fn many_go_on_from_one_moment() {
    on_stage_with_criu(async |stage| {
        let source = stage.create().await;
        let lines = COUNTER.replace('\'', "\"");
        source
            .root(&format!("cat > /tmp/counter.py <<'END'\n{lines}\nEND\nsetsid nohup python3 -u /tmp/counter.py </dev/null >/tmp/said 2>&1 & until grep -q up /tmp/said; do :; done"))
            .await;
        let before = source.python("root", ASK).await;
        let saved = capture(&source).await.unwrap();
        source.guest.thaw().await.unwrap();
        let specs: Vec<SandboxSpec> = (0..3)
            .map(|_| SandboxSpec {
                id: SandboxId::random(),
                ..saved.spec.clone()
            })
            .collect();
        let [one, two, three] = [0, 1, 2].map(|n| stage.driver.wake(&specs[n], &saved.memory));
        let woken = async { tokio::join!(one, two, three) };
        let (one, two, three) = soon("wake", woken).await;
        let woken = [one, two, three];
        for guest in woken {
            let branch = Sandbox::new(guest.unwrap(), &stage.place);
            let after = branch.python("root", ASK).await;
            assert_eq!(
                (&after[0], &after[2]),
                (&before[0], &json!(true)),
                "{after}"
            );
            let name = branch.root("hostname; cat /etc/hostname").await;
            let id = branch.guest.spec().id.to_string();
            assert_eq!(name, format!("{id}\n{id}\n"));
            branch.root("echo mine > /root/mine").await;
            branch.guest.kill().await.unwrap();
        }
        assert!(!source.succeeds("root", "test -e /root/mine").await);
        assert_eq!(source.python("root", ASK).await[0], before[0]);
        source.guest.kill().await.unwrap();
        stage.driver.forget_memory(&saved.memory).await.unwrap();
    });
}

#[test]
fn what_would_not_come_back_is_not_written_and_goes_on() {
    on_stage_with_criu(async |stage| {
        let sandbox = stage.create().await;
        let running = sandbox.guest.capture(&MemoryId::random()).await;
        let running = running.unwrap_err().to_string();
        assert!(running.contains("it is not frozen"), "{running}");
        for (make, reason) in [
            ("echo x > /dev/shm/x", "there are files in its /dev/shm"),
            ("rm /dev/shm/x; echo x > /dev/x", "it has made /dev/x"),
        ] {
            sandbox.root(make).await;
            let error = refused(&sandbox).await;
            assert!(error.contains(reason), "{error}");
        }
        // CRIU itself refuses what is being traced.
        sandbox.root("rm /dev/x").await;
        let traced = "import ctypes, os, time\npid = os.fork()\nif pid == 0:\n    ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19)\nos.waitpid(pid, 2); print('up', flush=True); time.sleep(600)";
        let tracer = sandbox.serve("user", traced).await;
        let error = refused(&sandbox).await;
        assert!(error.contains("cannot be kept on disk"), "{error}");
        drop(tracer);
        // And a file that has lost the name it was opened by, and has another one.
        let linked = "import os, time\nf = open('/tmp/one', 'w'); os.link('/tmp/one', '/tmp/two'); os.unlink('/tmp/one'); print('up', flush=True); time.sleep(600)";
        let holder = sandbox.serve("user", linked).await;
        let error = refused(&sandbox).await;
        assert!(error.contains("cannot be kept on disk"), "{error}");
        drop(holder);
        sandbox.guest.kill().await.unwrap();
    });
}

/// What is said of one that lives on.
async fn refused(sandbox: &Sandbox) -> String {
    let error = capture(sandbox).await.err().unwrap().to_string();
    sandbox.guest.thaw().await.unwrap();
    assert_eq!(sandbox.root("echo alive").await, "alive\n");
    error
}

#[test]
fn what_was_made_ready_and_is_not_wanted_leaves_nothing() {
    on_stage_with_criu(async |stage| {
        let sandbox = stage.create().await;
        let guest = &sandbox.guest;
        let [first, second] = [MemoryId::random(), MemoryId::random()];
        let memory = stage.place.data_dir.join("memory");
        for id in [&first, &second] {
            soon("get ready", guest.get_ready_to_capture(id))
                .await
                .unwrap();
        }
        // Whoever is in nobody's way runs meanwhile.
        assert_eq!(sandbox.root("echo alive").await, "alive\n");
        guest.freeze().await.unwrap();
        soon("capture", guest.capture(&second)).await.unwrap();
        guest.thaw().await.unwrap();
        let second_alone = || match names_in(&memory) {
            names if names == [second.as_str()] => Ok(()),
            names => Err(format!("{names:?}")),
        };
        eventually("the first one is gone", second_alone).await;
        // And so it is with one whose sandbox ends.
        soon("get ready", guest.get_ready_to_capture(&first))
            .await
            .unwrap();
        guest.kill().await.unwrap();
        drop(sandbox);
        stage.driver.settle().await;
        eventually("it is gone again", second_alone).await;
        stage.driver.forget_memory(&second).await.unwrap();
    });
}

#[test]
fn what_is_not_on_disk_is_not_brought_back() {
    on_stage_with_criu(async |stage| {
        let memory = MemoryId::random();
        let error = stage.driver.wake(&stage.spec(), &memory).await.unwrap_err();
        assert!(error.to_string().contains("it is not on disk"), "{error}");
        assert!(stage.driver.keep_memory(&memory).await.is_err());
        stage.driver.forget_memory(&memory).await.unwrap();
    });
}

#[test]
fn a_rehearsal_tells_whether_it_works_here_and_leaves_nothing() {
    on_stage_with_criu(async |stage| {
        let wanted = stage.spec();
        let rehearsal = soulbox_driver::rehearse(&stage.driver, &wanted);
        soon("the rehearsal", rehearsal).await.unwrap();
    });
}

/// Memory that was to be kept is there for the next server, and no other.
#[test]
fn the_next_server_finds_what_was_kept() {
    if std::env::var_os("SOULBOX_TEST_CRIU").is_none() {
        println!("SKIP: SOULBOX_TEST_CRIU names no directory with CRIU");
        return;
    }
    in_place(async |place, needs| {
        let wanted = spec(&needs);
        let first = place.driver(&needs, 0);
        first.adopt().await.unwrap();
        let guest = first.create(&wanted).await.unwrap();
        let sandbox = Sandbox::new(guest, &place);
        sandbox.root("echo kept > /root/kept").await;
        let saved = capture(&sandbox).await.unwrap();
        first.keep_memory(&saved.memory).await.unwrap();
        let other = capture(&sandbox).await.unwrap();
        assert!(first.memories().await.unwrap().contains(&saved.memory));
        sandbox.guest.kill().await.unwrap();
        drop(sandbox);
        first.settle().await;
        first.shutdown().await;
        drop(first);

        let second = place.driver(&needs, 0);
        assert!(second.adopt().await.unwrap().is_empty());
        let kept = second.memories().await.unwrap();
        assert_eq!(kept, std::slice::from_ref(&saved.memory));
        assert!(second.wake(&other.spec, &other.memory).await.is_err());
        let guest = second.wake(&saved.spec, &saved.memory).await.unwrap();
        drop(Sandbox::new(guest, &place));
        second.shutdown().await;
        drop(second);

        let third = place.driver(&needs, 0);
        let mut found = third.adopt().await.unwrap();
        let sandbox = Sandbox::new(found.remove(0), &place);
        assert_eq!(sandbox.root("cat /root/kept").await, "kept\n");
        assert!(sandbox.guest.stats().await.unwrap().disk_used_bytes > 0);
        sandbox.guest.kill().await.unwrap();
        // Who has a guest has its network.
        drop((sandbox, found));
        third.forget_memory(&saved.memory).await.unwrap();
        third.settle().await;
        third.shutdown().await;
        place.expect_empty().await;
        remove_layers(&needs.layers_dir);
    });
}

//! envd as PID 1 of a fresh PID and mount namespace, the way a launcher starts it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    clippy::print_stdout,
    reason = "a failure of a helper is a failure of the test, and literals read best where they are used"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use common::{Envd, account};
use serde_json::json;

struct Namespace(Child);

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts envd in its own namespaces and waits for its word.
fn boot(document: &str) -> Option<(Namespace, Envd, String)> {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("boot.json");
    fs::write(&file, document).unwrap();
    let script = format!(
        "mount -t tmpfs tmpfs /run && exec {} --boot-fd 3 --status-fd 1 --listen {free} 3<{}",
        env!("CARGO_BIN_EXE_soulbox-envd"),
        file.display()
    );
    let script = script.replace("--status-fd 1", "--status-fd 4") + " 4>&1 >/dev/null";
    let child = Command::new("unshare")
        .args([
            "-m",
            "-p",
            "-f",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            &script,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: no unshare");
        return None;
    };
    let mut word = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut word)
        .unwrap();
    let namespace = Namespace(child);
    if word.is_empty() {
        println!("SKIPPED: namespaces cannot be made here");
        return None;
    }
    Some((namespace, Envd::at(free), word))
}

#[test]
fn boot_document_identity_and_orphans() {
    let document = json!({
        "sandboxID": "sb1", "templateID": "tp1",
        "init": {"envVars": {"A": "b"}, "defaultUser": account(), "defaultWorkdir": "/tmp"},
    });
    let Some((_namespace, envd, word)) = boot(&document.to_string()) else {
        return;
    };
    assert_eq!(word, "ready\n");
    assert_eq!(
        envd.get("/files?path=/run/e2b/.E2B_SANDBOX_ID").text(),
        "sb1"
    );
    assert_eq!(envd.get("/files?path=/run/e2b/.E2B_SANDBOX").text(), "true");
    let (_, stat) = envd.call(
        "filesystem.Filesystem/Stat",
        json!({"path": "/run/e2b/.E2B_TEMPLATE_ID"}),
    );
    assert_eq!(stat["entry"]["permissions"], "-r--r--r--");
    let envs =
        json!({"A": "b", "E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "sb1", "E2B_TEMPLATE_ID": "tp1"});
    assert_eq!(envd.get("/envs").json(), envs);

    let mut stream = envd
        .sh("pwd; kill -0 1 && echo $PPID; cat /proc/1/environ 2>&1 >/dev/null | grep -c denied");
    stream.pid();
    let out = stream.finish().out;
    assert!(out.starts_with("/tmp\n1\n"), "{out}");

    // Twenty orphans that end, then a look at what is left: nobody waits for them but PID 1.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (exec true >/dev/null 2>&1 &); done; \
                  sleep 0.3; cat /proc/[0-9]*/stat | grep -c ') Z '";
    let mut stream = envd.sh(script);
    stream.pid();
    assert_eq!(stream.finish().out, "0\n", "zombies stay");
}

#[test]
fn a_bad_document_is_reported() {
    if let Some((_, _, word)) = boot("{nonsense") {
        assert!(word.ends_with('\n') && word != "ready\n", "{word}");
    }
}

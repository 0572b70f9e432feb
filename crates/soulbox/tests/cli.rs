//! The program itself, as a shell sees it: exit codes, what goes to which output, and that no answer is a panic.
//!
//! Needs no server and no root.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which the lint does not know as such"
)]

use std::path::Path;
use std::process::{Command, Output};

fn soulbox(data_dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_soulbox"))
        .env_clear()
        .arg("--data-dir")
        .arg(data_dir)
        .args(args)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_is_an_answer_and_bad_usage_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let help = soulbox(dir.path(), &["sandbox", "exec", "--help"]);
    assert_eq!(code(&help), 0);
    assert!(text(&help.stdout).contains("COMMAND"));
    let bad = soulbox(dir.path(), &["sandbox", "lst"]);
    assert_eq!(code(&bad), 64);
    assert!(bad.stdout.is_empty() && text(&bad.stderr).contains("list"));
}

#[test]
fn no_server_yet() {
    let dir = tempfile::tempdir().unwrap();
    let list = soulbox(dir.path(), &["sandbox", "list"]);
    assert_eq!(code(&list), 69);
    let said = text(&list.stderr);
    assert!(
        said.starts_with("error: no server has run in ") && said.contains("\nFIX: soulbox serve"),
        "{said}"
    );
    let json = soulbox(dir.path(), &["sandbox", "list", "--json"]);
    assert_eq!(code(&json), 69);
    let error: serde_json::Value = serde_json::from_slice(&json.stderr).unwrap();
    assert_eq!(error["error"]["exitCode"], 69);
}

#[test]
fn a_server_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    // Bound and dropped: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    std::fs::write(
        dir.path().join("client.env"),
        format!("E2B_API_URL=http://{address}\n"),
    )
    .unwrap();
    let list = soulbox(dir.path(), &["sandbox", "list"]);
    assert_eq!(code(&list), 69);
    assert!(text(&list.stderr).starts_with(&format!("error: no server answers at {address}: ")));
}

#[test]
fn configuration_is_judged_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("soulbox.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:3333\"\nslots_ready = 3\n").unwrap();
    let config = file.to_str().unwrap();
    let good = soulbox(
        dir.path(),
        &[
            "config",
            "check",
            "--json",
            "--config",
            config,
            "--slots-ready",
            "4",
        ],
    );
    assert_eq!(code(&good), 0, "{}", text(&good.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&good.stdout).unwrap();
    let row = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap();
    assert_eq!(row("listen")["source"], format!("file {config}"));
    assert_eq!(
        (
            row("slots_ready")["value"].as_str(),
            row("slots_ready")["source"].as_str()
        ),
        (Some("4"), Some("flag --slots-ready"))
    );
    assert_eq!(row("limits.vcpu")["source"], "default");

    std::fs::write(&file, "listne = \"x\"\n").unwrap();
    for command in [&["config", "check"][..], &["serve"][..]] {
        let args = [command, &["--config", config, "--slots-ready", "many"]].concat();
        let bad = soulbox(dir.path(), &args);
        assert_eq!(code(&bad), 64);
        let said = text(&bad.stderr);
        assert!(
            said.contains("did you mean listen?") && said.contains("slots_ready = \"many\""),
            "{said}"
        );
    }
}

#[test]
fn a_terminal_is_needed_for_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("client.env"),
        "E2B_API_URL=http://127.0.0.1:1\n",
    )
    .unwrap();
    let connect = soulbox(dir.path(), &["sandbox", "connect", "i0"]);
    assert_eq!(code(&connect), 64);
    assert!(text(&connect.stderr).contains("FIX: soulbox sandbox exec i0"));
}

#[test]
fn a_reader_who_is_gone_is_no_panic() {
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_soulbox"))
        .env_clear()
        .args(["config", "check", "--data-dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(check.stdout.take());
    let output = check.wait_with_output().unwrap();
    // Depending on who is faster the text fitted into the pipe's buffer or not; a panic it must never be.
    assert!(matches!(code(&output), 0 | 1), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

//! `filesystem.Filesystem` as clients meet it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a failure of a helper is a failure of the test, and literals read best where they are used"
)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Envd, account};
use serde_json::{Value, json};

fn call(envd: &Envd, method: &str, body: Value) -> (u16, Value) {
    envd.call(&format!("filesystem.Filesystem/{method}"), body)
}

fn failure(envd: &Envd, method: &str, body: Value) -> (String, String) {
    let (_, error) = call(envd, method, body);
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"))
}

fn upload(envd: &Envd, path: &str, content: &[u8]) {
    let target = format!("/files?path={path}");
    assert_eq!(
        envd.request(
            "POST",
            &target,
            &[("Content-Type", "application/octet-stream")],
            content
        )
        .status,
        200
    );
}

fn events(envd: &Envd, watcher: &Value) -> Vec<String> {
    let (status, polled) = call(envd, "GetWatcherEvents", json!({"watcherId": watcher}));
    assert_eq!(status, 200, "{polled}");
    let events = polled["events"].as_array().cloned().unwrap_or_default();
    let show = |event: &Value| {
        let kind = event["type"]
            .as_str()
            .unwrap()
            .trim_start_matches("EVENT_TYPE_")
            .to_owned();
        format!("{kind} {}", event["name"].as_str().unwrap_or_default())
    };
    events.iter().map(show).collect()
}

#[test]
fn entries_say_everything() {
    let envd = Envd::start();
    let path = envd.path("file.txt");
    fs::write(&path, "12345").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let (status, stat) = call(&envd, "Stat", json!({"path": path}));
    assert_eq!(status, 200);
    let entry = &stat["entry"];
    assert_eq!(entry["name"], "file.txt");
    assert_eq!(entry["type"], "FILE_TYPE_FILE");
    assert_eq!(entry["path"], path.as_str());
    assert_eq!(entry["size"], "5", "64-bit numbers are strings");
    assert_eq!(
        (&entry["mode"], &entry["permissions"]),
        (&json!(0o640), &json!("-rw-r-----"))
    );
    assert_eq!(entry["owner"], account());
    assert!(entry["modifiedTime"].as_str().unwrap().ends_with('Z'));
    for absent in ["symlinkTarget", "metadata", "isSymlink"] {
        assert!(entry.get(absent).is_none(), "{absent}");
    }
    let (_, directory) = call(&envd, "Stat", json!({"path": "/tmp/"}));
    assert_eq!(directory["entry"]["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(directory["entry"]["path"], "/tmp/", "echoed as given");
    assert_eq!(directory["entry"]["permissions"], "dtrwxrwxrwx");
}

#[test]
fn links_have_their_targets_type() {
    let envd = Envd::start();
    let at = |name: &str| {
        fs::canonicalize(envd.home.path())
            .unwrap()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    };
    fs::write(at("file"), "12345").unwrap();
    symlink("file", at("link")).unwrap();
    symlink(at("none"), at("broken")).unwrap();
    let entry = |name: &str| call(&envd, "Stat", json!({"path": at(name)})).1["entry"].clone();
    let link = entry("link");
    assert_eq!(
        (&link["type"], &link["symlinkTarget"]),
        (&json!("FILE_TYPE_FILE"), &json!(at("file")))
    );
    assert_eq!(
        (&link["permissions"], &link["size"]),
        (&json!("Lrwxrwxrwx"), &json!("4"))
    );
    assert!(link.get("isSymlink").is_none());
    let broken = entry("broken");
    assert!(broken.get("type").is_none() && broken.get("mode").is_none());
    assert_eq!(broken["symlinkTarget"], at("broken"));
}

#[test]
fn stat_fails_in_two_ways() {
    let envd = Envd::start();
    let (code, message) = failure(&envd, "Stat", json!({"path": "/nowhere"}));
    assert!(
        code == "not_found" && message.starts_with("file not found: "),
        "{message}"
    );
    assert_eq!(
        failure(&envd, "Stat", json!({"path": "/etc/passwd/x"})).0,
        "internal"
    );
    assert_eq!(
        failure(&envd, "Stat", json!({"path": "~root/x"})).0,
        "invalid_argument"
    );
    let (_, unknown) = envd.call_with(
        "filesystem.Filesystem/Stat",
        &json!({"path": "/"}),
        &[("Authorization", "Basic eHl6Og==")],
    );
    assert_eq!(
        (&unknown["code"], &unknown["message"]),
        (&json!("unauthenticated"), &json!("invalid username: 'xyz'"))
    );
}

#[test]
fn directories_are_made_and_listed() {
    let envd = Envd::start();
    let path = envd.path("a/b");
    let (status, made) = call(&envd, "MakeDir", json!({"path": path}));
    assert_eq!(
        (status, &made["entry"]["permissions"]),
        (200, &json!("drwxr-xr-x"))
    );
    let (code, message) = failure(&envd, "MakeDir", json!({"path": path}));
    assert_eq!(
        (code.as_str(), message),
        (
            "already_exists",
            format!("directory already exists: {path}")
        )
    );
    fs::write(envd.path("a/file"), "").unwrap();
    assert_eq!(
        failure(&envd, "MakeDir", json!({"path": envd.path("a/file")})).0,
        "invalid_argument"
    );
    assert_eq!(
        failure(&envd, "MakeDir", json!({"path": envd.path("a/file/x")})).0,
        "internal"
    );

    let list = |path: &str, depth: u32| {
        let (status, listed) = call(&envd, "ListDir", json!({"path": path, "depth": depth}));
        assert_eq!(status, 200);
        let entries = listed["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|e| e["path"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&envd.path(""), 0), [envd.path("a")]);
    assert_eq!(
        list(&envd.path("a"), 1),
        [envd.path("a/b"), envd.path("a/file")]
    );
    assert_eq!(list(envd.home.path().to_str().unwrap(), 5).len(), 3);
    let (code, message) = failure(&envd, "ListDir", json!({"path": "/nowhere", "depth": 1}));
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("not_found", "path not found: /nowhere")
    );
    let (code, message) = failure(&envd, "ListDir", json!({"path": "/etc/passwd"}));
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("invalid_argument", "path is not a directory: /etc/passwd")
    );
    symlink(envd.path("loop"), envd.path("loop")).unwrap();
    assert_eq!(
        failure(&envd, "ListDir", json!({"path": envd.path("loop")})).0,
        "failed_precondition"
    );
}

#[test]
fn moving_and_removing() {
    let envd = Envd::start();
    fs::write(envd.path("from"), "content").unwrap();
    fs::create_dir_all(envd.path("full/of")).unwrap();
    let (status, moved) = call(
        &envd,
        "Move",
        json!({"source": envd.path("from"), "destination": envd.path("x/y/to")}),
    );
    assert_eq!(
        (status, &moved["entry"]["path"]),
        (200, &json!(envd.path("x/y/to")))
    );
    let (code, message) = failure(
        &envd,
        "Move",
        json!({"source": envd.path("from"), "destination": envd.path("z")}),
    );
    assert!(
        code == "not_found" && message.starts_with("source file not found: "),
        "{message}"
    );
    assert_eq!(
        failure(
            &envd,
            "Move",
            json!({"source": envd.path("x"), "destination": envd.path("full")})
        )
        .0,
        "internal"
    );
    symlink(envd.path("full"), envd.path("link")).unwrap();
    for path in ["link", "x", "x", "nothing/here"] {
        assert_eq!(
            call(&envd, "Remove", json!({"path": envd.path(path)})),
            (200, json!({})),
            "{path}"
        );
    }
    assert!(fs::metadata(envd.path("x")).is_err() && fs::metadata(envd.path("full/of")).is_ok());
}

#[test]
fn a_small_upload_is_three_events() {
    let envd = Envd::start();
    let (_, watcher) = call(&envd, "CreateWatcher", json!({"path": envd.path("")}));
    let watcher = watcher["watcherId"].clone();
    assert!(watcher.as_str().unwrap().starts_with('w'));
    upload(&envd, &envd.path("new.txt"), b"content");
    assert_eq!(
        events(&envd, &watcher),
        ["CREATE new.txt", "CHMOD new.txt", "WRITE new.txt"]
    );
    upload(&envd, &envd.path("new.txt"), b"again");
    let again = events(&envd, &watcher);
    assert_eq!(again.first().map(String::as_str), Some("CHMOD new.txt"));
    assert!(
        again.iter().skip(1).all(|event| event == "WRITE new.txt"),
        "{again:?}"
    );
    assert_eq!(
        call(&envd, "GetWatcherEvents", json!({"watcherId": watcher})),
        (200, json!({}))
    );
    assert_eq!(
        call(&envd, "RemoveWatcher", json!({"watcherId": watcher})),
        (200, json!({}))
    );
    let (code, message) = failure(&envd, "GetWatcherEvents", json!({"watcherId": watcher}));
    assert_eq!(
        (code.as_str(), message),
        (
            "not_found",
            format!("watcher with id {} not found", watcher.as_str().unwrap())
        )
    );
    assert_eq!(
        failure(&envd, "RemoveWatcher", json!({"watcherId": watcher})).0,
        "not_found"
    );
}

#[test]
fn a_new_directory_is_followed_before_its_maker_hears() {
    let envd = Envd::start();
    let (_, watcher) = call(
        &envd,
        "CreateWatcher",
        json!({"path": envd.path(""), "recursive": true}),
    );
    let watcher = watcher["watcherId"].clone();
    for turn in 0..20 {
        call(
            &envd,
            "MakeDir",
            json!({"path": envd.path(&format!("d{turn}"))}),
        );
        upload(&envd, &envd.path(&format!("d{turn}/f")), b"x");
        upload(&envd, &envd.path(&format!("e{turn}/deep/f")), b"x");
        let all = events(&envd, &watcher);
        for wanted in [
            format!("CREATE d{turn}"),
            format!("WRITE d{turn}/f"),
            format!("WRITE e{turn}/deep/f"),
        ] {
            assert!(all.contains(&wanted), "{wanted} in {all:?}");
        }
    }
}

#[test]
fn streams_of_events() {
    let envd = Envd::start();
    let body = json!({"path": envd.path(""), "includeEntry": true});
    let mut stream = envd.stream_with(
        "filesystem.Filesystem/WatchDir",
        &body,
        &[("Keepalive-Ping-Interval", "1")],
    );
    assert_eq!(stream_message(&mut stream), json!({"start": {}}));
    upload(&envd, &envd.path("f"), b"12");
    let created = stream_event(&mut stream);
    assert_eq!(
        (&created["name"], &created["type"]),
        (&json!("f"), &json!("EVENT_TYPE_CREATE"))
    );
    assert_eq!(created["entry"]["path"], envd.path("f"));
    assert_eq!(stream_event(&mut stream)["type"], "EVENT_TYPE_CHMOD");
    assert_eq!(stream_event(&mut stream)["type"], "EVENT_TYPE_WRITE");
    fs::rename(envd.path("f"), envd.path("g")).unwrap();
    let renamed = stream_event(&mut stream);
    assert_eq!(
        (&renamed["name"], &renamed["type"]),
        (&json!("f"), &json!("EVENT_TYPE_RENAME"))
    );
    assert!(renamed.get("entry").is_none());
    assert_eq!(stream_event(&mut stream)["name"], "g");
    assert_eq!(stream_message(&mut stream), json!({"keepalive": {}}));
}

fn stream_message(stream: &mut common::Connection) -> Value {
    match stream.frame() {
        Some((0, message)) => message,
        other => panic!("no message: {other:?}"),
    }
}

fn stream_event(stream: &mut common::Connection) -> Value {
    stream_message(stream)["filesystem"].clone()
}

#[test]
fn watches_that_cannot_be() {
    let envd = Envd::start();
    let error = |path: &str| {
        envd.stream("filesystem.Filesystem/WatchDir", json!({"path": path}))
            .error()
    };
    let missing = error("/nowhere");
    assert_eq!(missing["code"], "not_found");
    assert!(
        missing["message"]
            .as_str()
            .unwrap()
            .starts_with("path /nowhere"),
        "{missing}"
    );
    assert_eq!(error("/etc/passwd")["code"], "invalid_argument");
    let mut made = 0;
    let refused = loop {
        let (status, answer) = call(&envd, "CreateWatcher", json!({"path": envd.path("")}));
        if status != 200 {
            break answer;
        }
        made += 1;
        assert!(made <= 256);
    };
    assert_eq!(refused["code"], "resource_exhausted");
}

#[test]
fn the_deadline_ends_a_watch() {
    let envd = Envd::start();
    let body = json!({"path": envd.path("")});
    let mut stream = envd.stream_with(
        "filesystem.Filesystem/WatchDir",
        &body,
        &[("Connect-Timeout-Ms", "200")],
    );
    assert_eq!(stream.error()["code"], "deadline_exceeded");
}

//! `/files` and the other plain endpoints as clients meet them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a failure of a helper is a failure of the test, and literals read best where they are used"
)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Envd, account};
use data_encoding::BASE64_NOPAD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const RAW: (&str, &str) = ("Content-Type", "application/octet-stream");

fn target(path: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    format!("/files?{}", query.append_pair("path", path).finish())
}

fn multipart(parts: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (disposition, content) in parts {
        body.extend(
            format!("--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
                .bytes(),
        );
    }
    body.extend(b"--XX--\r\n");
    ("multipart/form-data; boundary=XX".to_owned(), body)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(content).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn health_metrics_and_unknown_endpoints() {
    let envd = Envd::start_with(&["--token", "t"]);
    let health = envd.get("/health");
    assert_eq!(
        (
            health.status,
            health.header("cache-control"),
            health.body.len()
        ),
        (204, "no-store", 0)
    );
    let denied = envd.get("/metrics");
    assert_eq!(denied.status, 401);
    assert_eq!(
        denied.header("content-type"),
        "application/json; charset=utf-8"
    );
    assert_eq!(denied.header("x-content-type-options"), "nosniff");
    assert!(
        denied
            .message()
            .starts_with("unauthorized access, please provide a valid access token")
    );
    let metrics = envd.request("GET", "/metrics", &[("X-Access-Token", "t")], b"");
    assert_eq!(
        (metrics.status, metrics.header("cache-control")),
        (200, "no-store")
    );
    let metrics = metrics.json();
    for name in [
        "ts",
        "cpu_count",
        "mem_total_mib",
        "mem_used_mib",
        "mem_total",
        "mem_used",
        "mem_cache",
        "disk_used",
        "disk_total",
    ] {
        assert!(metrics[name].is_u64(), "{name}: {metrics}");
    }
    assert!(metrics["cpu_used_pct"].is_number());
    assert_eq!(
        envd.request("GET", "/nothing", &[("X-Access-Token", "t")], b"")
            .status,
        404
    );
    assert_eq!(
        envd.request("DELETE", "/files", &[("X-Access-Token", "t")], b"")
            .status,
        405
    );
}

#[test]
fn init_sets_and_guards() {
    let envd = Envd::start();
    let init = |body: Value, headers: &[(&str, &str)]| {
        envd.request("POST", "/init", headers, body.to_string().as_bytes())
    };
    let first = init(json!({"accessToken": "one", "envVars": {"A": "1"}}), &[]);
    assert_eq!(
        (
            first.status,
            first.header("x-envd-version"),
            first.header("cache-control")
        ),
        (204, "0.6.13", "no-store")
    );
    assert_eq!(envd.get("/envs").status, 401);
    assert_eq!(init(json!({"accessToken": "two"}), &[]).status, 401);
    assert_eq!(
        init(json!({"accessToken": "two"}), &[("X-Access-Token", "one")]).status,
        204
    );
    assert_eq!(
        init(json!({"accessToken": ""}), &[("X-Access-Token", "two")]).status,
        400
    );
    let envs = envd.request("GET", "/envs", &[("X-Access-Token", "two")], b"");
    assert_eq!(envs.json()["A"], "1");
    assert_eq!(
        envd.request("POST", "/init", &[("X-Access-Token", "two")], b"{")
            .status,
        400
    );
    assert_eq!(init(json!({}), &[("X-Access-Token", "two")]).status, 204);
    assert_eq!(envd.get("/envs").status, 200);
}

#[test]
fn pages_of_any_origin_may_call() {
    let envd = Envd::start_with(&["--token", "t"]);
    let preflight = [
        ("Origin", "https://example.org"),
        ("Access-Control-Request-Method", "POST"),
        (
            "Access-Control-Request-Headers",
            "x-access-token, authorization",
        ),
    ];
    let answer = envd.request("OPTIONS", "/process.Process/Start", &preflight, b"");
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "x-access-token, authorization"
    );
    assert_eq!(answer.header("access-control-max-age"), "7200");
    assert!(
        answer
            .header("access-control-allow-methods")
            .contains("PATCH")
    );
    let answer = envd.request("GET", "/metrics", &[("Origin", "https://example.org")], b"");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, "*")
    );
    assert!(
        answer
            .header("access-control-expose-headers")
            .contains("Location")
    );
}

#[test]
fn whole_files_plain_and_gzipped() {
    let envd = Envd::start();
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = envd.path("data file.bin");
    fs::write(&path, &content).unwrap();
    let plain = envd.get(&target(&path));
    assert_eq!(
        (plain.status, plain.header("content-length")),
        (200, "4000000")
    );
    assert_eq!(plain.header("accept-ranges"), "bytes");
    assert_eq!(plain.header("vary"), "Accept-Encoding, Origin");
    assert_eq!(
        plain.header("content-disposition"),
        "inline; filename=\"data file.bin\""
    );
    assert_eq!(plain.header("content-type"), "application/octet-stream");
    assert!(!plain.header("last-modified").is_empty());
    assert!(plain.body == content);
    let packed = envd.request(
        "GET",
        &target(&path),
        &[("Accept-Encoding", "gzip, deflate")],
        b"",
    );
    assert_eq!(
        (packed.status, packed.header("content-encoding")),
        (200, "gzip")
    );
    assert_eq!(packed.header("content-length"), "");
    assert!(gunzip(&packed.body) == content);
    let refused = envd.request(
        "GET",
        &target(&path),
        &[("Accept-Encoding", "identity;q=0")],
        b"",
    );
    assert_eq!(refused.status, 406);
}

#[test]
fn empty_files_and_files_of_the_kernel() {
    let envd = Envd::start();
    let path = envd.path("empty");
    fs::write(&path, "").unwrap();
    let empty = envd.get(&target(&path));
    assert_eq!((empty.status, empty.header("content-length")), (200, "0"));
    let packed = envd.request("GET", &target(&path), &[("Accept-Encoding", "gzip")], b"");
    assert!(!packed.body.is_empty() && gunzip(&packed.body).is_empty());
    let path = "/proc/sys/kernel/random/boot_id";
    let expected = fs::read(path).unwrap();
    assert_eq!(envd.get(&target(path)).body, expected);
    let packed = envd.request("GET", &target(path), &[("Accept-Encoding", "gzip")], b"");
    assert_eq!(gunzip(&packed.body), expected);
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    if let Ok(expected) = fs::read(path) {
        assert_eq!(envd.get(&target(path)).body, expected);
    }
    assert_eq!(envd.get(&target("/dev/null")).body, b"");
}

#[test]
fn nobody_waits_for_a_pipe() {
    let envd = Envd::start();
    let path = envd.path("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(envd.get(&target(&path)).status, 200);
    assert_eq!(
        envd.request("POST", &target(&path), &[RAW], b"x").status,
        500
    );
    assert_eq!(envd.get("/health").status, 204);
}

#[test]
fn parts_of_files() {
    let envd = Envd::start();
    let path = envd.path("ten.txt");
    fs::write(&path, "0123456789").unwrap();
    let range = |value: &str| {
        envd.request(
            "GET",
            &target(&path),
            &[("Range", value), ("Accept-Encoding", "gzip")],
            b"",
        )
    };
    let one = range("bytes=2-4");
    assert_eq!((one.status, one.text().as_str()), (206, "234"));
    assert_eq!(
        (one.header("content-range"), one.header("content-length")),
        ("bytes 2-4/10", "3")
    );
    let two = range("bytes=0-1,-2");
    assert_eq!(two.status, 206);
    let boundary = two
        .header("content-type")
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let kind = "Content-Type: text/plain; charset=utf-8";
    let expected = format!(
        "--{boundary}\r\nContent-Range: bytes 0-1/10\r\n{kind}\r\n\r\n01\r\n--{boundary}\r\nContent-Range: bytes \
         8-9/10\r\n{kind}\r\n\r\n89\r\n--{boundary}--\r\n"
    );
    assert_eq!(two.text(), expected);
    let beyond = range("bytes=10-");
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, "bytes */10")
    );
    let modified = range("bytes=0-0").header("last-modified").to_owned();
    let since = [("If-Modified-Since", modified.as_str())];
    let unchanged = envd.request("GET", &target(&path), &since, b"");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(
        envd.request("GET", &target(&path), &[("If-Match", "\"x\"")], b"")
            .status,
        412
    );
}

#[test]
fn downloads_that_fail() {
    let envd = Envd::start();
    let missing = envd.path("missing");
    assert_eq!(
        envd.get(&target(&missing)).message(),
        format!("path '{missing}' does not exist")
    );
    assert_eq!(envd.get(&target(&missing)).status, 404);
    let directory = envd.get(&target("/tmp"));
    assert_eq!(
        (directory.status, directory.message().as_str()),
        (400, "path '/tmp' is a directory")
    );
    assert_eq!(envd.get(&target("~nobody/x")).status, 400);
    let user = envd.get("/files?path=/tmp/x&username=no-such-user");
    assert_eq!(user.status, 401);
    assert!(
        user.message()
            .starts_with("error looking up user 'no-such-user'")
    );
}

#[test]
fn raw_uploads() {
    let envd = Envd::start();
    let path = envd.path("new/deep/file.txt");
    let written = envd.request("POST", &target(&path), &[RAW], b"content");
    assert_eq!(
        written.json(),
        json!([{"path": path, "name": "file.txt", "type": "file"}])
    );
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
    assert_eq!(
        fs::metadata(envd.path("new/deep"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(
        envd.request("POST", &target(&path), &[RAW], b"x").status,
        200
    );
    assert_eq!(
        (
            fs::read(&path).unwrap(),
            fs::metadata(&path).unwrap().permissions().mode() & 0o777
        ),
        (b"x".to_vec(), 0o600)
    );
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    assert_eq!(
        envd.request("POST", &target(&path), &[RAW], &large).status,
        200
    );
    assert!(fs::read(&path).unwrap() == large);
    let packed = [RAW, ("Content-Encoding", "gzip")];
    assert_eq!(
        envd.request("POST", &target(&path), &packed, &gzip(&large))
            .status,
        200
    );
    assert!(fs::read(&path).unwrap() == large);
    assert_eq!(
        envd.request("POST", &target(&path), &[RAW], b"").status,
        200
    );
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn chunked_uploads_of_unknown_length() {
    let envd = Envd::start();
    let path = envd.path("chunked");
    let mut connection = envd.open(
        "POST",
        &target(&path),
        &[RAW, ("Transfer-Encoding", "chunked")],
    );
    for _ in 0..100 {
        connection.send_chunk(&[b'z'; 10_000]);
    }
    connection.end_chunks();
    assert_eq!(connection.answer().status, 200);
    assert_eq!(fs::read(&path).unwrap(), vec![b'z'; 1_000_000]);
}

#[test]
fn uploads_that_are_refused() {
    let envd = Envd::start();
    let path = envd.path("f");
    let refused = |target: &str, headers: &[(&str, &str)], body: &[u8]| {
        let answer = envd.request("POST", target, headers, body);
        (answer.status, answer.message())
    };
    assert_eq!(
        refused("/files", &[RAW], b""),
        (
            400,
            "path query parameter is required for raw body upload".into()
        )
    );
    assert_eq!(
        refused(&target("/tmp"), &[RAW], b"x"),
        (400, "path is a directory: /tmp".into())
    );
    assert_eq!(
        refused(&target(&path), &[("Content-Type", "text/plain")], b"x").0,
        400
    );
    assert!(
        refused(&target(&path), &[], b"x")
            .1
            .starts_with("unsupported content type: ")
    );
    let (status, message) = refused(&target(&path), &[RAW, ("Content-Encoding", "br")], b"x");
    assert!(status == 400 && message.starts_with("error decompressing request body: "));
    let (status, message) = refused(
        &target(&path),
        &[RAW, ("Content-Encoding", "gzip")],
        b"not gzip at all",
    );
    assert!(
        status == 400 && message.starts_with("error decompressing request body: "),
        "{message}"
    );
    fs::write(envd.path("file"), "").unwrap();
    let (status, message) = refused(&target(&envd.path("file/x")), &[RAW], b"x");
    assert!(
        status == 500 && message.contains("path is a file: "),
        "{message}"
    );
    assert_eq!(
        refused(&target(&path), &[RAW, ("X-Metadata-A", "\u{e9}")], b"x").0,
        400
    );
    // A body that is larger than any buffer: the answer still arrives.
    assert_eq!(refused("/files", &[RAW], &vec![0; 8_000_000]).0, 400);
    if fs::metadata("/dev/full").is_ok() {
        let (status, message) = refused(&target("/dev/full"), &[RAW], b"x");
        assert!(
            status == 507 && message.contains("not enough disk space available"),
            "{message}"
        );
    }
}

#[test]
fn multipart_uploads() {
    let envd = Envd::start();
    let (a, b) = (envd.path("a.txt"), envd.path("d/b c.txt"));
    let post = |target: &str, parts: &[(&str, &str)]| {
        let (kind, body) = multipart(parts);
        envd.request("POST", target, &[("Content-Type", &kind)], &body)
    };
    let (name_a, name_b) = (
        format!("name=\"file\"; filename=\"{a}\""),
        format!("name=\"file\"; filename=\"{b}\""),
    );
    let written = post(
        "/files",
        &[
            (&name_a, "aaa"),
            ("name=\"other\"", "skipped"),
            (&name_b, "bbb"),
        ],
    );
    let expected = json!([
        {"path": a, "name": "a.txt", "type": "file"},
        {"path": b, "name": "b c.txt", "type": "file"},
    ]);
    assert_eq!(written.json(), expected);
    assert_eq!(
        (fs::read(&a).unwrap(), fs::read(&b).unwrap()),
        (b"aaa".to_vec(), b"bbb".to_vec())
    );
    assert_eq!(
        post(&target(&a), &[("name=\"file\"", "plain field")]).status,
        200
    );
    assert_eq!(fs::read(&a).unwrap(), b"plain field");
    assert_eq!(post("/files", &[("name=\"other\"", "x")]).json(), json!([]));
    let twice = post(
        &target(&a),
        &[("name=\"file\"", "first"), ("name=\"file\"", "second")],
    );
    assert_eq!(twice.status, 400);
    assert!(twice.message().starts_with(&format!(
        "you cannot upload multiple files to the same path '{a}' in one upload"
    )));
    assert_eq!(fs::read(&a).unwrap(), b"first");
    assert_eq!(post("/files", &[("name=\"file\"", "no name")]).status, 400);
    let broken = envd.request(
        "POST",
        "/files",
        &[("Content-Type", "multipart/form-data; boundary=XX")],
        b"--XX\r\nbroken",
    );
    assert_eq!(broken.status, 400);
    assert_eq!(
        envd.request(
            "POST",
            "/files",
            &[("Content-Type", "multipart/form-data")],
            b""
        )
        .status,
        400
    );
}

#[test]
fn relative_names_are_below_home() {
    let envd = Envd::start();
    let written = envd
        .request("POST", "/files?path=.soulbox-envd-test/x", &[RAW], b"x")
        .json();
    let path = written[0]["path"].as_str().unwrap().to_owned();
    let home = fs::canonicalize(path.strip_suffix("/.soulbox-envd-test/x").unwrap()).unwrap();
    assert!(home.is_dir() && account() == envd_owner(&path));
    fs::remove_dir_all(home.join(".soulbox-envd-test")).unwrap();
}

fn envd_owner(path: &str) -> String {
    let output = std::process::Command::new("stat")
        .args(["-c", "%U", path])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn metadata_replaces_metadata() {
    let envd = Envd::start();
    let path = envd.path("described");
    let put = |headers: &[(&str, &str)]| {
        let mut all = vec![RAW];
        all.extend(headers);
        envd.request("POST", &target(&path), &all, b"x").json()[0]["metadata"].clone()
    };
    let first = put(&[("X-Metadata-Kind", "report"), ("X-Metadata-Owner", "me")]);
    if first.is_null() {
        println!("SKIPPED: no attributes on this file system");
        return;
    }
    assert_eq!(first, json!({"kind": "report", "owner": "me"}));
    let (_, stat) = envd.call("filesystem.Filesystem/Stat", json!({"path": path}));
    assert_eq!(stat["entry"]["metadata"], first);
    assert_eq!(
        put(&[("X-Metadata-Kind", "draft")]),
        json!({"kind": "draft"})
    );
    assert_eq!(put(&[]), Value::Null);
}

#[test]
fn signed_urls() {
    let envd = Envd::start_with(&["--token", "secret"]);
    let path = envd.path("signed");
    let url = |operation: &str, expiration: Option<u64>, sent: Option<u64>| {
        let mut text = format!("{path}:{operation}::secret");
        if let Some(expiration) = expiration {
            text.push_str(&format!(":{expiration}"));
        }
        let signature = format!(
            "v1_{}",
            BASE64_NOPAD.encode(&Sha256::digest(text.as_bytes()))
        );
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("path", &path)
            .append_pair("signature", &signature);
        if let Some(sent) = sent {
            query.append_pair("signature_expiration", &sent.to_string());
        }
        format!("/files?{}", query.finish())
    };
    let message = |target: &str| envd.get(target).message();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(
        envd.request("POST", &url("write", None, None), &[RAW], b"content")
            .status,
        200
    );
    assert_eq!(
        envd.get(&url("read", Some(now + 60), Some(now + 60))).body,
        b"content"
    );
    assert_eq!(message(&url("write", None, None)), "invalid signature");
    assert_eq!(
        message(&url("read", Some(now - 60), Some(now - 60))),
        "signature is already expired"
    );
    assert_eq!(
        message(&url("read", Some(now - 60), Some(now + 60))),
        "invalid signature"
    );
    assert_eq!(message(&target(&path)), "missing signature query parameter");
    let wrong = envd.request("GET", &target(&path), &[("X-Access-Token", "wrong")], b"");
    assert_eq!(
        (wrong.status, wrong.message().as_str()),
        (401, "access token present in header but does not match")
    );
    assert_eq!(
        envd.request("GET", &target(&path), &[("X-Access-Token", "secret")], b"")
            .status,
        200
    );
    assert_eq!(
        envd.request("POST", "/files/compose", &[], b"{}").status,
        401
    );
}

#[test]
fn composing() {
    let envd = Envd::start();
    let compose =
        |body: Value| envd.request("POST", "/files/compose", &[], body.to_string().as_bytes());
    let (a, b, to) = (envd.path("a"), envd.path("b"), envd.path("out/whole"));
    fs::write(&a, "one ").unwrap();
    fs::write(&b, "two").unwrap();
    assert_eq!(
        compose(json!({"source_paths": [], "destination": to})).message(),
        "source_paths must not be empty"
    );
    assert_eq!(
        compose(json!({"source_paths": [a]})).message(),
        "destination is required"
    );
    assert_eq!(
        compose(json!({"source_paths": [a, b], "destination": b})).status,
        400
    );
    assert_eq!(
        compose(json!({"source_paths": ["/tmp"], "destination": to})).status,
        400
    );
    let missing = compose(json!({"source_paths": [a, "/nowhere"], "destination": to}));
    assert_eq!(
        (missing.status, missing.message().as_str()),
        (404, "source file not found: /nowhere")
    );
    assert_eq!(
        compose(json!({"source_paths": [a], "destination": to, "username": "no-such-user"})).status,
        401
    );
    assert!(fs::metadata(&a).is_ok() && fs::metadata(&to).is_err());
    let done = compose(json!({"source_paths": [a, b], "destination": to}));
    assert_eq!(
        done.json(),
        json!({"path": to, "name": "whole", "type": "file"})
    );
    assert_eq!(fs::read(&to).unwrap(), b"one two");
    assert!(fs::metadata(&a).is_err() && fs::metadata(&b).is_err());
    assert_eq!(
        fs::read_dir(envd.path("out")).unwrap().count(),
        1,
        "no temporary file stays"
    );
}

#[test]
fn a_connection_serves_many_requests() {
    let envd = Envd::start();
    let path = envd.path("kept");
    let mut connection = envd.open("GET", "/health", &[]);
    assert_eq!(connection.answer().status, 204);
    for number in 0..50 {
        let body = format!("{number}");
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            target(&path),
            body.len()
        );
        connection.send(head.as_bytes());
        connection.send(body.as_bytes());
        assert_eq!(connection.answer().status, 200);
        connection.send(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", target(&path)).as_bytes());
        assert_eq!(connection.answer().body, body.as_bytes());
    }
}

//! A build from its request to its end: names, uploads, start, status, logs.

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use serde_json::{Value, json};
use soulbox_store::{BuildLogLine, BuildReason, LogLevel};
use soulbox_types::Timestamp;

use crate::stack::{Answer, MAX_BUILDS, Stack, assert_keys};

const UNKNOWN: &str = "6f0c2a4e-8f1a-4a55-9f5b-0f8e3f1f2a3b";

/// Ids of a template and its build that waits.
async fn requested(s: &Stack, body: Value) -> (String, String) {
    let answer = s.post("/v3/templates", body).await.ok(202);
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    (text("templateID"), text("buildID"))
}

#[tokio::test]
async fn requesting_is_judged_in_order() {
    let s = Stack::start().await;
    let other = s.private_template_of_other("theirs").await;
    for (body, status, message) in [
        (json!({}), 400, "Name is required"),
        (
            json!({"name": "a b"}),
            400,
            "Invalid name: invalid template ID: a b",
        ),
        (
            json!({"name": "other/x"}),
            400,
            "namespace 'other' must match your team 'default'",
        ),
        (
            json!({"name": "x", "tags": ["a:b"], "cpuCount": 3}),
            400,
            "Invalid tag: invalid tag 'a:b'",
        ),
        (
            json!({"name": "x", "tags": [UNKNOWN]}),
            400,
            "tag cannot be a UUID",
        ),
        (
            json!({"name": "x", "cpuCount": 3}),
            400,
            "CPU count must be 1 or an even number",
        ),
        (
            json!({"name": "x", "cpuCount": 34}),
            400,
            "CPU count must be at most 32",
        ),
        (
            json!({"name": "x", "cpuCount": 10}),
            400,
            "CPU count can't be higher than 8 (if you need",
        ),
        (
            json!({"name": "x", "memoryMB": 129}),
            400,
            "Memory must be divisible by 2",
        ),
        (
            json!({"name": "x", "memoryMB": 8194}),
            400,
            "Memory can't be higher than 8192 MiB (if",
        ),
        (json!({"name": "x", "cpuCount": 0}), 400, "validation error"),
        (
            json!({"name": "x", "memoryMB": 64}),
            400,
            "validation error",
        ),
        (json!({"name": "x".repeat(129)}), 400, "validation error"),
        (
            json!({"name": "x", "minFreeDiskMb": -1}),
            400,
            "validation error",
        ),
        (
            json!({"name": "x", "teamID": s.other.id.as_str()}),
            403,
            "You are not allowed to access this team",
        ),
        (json!({"name": other.as_str()}), 409, "is already used"),
    ] {
        s.post("/v3/templates", body).await.refused(status, message);
    }
}

#[tokio::test]
async fn requested_builds() {
    let s = Stack::start().await;
    let body = json!({"name": "Default/Mine:v1", "tags": ["v2", "V1"]});
    let answer = s.post("/v3/templates", body).await.ok(202);
    assert_keys(
        &answer,
        &[
            "templateID",
            "buildID",
            "public",
            "names",
            "tags",
            "aliases",
        ],
    );
    assert_eq!(
        (&answer["names"], &answer["aliases"], &answer["tags"]),
        (
            &json!(["default/mine"]),
            &json!(["mine"]),
            &json!(["v2", "v1"])
        )
    );
    let plain = s
        .post("/v3/templates", json!({"alias": "mine"}))
        .await
        .ok(202);
    assert_eq!(
        (&plain["templateID"], &plain["tags"]),
        (&answer["templateID"], &json!(["default"]))
    );
    let detail = s
        .get(format!(
            "/templates/{}",
            plain["templateID"].as_str().unwrap()
        ))
        .await
        .ok(200);
    let build = &detail["builds"][0];
    assert_eq!(
        (&build["cpuCount"], &build["memoryMB"]),
        (&json!(2), &json!(1024))
    );

    requested(&s, json!({"name": "b", "cpuCount": 4, "memoryMB": 2048})).await;
    let full = s.post("/v3/templates", json!({"name": "c"})).await;
    let text = format!(
        "you have reached the maximum number of concurrent template builds ({MAX_BUILDS})."
    );
    full.refused(429, &text);

    let path = format!("/admin/teams/{}/builds/cancel", s.team.id);
    let counts = s.admin(Method::POST, path).send().await.ok(200);
    assert_eq!(counts, json!({"cancelledCount": 3, "failedCount": 0}));
    requested(&s, json!({"name": "c"})).await;
}

#[tokio::test]
async fn starting_is_judged_in_order() {
    let s = Stack::start().await;
    let (id, build) = requested(&s, json!({"name": "mine"})).await;
    let path = format!("/v2/templates/{id}/builds/{build}");
    let body = json!({"fromTemplate": "base", "steps": [{"type": "RUN", "args": ["true"], "forceUpload": true}]});
    let hash = json!({"fromTemplate": "base", "steps": [{"type": "COPY", "args": ["a", "b"], "filesHash": "../x"}]});
    s.post(&path, hash).await.refused(400, "filesHash");
    s.post(&path, json!({"steps": 1}))
        .await
        .refused(400, "validation error");
    s.post(format!("/v2/templates/{id}/builds/x"), body.clone())
        .await
        .refused(400, "Invalid build ID: x");
    for missing in [
        format!("{id}/builds/{UNKNOWN}"),
        format!("{}/builds/{build}", s.base.template.id),
    ] {
        s.post(format!("/v2/templates/{missing}"), body.clone())
            .await
            .refused(404, "Error when getting template: ");
    }
    let theirs = s.foreign(Method::POST, &path).json(&body).send().await;
    theirs.refused(403, "User does not have access to the template");
    let odd = s
        .call(Method::POST, &path)
        .header("user-agent", "e2b-js-sdk/new")
        .json(&json!({}));
    odd.send()
        .await
        .refused(400, "Error when parsing user agent: ");
    s.post(&path, json!({}))
        .await
        .refused(400, "must specify either fromImage or fromTemplate");
    s.post(&path, json!({"fromImage": "a", "fromTemplate": "b"}))
        .await
        .refused(400, "cannot specify both fromImage and fromTemplate");

    s.post(&path, body.clone()).await.empty(202);
    let status = s
        .get(format!("/templates/{id}/builds/{build}/status"))
        .await
        .ok(200);
    assert_ne!(status["status"], "waiting");
    s.post(&path, body)
        .await
        .refused(400, "build is not in waiting state");
}

#[tokio::test]
async fn status_and_logs() {
    let s = Stack::start().await;
    let (id, build) = requested(&s, json!({"name": "mine"})).await;
    let path = format!("/templates/{id}/builds/{build}");
    let waiting = s.get(format!("{path}/status")).await.ok(200);
    assert_eq!(
        waiting,
        json!({"logs": [], "logEntries": [], "templateID": id, "buildID": build, "status": "waiting"})
    );
    let build = build.parse().unwrap();
    let line = |n: u32| BuildLogLine {
        at: Timestamp::now(),
        level: if n.is_multiple_of(2) {
            LogLevel::Info
        } else {
            LogLevel::Error
        },
        step: Some(if n < 3 { "1".into() } else { "2".into() }),
        message: n.to_string(),
    };
    let lines: Vec<_> = (0..5).map(line).collect();
    s.store.append_build_log(&build, &lines).await.unwrap();
    let reason = BuildReason {
        message: "no".into(),
        step: Some("2".into()),
    };
    assert!(s.store.fail_build(&build, &reason).await.unwrap());

    let messages = |entries: &Value| -> String {
        let text = |entry: &Value| entry["message"].as_str().unwrap().to_owned();
        entries.as_array().unwrap().iter().map(text).collect()
    };
    let status = async |query: &str| s.get(format!("{path}/status?{query}")).await.ok(200);
    let all = status("").await;
    assert_eq!(
        (messages(&all["logEntries"]), &all["status"]),
        ("01234".into(), &json!("error"))
    );
    assert_keys(
        &all["logEntries"][0],
        &["timestamp", "message", "level", "step"],
    );
    assert_eq!(
        (&all["reason"]["message"], &all["reason"]["step"]),
        (&json!("no"), &json!("2"))
    );
    assert_eq!(messages(&all["reason"]["logEntries"]), "3");
    assert_eq!(
        messages(&status("logsOffset=2&limit=2").await["logEntries"]),
        "23"
    );
    assert_eq!(
        messages(&status("logsOffset=1&level=error").await["logEntries"]),
        "3"
    );
    let beyond = status("logsOffset=5").await;
    assert_eq!(
        (
            messages(&beyond["logEntries"]),
            &beyond["reason"]["logEntries"]
        ),
        (String::new(), &json!([]))
    );

    let logs =
        async |query: &str| messages(&s.get(format!("{path}/logs?{query}")).await.ok(200)["logs"]);
    assert_eq!(logs("").await, "01234");
    assert_eq!(logs("direction=backward&limit=2").await, "43");
    assert_eq!(logs("level=warn&source=persistent").await, "13");
    assert_eq!(logs("cursor=0").await, "01234");
}

/// The shortest thing that begins like gzip.
const ARCHIVE: [u8; 20] = [
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

async fn put(
    s: &Stack,
    method: Method,
    path: &str,
    length: Option<&str>,
    body: axum::body::Body,
) -> Answer {
    let mut call = s.bare(method, path).body(body);
    if let Some(length) = length {
        call = call.header("content-length", length);
    }
    call.send().await
}

/// An address that anything was changed of opens nothing.
async fn other_addresses(s: &Stack, path: &str, hash: &str) {
    for (from, to, status, message) in [
        ("signature=", "signatur=", 400, "no valid signature"),
        ("expires=", "expires=x", 400, "no valid expires"),
        ("team=", "team=x", 400, "no valid team"),
        (hash, "zz", 400, "no valid files hash"),
        (
            hash,
            &"b".repeat(64),
            403,
            "signature of the upload address is wrong",
        ),
        (
            "expires=",
            "expires=1",
            403,
            "signature of the upload address is wrong",
        ),
        (
            s.team.id.as_str(),
            s.other.id.as_str(),
            403,
            "signature of the upload address is wrong",
        ),
    ] {
        let path = path.replace(from, to);
        put(s, Method::PUT, &path, Some("20"), ARCHIVE.to_vec().into())
            .await
            .refused(status, message);
    }
}

#[tokio::test]
async fn uploads() {
    let s = Stack::start().await;
    let (id, _) = requested(&s, json!({"name": "mine"})).await;
    let hash = "a".repeat(64);
    let files = format!("/templates/{id}/files/{hash}");
    let link = async || {
        s.call(Method::GET, &files)
            .header("host", "box.example:3000")
            .send()
            .await
            .ok(201)
    };
    let first = link().await;
    assert_keys(&first, &["present", "url"]);
    assert_eq!(first["present"], false);
    let url = first["url"].as_str().unwrap();
    let path = url.strip_prefix("http://box.example:3000").unwrap();

    let archive = || axum::body::Body::from(&ARCHIVE[..]);
    put(&s, Method::PUT, path, None, archive())
        .await
        .refused(411, "Content-Length");
    put(&s, Method::POST, path, Some("20"), archive())
        .await
        .refused(405, "PUT");
    put(&s, Method::PUT, path, Some("9999999999999"), archive())
        .await
        .refused(413, "MiB");
    put(&s, Method::PUT, path, Some("21"), archive())
        .await
        .refused(400, "20 bytes came of 21");
    put(&s, Method::PUT, path, Some("3"), "abc".into())
        .await
        .refused(400, "neither a tar archive");
    let torn = stream::iter([
        Ok(Bytes::from_static(&ARCHIVE)),
        Err(std::io::Error::other("gone")),
    ]);
    let torn = axum::body::Body::from_stream(torn);
    put(&s, Method::PUT, path, Some("40"), torn)
        .await
        .refused(400, "broke off");
    other_addresses(&s, path, &hash).await;
    assert_eq!(
        link().await["present"],
        false,
        "nothing of all that has stayed"
    );

    put(&s, Method::PUT, path, Some("20"), archive())
        .await
        .empty(200);
    assert_eq!(link().await["present"], true);
    put(&s, Method::PUT, path, Some("20"), archive())
        .await
        .empty(200);

    s.get(format!("/templates/{id}/files/XYZ"))
        .await
        .refused(400, "Invalid files hash");
    for missing in ["nothing", "mine"] {
        s.get(format!("/templates/{missing}/files/{hash}"))
            .await
            .refused(404, "Error when getting template: ");
    }
    let theirs = s.foreign(Method::GET, &files).send().await;
    theirs.refused(404, "Error when getting template: ");
}

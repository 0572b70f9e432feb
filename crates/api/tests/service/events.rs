//! What has happened to sandboxes, in pages and as it comes, and webhooks.

use futures_util::StreamExt as _;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::stack::{Stack, assert_keys, assert_time};

const CREATED: &str = "sandbox.lifecycle.created";
const UPDATED: &str = "sandbox.lifecycle.updated";
const PAUSED: &str = "sandbox.lifecycle.paused";
const RESUMED: &str = "sandbox.lifecycle.resumed";
const KILLED: &str = "sandbox.lifecycle.killed";
const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

fn types(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap().iter();
    events
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

/// A sandbox that has gone through everything.
async fn lived(s: &Stack) -> String {
    let id = s.create(json!({"metadata": {"user": "u1"}})).await;
    s.post(format!("/sandboxes/{id}/timeout"), json!({"timeout": 900}))
        .await
        .empty(204);
    s.post(format!("/sandboxes/{id}/pause"), json!({}))
        .await
        .empty(204);
    s.post(
        format!("/v2/sandboxes/{id}/connect"),
        json!({"timeout": 60, "memory": false}),
    )
    .await
    .ok(201);
    s.delete(format!("/sandboxes/{id}")).await.empty(204);
    id
}

#[tokio::test]
async fn a_life_in_pages() {
    let s = Stack::start().await;
    let id = lived(&s).await;
    let other = s.create(json!({})).await;
    let path = format!("/events/sandboxes/{id}");
    let all = s.get(format!("{path}?orderAsc=true")).await.ok(200);
    assert_eq!(types(&all), [CREATED, UPDATED, PAUSED, RESUMED, KILLED]);
    let first = &all[0];
    assert_keys(
        first,
        &[
            "id",
            "version",
            "type",
            "eventCategory",
            "eventLabel",
            "eventData",
            "timestamp",
            "sandboxId",
            "sandboxExecutionId",
            "sandboxTemplateId",
            "sandboxBuildId",
            "sandboxTeamId",
        ],
    );
    assert_time(&first["timestamp"]);
    assert_eq!(
        (&first["version"], &first["sandboxId"]),
        (&json!("v2"), &json!(id))
    );
    assert_eq!(first["sandboxTeamId"], json!(s.team.id));
    assert_eq!(
        first["eventData"],
        json!({"sandbox_metadata": {"user": "u1"}})
    );
    assert_time(&all[1]["eventData"]["set_timeout"]);
    assert_eq!(all[2]["eventData"]["reason"], "request");
    assert_eq!(all[4]["eventData"]["reason"], "request");
    assert!(all[4]["eventData"]["execution"]["execution_time"].is_u64());
    assert_eq!(all[2]["sandboxExecutionId"], first["sandboxExecutionId"]);
    assert_ne!(all[3]["sandboxExecutionId"], first["sandboxExecutionId"]);

    // Newest first, and everything of the team.
    let newest = s.get("/events/sandboxes?limit=2").await.ok(200);
    assert_eq!(types(&newest), [CREATED, KILLED]);
    assert_eq!(newest[0]["sandboxId"], json!(other));
    assert_eq!(newest[0]["eventData"], Value::Null);
    let next = s.get("/events/sandboxes?limit=2&offset=2").await.ok(200);
    assert_eq!(types(&next), [RESUMED, PAUSED]);
    let some = s
        .get(format!("{path}?types={PAUSED}&types={KILLED}"))
        .await
        .ok(200);
    assert_eq!(types(&some), [KILLED, PAUSED]);

    // Others see nothing.
    for path in ["/events/sandboxes".to_owned(), path] {
        assert_eq!(s.foreign(Method::GET, path).send().await.ok(200), json!([]));
    }
    assert_eq!(s.get("/events/sandboxes/unknown").await.ok(200), json!([]));
    for bad in [
        "limit=0",
        "limit=101",
        "offset=-1",
        "orderAsc=1",
        "types=created",
        "follow=x",
    ] {
        s.get(format!("/events/sandboxes?{bad}"))
            .await
            .refused(400, "validation error");
    }
}

/// An open stream of events.
struct Stream {
    body: axum::body::BodyDataStream,
    begun: String,
}

impl Stream {
    async fn open(s: &Stack, path: &str, header: (&str, &str)) -> Self {
        let request = Request::get(path)
            .header("x-api-key", &s.key)
            .header(header.0, header.1)
            .body(axum::body::Body::empty())
            .unwrap();
        let response = s.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            begun: String::new(),
        }
    }

    /// The next event with its id; none at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((block, rest)) = self.begun.split_once("\n\n") {
                let block = block.to_owned();
                self.begun = rest.to_owned();
                if let Some((id, data)) = block.split_once('\n') {
                    let id = id.strip_prefix("id: ").unwrap().to_owned();
                    let data = data.strip_prefix("data: ").unwrap();
                    return Some((id, serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            let piece = self.body.next().await?.unwrap();
            self.begun.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_tells_what_was_and_what_comes() {
    let s = Stack::start().await;
    let id = s.create(json!({})).await;
    let path = format!("/events/sandboxes/{id}");
    let mut stream = Stream::open(&s, &format!("{path}?follow=true"), ("x-x", "x")).await;
    let (seen, first) = stream.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["id"]),
        (&json!(CREATED), &json!(seen))
    );
    s.post(format!("/sandboxes/{id}/timeout"), json!({"timeout": 900}))
        .await
        .empty(204);
    assert_eq!(stream.next().await.unwrap().1["type"], UPDATED);
    drop(stream);
    // It goes on where it was.
    s.delete(format!("/sandboxes/{id}")).await.empty(204);
    let mut stream =
        Stream::open(&s, &format!("{path}?follow=true"), ("last-event-id", &seen)).await;
    assert_eq!(stream.next().await.unwrap().1["type"], UPDATED);
    let (last, end) = stream.next().await.unwrap();
    assert_eq!(end["type"], KILLED);
    // Nothing else can come.
    assert!(stream.next().await.is_none());
    let again = s.call(Method::GET, format!("{path}?follow=true"));
    again.header("last-event-id", last).send().await.empty(204);
    s.get("/events/sandboxes/unknown?follow=true")
        .await
        .refused(404, "Sandbox \"unknown\"");
    // The whole team's, asked for as browsers do; it ends with the server.
    let accept = ("accept", "text/event-stream");
    let mut all = Stream::open(&s, &format!("/events/sandboxes?types={KILLED}"), accept).await;
    assert_eq!(all.next().await.unwrap().1["sandboxId"], json!(id));
    s.shutdown.cancel();
    assert!(all.next().await.is_none());
}

fn webhook(url: &str) -> Value {
    json!({"name": "w", "url": url, "events": [CREATED, KILLED, CREATED], "signatureSecret": "s3cret"})
}

#[tokio::test]
async fn a_webhooks_life() {
    let s = Stack::start().await;
    let made = s
        .post("/events/webhooks", webhook("https://hooks.example/a"))
        .await;
    assert!(!made.text().contains("s3cret"));
    let made = made.ok(201);
    assert_keys(
        &made,
        &[
            "id",
            "teamId",
            "name",
            "createdAt",
            "url",
            "enabled",
            "events",
        ],
    );
    assert_eq!(
        (&made["enabled"], &made["events"]),
        (&json!(true), &json!([CREATED, KILLED]))
    );
    assert_time(&made["createdAt"]);
    let path = format!("/events/webhooks/{}", made["id"].as_str().unwrap());
    assert_eq!(s.get(&path).await.ok(200), made);
    assert_eq!(s.get("/events/webhooks").await.ok(200), json!([made]));
    let patch = s
        .call(Method::PATCH, &path)
        .json(&json!({"enabled": false, "name": "x"}));
    let changed = patch.send().await.ok(200);
    assert_eq!(
        (&changed["enabled"], &changed["name"]),
        (&json!(false), &json!("x"))
    );
    assert_eq!(changed["url"], made["url"]);
    assert_eq!(s.get(format!("{path}/deliveries")).await.ok(200), json!([]));
    // Nobody else's.
    assert_eq!(
        s.foreign(Method::GET, "/events/webhooks")
            .send()
            .await
            .ok(200),
        json!([])
    );
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::GET, format!("{path}/deliveries")),
        (Method::GET, format!("/events/webhooks/{UNKNOWN}")),
    ] {
        let answer = s.foreign(method, path).send().await;
        answer.refused(404, "Webhook not found");
    }
    s.get("/events/webhooks/x")
        .await
        .refused(400, "Invalid webhook ID");
    s.delete(&path).await.empty(200);
    s.delete(&path).await.refused(404, "Webhook not found");
}

#[tokio::test]
async fn webhooks_that_are_refused() {
    let s = Stack::start().await;
    for (name, value, why) in [
        ("url", json!("ftp://a/"), "url must be"),
        ("url", json!("https://user:word@a/"), "url must be"),
        (
            "url",
            json!("http://169.254.169.254/"),
            "is at an address that is not public",
        ),
        ("url", json!("http://[::1]:3000/"), "private_webhooks"),
        ("events", json!([]), "minimum number of items is 1"),
        ("events", json!(["created"]), "there is no event type"),
        ("name", json!(""), "minimum string length is 1"),
        ("signatureSecret", json!(""), "minimum string length is 1"),
        ("signatureSecret", Value::Null, "validation error"),
    ] {
        let mut body = webhook("https://hooks.example/a");
        body[name] = value;
        s.post("/events/webhooks", body).await.refused(400, why);
    }
    for _ in 0..16 {
        s.post("/events/webhooks", webhook("https://hooks.example/a"))
            .await
            .ok(201);
    }
    let one_more = s
        .post("/events/webhooks", webhook("https://hooks.example/a"))
        .await;
    one_more.refused(429, "16 webhooks");
}

#[tokio::test]
async fn a_delivery_is_in_the_log() {
    let s = Stack::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let made = s.post("/events/webhooks", webhook(&url)).await.ok(201);
    let id = s.create(json!({})).await;
    // It is connected to, and hears nothing.
    drop(listener.accept().await.unwrap());
    let path = format!(
        "/events/webhooks/{}/deliveries",
        made["id"].as_str().unwrap()
    );
    let log = loop {
        let log = s.get(&path).await.ok(200);
        if log[0]["tries"] != 0 {
            break log;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&log[0]["sandboxId"], &log[0]["eventType"]),
        (&json!(id), &json!(CREATED))
    );
    assert_eq!(
        (&log[0]["state"], &log[0]["tries"]),
        (&json!("waiting"), &json!(1))
    );
    assert_time(&log[0]["nextTryAt"]);
    assert!(log[0]["lastError"].is_string() && log[0]["lastStatus"].is_null());
}

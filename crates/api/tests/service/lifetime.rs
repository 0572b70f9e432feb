//! How long sandboxes live: kill, timeout, refreshes, connect.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use soulbox_types::Timestamp;

use crate::stack::Stack;

async fn end_at(s: &Stack, id: &str) -> Timestamp {
    let detail = s.get(format!("/sandboxes/{id}")).await.ok(200);
    Timestamp::parse_rfc3339(detail["endAt"].as_str().unwrap()).unwrap()
}

fn about(end: Timestamp, seconds_ahead: u64) -> bool {
    let ahead = end.since(Timestamp::now());
    ahead <= Duration::from_secs(seconds_ahead)
        && ahead >= Duration::from_secs(seconds_ahead.saturating_sub(5))
}

#[tokio::test]
async fn kill_once() {
    let s = Stack::start().await;
    let id = s.create(json!({})).await;
    s.delete(format!("/sandboxes/{id}-6532622b"))
        .await
        .empty(204);
    let missing = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    s.delete(format!("/sandboxes/{id}"))
        .await
        .refused(404, &missing);
    s.get(format!("/sandboxes/{id}"))
        .await
        .refused(404, &missing);
    assert_eq!(s.get("/v2/sandboxes").await.ok(200), json!([]));
    assert!(s.driver.guests().is_empty());
}

#[tokio::test]
async fn ids_in_paths() {
    let s = Stack::start().await;
    s.get("/sandboxes/nonexistingsandbox")
        .await
        .refused(404, "Sandbox \"nonexistingsandbox\"");
    // Only this answer repeats the id as it was given.
    s.get("/sandboxes/abc-x1")
        .await
        .refused(404, "Sandbox \"abc-x1\"");
    s.delete("/sandboxes/abc-x1")
        .await
        .refused(404, "Sandbox \"abc\"");
    for bad in [
        "ABC",
        "a-b-c",
        "a_b",
        "a%00b",
        "a%2Fb",
        "..",
        "%F0%9F%92%A9",
    ] {
        s.get(format!("/sandboxes/{bad}"))
            .await
            .refused(400, "Invalid sandbox ID");
    }
    s.get("/sandboxes/%ff")
        .await
        .refused(400, "validation error");
}

#[tokio::test]
async fn timeout_moves_the_end_both_ways() {
    let s = Stack::start().await;
    let id = s.create(json!({})).await;
    let set = async |seconds: i64| {
        s.post(
            format!("/sandboxes/{id}/timeout"),
            json!({"timeout": seconds}),
        )
        .await
    };
    set(600).await.empty(204);
    assert!(about(end_at(&s, &id).await, 600));
    set(60).await.empty(204);
    assert!(about(end_at(&s, &id).await, 60));
    // Above the longest run it is cut without a word.
    set(i64::from(i32::MAX)).await.empty(204);
    assert!(about(end_at(&s, &id).await, 86400));
    for body in [
        json!({}),
        json!({"timeout": -1}),
        json!({"timeout": "1"}),
        json!({"timeout": null}),
        json!([]),
    ] {
        s.post(format!("/sandboxes/{id}/timeout"), body)
            .await
            .refused(400, "validation error");
    }
    s.call(Method::POST, format!("/sandboxes/{id}/timeout"))
        .send()
        .await
        .refused(400, "validation error");
    s.post("/sandboxes/nothing/timeout", json!({"timeout": 1}))
        .await
        .refused(404, "doesn't exist");
    set(0).await.empty(204);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while s.get(format!("/sandboxes/{id}")).await.status == 200 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the sandbox did not end"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn refreshes_never_shorten() {
    let s = Stack::start().await;
    let id = s.create(json!({"timeout": 100})).await;
    let path = format!("/sandboxes/{id}/refreshes");
    let before = end_at(&s, &id).await;
    s.call(Method::POST, &path).send().await.empty(204);
    s.post(&path, json!({"duration": 20})).await.empty(204);
    assert_eq!(end_at(&s, &id).await, before);
    s.post(&path, json!({"duration": 3600})).await.empty(204);
    assert!(about(end_at(&s, &id).await, 3600));
    for bad in [
        json!({"duration": 3601}),
        json!({"duration": -1}),
        json!({"duration": null}),
    ] {
        s.post(&path, bad).await.refused(400, "validation error");
    }
    s.post("/sandboxes/nothing/refreshes", json!({}))
        .await
        .refused(404, "doesn't exist");
}

#[tokio::test]
async fn connect_only_extends() {
    let s = Stack::start().await;
    let created = s
        .post(
            "/v2/sandboxes",
            json!({"templateID": "base", "timeout": 400}),
        )
        .await
        .ok(201);
    let id = created["sandboxID"].as_str().unwrap();
    let (v1, v2) = (
        format!("/sandboxes/{id}/connect"),
        format!("/v2/sandboxes/{id}/connect"),
    );
    let before = end_at(&s, id).await;
    assert_eq!(s.call(Method::POST, &v2).send().await.ok(200), created);
    assert_eq!(s.post(&v2, json!({"memory": false})).await.ok(200), created);
    assert_eq!(s.post(&v1, json!({"timeout": 0})).await.ok(200), created);
    assert_eq!(
        end_at(&s, id).await,
        before,
        "bit-identical when not extended"
    );
    s.post(&v2, json!({"timeout": 600})).await.ok(200);
    assert!(about(end_at(&s, id).await, 600));
    s.post(&v1, json!({}))
        .await
        .refused(400, "validation error");
    s.post(&v2, json!({"timeout": 0}))
        .await
        .refused(400, "validation error");
    for path in [&v1, &v2] {
        s.post(path, json!({"timeout": 86401}))
            .await
            .refused(400, "Timeout cannot be greater than 24 hours");
        s.post(path, json!({"timeout": -1}))
            .await
            .refused(400, "validation error");
    }
    s.post("/v2/sandboxes/nothing/connect", json!({}))
        .await
        .refused(404, "Sandbox \"nothing\" doesn't exist");
}

#[tokio::test]
async fn addresses_of_ports_are_signed_where_traffic_is_not_public() {
    let s = Stack::start().await;
    let closed = json!({"network": {"allowPublicTraffic": false}});
    let (private, public) = (s.create(closed).await, s.create(json!({})).await);
    let path = |id: &str| format!("/sandboxes/{id}/urls");
    let ask = async |id: &str, body: Value| {
        let answer = s.call(Method::POST, path(id)).json(&body).send().await;
        (answer.status.as_u16(), answer.json())
    };
    let (status, body) = ask(&private, json!({"port": 8000, "expiresIn": 60})).await;
    assert_eq!(status, 201);
    let url = body["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("8000-{private} Some((")), "{url}");
    assert!(body["expiresAt"].is_string());
    let (status, body) = ask(&public, json!({"port": 8000})).await;
    assert_eq!(status, 201);
    assert_eq!(
        body,
        json!({"url": format!("8000-{public} None"), "port": 8000})
    );
    for wrong in [
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": 49983}),
        json!({"port": 1, "expiresIn": 0}),
        json!({"port": 1, "expiresIn": 2_592_001}),
        json!({"port": 1, "expiresIn": null}),
        json!({}),
    ] {
        assert_eq!(ask(&private, wrong.clone()).await.0, 400, "{wrong}");
    }
    let foreign = s.foreign(Method::POST, path(&private));
    assert_eq!(
        foreign.json(&json!({"port": 8000})).send().await.status,
        404
    );
}

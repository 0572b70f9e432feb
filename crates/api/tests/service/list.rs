//! Lists of sandboxes: filters, order, pages, headers.

use http::Method;
use serde_json::{Value, json};

use crate::stack::{Stack, assert_keys, assert_time};

fn ids(list: &Value) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item["sandboxID"].as_str().unwrap().to_owned())
        .collect()
}

fn one(id: &str) -> Vec<String> {
    vec![id.to_owned()]
}

async fn listed(s: &Stack, query: &str) -> Vec<String> {
    ids(&s.get(format!("/v2/sandboxes{query}")).await.ok(200))
}

#[tokio::test]
async fn entries_and_headers() {
    let s = Stack::start().await;
    let answer = s.get("/v2/sandboxes").await;
    assert_eq!(answer.ok(200), json!([]));
    assert_eq!(
        (
            answer.header("x-total-running"),
            answer.header("x-next-token")
        ),
        (Some("0"), None)
    );
    s.create(json!({"metadata": {}})).await;
    let answer = s.get("/v2/sandboxes").await;
    let entry = &answer.ok(200)[0];
    let mut want = vec![
        "templateID",
        "alias",
        "sandboxID",
        "clientID",
        "startedAt",
        "endAt",
        "cpuCount",
        "memoryMB",
        "diskSizeMB",
        "metadata",
        "state",
        "envdVersion",
        "volumeMounts",
    ];
    assert_keys(entry, &want);
    assert_eq!(
        (&entry["metadata"], &entry["volumeMounts"], &entry["state"]),
        (&json!({}), &json!([]), &json!("running"))
    );
    assert_time(&entry["startedAt"]);
    assert_eq!(answer.header("x-total-running"), Some("1"));
    // Without metadata the key is absent.
    let id = s.create(json!({})).await;
    want.retain(|key| *key != "metadata");
    let list = s.get("/v2/sandboxes").await.ok(200);
    let entry = list
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["sandboxID"] == id.as_str())
        .unwrap();
    assert_keys(entry, &want);
}

#[tokio::test]
async fn order_pages_and_tokens() {
    let s = Stack::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(s.create(json!({})).await);
    }
    assert_eq!(listed(&s, "?order=asc").await, made);
    made.reverse();
    assert_eq!(listed(&s, "").await, made);
    assert_eq!(ids(&s.get("/sandboxes").await.ok(200)), made);

    let mut seen = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let next = token.map(|t| format!("&nextToken={t}")).unwrap_or_default();
        let answer = s.get(format!("/v2/sandboxes?limit=2{next}")).await;
        assert_eq!(answer.header("x-total-running"), Some("5"));
        seen.extend(ids(&answer.ok(200)));
        token = answer.header("x-next-token").map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);

    let answer = s.get("/v2/sandboxes?limit=2").await;
    let token = answer.header("x-next-token").unwrap();
    s.get(format!("/v2/sandboxes?limit=2&order=asc&nextToken={token}"))
        .await
        .refused(400, "Invalid next token");
    s.get("/v2/sandboxes?nextToken=garbage")
        .await
        .refused(400, "Invalid next token");
    s.get("/v2/sandboxes?nextToken=%ff")
        .await
        .refused(400, "validation error");
}

#[tokio::test]
async fn filters() {
    let s = Stack::start().await;
    let plain = s.create(json!({})).await;
    let tagged = s
        .create(json!({"metadata": {"user id": "a&b=c", "x": "1"}}))
        .await;
    assert_eq!(listed(&s, "?metadata=x%3D1").await, one(&tagged));
    // quote("user id")=quote("a&b=c"), form-encoded, then encoded by the HTTP library.
    assert_eq!(
        listed(&s, "?metadata=user%252520id%3Da%252526b%25253Dc").await,
        one(&tagged)
    );
    assert_eq!(listed(&s, "?metadata=x%3D2").await, Vec::<String>::new());
    assert_eq!(
        listed(&s, "?metadata=x%3D1%26y%3D2").await,
        Vec::<String>::new()
    );
    s.get("/v2/sandboxes?metadata=x")
        .await
        .refused(400, "Error parsing metadata");
    s.get("/sandboxes?metadata=x")
        .await
        .refused(400, "Error parsing metadata");
    assert_eq!(
        ids(&s.get("/sandboxes?metadata=x%3D1").await.ok(200)),
        one(&tagged)
    );

    assert_eq!(listed(&s, "?state=running").await.len(), 2);
    assert_eq!(listed(&s, "?state=running,paused").await.len(), 2);
    let paused = s.get("/v2/sandboxes?state=paused").await;
    assert_eq!(
        (paused.ok(200), paused.header("x-total-running")),
        (json!([]), None)
    );

    let detail = s.get(format!("/sandboxes/{tagged}")).await.ok(200);
    let started = detail["startedAt"].as_str().unwrap();
    assert_eq!(
        listed(&s, &format!("?startedAfter={started}")).await,
        one(&tagged),
        "inclusive"
    );

    let base = s.base.template.id.to_string();
    for template in ["base", &base] {
        assert_eq!(
            listed(&s, &format!("?template={template}")).await,
            [tagged.clone(), plain.clone()]
        );
    }
    let unknown = s.get("/v2/sandboxes?template=nothing").await;
    assert_eq!(
        (unknown.ok(200), unknown.header("x-total-running")),
        (json!([]), Some("0"))
    );
    s.get("/v2/sandboxes?template=base:v1")
        .await
        .refused(400, "Invalid template: tags are not supported here");
}

#[tokio::test]
async fn wrong_parameters() {
    let s = Stack::start().await;
    for query in [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=",
        "order=up",
        "state=gone",
        "state=running,gone",
        "startedAfter=now",
    ] {
        s.get(format!("/v2/sandboxes?{query}"))
            .await
            .refused(400, "validation error");
    }
}

#[tokio::test]
async fn another_team_sees_nothing() {
    let s = Stack::start().await;
    let id = s.create(json!({})).await;
    for path in ["/v2/sandboxes", "/sandboxes"] {
        assert_eq!(s.foreign(Method::GET, path).send().await.ok(200), json!([]));
    }
    let missing = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    for (method, path, body) in [
        (Method::GET, format!("/sandboxes/{id}"), json!(null)),
        (Method::DELETE, format!("/sandboxes/{id}"), json!(null)),
        (
            Method::POST,
            format!("/sandboxes/{id}/timeout"),
            json!({"timeout": 1}),
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/refreshes"),
            json!({}),
        ),
        (
            Method::POST,
            format!("/sandboxes/{id}/connect"),
            json!({"timeout": 1}),
        ),
        (
            Method::POST,
            format!("/v2/sandboxes/{id}/connect"),
            json!({}),
        ),
        (Method::POST, format!("/sandboxes/{id}/pause"), json!({})),
        (Method::POST, format!("/sandboxes/{id}/resume"), json!({})),
        (Method::POST, format!("/sandboxes/{id}/fork"), json!({})),
        (
            Method::POST,
            format!("/sandboxes/{id}/snapshots"),
            json!({}),
        ),
        (Method::PUT, format!("/sandboxes/{id}/network"), json!({})),
    ] {
        s.foreign(method, path)
            .json(&body)
            .send()
            .await
            .refused(404, &missing);
    }
    s.get(format!("/sandboxes/{id}")).await.ok(200);
}

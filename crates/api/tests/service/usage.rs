//! Metrics and logs of sandboxes.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use soulbox_store::{LogEntry, LogLevel, MetricSample};
use soulbox_types::{SandboxId, Timestamp};

use crate::stack::{Stack, assert_keys, assert_time};

async fn add_sample(s: &Stack, id: &str, at: Timestamp) {
    let sample = MetricSample {
        sandbox: id.parse().unwrap(),
        team: s.team.id.clone(),
        at,
        cpu_count: 2,
        cpu_used_pct: 12.34,
        mem_used_bytes: 1,
        mem_total_bytes: 2,
        mem_cache_bytes: 3,
        disk_used_bytes: 4,
        disk_total_bytes: 5,
    };
    s.store.append_metrics(&[sample]).await.unwrap();
}

const METRIC: [&str; 9] = [
    "timestamp",
    "timestampUnix",
    "cpuCount",
    "cpuUsedPct",
    "memUsed",
    "memTotal",
    "memCache",
    "diskUsed",
    "diskTotal",
];

#[tokio::test]
async fn metrics_of_one() {
    let s = Stack::start().await;
    // A sandbox that is gone: its samples remain.
    let id = SandboxId::random().to_string();
    let now = Timestamp::now();
    add_sample(&s, &id, now).await;
    let path = format!("/sandboxes/{id}/metrics");
    let list = s.get(&path).await.ok(200);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_keys(&list[0], &METRIC);
    assert_time(&list[0]["timestamp"]);
    assert_eq!(
        (&list[0]["cpuUsedPct"], &list[0]["memTotal"]),
        (&json!(12.34), &json!(2))
    );
    let second = now.unix_seconds();
    assert_eq!(
        s.get(format!("{path}?start={}&end={}", second - 10, second + 10))
            .await
            .ok(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        s.get(format!("{path}?start=1&end=2")).await.ok(200),
        json!([])
    );
    assert_eq!(s.get("/sandboxes/nothing/metrics").await.ok(200), json!([]));
    assert_eq!(
        s.foreign(Method::GET, &path).send().await.ok(200),
        json!([])
    );
    for query in ["start=2&end=1", "start=10413792000", "end=10413792000"] {
        s.get(format!("{path}?{query}"))
            .await
            .refused(400, "Invalid time range for metrics");
    }
    for query in ["start=-1", "end=x", "start=1.5"] {
        s.get(format!("{path}?{query}"))
            .await
            .refused(400, "validation error");
    }
}

#[tokio::test]
async fn metrics_of_many() {
    let s = Stack::start().await;
    let id = SandboxId::random().to_string();
    add_sample(&s, &id, Timestamp::now()).await;
    let body = s
        .get(format!(
            "/sandboxes/metrics?sandbox_ids={id}-6532622b,nothing"
        ))
        .await
        .ok(200);
    assert_keys(&body, &["sandboxes"]);
    assert_keys(&body["sandboxes"], &[&id]);
    assert_keys(&body["sandboxes"][&id], &METRIC);
    s.get("/sandboxes/metrics")
        .await
        .refused(400, "validation error");
    let many = vec!["a"; 101].join(",");
    let too_many = s
        .get(format!("/sandboxes/metrics?sandbox_ids={many}"))
        .await;
    too_many.refused(400, "Too many sandboxes requested, maximum is 100");
    s.get("/sandboxes/metrics?sandbox_ids=A")
        .await
        .refused(400, "Invalid sandbox ID");
    assert_eq!(
        s.get("/sandboxes/metrics?sandbox_ids=").await.ok(200),
        json!({"sandboxes": {}})
    );
}

async fn add_log(s: &Stack, id: &str, at: Timestamp, level: LogLevel, message: &str) {
    let entry = LogEntry {
        sandbox: id.parse().unwrap(),
        team: s.team.id.clone(),
        at,
        level,
        message: message.into(),
        fields: BTreeMap::from([("logger".to_owned(), "test".to_owned())]),
    };
    s.store.append_logs(&[entry]).await.unwrap();
}

fn messages(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["message"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn logs_of_both_versions() {
    let s = Stack::start().await;
    let id = SandboxId::random().to_string();
    let now = Timestamp::now();
    let earlier = |micros: i64| Timestamp(now.0 - micros);
    add_log(&s, &id, earlier(3_000_000), LogLevel::Debug, "one").await;
    add_log(&s, &id, earlier(2_000_000), LogLevel::Warn, "two").await;
    add_log(&s, &id, earlier(1_000_000), LogLevel::Error, "three").await;

    let v1 = s.get(format!("/sandboxes/{id}/logs")).await.ok(200);
    assert_keys(&v1, &["logs", "logEntries"]);
    assert_eq!(messages(&v1["logEntries"]), ["one", "two", "three"]);
    assert_keys(
        &v1["logEntries"][0],
        &["timestamp", "message", "level", "fields"],
    );
    let line: Value = serde_json::from_str(v1["logs"][1]["line"].as_str().unwrap()).unwrap();
    assert_eq!(
        line,
        json!({"level": "warn", "message": "two", "logger": "test"})
    );
    let start = earlier(2_500_000).unix_millis();
    let later = s
        .get(format!("/sandboxes/{id}/logs?start={start}&limit=1"))
        .await
        .ok(200);
    assert_eq!(messages(&later["logEntries"]), ["two"]);

    let v2 = async |query: &str| s.get(format!("/v2/sandboxes/{id}/logs?{query}")).await;
    assert_eq!(
        messages(&v2("").await.ok(200)["logs"]),
        ["three", "two", "one"]
    );
    assert_eq!(
        messages(&v2("direction=forward").await.ok(200)["logs"]),
        ["one", "two", "three"]
    );
    assert_eq!(
        messages(&v2("level=warn&limit=1").await.ok(200)["logs"]),
        ["three"]
    );
    assert_eq!(messages(&v2("search=tw").await.ok(200)["logs"]), ["two"]);
    assert_eq!(
        messages(&v2(&format!("cursor={start}")).await.ok(200)["logs"]),
        ["one"]
    );
    assert_eq!(v2("limit=0").await.ok(200), json!({"logs": []}));
    for query in [
        "limit=1001",
        "limit=-1",
        "direction=up",
        "level=fatal",
        "cursor=x",
    ] {
        v2(query).await.refused(400, "validation error");
    }
    v2(&format!("search={}", "x".repeat(257)))
        .await
        .refused(400, "validation error");

    let nothing = json!({"logs": [], "logEntries": []});
    assert_eq!(s.get("/sandboxes/nothing/logs").await.ok(200), nothing);
    assert_eq!(
        s.foreign(Method::GET, format!("/sandboxes/{id}/logs"))
            .send()
            .await
            .ok(200),
        nothing
    );
    assert_eq!(
        s.get("/v2/sandboxes/nothing/logs").await.ok(200),
        json!({"logs": []})
    );
}

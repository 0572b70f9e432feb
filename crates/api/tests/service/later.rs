//! What this version cannot do says so, in a way that no client misreads.

use http::Method;
use serde_json::{Value, json};
use soulbox_driver::Guest;
use soulbox_types::{EgressPolicy, NetworkMode};

use crate::stack::Stack;

#[tokio::test]
async fn the_network_of_a_running_sandbox_changes() {
    let s = Stack::start().await;
    let id = s
        .create(json!({"network": {"allowOut": ["1.1.1.1"], "maskRequestHost": "x.example"}}))
        .await;
    let guest = s.driver.guest(&id.parse().unwrap()).unwrap();
    let network = || Guest::network(guest.as_ref());
    let put = async |body: Value| {
        let call = s.call(Method::PUT, format!("/sandboxes/{id}/network"));
        let answer = call.json(&body).send().await;
        assert_eq!(answer.status, 204, "{body}: {}", answer.text());
        s.get(format!("/sandboxes/{id}")).await.ok(200)
    };
    let shown = put(json!({"allow_internet_access": false})).await;
    assert_eq!(network(), NetworkMode::Filtered(EgressPolicy::closed()));
    assert_eq!(shown["network"], json!({"maskRequestHost": "x.example"}));
    assert_eq!(shown["allowInternetAccess"], false);
    let lists = json!({"allowOut": ["a.example"], "denyOut": ["0.0.0.0/0"]});
    let shown = put(lists).await;
    assert!(
        network()
            .policy()
            .is_some_and(|policy| policy.tells("a.example"))
    );
    assert_eq!(shown["network"]["allowOut"], json!(["a.example"]));
    assert_eq!(
        put(json!({})).await["network"],
        json!({"maskRequestHost": "x.example"})
    );
    assert_eq!(network(), NetworkMode::Internet);
    s.post(format!("/sandboxes/{id}/resume"), json!({}))
        .await
        .refused(409, &format!("Sandbox {id} is already running"));
    let paused = s.post(format!("/sandboxes/{id}/pause"), json!({})).await;
    assert_eq!(paused.status, 204);
    s.call(Method::PUT, format!("/sandboxes/{id}/network"))
        .json(&json!({}))
        .send()
        .await
        .refused(409, "is not running");
}

#[tokio::test]
async fn unknown_sandboxes_come_first() {
    let s = Stack::start().await;
    for (method, operation) in [
        (Method::POST, "pause"),
        (Method::POST, "resume"),
        (Method::POST, "fork"),
        (Method::POST, "snapshots"),
        (Method::PUT, "network"),
    ] {
        let answer = s
            .call(method, format!("/sandboxes/nothing/{operation}"))
            .json(&json!({}))
            .send()
            .await;
        answer.refused(404, "Sandbox \"nothing\" doesn't exist");
    }
}

#[tokio::test]
async fn wrong_bodies_come_before_the_refusal() {
    let s = Stack::start().await;
    let id = s.create(json!({})).await;
    for (method, operation, body, message) in [
        (
            Method::POST,
            "pause",
            json!({"memory": "yes"}),
            "validation error",
        ),
        (
            Method::POST,
            "fork",
            json!({"count": 0}),
            "validation error",
        ),
        (
            Method::POST,
            "fork",
            json!({"count": 101}),
            "validation error",
        ),
        (
            Method::POST,
            "fork",
            json!({"count": 20}),
            "Count must be lower than the maximum number",
        ),
        (
            Method::POST,
            "fork",
            json!({"timeout": 0}),
            "Timeout must be greater than 0",
        ),
        (
            Method::POST,
            "snapshots",
            json!({"name": "other/x"}),
            "namespace 'other' must match your team 'default'",
        ),
        (
            Method::POST,
            "snapshots",
            json!({"name": "a b"}),
            "Invalid name: invalid template ID: a b",
        ),
        (
            Method::PUT,
            "network",
            json!({"denyOut": ["example.com"]}),
            "invalid denied CIDR example.com",
        ),
        (
            Method::PUT,
            "network",
            json!({"allowOut": ["example.com"]}),
            "When specifying allowed domains",
        ),
    ] {
        let answer = s
            .call(method, format!("/sandboxes/{id}/{operation}"))
            .json(&body)
            .send()
            .await;
        answer.refused(400, message);
    }
    let proxy = json!({"egressProxy": {"address": "[::1]:1"}});
    let answer = s
        .call(Method::PUT, format!("/sandboxes/{id}/network"))
        .json(&proxy)
        .send()
        .await;
    answer.refused(
        400,
        "egress proxy endpoint resolves to an internal / denied IP range",
    );
    s.call(Method::POST, format!("/sandboxes/{id}/snapshots"))
        .send()
        .await
        .refused(400, "validation error");
}

#[tokio::test]
async fn files_are_branched() {
    let s = Stack::start().await;
    let id = s.create(json!({"metadata": {"a": "b"}})).await;
    let wanted = json!({"memory": false, "count": 2, "timeout": 60});
    let forks = s
        .post(format!("/sandboxes/{id}/fork"), wanted)
        .await
        .ok(201);
    for fork in forks.as_array().unwrap() {
        let fork = fork["sandbox"]["sandboxID"].as_str().unwrap();
        let shown = s.get(format!("/sandboxes/{fork}")).await.ok(200);
        assert_eq!(shown["forkedFrom"], id);
        assert_eq!(shown["metadata"], json!({"a": "b"}));
    }
    let named = json!({"memory": false, "name": "work:v1"});
    let path = format!("/sandboxes/{id}/snapshots");
    let taken = s.post(path.clone(), named).await.ok(201);
    assert_eq!(taken["snapshotID"], "default/work:v1");
    assert_eq!(taken["names"], json!(["default/work"]));
    assert_eq!(taken["sandboxID"], id);
    assert_eq!(
        s.get("/snapshots?name=work:v1").await.ok(200),
        json!([taken])
    );
    assert_eq!(
        s.get("/snapshots?name=work:default").await.ok(200),
        json!([])
    );
    assert_eq!(s.get("/snapshots?name=base").await.ok(200), json!([]));
    let body = json!({"templateID": "default/work:v1"});
    let made = s.post("/v2/sandboxes", body).await.ok(201)["sandboxID"].clone();
    let made = made.as_str().unwrap();
    s.delete("/templates/default%2Fwork%3Av1")
        .await
        .refused(400, "because there are running sandboxes using it");
    for path in [
        &format!("/sandboxes/{made}"),
        "/templates/default%2Fwork%3Av1",
    ] {
        assert_eq!(s.delete(path).await.status, 204, "{path}");
    }
    assert_eq!(s.get("/snapshots").await.ok(200), json!([]));
}

#[tokio::test]
async fn snapshots_are_empty() {
    let s = Stack::start().await;
    for path in ["/snapshots", "/snapshots?sandboxID=iabc&name=x:y&limit=5"] {
        assert_eq!(s.get(path).await.ok(200), json!([]), "{path}");
    }
    s.get("/snapshots?limit=0")
        .await
        .refused(400, "validation error");
    s.get("/snapshots?nextToken=x")
        .await
        .refused(400, "Invalid next token");
    s.get("/snapshots?name=other/x")
        .await
        .refused(400, "namespace 'other' must match");
    s.get("/snapshots?sandboxID=A")
        .await
        .refused(400, "Invalid sandbox ID");
}

//! Creating sandboxes: the answer, the defaults, what reaches the driver, and every refusal in its order.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use soulbox_driver::DriverError;
use soulbox_types::{EgressPolicy, NetworkMode, SandboxId, Timestamp};

use crate::stack::{LAYER, Stack, assert_keys, assert_time};

const ANSWER: [&str; 8] = [
    "templateID",
    "sandboxID",
    "alias",
    "clientID",
    "envdVersion",
    "envdAccessToken",
    "trafficAccessToken",
    "domain",
];

async fn lifetime_seconds(s: &Stack, id: &str) -> u64 {
    let detail = s.get(format!("/sandboxes/{id}")).await.ok(200);
    let at = |key: &str| Timestamp::parse_rfc3339(detail[key].as_str().unwrap()).unwrap();
    at("endAt").since(at("startedAt")).as_secs()
}

#[tokio::test]
async fn answer_and_defaults_of_both_versions() {
    let s = Stack::start().await;
    for (path, default_timeout) in [("/sandboxes", 15), ("/v2/sandboxes", 300)] {
        let created = s.post(path, json!({"templateID": "base"})).await.ok(201);
        assert_keys(&created, &ANSWER);
        assert_eq!(created["alias"], "base");
        assert_eq!(created["templateID"], s.base.template.id.as_str());
        assert_eq!(created["envdVersion"], "0.6.9");
        assert_eq!(
            (&created["trafficAccessToken"], &created["domain"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(created["envdAccessToken"].as_str().unwrap().len(), 64);
        let id = created["sandboxID"].as_str().unwrap();
        assert!(id.len() == 21 && id.starts_with('i'));
        assert_eq!(lifetime_seconds(&s, id).await, default_timeout);
    }
    let id = s.create(json!({"timeout": 77})).await;
    assert_eq!(lifetime_seconds(&s, &id).await, 77);
}

#[tokio::test]
async fn what_is_asked_reaches_the_driver() {
    let s = Stack::start().await;
    let id = s
        .create(json!({"envVars": {"A": "1"}, "allow_internet_access": false, "metadata": {"k": "v"},
            "network": {"allowPublicTraffic": false, "maskRequestHost": "x.example:${PORT}", "httpsPorts": [8443]}}))
        .await;
    let guest = s.driver.guest(&id.parse::<SandboxId>().unwrap()).unwrap();
    let spec = soulbox_driver::Guest::spec(guest.as_ref());
    assert_eq!(spec.env_vars["A"], "1");
    assert_eq!(spec.network, NetworkMode::Filtered(EgressPolicy::closed()));
    assert_eq!(spec.image.layers, [LAYER.parse().unwrap()]);
    let detail = s.get(format!("/sandboxes/{id}")).await.ok(200);
    assert_keys(
        &detail,
        &[
            "templateID",
            "alias",
            "sandboxID",
            "clientID",
            "startedAt",
            "endAt",
            "envdVersion",
            "envdAccessToken",
            "allowInternetAccess",
            "domain",
            "cpuCount",
            "memoryMB",
            "diskSizeMB",
            "metadata",
            "state",
            "network",
            "lifecycle",
            "volumeMounts",
        ],
    );
    assert_time(&detail["startedAt"]);
    assert_time(&detail["endAt"]);
    assert_eq!(detail["state"], "running");
    assert_eq!(
        detail["lifecycle"],
        json!({"onTimeout": "kill", "autoResume": false})
    );
    assert_eq!(detail["allowInternetAccess"], false);
    assert_eq!(detail["metadata"], json!({"k": "v"}));
    assert_eq!(
        detail["network"],
        json!({"allowPublicTraffic": false, "maskRequestHost": "x.example:${PORT}", "httpsPorts": [8443]})
    );
    let connected = s
        .post(format!("/v2/sandboxes/{id}/connect"), json!({}))
        .await
        .ok(200);
    assert_eq!(connected["trafficAccessToken"].as_str().unwrap().len(), 64);
    assert_eq!(connected["envdAccessToken"], detail["envdAccessToken"]);
}

#[tokio::test]
async fn denying_everything_is_a_policy_that_can_change() {
    let s = Stack::start().await;
    for (extra, want) in [
        (
            json!({"network": {"denyOut": ["0.0.0.0/0"]}}),
            NetworkMode::Filtered(EgressPolicy::closed()),
        ),
        (
            json!({"allow_internet_access": true}),
            NetworkMode::Internet,
        ),
        (
            json!({"network": {"allowOut": ["8.8.8.8"]}}),
            NetworkMode::Internet,
        ),
    ] {
        let id = s.create(extra).await;
        let guest = s.driver.guest(&id.parse().unwrap()).unwrap();
        assert_eq!(soulbox_driver::Guest::spec(guest.as_ref()).network, want);
    }
}

#[tokio::test]
async fn names_of_templates() {
    let s = Stack::start().await;
    let build = s.base.build.id.to_string();
    let id = s.base.template.id.to_string();
    for name in [
        "base",
        " BASE ",
        "base:default",
        &id,
        &format!("base:{build}"),
    ] {
        s.post("/v2/sandboxes", json!({"templateID": name}))
            .await
            .ok(201);
    }
    let private = s.private_template_of_other("private").await.to_string();
    for (name, status, message) in [
        ("", 400, "Invalid template reference: invalid template ID: "),
        (
            "a/b/c",
            400,
            "Invalid template reference: invalid template ID: b/c",
        ),
        ("base:", 400, "Invalid template reference: invalid tag: "),
        ("nothing", 404, "template 'nothing' not found"),
        ("other/base", 404, "template 'other/base' not found"),
        (
            "base:v9",
            404,
            "tag 'v9' does not exist for template 'base'",
        ),
        (private.as_str(), 404, "not found"),
    ] {
        s.post("/v2/sandboxes", json!({"templateID": name}))
            .await
            .refused(status, message);
    }
}

#[tokio::test]
async fn refusals_in_the_contracts_order() {
    let s = Stack::start().await;
    for (path, extra, message) in [
        (
            "/sandboxes",
            json!({"timeout": -1, "templateID": "?"}),
            "validation error",
        ),
        ("/v2/sandboxes", json!({"timeout": 0}), "validation error"),
        (
            "/sandboxes",
            json!({"timeout": 0}),
            "Timeout must be greater than 0",
        ),
        (
            "/sandboxes",
            json!({"timeout": 86401, "autoPause": true}),
            "Timeout cannot be greater than 24 hours",
        ),
        (
            "/v2/sandboxes",
            json!({"autoPauseMemory": false}),
            "autoPauseMemory=false only applies",
        ),
        (
            "/v2/sandboxes",
            json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}}),
            "cannot be combined with autoResume",
        ),
        (
            "/v2/sandboxes",
            json!({"network": {"rules": {"a.b": [{}, {}]}}}),
            "can have at most 1 transform rule.",
        ),
        (
            "/v2/sandboxes",
            json!({"volumeMounts": [{"name": "v", "path": "/v"}]}),
            "invalid mounts:\n\t- volume mount #0: volume 'v' not found",
        ),
    ] {
        let mut body = json!({"templateID": "base"});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        s.post(path, body).await.refused(400, message);
    }
    // A template that does not exist comes before a policy that cannot be.
    let body = json!({"templateID": "nothing", "autoPauseMemory": false});
    s.post("/v2/sandboxes", body)
        .await
        .refused(404, "template 'nothing' not found");
    let proxy =
        json!({"templateID": "base", "network": {"egressProxy": {"address": "10.0.0.1:1080"}}});
    s.post("/v2/sandboxes", proxy)
        .await
        .refused(400, "Invalid egress proxy config: egress proxy endpoint resolves to an internal / denied IP range: 10.0.0.1 resolves to 10.0.0.1");
    assert!(s.driver.begun().is_empty(), "nothing was created");
}

#[tokio::test]
async fn what_every_sdk_generation_sends() {
    let s = Stack::start().await;
    s.post("/sandboxes", json!({"templateID": "base", "timeout": 300, "secure": true, "allow_internet_access": true}))
        .await
        .ok(201);
    s.post("/sandboxes", json!({"templateID": "base", "secure": false}))
        .await
        .ok(201);
    s.post(
        "/v2/sandboxes",
        json!({"templateID": "base", "metadata": {}, "envVars": {}, "mcp": {"x": {"y": 1}}}),
    )
    .await
    .ok(201);
    let lifecycle =
        json!({"templateID": "base", "autoPause": false, "autoResume": {"enabled": false}});
    s.post("/v2/sandboxes", lifecycle).await.ok(201);
}

#[tokio::test]
async fn failures_of_the_driver_are_told_apart() {
    let s = Stack::start().await;
    let create = async || s.post("/v2/sandboxes", json!({"templateID": "base"})).await;
    s.driver.fail_next_create(DriverError::NoSlot);
    let answer = create().await;
    answer.refused(503, "Failed to place sandbox: not enough capacity");
    assert_eq!(answer.json()["error_code"], "sandbox_capacity_unavailable");
    s.driver.fail_next_create(DriverError::Envd {
        reason: "secret detail".into(),
    });
    let answer = create().await;
    answer.refused(504, "Failed to place sandbox: placement timed out");
    assert_eq!(answer.json()["error_code"], "sandbox_placement_timeout");
    let source = std::io::Error::other("secret detail");
    s.driver.fail_next_create(DriverError::Host {
        operation: "mount /secret".into(),
        source,
    });
    let answer = create().await;
    answer.refused(500, "Failed to place sandbox: ");
    assert_eq!(answer.json()["error_code"], "sandbox_create_failed");
    assert!(!answer.text().contains("secret"));
    create().await.ok(201);
}

#[tokio::test]
async fn the_limit_of_the_team() {
    let s = Stack::start().await;
    for _ in 0..20 {
        s.create(json!({})).await;
    }
    let answer = s.post("/v2/sandboxes", json!({"templateID": "base"})).await;
    answer.refused(
        429,
        "you have reached the maximum number of concurrent E2B sandboxes (20)",
    );
    let theirs = s
        .foreign(Method::POST, "/v2/sandboxes")
        .json(&json!({"templateID": "base"}));
    theirs.send().await.ok(201);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_all_or_nothing() {
    let s = Stack::start().await;
    s.driver.set_create_delay(Duration::from_millis(50));
    let call = s
        .call(Method::POST, "/v2/sandboxes")
        .json(&json!({"templateID": "base"}))
        .send();
    assert!(
        tokio::time::timeout(Duration::from_millis(10), call)
            .await
            .is_err()
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while s
        .get("/v2/sandboxes")
        .await
        .ok(200)
        .as_array()
        .unwrap()
        .is_empty()
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the sandbox never appeared"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(s.driver.guests().len(), 1);
}

//! Teams, keys and access tokens.

use http::Method;
use serde_json::{Value, json};

use crate::stack::{Stack, assert_keys, assert_time};

#[tokio::test]
async fn teams_of_a_caller() {
    let s = Stack::start().await;
    let holder = s
        .bare(Method::GET, "/teams")
        .header("authorization", format!("Bearer {}", s.key))
        .send()
        .await;
    let teams = holder.ok(200);
    assert_keys(&teams[0], &["teamID", "name", "apiKey", "isDefault"]);
    assert_eq!(
        (&teams[0]["apiKey"], &teams[0]["isDefault"]),
        (&json!(s.key), &json!(true))
    );
    let admin = s.admin(Method::GET, "/teams").send().await.ok(200);
    let minted = admin[0]["apiKey"].as_str().unwrap().to_owned();
    assert_ne!(minted, s.key);
    s.bare(Method::GET, "/v2/sandboxes")
        .header("x-api-key", &minted)
        .send()
        .await
        .ok(200);
}

#[expect(clippy::too_many_lines, reason = "one life in order")]
#[tokio::test]
async fn keys_from_birth_to_end() {
    let s = Stack::start().await;
    let admin = |method, path: &str| {
        s.admin(method, path)
            .header("x-team-id", s.team.id.as_str())
    };
    let created = admin(Method::POST, "/api-keys")
        .json(&json!({"name": "ci"}))
        .send()
        .await
        .ok(201);
    assert_keys(
        &created,
        &[
            "id",
            "key",
            "mask",
            "name",
            "createdAt",
            "createdBy",
            "lastUsed",
        ],
    );
    assert_keys(
        &created["mask"],
        &[
            "prefix",
            "valueLength",
            "maskedValuePrefix",
            "maskedValueSuffix",
        ],
    );
    let key = created["key"].as_str().unwrap();
    assert!(key.starts_with("e2b_") && key.len() == 44);
    assert_eq!(created["mask"]["maskedValueSuffix"], &key[40..]);
    s.bare(Method::GET, "/v2/sandboxes")
        .header("x-api-key", key)
        .send()
        .await
        .ok(200);

    let id = created["id"].as_str().unwrap();
    admin(Method::PATCH, &format!("/api-keys/{id}"))
        .json(&json!({"name": "new"}))
        .send()
        .await
        .empty(202);
    let list = admin(Method::GET, "/api-keys").send().await.ok(200);
    let entry = list
        .as_array()
        .unwrap()
        .iter()
        .find(|k| k["id"] == id)
        .unwrap();
    assert_keys(
        entry,
        &["id", "mask", "name", "createdAt", "createdBy", "lastUsed"],
    );
    assert_eq!(entry["name"], "new");
    assert_time(&entry["lastUsed"]);
    assert!(!list.to_string().contains(key));
    // Without a team the operator means the default one.
    assert_eq!(
        s.admin(Method::GET, "/api-keys")
            .send()
            .await
            .ok(200)
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let other = s
        .admin(Method::DELETE, format!("/api-keys/{id}"))
        .header("x-team-id", s.other.id.as_str());
    other.send().await.refused(404, "id not found");
    admin(Method::DELETE, &format!("/api-keys/{id}"))
        .send()
        .await
        .empty(204);
    s.bare(Method::GET, "/v2/sandboxes")
        .header("x-api-key", key)
        .send()
        .await
        .refused(401, "Cannot get the team");
    admin(Method::DELETE, &format!("/api-keys/{id}"))
        .send()
        .await
        .refused(404, "id not found");
    admin(Method::PATCH, &format!("/api-keys/{id}"))
        .json(&json!({"name": "x"}))
        .send()
        .await
        .refused(404, "id not found");
    admin(Method::DELETE, "/api-keys/x")
        .send()
        .await
        .refused(400, "Error when parsing API key ID: ");
    for body in [json!({}), json!({"name": 1}), json!({"name": "a\u{0}b"})] {
        admin(Method::POST, "/api-keys")
            .json(&body)
            .send()
            .await
            .refused(400, "validation error");
    }
}

#[tokio::test]
async fn access_tokens_are_gone() {
    let s = Stack::start().await;
    let answer = s
        .bare(Method::POST, "/access-tokens")
        .json(&json!({"name": "x"}))
        .send()
        .await;
    answer.refused(
        410,
        "Creating new access tokens is disabled. E2B_ACCESS_TOKEN is deprecated",
    );
    s.bare(Method::DELETE, "/access-tokens/x")
        .send()
        .await
        .refused(410, "deprecated");
}

#[tokio::test]
async fn metrics_of_a_team() {
    let s = Stack::start().await;
    let path = format!("/teams/{}/metrics", s.team.id);
    s.create(json!({})).await;
    let list = s.get(&path).await.ok(200);
    let latest = list.as_array().unwrap().last().unwrap();
    assert_keys(
        latest,
        &[
            "timestamp",
            "timestampUnix",
            "concurrentSandboxes",
            "sandboxStartRate",
        ],
    );
    assert_eq!(latest["concurrentSandboxes"], 1);
    let max = s
        .get(format!("{path}/max?metric=concurrent_sandboxes"))
        .await
        .ok(200);
    assert_keys(&max, &["timestamp", "timestampUnix", "value"]);
    assert_eq!(max["value"], 1.0);
    let past = s
        .get(format!(
            "{path}/max?metric=sandbox_start_rate&start=1&end=2"
        ))
        .await
        .ok(200);
    assert_eq!(past["value"], 0.0);
    s.get(format!("{path}/max"))
        .await
        .refused(400, "validation error");
    s.get(format!("{path}/max?metric=x"))
        .await
        .refused(400, "validation error");
    s.get(format!("{path}?start=2&end=1"))
        .await
        .refused(400, "start time cannot be after end time");
    s.get(format!("{path}?end=99999999999999"))
        .await
        .refused(400, "end time cannot be after");
    let other = s.get(format!("/teams/{}/metrics", s.other.id)).await;
    let (mine, theirs) = (&s.team.id, &s.other.id);
    other.refused(
        403,
        &format!("You ({mine}) are not authorized to access this team's ({theirs}) metrics"),
    );
    let empty: Value = s
        .foreign(Method::GET, format!("/teams/{}/metrics", s.other.id))
        .send()
        .await
        .ok(200);
    assert!(
        empty
            .as_array()
            .unwrap()
            .iter()
            .all(|m| m["concurrentSandboxes"] == 0)
    );
}

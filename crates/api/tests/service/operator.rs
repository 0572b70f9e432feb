//! Nodes and mass actions.

use http::Method;
use serde_json::json;

use crate::stack::{Stack, assert_keys, assert_time};

#[tokio::test]
async fn nodes() {
    let s = Stack::start().await;
    s.create(json!({})).await;
    let list = s.admin(Method::GET, "/nodes").send().await.ok(200);
    let node = &list[0];
    assert_keys(
        node,
        &[
            "version",
            "commit",
            "id",
            "serviceInstanceID",
            "clusterID",
            "machineInfo",
            "status",
            "statusChangedAt",
            "sandboxCount",
            "metrics",
            "createSuccesses",
            "createFails",
            "sandboxStartingCount",
        ],
    );
    assert_keys(
        &node["machineInfo"],
        &["cpuFamily", "cpuModel", "cpuModelName", "cpuArchitecture"],
    );
    assert_keys(
        &node["metrics"],
        &[
            "allocatedCPU",
            "cpuPercent",
            "cpuCount",
            "allocatedMemoryBytes",
            "memoryUsedBytes",
            "memoryTotalBytes",
            "hugePagesTotal",
            "hugePagesUsed",
            "hugePagesReserved",
            "hugePageSizeBytes",
            "disks",
        ],
    );
    assert_keys(
        &node["metrics"]["disks"][0],
        &[
            "mountPoint",
            "device",
            "filesystemType",
            "usedBytes",
            "totalBytes",
        ],
    );
    assert_time(&node["statusChangedAt"]);
    assert_eq!(
        (
            &node["status"],
            &node["sandboxCount"],
            &node["createSuccesses"]
        ),
        (&json!("ready"), &json!(1), &json!(1))
    );
    assert_eq!(node["metrics"]["allocatedCPU"], 2);
    s.admin(Method::GET, "/nodes/node1").send().await.ok(200);
    s.admin(Method::GET, "/nodes/x")
        .send()
        .await
        .refused(404, "node 'x' not found");
    let set = |status: &str| {
        s.admin(Method::POST, "/nodes/node1")
            .json(&json!({"status": status}))
    };
    set("ready").send().await.empty(204);
    set("draining")
        .send()
        .await
        .refused(501, "not available in this version");
    set("asleep").send().await.refused(400, "validation error");
}

#[tokio::test]
async fn counting_and_killing_a_team() {
    let s = Stack::start().await;
    for _ in 0..3 {
        s.create(json!({})).await;
    }
    let theirs = s
        .foreign(Method::POST, "/v2/sandboxes")
        .json(&json!({"templateID": "base"}))
        .send()
        .await;
    theirs.ok(201);
    let counts = s
        .admin(Method::GET, "/admin/sandboxes/running-counts")
        .send()
        .await
        .ok(200);
    assert_eq!(
        counts,
        json!({s.team.id.as_str(): 3, s.other.id.as_str(): 1})
    );
    let kill = async |team: &str| {
        s.admin(Method::POST, format!("/admin/teams/{team}/sandboxes/kill"))
            .send()
            .await
    };
    assert_eq!(
        kill(s.team.id.as_str()).await.ok(200),
        json!({"killedCount": 3, "failedCount": 0})
    );
    assert_eq!(s.driver.guests().len(), 1);
    kill("x").await.refused(400, "validation error");
    kill("00000000-0000-4000-8000-000000000000")
        .await
        .refused(404, "Team not found");
    let cancelled = s
        .admin(
            Method::POST,
            format!("/admin/teams/{}/builds/cancel", s.team.id),
        )
        .send()
        .await;
    assert_eq!(
        cancelled.ok(200),
        json!({"cancelledCount": 0, "failedCount": 0})
    );
}

#[tokio::test]
async fn keys_of_any_team() {
    let s = Stack::start().await;
    let path = format!("/admin/teams/{}/api-keys", s.other.id);
    let created = s
        .admin(Method::POST, &path)
        .json(&json!({"name": "x"}))
        .send()
        .await
        .ok(201);
    assert_eq!(created["createdBy"], json!(null));
    let key = created["key"].as_str().unwrap();
    s.bare(Method::GET, "/v2/sandboxes")
        .header("x-api-key", key)
        .send()
        .await
        .ok(200);
    let id = created["id"].as_str().unwrap();
    s.admin(Method::DELETE, format!("{path}/{id}"))
        .send()
        .await
        .empty(204);
    s.admin(Method::DELETE, format!("{path}/{id}"))
        .send()
        .await
        .refused(404, "API key not found");
    s.admin(Method::DELETE, format!("{path}/x"))
        .send()
        .await
        .refused(400, "Error when parsing API key ID: ");
}

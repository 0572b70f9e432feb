//! Comparing and exporting builds, as far as it goes without a kernel: names, rights, and what a host refuses.

use http::Method;
use serde_json::json;
use soulbox_driver::DriverError;
use soulbox_store::BootstrapTemplate;

use crate::stack::{Stack, assert_keys};

#[tokio::test]
async fn the_same_layers_differ_in_nothing() {
    let s = Stack::start().await;
    let build = s.base.build.id.to_string();
    let path = format!("/templates/base/diff?from=1.0.0&to={build}");
    let found = s.get(path).await.ok(200);
    assert_eq!(found["sameLayers"], true);
    assert_keys(
        &found,
        &[
            "templateID",
            "from",
            "to",
            "sameLayers",
            "packages",
            "files",
            "truncated",
            "added",
            "removed",
            "changed",
        ],
    );
    assert_eq!(found["from"], json!({"buildID": build, "version": "1.0.0"}));
    assert_eq!(found["added"], json!({"count": 0, "sizeBytes": 0}));
    assert!(s.driver.begun().is_empty());
}

#[tokio::test]
async fn what_cannot_be_looked_into() {
    let s = Stack::start().await;
    let theirs = s.private_template_of_other("theirs").await;
    for (path, status, message) in [
        ("/templates/base/diff".to_owned(), 400, "validation error"),
        (
            "/templates/base/diff?from=".to_owned(),
            400,
            "validation error",
        ),
        (
            "/templates/base/diff?from=1.0.0&limit=10001".to_owned(),
            400,
            "validation error",
        ),
        (
            "/templates/base/diff?from=9.9.9".to_owned(),
            404,
            "no ready build '9.9.9'",
        ),
        (
            "/templates/base%3A1.0.0/diff?from=1.0.0".to_owned(),
            400,
            "without a tag",
        ),
        (
            "/templates/nothing/diff?from=1.0.0".to_owned(),
            404,
            "not found",
        ),
        (
            format!("/templates/{theirs}/diff?from=1.0.0"),
            404,
            "not found",
        ),
        (
            format!("/templates/{theirs}/export?build=default"),
            404,
            "not found",
        ),
        (
            "/templates/base/export?build=x".to_owned(),
            404,
            "no ready build 'x'",
        ),
    ] {
        s.get(path).await.refused(status, message);
    }
    // A public template is everybody's to look into.
    let foreign = s.foreign(Method::GET, "/templates/base/diff?from=default");
    foreign.send().await.ok(200);
}

#[tokio::test]
async fn a_host_without_room_says_so() {
    let s = Stack::start().await;
    let changed = BootstrapTemplate {
        alias: "base".into(),
        description: None,
        limits: s.base.build.limits,
        layers: vec!["d2".repeat(32)],
        envd_version: "0.6.9".into(),
        default_user: "user".into(),
        default_workdir: None,
    };
    s.store.upsert_bootstrap_template(&changed).await.unwrap();
    s.driver.fail_next_create(DriverError::NoSlot);
    s.driver.fail_next_create(DriverError::NoSlot);
    let diff = s.get("/templates/base/diff?from=1.0.0").await;
    diff.refused(503, "all sandbox slots of this server are in use");
    assert!(s.driver.guests().is_empty());
    s.driver.fail_next_create(DriverError::StorageFull);
    let export = s.get("/templates/base/export?build=default").await;
    export.refused(507, "no space left for sandbox files");
}

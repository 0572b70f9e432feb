//! Volumes as the control plane tells of them. Their files are the driver's, whose fake has none.

use http::Method;
use serde_json::json;

use crate::stack::Stack;

#[tokio::test]
async fn made_listed_looked_at_removed() {
    let s = Stack::start().await;
    assert_eq!(s.get("/volumes").await.ok(200), json!([]));
    let made = s.post("/volumes", json!({"name": "v-1"})).await.ok(201);
    let id = made["volumeID"].as_str().unwrap().to_owned();
    assert_eq!(made["name"], "v-1");
    assert_eq!(made["token"].as_str().unwrap().split('.').count(), 3);
    assert!(made.get("domain").is_none());
    assert_eq!(s.driver.volumes().len(), 1);
    assert_eq!(
        s.get("/volumes").await.ok(200),
        json!([{"volumeID": id, "name": "v-1"}])
    );
    let path = format!("/volumes/{id}");
    let again = s.get(&path).await.ok(200);
    assert_ne!(again["token"], made["token"]);
    s.post("/volumes", json!({"name": "v-1"}))
        .await
        .refused(400, "Volume with name 'v-1' already exists");
    // Another team has its own names and sees nothing of this one's.
    s.foreign(Method::POST, "/volumes")
        .json(&json!({"name": "v-1"}))
        .send()
        .await
        .ok(201);
    for method in [Method::GET, Method::DELETE] {
        let answer = s.foreign(method, &path).send().await;
        answer.refused(404, "Volume not found");
    }
    s.delete(&path).await.empty(204);
    s.delete(&path).await.refused(404, "Volume not found");
    s.get(&path).await.refused(404, "Volume not found");
    assert_eq!(s.get("/volumes").await.ok(200), json!([]));
}

#[tokio::test]
async fn what_is_no_name_and_no_id() {
    let s = Stack::start().await;
    for name in ["", "a b", "a/b", "ä", ".."] {
        s.post("/volumes", json!({"name": name}))
            .await
            .refused(400, "validation error");
    }
    s.post("/volumes", json!({"name": "a".repeat(256)}))
        .await
        .refused(400, "Invalid volume name");
    s.get("/volumes/x").await.refused(400, "Invalid volume ID");
    s.delete("/volumes/x")
        .await
        .refused(400, "Invalid volume ID");
    let nobody = s.bare(Method::GET, "/volumes").send().await;
    nobody.refused(401, "");
}

#[tokio::test]
async fn sandboxes_get_the_volumes_they_name() {
    let s = Stack::start().await;
    let volume = s.post("/volumes", json!({"name": "data"})).await.ok(201);
    let mounts = json!([{"name": "data", "path": "/mnt/data/"}]);
    let id = s.create(json!({"volumeMounts": mounts})).await;
    let guest = s.driver.guest(&id.parse().unwrap()).unwrap();
    let spec = soulbox_driver::Guest::spec(guest.as_ref());
    assert_eq!(spec.volumes.len(), 1);
    assert_eq!(spec.volumes[0].volume.as_str(), volume["volumeID"]);
    assert_eq!(spec.volumes[0].path, "/mnt/data");
    let detail = s.get(format!("/sandboxes/{id}")).await.ok(200);
    assert_eq!(detail["volumeMounts"], mounts);
    assert_eq!(
        s.get("/v2/sandboxes").await.ok(200)[0]["volumeMounts"],
        mounts
    );
    s.post(
        "/sandboxes",
        json!({"templateID": "base", "volumeMounts": [{"name": "none", "path": "x"}]}),
    )
    .await
    .refused(
        400,
        "invalid mounts:\n\t- volume mount #0: volume 'none' not found",
    );
}

#[tokio::test]
async fn content_asks_for_the_volumes_own_token() {
    let s = Stack::start().await;
    let [one, other] = [
        s.post("/volumes", json!({"name": "a"})).await.ok(201),
        s.post("/volumes", json!({"name": "b"})).await.ok(201),
    ];
    let id = one["volumeID"].as_str().unwrap();
    let bearer =
        |volume: &serde_json::Value| format!("Bearer {}", volume["token"].as_str().unwrap());
    for (method, kind) in [
        (Method::GET, "path"),
        (Method::PATCH, "path"),
        (Method::DELETE, "path"),
        (Method::GET, "dir"),
        (Method::POST, "dir"),
        (Method::GET, "file"),
        (Method::PUT, "file"),
    ] {
        let path = format!("/volumecontent/{id}/{kind}?path=/x");
        let code = |answer: &crate::stack::Answer| answer.json()["code"].clone();
        let nobody = s.bare(method.clone(), &path).send().await;
        assert_eq!(
            (nobody.status.as_u16(), code(&nobody)),
            (401, json!("unauthenticated"))
        );
        let with_key = s.call(method.clone(), &path).send().await;
        assert_eq!(with_key.status.as_u16(), 401);
        let foreign = s
            .bare(method.clone(), &path)
            .header("authorization", bearer(&other))
            .send()
            .await;
        assert_eq!(
            (foreign.status.as_u16(), code(&foreign)),
            (403, json!("permission_denied"))
        );
        let own = s
            .bare(method, &path)
            .header("authorization", bearer(&one))
            .raw("{}")
            .send()
            .await;
        // The fake has no files.
        assert_eq!(
            (own.status.as_u16(), code(&own)),
            (501, json!("unimplemented"))
        );
    }
    s.delete(format!("/volumes/{id}")).await.empty(204);
    let gone = s
        .bare(Method::GET, format!("/volumecontent/{id}/path?path=/"))
        .header("authorization", bearer(&one))
        .send()
        .await;
    assert_eq!(gone.status.as_u16(), 404);
}

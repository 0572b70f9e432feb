//! Tags that come and go, templates that become public, templates that are deleted.

use http::Method;
use serde_json::json;

use crate::stack::{Stack, assert_keys};

#[tokio::test]
async fn tags_are_assigned_and_removed() {
    let s = Stack::start().await;
    let build = s.base.build.id.to_string();
    let body = json!({"target": "base", "tags": ["V1", "v1 ", "v2"]});
    let answer = s.post("/templates/tags", body).await.ok(201);
    assert_eq!(answer, json!({"tags": ["v1", "v2"], "buildID": build}));
    let by_build = json!({"target": format!("base:{build}"), "tags": ["v3"]});
    s.post("/templates/tags", by_build).await.ok(201);
    s.get("/templates/aliases/base%3Av1").await.ok(200);
    let count = s.get("/templates/base/tags/count").await.ok(200);
    assert_eq!(count, json!({"total": 4}));

    let again = json!({"target": "base:v1", "tags": ["v1"]});
    s.post("/templates/tags", again).await.ok(201);
    let rows = s.get("/templates/base/tags/v1/assignments").await.ok(200);
    assert_eq!(rows["data"].as_array().unwrap().len(), 2);

    let remove = json!({"name": "base", "tags": ["v1", "never"]});
    for _ in 0..2 {
        let call = s.call(Method::DELETE, "/templates/tags").json(&remove);
        call.send().await.empty(204);
    }
    s.get("/templates/aliases/base%3Av1")
        .await
        .refused(404, "tag 'v1' does not exist");
    s.get("/templates/aliases/base%3Av2").await.ok(200);
}

#[tokio::test]
async fn described_and_found() {
    let s = Stack::start().await;
    let mine = s
        .post("/v3/templates", json!({"name": "mine"}))
        .await
        .ok(202);
    let describe = async |text: &str| {
        let body = json!({ "description": text });
        let call = s.call(Method::PATCH, "/v2/templates/mine").json(&body);
        call.send().await
    };
    describe(&"é".repeat(1001))
        .await
        .refused(400, "validation error");
    describe(" Runs pandas ").await.ok(200);
    let found = s.get("/template-catalogue?query=pandas").await.ok(200);
    assert_keys(
        &found[0],
        &[
            "templateID",
            "names",
            "description",
            "author",
            "tags",
            "sizeBytes",
            "downloads",
            "public",
            "updatedAt",
        ],
    );
    assert_eq!(found[0]["templateID"], mine["templateID"]);
    assert_eq!(found[0]["description"], "Runs pandas");
    assert_eq!(found[0]["author"], "default");
    let all = s.get("/template-catalogue?limit=1").await;
    let next = all.header("x-next-token").unwrap();
    let rest = s
        .get(format!("/template-catalogue?limit=1&nextToken={next}"))
        .await;
    assert_ne!(all.ok(200), rest.ok(200));
    let foreign = s
        .foreign(Method::GET, "/template-catalogue")
        .send()
        .await
        .ok(200);
    assert_eq!(foreign.as_array().unwrap().len(), 1);
    assert_eq!(foreign[0]["names"], json!(["base"]));
    assert_eq!(foreign[0]["version"], "1.0.0");
    describe("").await.ok(200);
    let found = s.get("/template-catalogue?query=pandas").await.ok(200);
    assert_eq!(found, json!([]));
    s.get("/template-catalogue?nextToken=x")
        .await
        .refused(400, "Invalid next token");
    let long = format!("/template-catalogue?query={}", "x".repeat(257));
    s.get(long).await.refused(400, "validation error");
}

#[tokio::test]
async fn versions_are_shown_and_meant() {
    let s = Stack::start().await;
    let id = s.base.template.id.to_string();
    let detail = s.get(format!("/templates/{id}")).await.ok(200);
    assert_eq!(detail["builds"][0]["version"], "1.0.0");
    assert_eq!(detail["builds"][0]["sizeBytes"], 0);
    s.get("/templates/aliases/base%3Av1.0.0").await.ok(200);
    let missing = s.get("/templates/aliases/base%3A1.0.1").await;
    missing.refused(404, "tag '1.0.1' does not exist");
    let body = json!({"target": "base:1.0.0", "tags": ["stable"]});
    s.post("/templates/tags", body).await.ok(201);
    let body = json!({"templateID": "base:1.0.0"});
    s.post("/v2/sandboxes", body).await.ok(201);
}

#[tokio::test]
async fn publishing() {
    let s = Stack::start().await;
    let requested = s
        .post("/v3/templates", json!({"name": "mine"}))
        .await
        .ok(202);
    let id = requested["templateID"].as_str().unwrap();
    let patch = async |path: String, body| s.call(Method::PATCH, path).json(&body).send().await;
    let public = async || s.get("/templates/aliases/mine").await.ok(200)["public"].clone();

    let names = json!({"names": ["default/mine"]});
    let answer = patch("/v2/templates/mine".into(), json!({"public": true})).await;
    assert_eq!(answer.ok(200), names);
    assert_eq!(public().await, json!(true));
    assert_eq!(
        patch(format!("/v2/templates/{id}"), json!({}))
            .await
            .ok(200),
        names
    );
    assert_eq!(public().await, json!(true));
    patch("/v2/templates/mine".into(), json!({"public": false}))
        .await
        .ok(200);
    assert_eq!(public().await, json!(false));

    // The first version takes the bare name, unless somebody has it.
    let answer = patch("/templates/mine".into(), json!({"public": true})).await;
    assert_eq!(answer.ok(200), json!(null));
    let theirs = s
        .foreign(Method::POST, "/v3/templates")
        .json(&json!({"name": "mine"}));
    theirs.send().await.ok(202);
    let taken = s
        .foreign(Method::PATCH, "/templates/mine")
        .json(&json!({"public": true}));
    taken.send().await.refused(
        409,
        "Public template name 'mine' is already taken. Your template is available at 'other/mine'.",
    );
    for path in ["/templates/base", "/v2/templates/base"] {
        patch(path.into(), json!({"public": 1}))
            .await
            .refused(400, "validation error");
        let theirs = s
            .foreign(Method::PATCH, path)
            .json(&json!({"public": false}));
        theirs
            .send()
            .await
            .refused(403, "You don't have access to template 'base'");
    }
    patch("/v2/templates/nothing".into(), json!({}))
        .await
        .refused(404, "template 'nothing' not found");
}

#[tokio::test]
async fn deleting() {
    let s = Stack::start().await;
    let requested = s
        .post("/v3/templates", json!({"name": "mine"}))
        .await
        .ok(202);
    let (id, build) = (&requested["templateID"], &requested["buildID"]);
    let (id, build) = (id.as_str().unwrap(), build.as_str().unwrap());
    s.foreign(Method::DELETE, format!("/templates/{id}"))
        .send()
        .await
        .refused(403, "You don't have access to template");
    s.delete("/templates/mine%3Av9").await.empty(204);
    s.delete("/templates/mine")
        .await
        .refused(404, "template 'mine' not found");
    s.get(format!("/templates/{id}/builds/{build}/status"))
        .await
        .refused(400, "not found");
    let text = format!("Template '{id}' has been deleted and cannot be rebuilt");
    s.post("/v3/templates", json!({"name": id}))
        .await
        .refused(404, &text);
    let again = s
        .post("/v3/templates", json!({"name": "mine"}))
        .await
        .ok(202);
    assert_ne!(again["templateID"], id);

    s.delete("/templates/base")
        .await
        .refused(400, "because it is one of the server's own");
    // The way SDKs delete snapshots: 404 means that there was none.
    s.delete("/templates/default%2Fsnap%3Adefault")
        .await
        .refused(404, "template 'default/snap' not found");
    s.delete("/templates/a%20b")
        .await
        .refused(400, "Invalid template ID: ");
}

//! Templates: lists, detail, aliases, tags, and builds that are over.

use http::Method;
use serde_json::{Value, json};

use crate::stack::{Stack, assert_keys, assert_time};

const TEMPLATE: [&str; 18] = [
    "templateID",
    "buildID",
    "cpuCount",
    "memoryMB",
    "diskSizeMB",
    "public",
    "aliases",
    "names",
    "createdAt",
    "updatedAt",
    "createdBy",
    "lastSpawnedAt",
    "spawnCount",
    "buildCount",
    "envdVersion",
    "buildStatus",
    "isDefault",
    "description",
];

#[tokio::test]
async fn lists() {
    let s = Stack::start().await;
    s.create(json!({})).await;
    for path in ["/templates", "/v2/templates", "/default-templates"] {
        let list = s.get(path).await.ok(200);
        let base = &list[0];
        assert_keys(base, &TEMPLATE);
        assert_eq!(base["aliases"], json!(["base"]));
        assert_eq!(
            (&base["buildStatus"], &base["public"], &base["isDefault"]),
            (&json!("ready"), &json!(true), &json!(true))
        );
        assert_eq!(
            (&base["createdBy"], &base["spawnCount"], &base["buildCount"]),
            (&Value::Null, &json!(1), &json!(1))
        );
        assert_eq!(base["buildID"], s.base.build.id.as_str());
        assert_time(&base["createdAt"]);
        assert_time(&base["lastSpawnedAt"]);
    }
    let theirs = s
        .foreign(Method::GET, "/default-templates")
        .send()
        .await
        .ok(200);
    assert_eq!(
        (&theirs[0]["spawnCount"], &theirs[0]["lastSpawnedAt"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(
        s.foreign(Method::GET, "/templates").send().await.ok(200),
        json!([])
    );
    for path in ["/templates", "/v2/templates"] {
        s.get(format!("{path}?teamID={}", s.team.id)).await.ok(200);
        s.get(format!("{path}?teamID={}", s.other.id))
            .await
            .refused(400, "Team ID param mismatch with the API key");
    }
    s.get("/v2/templates?limit=0")
        .await
        .refused(400, "validation error");
    s.get("/v2/templates?nextToken=x")
        .await
        .refused(400, "Invalid next token");
}

#[tokio::test]
async fn detail_by_raw_id_only() {
    let s = Stack::start().await;
    let id = &s.base.template.id;
    let body = s.get(format!("/templates/{id}")).await.ok(200);
    let mut want = TEMPLATE.to_vec();
    want.push("builds");
    assert_keys(&body, &want);
    assert_keys(
        &body["builds"][0],
        &[
            "buildID",
            "status",
            "createdAt",
            "updatedAt",
            "finishedAt",
            "cpuCount",
            "memoryMB",
            "diskSizeMB",
            "envdVersion",
            "version",
            "sizeBytes",
        ],
    );
    s.get("/templates/base")
        .await
        .refused(404, "Template base not found");
    s.get("/templates/a%2Fb")
        .await
        .refused(404, "Template a/b not found");
    let foreign = s
        .foreign(Method::GET, format!("/templates/{id}"))
        .send()
        .await;
    foreign.refused(
        403,
        &format!("You don't have access to this sandbox template ({id})"),
    );
    s.get(format!("/templates/{id}?nextToken=x"))
        .await
        .refused(400, "Invalid next token");
}

#[tokio::test]
async fn aliases() {
    let s = Stack::start().await;
    let want = json!({"templateID": s.base.template.id.as_str(), "public": true});
    for alias in [
        "base",
        "BASE",
        "base%3Adefault",
        s.base.template.id.as_str(),
    ] {
        assert_eq!(
            s.get(format!("/templates/aliases/{alias}")).await.ok(200),
            want,
            "{alias}"
        );
    }
    assert_eq!(
        s.foreign(Method::GET, "/templates/aliases/base")
            .send()
            .await
            .ok(200),
        want
    );
    let private = s.private_template_of_other("private").await;
    for (alias, status, message) in [
        ("nothing", 404, "template 'nothing' not found"),
        (
            "base%3Av9",
            404,
            "tag 'v9' does not exist for template 'base'",
        ),
        (
            "other%2Fbase",
            400,
            "namespace 'other' must match your team 'default'",
        ),
        (
            "a%20b",
            400,
            "Invalid alias format: invalid template ID: a b",
        ),
        (
            private.as_str(),
            403,
            "You don't have access to this template alias",
        ),
    ] {
        s.get(format!("/templates/aliases/{alias}"))
            .await
            .refused(status, message);
    }
}

#[tokio::test]
async fn reading_tags() {
    let s = Stack::start().await;
    let id = s.base.template.id.to_string();
    let build = s.base.build.id.as_str();
    for name in ["base", &id] {
        let tags = s.get(format!("/templates/{name}/tags")).await.ok(200);
        assert_keys(&tags[0], &["tag", "buildID", "createdAt"]);
        assert_eq!(
            (&tags[0]["tag"], &tags[0]["buildID"]),
            (&json!("default"), &json!(build))
        );
        assert_eq!(
            s.get(format!("/templates/{name}/tags/count")).await.ok(200),
            json!({"total": 1})
        );
    }
    for (tag, exists) in [("default", true), ("%20Default%20", true), ("v1", false)] {
        let body = s
            .get(format!("/templates/base/tags/exists?tag={tag}"))
            .await
            .ok(200);
        assert_keys(&body, &["exists", "normalizedTag"]);
        assert_eq!(body["exists"], exists, "{tag}");
    }
    s.get("/templates/base/tags/exists")
        .await
        .refused(400, "validation error");
    s.get("/templates/base/tags/exists?tag=a%3Ab")
        .await
        .refused(400, "Invalid tag: invalid tag: a:b");
    let groups = s.get("/templates/base/tags/groups").await.ok(200);
    assert_keys(&groups, &["tags", "nextCursor"]);
    assert_keys(&groups["tags"][0], &["tag", "assignments", "hasMore"]);
    let page = s
        .get("/templates/base/tags/default/assignments")
        .await
        .ok(200);
    assert_keys(&page, &["data", "nextCursor"]);
    assert_eq!(page["nextCursor"], Value::Null);
    let assignment = [
        "assignmentId",
        "buildId",
        "assignedAt",
        "buildCreatedAt",
        "buildFinishedAt",
    ];
    assert_keys(&page["data"][0], &assignment);
    for query in [
        "sort=up",
        "tagsLimit=0",
        "assignmentLimit=x",
        "tagsCursor=zzz",
    ] {
        s.get(format!("/templates/base/tags/groups?{query}"))
            .await
            .refused(400, "validation error");
    }
    s.get("/templates/nothing/tags")
        .await
        .refused(404, "template 'nothing' not found");
    s.get("/templates/a%20b/tags")
        .await
        .refused(400, "Invalid template reference: ");
    s.foreign(Method::GET, "/templates/base/tags")
        .send()
        .await
        .refused(403, "You don't have access to sandbox template 'base'");
    s.foreign(Method::GET, "/templates/base/tags/count")
        .send()
        .await
        .refused(404, "template 'base' not found");
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn changing_tags_is_judged() {
    let s = Stack::start().await;
    for (body, status, message) in [
        (
            json!({"target": "base", "tags": []}),
            400,
            "At least one tag is required",
        ),
        (
            json!({"target": "", "tags": ["x"]}),
            400,
            "Invalid target template format: ",
        ),
        (
            json!({"target": "other/base", "tags": ["x"]}),
            400,
            "namespace 'other' must match",
        ),
        (
            json!({"target": "nothing", "tags": ["x"]}),
            404,
            "template 'nothing' not found",
        ),
        (
            json!({"target": "base:v9", "tags": ["x"]}),
            404,
            "Template 'base' with tag 'v9' not found",
        ),
        (
            json!({"target": "base", "tags": [":invalid-tag"]}),
            400,
            "Invalid tag: invalid tag ':invalid-tag'",
        ),
        (
            json!({"target": "base", "tags": ["e2b-tags-test:"]}),
            400,
            "Invalid tag: ",
        ),
        (
            json!({"target": "base", "tags": ["6f0c2a4e-8f1a-4a55-9f5b-0f8e3f1f2a3b"]}),
            400,
            "tag cannot be a UUID",
        ),
        (json!({"target": "base"}), 400, "validation error"),
    ] {
        s.post("/templates/tags", body)
            .await
            .refused(status, message);
    }
    for (body, status, message) in [
        (
            json!({"name": "base", "tags": ["a:b"]}),
            400,
            "Invalid tag: ",
        ),
        (
            json!({"name": "base", "tags": []}),
            400,
            "At least one tag is required",
        ),
        (
            json!({"name": "base", "tags": ["Default"]}),
            400,
            "Cannot delete the 'default' tag",
        ),
        (
            json!({"name": "", "tags": ["x"]}),
            400,
            "Invalid template name format: ",
        ),
        (
            json!({"name": "base:x", "tags": ["x"]}),
            400,
            "Template name should not contain a tag",
        ),
        (
            json!({"name": "nothing", "tags": ["x"]}),
            404,
            "template 'nothing' not found",
        ),
    ] {
        s.call(Method::DELETE, "/templates/tags")
            .json(&body)
            .send()
            .await
            .refused(status, message);
    }
    let theirs = s
        .foreign(Method::DELETE, "/templates/tags")
        .json(&json!({"name": "base", "tags": ["x"]}));
    theirs
        .send()
        .await
        .refused(403, "You don't have access to sandbox template 'base'");
}

#[tokio::test]
async fn builds() {
    let s = Stack::start().await;
    let (id, build) = (s.base.template.id.to_string(), s.base.build.id.to_string());
    let status = s
        .get(format!(
            "/templates/{id}/builds/{build}/status?logsOffset=0&limit=100"
        ))
        .await
        .ok(200);
    assert_eq!(
        status,
        json!({"logs": [], "logEntries": [], "templateID": id, "buildID": build, "status": "ready"})
    );
    assert_eq!(
        s.get(format!(
            "/templates/{id}/builds/{build}/logs?direction=forward"
        ))
        .await
        .ok(200),
        json!({"logs": []})
    );
    let unknown = "6f0c2a4e-8f1a-4a55-9f5b-0f8e3f1f2a3b";
    for what in ["status", "logs"] {
        s.get(format!("/templates/{id}/builds/x/{what}"))
            .await
            .refused(400, "Invalid build id");
        let missing = s
            .get(format!("/templates/{id}/builds/{unknown}/{what}"))
            .await;
        missing.refused(400, &format!("Build '{unknown}' not found"));
        s.get(format!("/templates/{id}/builds/{build}/{what}?limit=101"))
            .await
            .refused(400, "validation error");
        let theirs = s
            .foreign(
                Method::GET,
                format!("/templates/{id}/builds/{build}/{what}"),
            )
            .send()
            .await;
        theirs.refused(403, "You don't have access to this sandbox template");
    }
    let start = json!({"fromImage": "ubuntu:22.04", "steps": [{"type": "RUN", "args": ["true"], "forceUpload": true}]});
    s.post(format!("/v2/templates/{id}/builds/{build}"), start.clone())
        .await
        .refused(400, "build is not in waiting state");
    s.post(format!("/v2/templates/{id}/builds/x"), start.clone())
        .await
        .refused(400, "Invalid build ID: x");
    let missing = s
        .post(
            format!("/v2/templates/{id}/builds/{unknown}"),
            start.clone(),
        )
        .await;
    missing.refused(404, "Error when getting template: ");
    let theirs = s
        .foreign(Method::POST, format!("/v2/templates/{id}/builds/{build}"))
        .json(&start)
        .send()
        .await;
    theirs.refused(403, "User does not have access to the template");
}

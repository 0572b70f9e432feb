//! Secrets: made, listed in pages, changed and removed by their team; values are in no answer.

use http::Method;
use serde_json::{Value, json};

use crate::stack::Stack;

const HIDDEN: &str = "hidden-value";

#[tokio::test]
async fn a_secrets_life() {
    let s = Stack::start().await;
    let new = json!({"name": " OpenAI-Key ", "value": HIDDEN, "metadata": {"a": "b"}});
    let answer = s.post("/secrets", new.clone()).await;
    assert!(!answer.text().contains(HIDDEN));
    let made = answer.ok(201);
    let id = made["secretID"].as_str().unwrap();
    assert!(id.starts_with("sec_"), "{made}");
    assert_eq!(made["name"], "openai-key");
    assert_eq!(made["currentVersion"], 1);
    assert_eq!(made["metadata"], json!({"a": "b"}));
    s.post("/secrets", new)
        .await
        .refused(409, "Secret cannot be modified in its current state");
    for selector in [id, "openai-key", "OPENAI-KEY", &id.to_uppercase()] {
        assert_eq!(s.get(format!("/secrets/{selector}")).await.ok(200), made);
    }
    let change = async |selector: &str, body: Value| {
        let answer = s.post(format!("/secrets/{selector}"), body).await;
        assert!(!answer.text().contains(HIDDEN));
        answer.ok(200)
    };
    let changed = change("openai-key", json!({"value": HIDDEN})).await;
    assert_eq!(changed["currentVersion"], 2);
    assert_eq!(changed["metadata"], json!({"a": "b"}));
    assert_eq!(changed["createdAt"], made["createdAt"]);
    assert_ne!(changed["updatedAt"], made["updatedAt"]);
    let changed = change(id, json!({"value": HIDDEN, "metadata": {}})).await;
    assert_eq!(changed["currentVersion"], 3);
    assert_eq!(changed["metadata"], json!({}));
    let path = format!("/secrets/{id}");
    for method in [Method::GET, Method::DELETE] {
        let answer = s.foreign(method, &path).send().await;
        answer.refused(404, "Secret not found");
    }
    s.delete(&path).await.empty(204);
    s.delete(&path).await.refused(404, "Secret not found");
    s.get(&path).await.refused(404, "Secret not found");
}

#[tokio::test]
async fn pages_lead_to_every_secret() {
    let s = Stack::start().await;
    assert_eq!(s.get("/secrets").await.ok(200), json!([]));
    for number in 0..3 {
        let new = json!({"name": format!("s{number}"), "value": HIDDEN});
        assert_eq!(s.post("/secrets", new).await.ok(201)["metadata"], json!({}));
    }
    let first = s.get("/secrets?limit=2").await;
    let next = first.header("x-next-token").unwrap().to_owned();
    let second = s.get(format!("/secrets?limit=2&nextToken={next}")).await;
    assert_eq!(second.header("x-next-token"), None);
    let pages = [first.ok(200), second.ok(200)];
    let names: Vec<_> = pages
        .iter()
        .flat_map(|page| page.as_array().unwrap())
        .map(|secret| secret["name"].clone())
        .collect();
    assert_eq!(names, ["s0", "s1", "s2"]);
    let theirs = s.foreign(Method::GET, "/secrets").send().await;
    assert_eq!(theirs.ok(200), json!([]));
}

#[tokio::test]
async fn messages_repeat_nothing_and_answers_are_not_stored() {
    let s = Stack::start().await;
    let new = |body: Value| s.call(Method::POST, "/secrets").json(&body);
    let invalid = "Invalid secrets request";
    let many: serde_json::Map<_, _> = (0..33)
        .map(|number| (number.to_string(), "".into()))
        .collect();
    for (call, status, message) in [
        (s.call(Method::GET, "/secrets"), 200, ""),
        (
            s.bare(Method::GET, "/secrets"),
            401,
            "You are not authenticated",
        ),
        (s.call(Method::GET, "/secrets?limit=hidden"), 400, invalid),
        (
            s.call(Method::GET, "/secrets?nextToken=hidden"),
            400,
            invalid,
        ),
        (
            s.call(Method::POST, "/secrets")
                .raw(r#"{"name":"n","value":hidden"#),
            400,
            invalid,
        ),
        (new(json!({"name": ["hidden"]})), 400, invalid),
        (
            new(json!({"name": "sec_hidden", "value": "v"})),
            400,
            invalid,
        ),
        (new(json!({"name": "hid den", "value": "v"})), 400, invalid),
        (new(json!({"name": "n", "value": ""})), 400, invalid),
        (
            new(json!({"name": "n", "value": "hidden".repeat(20_000)})),
            400,
            invalid,
        ),
        (new(json!({"name": "n", "value": "hidden\0"})), 400, invalid),
        (
            new(json!({"name": "n", "value": "v", "metadata": many})),
            400,
            invalid,
        ),
        (
            new(json!({"name": "n", "value": "v", "metadata": {"k": "x".repeat(1025)}})),
            400,
            invalid,
        ),
        (
            s.call(Method::GET, "/secrets/hidden"),
            404,
            "Secret not found",
        ),
        (
            s.call(Method::GET, "/secrets/sec_%2Fhidden"),
            404,
            "Secret not found",
        ),
        (
            s.call(Method::POST, "/secrets/hidden")
                .json(&json!({"value": "hidden"})),
            404,
            "Secret not found",
        ),
    ] {
        let answer = call.send().await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(!answer.text().contains("hidden"), "{}", answer.text());
        if status == 200 {
            answer.ok(200);
        } else {
            answer.refused(status, message);
        }
    }
}

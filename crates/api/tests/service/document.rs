//! The served description of the API, held against the API.

use http::Method;
use serde_json::Value;

use crate::stack::{Stack, assert_error_form};

/// Every operation of the document: method, path with an id in it, and its text.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            let filled: Vec<&str> = path
                .split('/')
                .map(|part| if part.starts_with('{') { "iabc" } else { part })
                .collect();
            let method = method.to_ascii_uppercase().parse().unwrap();
            all.push((method, filled.join("/"), operation.clone()));
        }
    }
    all
}

#[tokio::test]
async fn it_is_for_everybody() {
    let stack = Stack::start().await;
    let answer = stack.bare(Method::GET, "/openapi.json").send().await;
    let document = answer.ok(200);
    assert_eq!(document["openapi"], "3.1.0");
    assert!(operations(&document).len() > 60);
}

#[tokio::test]
async fn every_operation_is_there_and_asks_who_it_is_as_the_document_says() {
    let stack = Stack::start().await;
    let document = stack.get("/openapi.json").await.ok(200);
    for (method, path, operation) in operations(&document) {
        let what = format!("{method} {path}");
        let answer = stack.bare(method, &path).send().await;
        let status = answer.status.as_u16();
        let for_everybody = operation["security"].as_array().unwrap().is_empty();
        if for_everybody {
            let documented = operation["responses"].as_object().unwrap();
            assert!(
                documented.contains_key(&status.to_string()),
                "{what}: {status}"
            );
            assert!(!answer.text().contains("no operation matches"), "{what}");
        } else {
            assert_eq!(status, 401, "{what}");
            if path.starts_with("/volumecontent/") {
                // The contract has words there.
                assert_eq!(answer.json()["code"], "unauthenticated", "{what}");
            } else {
                assert_error_form(&answer);
            }
        }
    }
}

#[tokio::test]
async fn a_list_is_no_body() {
    let stack = Stack::start().await;
    for (method, path, body) in [
        (Method::POST, "/v2/sandboxes", r#"["base"]"#),
        (
            Method::POST,
            "/sandboxes",
            r#"{"templateID": "base", "network": []}"#,
        ),
        (Method::POST, "/templates/tags", r#"["base", ["a"]]"#),
    ] {
        let answer = stack.call(method, path).raw(body).send().await;
        answer.refused(
            400,
            "validation error: request body: invalid type: sequence",
        );
    }
}

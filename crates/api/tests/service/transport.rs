//! What holds for every request: health, unknown addresses, bodies, CORS, headers.

use http::Method;
use serde_json::json;

use crate::stack::{Stack, assert_error_form};

#[tokio::test]
async fn health() {
    let s = Stack::start().await;
    let answer = s.bare(Method::GET, "/health").send().await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "Health check successful")
    );
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    s.shutdown.cancel();
    let answer = s.bare(Method::GET, "/health").send().await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (503, "Service is unavailable")
    );
}

#[tokio::test]
async fn unknown_addresses() {
    let s = Stack::start().await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/nothing"),
        (Method::GET, "/sandboxes/"),
        (Method::PATCH, "/sandboxes"),
        (Method::GET, "/v3/templates"),
        (Method::DELETE, "/sandboxes/x/pause"),
        (Method::GET, "/sandboxes%2Fmetrics"),
        (Method::TRACE, "/health"),
    ] {
        s.call(method, path)
            .send()
            .await
            .refused(404, "validation error: ");
    }
    for path in ["/instances", "/instances/x", "/envs", "/envs/x/builds/y"] {
        let answer = s.bare(Method::POST, path).send().await;
        answer.refused(
            404,
            "Endpoints are deprecated, please update your SDK to use the new endpoints.",
        );
    }
    for path in [
        "/templates",
        "/templates/x",
        "/templates/x/builds/y",
        "/v2/templates",
    ] {
        let answer = s
            .bare(Method::POST, path)
            .header("content-type", "multipart/form-data; boundary=x")
            .send()
            .await;
        answer.refused(
            404,
            "Endpoint deprecated please update your CLI to the latest version",
        );
    }
}

#[tokio::test]
async fn bodies() {
    let s = Stack::start().await;
    let post = || s.call(Method::POST, "/v2/sandboxes");
    for body in [
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{\"templateID\":\"\\ud800\"}",
        "{\"templateID\":\"base\"}x",
    ] {
        post()
            .raw(body)
            .send()
            .await
            .refused(400, "validation error");
    }
    post()
        .raw(&b"{\"templateID\":\"\xff\"}"[..])
        .send()
        .await
        .refused(400, "validation error");
    // Deeper than anybody means: refused where it is read, harmless where it is not.
    let nested = |field: &str| {
        let (open, close) = ("[".repeat(9_999), "]".repeat(9_999));
        format!("{{\"templateID\":\"base\",\"{field}\":{{\"x\":{open}{close}}}}}")
    };
    post().raw(nested("unknown")).send().await.ok(201);
    let refused = post().raw(nested("mcp")).send().await;
    refused.refused(400, "validation error");
    let form = post()
        .header("content-type", "application/x-www-form-urlencoded")
        .body("templateID=base");
    form.send().await.refused(400, "validation error");
    let mut large = br#"{"templateID":"base","x":""#.to_vec();
    large.resize(16 * 1024 * 1024 + 1, b'x');
    post()
        .raw(large.clone())
        .send()
        .await
        .refused(413, "larger than");
    let stream = axum::body::Body::from_stream(futures_stream(&large));
    post().raw(stream).send().await.refused(413, "larger than");
    let untyped = post().body(r#"{"templateID":"base"}"#);
    untyped.send().await.ok(201);
    post()
        .header("content-type", "Application/JSON; charset=utf-8")
        .body(r#"{"templateID":"base"}"#)
        .send()
        .await
        .ok(201);
}

/// A body without a known length.
fn futures_stream(
    bytes: &[u8],
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::io::Error>> + use<> {
    let chunks: Vec<_> = bytes
        .chunks(1 << 20)
        .map(|chunk| Ok(chunk.to_vec()))
        .collect();
    futures_util::stream::iter(chunks)
}

#[tokio::test]
async fn browsers_may_call() {
    let s = Stack::start().await;
    let preflight = s
        .bare(Method::OPTIONS, "/sandboxes/x/network")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PUT")
        .header(
            "access-control-request-headers",
            "x-api-key,lang_version,idempotency-key",
        )
        .send()
        .await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    assert!(
        [
            "x-api-key",
            "lang_version",
            "idempotency-key",
            "sdk_runtime"
        ]
        .iter()
        .all(|h| allowed.contains(h))
    );
    assert!(
        preflight
            .header("access-control-allow-methods")
            .unwrap()
            .contains("PATCH")
    );
    let answer = s
        .call(Method::GET, "/v2/sandboxes")
        .header("origin", "https://app.example")
        .send()
        .await;
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(
        ["x-next-token", "x-total-running", "retry-after"]
            .iter()
            .all(|h| exposed.contains(h)),
        "{exposed}"
    );
}

#[tokio::test]
async fn every_answer_can_be_found_in_the_log() {
    let s = Stack::start().await;
    let first = s
        .get("/v2/sandboxes")
        .await
        .header("x-e2b-trace-id")
        .unwrap()
        .to_owned();
    let second = s
        .bare(Method::GET, "/nothing")
        .send()
        .await
        .header("x-e2b-trace-id")
        .unwrap()
        .to_owned();
    assert!(first.len() == 16 && first != second);
}

#[tokio::test]
async fn a_database_that_is_gone_is_a_json_500_without_details() {
    let s = Stack::start().await;
    s.store.close().await;
    let answer = s
        .bare(Method::GET, "/templates")
        .header("x-admin-token", crate::stack::ADMIN)
        .send()
        .await;
    assert_error_form(&answer);
    answer.refused(500, "internal error");
    let id = answer.header("x-e2b-trace-id").unwrap();
    assert!(
        answer.text().contains(id),
        "the message names the request: {}",
        answer.text()
    );
    assert_eq!(json!(500), answer.json()["code"]);
}

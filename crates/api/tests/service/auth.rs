//! Who is let in, in which order, and what the others are told.

use http::Method;
use serde_json::json;

use crate::stack::{ADMIN, Stack};

/// Headers, and the status and message that they lead to.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, String);

const LIST: &str = "/v2/sandboxes";

#[tokio::test]
async fn refusals() {
    let s = Stack::start().await;
    let unknown_key = format!("e2b_{}", "0".repeat(40));
    let key_line =
        "Invalid API key, please visit https://e2b.dev/docs/api-key for more information.\n";
    let cases: &[Case<'_>] = &[
        (&[], 401, "authorization header is missing".into()),
        (
            &[("x-api-key", "nonsense")],
            401,
            format!("{key_line}Invalid API key format"),
        ),
        (
            &[("x-api-key", "e2b_")],
            401,
            format!("{key_line}Invalid API key format"),
        ),
        (
            &[("x-api-key", &unknown_key)],
            401,
            format!("{key_line}Cannot get the team for the given API key"),
        ),
        (
            &[("authorization", "Basic eDp5")],
            401,
            "authorization header is malformed".into(),
        ),
        (
            &[("authorization", "Bearer x.y.z")],
            401,
            "Invalid Access token, try to login again".into(),
        ),
        (
            &[("x-admin-token", "wrong")],
            401,
            "Invalid Access token.".into(),
        ),
        (
            &[("x-admin-token", "wrong"), ("x-team-id", "x")],
            401,
            "Invalid Access token.".into(),
        ),
        (
            &[("x-admin-token", ADMIN), ("x-team-id", "x")],
            400,
            "Invalid team ID".into(),
        ),
        (
            &[
                ("x-admin-token", ADMIN),
                ("x-team-id", "00000000-0000-4000-8000-000000000000"),
            ],
            404,
            "Team not found".into(),
        ),
        // The first credential that is present says why.
        (
            &[("x-api-key", "nonsense"), ("authorization", "Basic x")],
            401,
            "Invalid API key format".into(),
        ),
    ];
    for (headers, status, message) in cases {
        let call = headers
            .iter()
            .fold(s.bare(Method::GET, LIST), |call, (name, value)| {
                call.header(name, value)
            });
        call.send().await.refused(*status, message);
    }
}

#[tokio::test]
async fn every_credential_opens() {
    let s = Stack::start().await;
    let bearer = format!("Bearer {}", s.key);
    let cases: &[&[(&str, &str)]] = &[
        &[("X-API-KEY", &s.key)],
        &[("authorization", &bearer)],
        &[
            ("authorization", &bearer),
            ("x-team-id", s.team.id.as_str()),
        ],
        &[("x-admin-token", ADMIN), ("x-team-id", s.team.id.as_str())],
        &[("x-admin-token", ADMIN)],
        // A wrong one does not stand in the way of a valid one.
        &[("x-api-key", "nonsense"), ("authorization", &bearer)],
        &[("x-api-key", "nonsense"), ("x-admin-token", ADMIN)],
    ];
    for headers in cases {
        let call = headers
            .iter()
            .fold(s.bare(Method::GET, LIST), |call, (name, value)| {
                call.header(name, value)
            });
        assert_eq!(call.send().await.ok(200), json!([]), "{headers:?}");
    }
    let foreign = s
        .bare(Method::GET, LIST)
        .header("authorization", &bearer)
        .header("x-team-id", s.other.id.as_str());
    foreign
        .send()
        .await
        .refused(403, "You are not allowed to access this team");
}

#[tokio::test]
async fn who_comes_before_what() {
    let s = Stack::start().await;
    for (method, path) in [
        (Method::POST, "/sandboxes"),
        (Method::POST, "/v2/sandboxes"),
        (Method::GET, "/v2/sandboxes?limit=x"),
        (Method::GET, "/sandboxes/NOT-AN-ID-AT-ALL"),
        (Method::POST, "/sandboxes/x/timeout"),
        (Method::POST, "/v3/templates"),
        (Method::POST, "/templates/tags"),
        (Method::GET, "/nodes/x"),
        (Method::POST, "/api-keys"),
    ] {
        s.bare(method, path)
            .raw("{not json")
            .send()
            .await
            .refused(401, "authorization header is missing");
    }
}

#[tokio::test]
async fn a_key_is_no_operator_and_cannot_manage_keys() {
    let s = Stack::start().await;
    for (method, path) in [
        (Method::GET, "/nodes"),
        (Method::GET, "/api-keys"),
        (Method::POST, "/api-keys"),
        (Method::GET, "/admin/sandboxes/running-counts"),
        (Method::GET, "/teams"),
    ] {
        s.call(method, path)
            .send()
            .await
            .refused(401, "authorization header is missing");
    }
}

#[tokio::test]
async fn a_header_that_is_no_text_is_refused() {
    let s = Stack::start().await;
    s.bare(Method::GET, LIST)
        .header("x-api-key", b"e2b_\xff\xfe")
        .send()
        .await
        .refused(401, "Invalid API key format");
    s.bare(Method::GET, LIST)
        .header("authorization", b"Bearer \xff")
        .send()
        .await
        .refused(401, "malformed");
    s.bare(Method::GET, LIST)
        .header("x-admin-token", b"\xff")
        .send()
        .await
        .refused(401, "Invalid Access token.");
}

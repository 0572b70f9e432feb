//! Whatever is sent, the answer is JSON (or empty) and never an internal error.

use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::stack::{Answer, Stack, assert_error_form};

/// Addresses that take a body, with an id in the place of `@`.
const WITH_BODY: [(&str, &str); 20] = [
    ("POST", "/sandboxes"),
    ("POST", "/v2/sandboxes"),
    ("POST", "/sandboxes/@/timeout"),
    ("POST", "/sandboxes/@/refreshes"),
    ("POST", "/sandboxes/@/connect"),
    ("POST", "/v2/sandboxes/@/connect"),
    ("POST", "/sandboxes/@/pause"),
    ("POST", "/sandboxes/@/resume"),
    ("POST", "/sandboxes/@/fork"),
    ("POST", "/sandboxes/@/snapshots"),
    ("PUT", "/sandboxes/@/network"),
    ("POST", "/v3/templates"),
    ("POST", "/v2/templates/@/builds/@"),
    ("PATCH", "/v2/templates/@"),
    ("POST", "/templates/tags"),
    ("DELETE", "/templates/tags"),
    ("POST", "/secrets"),
    ("POST", "/volumes"),
    ("POST", "/events/webhooks"),
    ("PATCH", "/events/webhooks/@"),
];

/// Addresses with queries.
const WITH_QUERY: [&str; 15] = [
    "/v2/sandboxes",
    "/sandboxes",
    "/sandboxes/@/metrics",
    "/sandboxes/@/logs",
    "/v2/sandboxes/@/logs",
    "/sandboxes/metrics",
    "/snapshots",
    "/v2/templates",
    "/events/sandboxes",
    "/events/sandboxes/@",
    "/events/webhooks/@/deliveries",
    "/template-catalogue",
    "/templates/@/diff",
    "/templates/@/tags/groups",
    "/templates/aliases/@",
];

const FIELDS: [&str; 30] = [
    "templateID",
    "timeout",
    "autoPause",
    "autoPauseMemory",
    "autoResume",
    "secure",
    "allow_internet_access",
    "network",
    "metadata",
    "envVars",
    "mcp",
    "iam",
    "volumeMounts",
    "duration",
    "memory",
    "count",
    "name",
    "tags",
    "target",
    "allowOut",
    "denyOut",
    "rules",
    "egressProxy",
    "httpsPorts",
    "dnsServers",
    "maskRequestHost",
    "steps",
    "value",
    "cpuCount",
    "public",
];

const PARAMETERS: [&str; 14] = [
    "metadata",
    "state",
    "order",
    "startedAfter",
    "template",
    "limit",
    "nextToken",
    "start",
    "end",
    "cursor",
    "direction",
    "sandbox_ids",
    "search",
    "tagsCursor",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5_i64..400).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("base")),
        Just(json!("0.0.0.0/0")),
        Just(json!("\u{0}")),
    ]
}

fn body() -> impl Strategy<Value = Value> {
    let tree = leaf().prop_recursive(3, 24, 4, |inner| {
        let field = prop_oneof![
            prop::sample::select(&FIELDS[..]).prop_map(str::to_owned),
            any::<String>()
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((field, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    });
    let pairs = prop::collection::vec((prop::sample::select(&FIELDS[..]), tree), 0..5);
    pairs.prop_map(|pairs| {
        let mut object: Map<String, Value> =
            pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        // Mostly a template that exists, so that what comes after is reached.
        object.entry("templateID").or_insert_with(|| json!("base"));
        Value::Object(object)
    })
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("base".to_owned()),
        Just("iabc-x".to_owned()),
        "[a-z0-9]{1,30}",
        any::<String>(),
        any::<Vec<u8>>().prop_map(|bytes| bytes.iter().map(|b| format!("%{b:02x}")).collect()),
    ]
}

/// A path or query part as a client may send it: always a legal URI, whatever it decodes to.
fn escaped(text: &str) -> String {
    if text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'%') && text.starts_with('%') {
        return text.to_owned();
    }
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[track_caller]
fn check(what: &str, answer: &Answer) {
    assert_ne!(answer.status, 500, "{what}: {}", answer.text());
    if answer.status.as_u16() >= 400 {
        assert_error_form(answer);
    } else if !answer.bytes.is_empty() {
        answer.json();
    }
}

/// Runs a property on a stack, since proptest itself knows no async.
fn run<T: std::fmt::Debug>(
    cases: u32,
    strategy: &impl Strategy<Value = T>,
    test: &impl AsyncFn(&Stack, T),
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stack = runtime.block_on(Stack::start());
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(strategy, |value| {
        runtime.block_on(async {
            test(&stack, value).await;
            let kill = format!("/admin/teams/{}/sandboxes/kill", stack.team.id);
            stack.admin(Method::POST, kill).send().await.ok(200);
        });
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn bodies_of_the_right_shape() {
    let strategy = (prop::sample::select(&WITH_BODY[..]), id(), body());
    run(400, &strategy, &async |s, ((method, path), id, body)| {
        let path = path.replace('@', &escaped(if id.is_empty() { "x" } else { &id }));
        let answer = s
            .call(method.parse().unwrap(), &path)
            .json(&body)
            .send()
            .await;
        check(&format!("{method} {path} {body}"), &answer);
    });
}

#[test]
fn bodies_of_any_bytes() {
    let strategy = (prop::sample::select(&WITH_BODY[..]), any::<Vec<u8>>());
    run(150, &strategy, &async |s, ((method, path), bytes)| {
        let path = path.replace('@', "iabc");
        let answer = s
            .call(method.parse().unwrap(), &path)
            .raw(bytes)
            .send()
            .await;
        check(&format!("{method} {path}"), &answer);
    });
}

#[test]
fn queries() {
    let value = prop_oneof![
        any::<String>(),
        any::<i64>().prop_map(|n| n.to_string()),
        "(asc|running|base|1|[%&=+]{1,6})"
    ];
    let pairs = prop::collection::vec((prop::sample::select(&PARAMETERS[..]), value), 0..4);
    let strategy = (prop::sample::select(&WITH_QUERY[..]), id(), pairs);
    run(300, &strategy, &async |s, (path, id, pairs)| {
        let path = path.replace('@', &escaped(if id.is_empty() { "x" } else { &id }));
        let query: Vec<String> = pairs
            .iter()
            .map(|(k, v)| format!("{k}={}", escaped(v)))
            .collect();
        let address = format!("{path}?{}", query.join("&"));
        check(&address, &s.get(&address).await);
    });
}

//! `Idempotency-Key`: one create per key, whatever is repeated.

use http::Method;
use serde_json::{Value, json};
use soulbox_driver::DriverError;

use crate::stack::{Answer, Stack};

async fn create(s: &Stack, key: &str, body: Value) -> Answer {
    s.call(Method::POST, "/v2/sandboxes")
        .header("idempotency-key", key)
        .json(&body)
        .send()
        .await
}

#[tokio::test]
async fn a_repetition_gets_the_first_answer() {
    let s = Stack::start().await;
    let body = json!({"templateID": "base", "metadata": {"a": "1", "b": "2"}});
    let first = create(&s, "key-1", body.clone()).await;
    first.ok(201);
    // The order of keys and fields that nobody knows do not make another request.
    let again = create(
        &s,
        "key-1",
        json!({"unknown": 1, "metadata": {"b": "2", "a": "1"}, "templateID": "base"}),
    )
    .await;
    assert_eq!((again.ok(201), s.driver.guests().len()), (first.json(), 1));
    let other = create(&s, "key-1", json!({"templateID": "base"})).await;
    other.refused(409, "used for a different request");
    assert_eq!(other.json()["error_code"], "idempotency_request_mismatch");
    // Another team's key of the same text is another key.
    let theirs = s
        .foreign(Method::POST, "/v2/sandboxes")
        .header("idempotency-key", "key-1")
        .json(&body)
        .send()
        .await;
    assert_ne!(theirs.ok(201)["sandboxID"], first.json()["sandboxID"]);
    assert_ne!(
        create(&s, "key-2", body).await.ok(201)["sandboxID"],
        first.json()["sandboxID"]
    );
}

#[tokio::test]
async fn errors_of_the_caller_are_kept_and_ours_are_not() {
    let s = Stack::start().await;
    let unknown = json!({"templateID": "nothing"});
    create(&s, "k", unknown.clone())
        .await
        .refused(404, "template 'nothing' not found");
    create(&s, "k", unknown)
        .await
        .refused(404, "template 'nothing' not found");
    let body = json!({"templateID": "base"});
    s.driver.fail_next_create(DriverError::NoSlot);
    create(&s, "k2", body.clone())
        .await
        .refused(503, "not enough capacity");
    create(&s, "k2", body).await.ok(201);
}

#[tokio::test]
async fn one_at_a_time() {
    let s = Stack::start().await;
    s.driver.hold_creates();
    let body = json!({"templateID": "base"});
    let first = tokio::spawn({
        let call = s
            .call(Method::POST, "/v2/sandboxes")
            .header("idempotency-key", "k")
            .json(&body);
        call.send()
    });
    while s.driver.begun().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = create(&s, "k", body.clone()).await;
    second.refused(409, "still in progress");
    assert_eq!(second.json()["error_code"], "idempotency_in_progress");
    s.driver.release_creates();
    let first = first.await.unwrap().ok(201);
    assert_eq!(create(&s, "k", body).await.ok(201), first);
}

#[tokio::test]
async fn malformed_keys() {
    let s = Stack::start().await;
    let long = "a".repeat(256);
    for key in ["", "UPPER", "a_b", "a b", &long] {
        create(&s, key, json!({"templateID": "base"}))
            .await
            .refused(400, "Idempotency-Key must be");
    }
    // Only the second version reads it.
    let v1 = s
        .call(Method::POST, "/sandboxes")
        .header("idempotency-key", "UPPER")
        .json(&json!({"templateID": "base"}));
    v1.send().await.ok(201);
}

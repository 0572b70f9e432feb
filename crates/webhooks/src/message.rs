//! What a receiver gets: an event as JSON, and who vouches for it. Names and forms are E2B's.

use data_encoding::BASE64_NOPAD;
use hmac::{Hmac, Mac as _};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use soulbox_store::SandboxEvent;

/// Which form an event has: the one whose type says what has happened.
pub const EVENT_VERSION: &str = "v2";
/// The category of every event, for clients that still read it.
pub const EVENT_CATEGORY: &str = "lifecycle";
/// How `e2b-signature` is made.
pub const SIGNATURE_VERSION: &str = "v1";

/// The body of a delivery. The same bytes for every try.
#[must_use]
pub fn body(event: &SandboxEvent) -> Vec<u8> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    put("id", json!(event.id));
    put("version", json!(EVENT_VERSION));
    put("type", json!(event.kind.as_str()));
    put("timestamp", json!(event.at.to_string()));
    put("event_category", json!(EVENT_CATEGORY));
    put("event_label", json!(event.kind.label()));
    if let Some(data) = &event.data {
        put("event_data", data.clone());
    }
    put("sandbox_id", json!(event.sandbox));
    put("sandbox_execution_id", json!(event.execution));
    put("sandbox_template_id", json!(event.template));
    put("sandbox_build_id", json!(event.build));
    put("sandbox_team_id", json!(event.team));
    Value::Object(body).to_string().into_bytes()
}

/// E2B's signature: base64 without padding of the SHA-256 of secret and body.
#[must_use]
pub fn signature(secret: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(secret.as_bytes());
    hash.update(body);
    BASE64_NOPAD.encode(&hash.finalize())
}

/// Our own besides: base64 without padding of the HMAC-SHA-256 of the body. Whoever has seen E2B's can make one for a
/// longer body; of this one nobody can.
///
/// # Panics
/// Never: a key may have any length.
#[must_use]
pub fn hmac_signature(secret: &str, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    mac.update(body);
    BASE64_NOPAD.encode(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use soulbox_types::{
        BuildId, EventId, EventKind, ExecutionId, SandboxId, TeamId, TemplateId, Timestamp,
    };

    use super::*;

    #[test]
    fn a_forged_body_has_another_signature() {
        // printf 'secret{"a":1}' | openssl dgst -sha256 -binary | base64, and with -hmac secret
        let body = br#"{"a":1}"#;
        assert_eq!(
            signature("secret", body),
            "N7005LKS7534v+cOP1BSYTkklJDDwllM8gF1unZl4B0"
        );
        assert_eq!(
            hmac_signature("secret", body),
            "qp4uNXX11wmLbKzNeQiIw21f22M0KnO62i1qUXR6hJQ"
        );
        assert_ne!(signature("secret", b"{\"a\":2}"), signature("secret", body));
        assert_ne!(signature("other", body), signature("secret", body));
    }

    #[test]
    fn bodies_have_the_wires_names() {
        let mut event = SandboxEvent {
            seq: 1,
            id: EventId::random(),
            kind: EventKind::Killed,
            at: Timestamp(1_750_000_000_000_000),
            team: TeamId::random(),
            sandbox: SandboxId::random(),
            execution: ExecutionId::random(),
            template: TemplateId::random(),
            build: BuildId::random(),
            data: Some(json!({"reason": "request"})),
        };
        let read: Value = serde_json::from_slice(&body(&event)).unwrap();
        assert_eq!(
            read,
            json!({
                "id": event.id, "version": "v2", "type": "sandbox.lifecycle.killed",
                "timestamp": "2025-06-15T15:06:40.000000Z", "event_category": "lifecycle", "event_label": "kill",
                "event_data": {"reason": "request"}, "sandbox_id": event.sandbox,
                "sandbox_execution_id": event.execution, "sandbox_template_id": event.template,
                "sandbox_build_id": event.build, "sandbox_team_id": event.team,
            })
        );
        assert_eq!(body(&event), body(&event.clone()));
        event.data = None;
        assert!(
            !String::from_utf8(body(&event))
                .unwrap()
                .contains("event_data")
        );
    }
}

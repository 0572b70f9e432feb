//! What has happened to sandboxes, and webhooks that are told of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::present::present;

/// One entry of `GET /events/sandboxes` and `GET /events/sandboxes/{sandboxID}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxEvent {
    /// Its id.
    pub id: String,
    /// `v2`.
    pub version: String,
    /// `sandbox.lifecycle.created`, `updated`, `paused`, `resumed`, `checkpointed`, `forked` or `killed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `lifecycle`. Deprecated.
    pub event_category: String,
    /// The type in one word. Deprecated.
    pub event_label: String,
    /// What else there is to say: `sandbox_metadata` when it is not large, `set_timeout` (the new end time), `reason` of a
    /// pause (`request`, `timeout`) or a kill (`request`, `timeout`, `died`, `lost`, `create_failed`, `reconciled`), and the
    /// `execution` that it ends. Nullable.
    pub event_data: Option<serde_json::Map<String, serde_json::Value>>,
    /// When it happened.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// Which sandbox.
    pub sandbox_id: String,
    /// Which of its runs.
    pub sandbox_execution_id: String,
    /// The template that it was created from.
    pub sandbox_template_id: String,
    /// The build that it was created from.
    pub sandbox_build_id: String,
    /// Whose it was.
    pub sandbox_team_id: String,
}

/// Body of `POST /events/webhooks`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewWebhook {
    /// What its owner calls it, 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Where deliveries go, over http or https.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// Whether there are any; so when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub enabled: Option<bool>,
    /// Types of events, at least one.
    #[schemars(length(min = 1, max = 16))]
    pub events: Vec<String>,
    /// What deliveries are signed with, 1 to 1024 characters. It is never shown.
    #[schemars(length(min = 1, max = 1024))]
    pub signature_secret: String,
}

// Written by hand so that no log ever shows the secret.
impl std::fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewWebhook")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Body of `PATCH /events/webhooks/{webhookID}`. What is absent stays.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookUpdate {
    /// See [`NewWebhook::name`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// See [`NewWebhook::url`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// Whether there are deliveries. Those that wait go on waiting while there are none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub enabled: Option<bool>,
    /// See [`NewWebhook::events`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(length(min = 1, max = 16))]
    pub events: Option<Vec<String>>,
    /// See [`NewWebhook::signature_secret`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(length(min = 1, max = 1024))]
    pub signature_secret: Option<String>,
}

// As above.
impl std::fmt::Debug for WebhookUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookUpdate")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Whose events it is told of.
    pub team_id: String,
    /// What its owner calls it.
    pub name: String,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// Where deliveries go.
    pub url: String,
    /// Whether there are any.
    pub enabled: bool,
    /// Types of events.
    pub events: Vec<String>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It will be tried (again).
    Waiting,
    /// The receiver has it.
    Delivered,
    /// It was tried as often as ever.
    Failed,
}

/// One entry of `GET /events/webhooks/{webhookID}/deliveries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDelivery {
    /// As in the header `e2b-delivery-id`; the same over all tries.
    pub id: String,
    /// Where to.
    pub webhook_id: String,
    /// Of what.
    pub event_id: String,
    /// Of what type that is.
    pub event_type: String,
    /// Which sandbox it is about.
    pub sandbox_id: String,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried, at most eight times.
    pub tries: u32,
    /// When the event was.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When it is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub next_try_at: Option<String>,
    /// When it was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_try_at: Option<String>,
    /// The status that the receiver answered then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// Why that was not good enough, or why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

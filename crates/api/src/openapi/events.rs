//! Events and webhooks in the document.

use http::StatusCode;
use serde_json::json;
use soulbox_api_types::event::{NewWebhook, SandboxEvent, Webhook, WebhookDelivery, WebhookUpdate};
use soulbox_types::EventKind;

use super::operation::{Content, Operation, operation};
use super::schema::number;

pub(super) fn operations() -> Vec<Operation> {
    [events(), webhooks()].into_iter().flatten().collect()
}

fn paged(operation: Operation) -> Operation {
    operation
        .query("offset", number(0, i64::from(i32::MAX)))
        .query("limit", number(1, 100))
        .query("orderAsc", json!({"type": "boolean"}))
}

fn events() -> Vec<Operation> {
    let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let types = || json!({"type": "array", "items": {"type": "string", "enum": kinds}});
    vec![
        paged(operation(
            "GET",
            "/events/sandboxes",
            "listEvents",
            "What has happened to the team's sandboxes, newest first, 10 where no limit is named. With `follow=true`, or \
             `Accept: text/event-stream`: as server-sent events, oldest first, after the `Last-Event-ID` if there is one, \
             then as they come; `offset`, `limit` and `orderAsc` mean nothing then.",
        ))
        .query("types", types())
        .answers::<Vec<SandboxEvent>>()
        .refuses(&[429]),
        paged(operation(
            "GET",
            "/events/sandboxes/{sandboxID}",
            "listSandboxEvents",
            "What has happened to a sandbox, also to one that is gone; as `listEvents`. A stream ends after the event \
             that tells of the sandbox's end, and is 204 for who has seen that one.",
        ))
        .query("types", types())
        .answers::<Vec<SandboxEvent>>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[429]),
    ]
}

fn webhooks() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/events/webhooks",
            "listWebhooks",
            "The team's webhooks, oldest first, without their secrets.",
        )
        .answers::<Vec<Webhook>>(),
        operation(
            "POST",
            "/events/webhooks",
            "createWebhook",
            "Wants an address to be told of events. Deliveries are tried up to eight times over about an hour, until the \
             receiver answers with a status of 200 to 299 within 10 seconds; redirections are not followed. Addresses that \
             are not public are refused unless the operator lists them.",
        )
        .takes::<NewWebhook>()
        .creates::<Webhook>()
        .refuses(&[429]),
        operation(
            "GET",
            "/events/webhooks/{webhookID}",
            "getWebhook",
            "A webhook, without its secret.",
        )
        .answers::<Webhook>(),
        operation(
            "PATCH",
            "/events/webhooks/{webhookID}",
            "updateWebhook",
            "Changes a webhook; what is absent stays. Deliveries that wait go where it says from then on.",
        )
        .takes::<WebhookUpdate>()
        .answers::<Webhook>(),
        operation(
            "DELETE",
            "/events/webhooks/{webhookID}",
            "deleteWebhook",
            "Removes a webhook with its deliveries.",
        )
        .answer(StatusCode::OK, Content::Nothing),
        paged(operation(
            "GET",
            "/events/webhooks/{webhookID}/deliveries",
            "listWebhookDeliveries",
            "What became of a webhook's deliveries, newest first: of the last seven days, and of those that have ended \
             the newest thousand.",
        ))
        .answers::<Vec<WebhookDelivery>>(),
    ]
}

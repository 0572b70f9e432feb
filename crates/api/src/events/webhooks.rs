//! Webhooks: made, listed, changed, removed, and what became of their deliveries. Secrets go in and never come out.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::event as wire;
use soulbox_secrets::Value;
use soulbox_store::{Delivery, DeliveryState, Webhook, WebhookChange};
use soulbox_types::{ErrorKind, EventKind, Timestamp, WebhookId};

use super::{order, page};
use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg, Query};
use crate::state::{Api, Shared};

/// Webhooks of a team.
const MOST: u32 = 16;
const LONGEST_NAME: usize = 255;
const LONGEST_SECRET: usize = 1024;
const MOST_EVENTS: usize = 16;

impl Body for wire::NewWebhook {
    fn check(&self) -> Result<(), String> {
        check_text("name", &self.name, LONGEST_NAME)?;
        check_text("signatureSecret", &self.signature_secret, LONGEST_SECRET)?;
        check_count(&self.events)
    }
}

impl Body for wire::WebhookUpdate {
    fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.name {
            check_text("name", name, LONGEST_NAME)?;
        }
        if let Some(secret) = &self.signature_secret {
            check_text("signatureSecret", secret, LONGEST_SECRET)?;
        }
        self.events.as_deref().map_or(Ok(()), check_count)
    }
}

fn check_text(name: &str, text: &str, longest: usize) -> Result<(), String> {
    let length = text.chars().count();
    if length == 0 {
        Err(format!("{name}: minimum string length is 1"))
    } else if length > longest {
        Err(format!("{name}: maximum string length is {longest}"))
    } else if text.contains('\0') {
        Err(format!("{name}: must not contain NUL bytes"))
    } else {
        Ok(())
    }
}

fn check_count(events: &[String]) -> Result<(), String> {
    if events.is_empty() {
        Err("events: minimum number of items is 1".to_owned())
    } else if events.len() > MOST_EVENTS {
        Err(format!("events: maximum number of items is {MOST_EVENTS}"))
    } else {
        Ok(())
    }
}

/// `POST /events/webhooks`.
pub(crate) async fn create(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<wire::NewWebhook>,
) -> Result<(StatusCode, Json<wire::Webhook>), ApiError> {
    judge(&api, &body.url)?;
    let id = WebhookId::random();
    let secret = Value::new(body.signature_secret);
    let webhook = Webhook {
        sealed: api.secrets.seal_for_webhook(&team.id, &id, &secret),
        id,
        team: team.id,
        kinds: kinds(&body.events)?,
        name: body.name,
        url: body.url,
        enabled: body.enabled.unwrap_or(true),
        created_at: Timestamp::now(),
    };
    if !api.store.add_webhook(&webhook, MOST).await? {
        let message = format!("a team can have {MOST} webhooks. FIX: delete one, or change one");
        return Err(ApiError::new(ErrorKind::LimitExceeded, message));
    }
    Ok((StatusCode::CREATED, Json(shown(webhook))))
}

/// `GET /events/webhooks`.
pub(crate) async fn list(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
) -> Result<Json<Vec<wire::Webhook>>, ApiError> {
    let webhooks = api.store.webhooks(&team.id).await?;
    Ok(Json(webhooks.into_iter().map(shown).collect()))
}

/// `GET /events/webhooks/{webhookID}`.
pub(crate) async fn get(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
) -> Result<Json<wire::Webhook>, ApiError> {
    let webhook = api.store.webhook(&team.id, &webhook_id(&id)?).await?;
    webhook
        .map(|webhook| Json(shown(webhook)))
        .ok_or_else(not_found)
}

/// `PATCH /events/webhooks/{webhookID}`.
pub(crate) async fn update(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
    JsonBody(body): JsonBody<wire::WebhookUpdate>,
) -> Result<Json<wire::Webhook>, ApiError> {
    if let Some(url) = &body.url {
        judge(&api, url)?;
    }
    let id = webhook_id(&id)?;
    let sealed = body.signature_secret.map(|secret| {
        let secret = Value::new(secret);
        api.secrets.seal_for_webhook(&team.id, &id, &secret)
    });
    let change = WebhookChange {
        kinds: body.events.as_deref().map(kinds).transpose()?,
        name: body.name,
        url: body.url,
        enabled: body.enabled,
        sealed,
    };
    let changed = api.store.change_webhook(&team.id, &id, &change).await?;
    changed
        .map(|webhook| Json(shown(webhook)))
        .ok_or_else(not_found)
}

/// `DELETE /events/webhooks/{webhookID}`. 200, as in E2B.
pub(crate) async fn remove(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
) -> Result<StatusCode, ApiError> {
    if api
        .store
        .remove_webhook(&team.id, &webhook_id(&id)?)
        .await?
    {
        Ok(StatusCode::OK)
    } else {
        Err(not_found())
    }
}

/// `GET /events/webhooks/{webhookID}/deliveries`.
pub(crate) async fn deliveries(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
    query: Query,
) -> Result<Json<Vec<wire::WebhookDelivery>>, ApiError> {
    let (order, page) = (order(&query)?, page(&query)?);
    let id = webhook_id(&id)?;
    api.store
        .webhook(&team.id, &id)
        .await?
        .ok_or_else(not_found)?;
    let deliveries = api.store.deliveries(&team.id, &id, order, page).await?;
    Ok(Json(deliveries.into_iter().map(delivery).collect()))
}

fn webhook_id(text: &str) -> Result<WebhookId, ApiError> {
    let id = text.to_ascii_lowercase().parse();
    id.map_err(|_| ApiError::invalid("Invalid webhook ID"))
}

fn not_found() -> ApiError {
    ApiError::not_found("Webhook not found")
}

fn judge(api: &Api, url: &str) -> Result<(), ApiError> {
    let judged = api.webhooks.judge(url).map(drop);
    judged.map_err(|bad| ApiError::invalid(bad.to_string()))
}

/// The kinds of these names, each once.
fn kinds(names: &[String]) -> Result<Vec<EventKind>, ApiError> {
    let mut kinds = Vec::new();
    for name in names {
        let kind = name
            .parse()
            .map_err(|error| ApiError::invalid(format!("events: {error}")))?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn shown(webhook: Webhook) -> wire::Webhook {
    wire::Webhook {
        id: webhook.id.to_string(),
        team_id: webhook.team.to_string(),
        name: webhook.name,
        created_at: webhook.created_at.to_string(),
        url: webhook.url,
        enabled: webhook.enabled,
        events: webhook.kinds.iter().map(ToString::to_string).collect(),
    }
}

fn delivery(delivery: Delivery) -> wire::WebhookDelivery {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    wire::WebhookDelivery {
        id: delivery.id.to_string(),
        webhook_id: delivery.webhook.to_string(),
        event_id: delivery.event.to_string(),
        event_type: delivery.kind.to_string(),
        sandbox_id: delivery.sandbox.to_string(),
        state: match delivery.state {
            DeliveryState::Waiting => wire::DeliveryState::Waiting,
            DeliveryState::Delivered => wire::DeliveryState::Delivered,
            DeliveryState::Failed => wire::DeliveryState::Failed,
        },
        tries: delivery.tries,
        created_at: delivery.created_at.to_string(),
        next_try_at: time(delivery.next_try_at),
        last_try_at: time(delivery.last_try_at),
        last_status: delivery.last_status,
        last_error: delivery.last_error,
    }
}

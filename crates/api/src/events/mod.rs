//! What has happened to sandboxes: in pages, or as a stream. `follow` is the stream, `webhooks` are those who are told.

mod follow;
pub(crate) mod webhooks;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use soulbox_api_types::event as wire;
use soulbox_store::{EventQuery, Order, SandboxEvent, Team};
use soulbox_types::{EventId, EventKind, SandboxId};
use soulbox_webhooks::message::{EVENT_CATEGORY, EVENT_VERSION};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Query, SandboxArg, violation};
use crate::state::{Api, Shared};

pub(crate) use follow::Streams;

/// Entries of a page where nothing else is asked for.
const PAGE: u32 = 10;
const BOOLEANS: [(&str, bool); 2] = [("true", true), ("false", false)];

/// `GET /events/sandboxes`.
pub(crate) async fn of_team(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, ApiError> {
    answer(&api, &team, None, &headers, &query).await
}

/// `GET /events/sandboxes/{sandboxID}`. A sandbox that nothing is known of has no events.
pub(crate) async fn of_sandbox(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, ApiError> {
    answer(&api, &team, Some(sandbox.id), &headers, &query).await
}

async fn answer(
    api: &Api,
    team: &Team,
    sandbox: Option<SandboxId>,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response, ApiError> {
    let (offset, limit) = page(query)?;
    let wanted = EventQuery {
        team: team.id.clone(),
        sandbox,
        kinds: kinds(query)?,
        after: None,
        order: order(query)?,
        offset,
        limit,
    };
    let asked = query.word("follow", &BOOLEANS)?.unwrap_or(false);
    if asked || wants_a_stream(headers) {
        return stream(api, wanted, headers).await;
    }
    let events = api.store.events(&wanted).await?;
    let events: Vec<wire::SandboxEvent> = events.into_iter().map(to_wire).collect();
    Ok(Json(events).into_response())
}

/// First what there is, or what there is after the event that the caller has seen last; then what comes.
async fn stream(
    api: &Api,
    mut wanted: EventQuery,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let seen = headers.get("last-event-id");
    let seen = seen.and_then(|id| id.to_str().ok()?.parse::<EventId>().ok());
    let seen = match seen {
        // One that is not kept any more was before all that are.
        Some(id) => api.store.event(&wanted.team, &id).await?,
        None => None,
    };
    if let Some(sandbox) = &wanted.sandbox {
        if seen
            .as_ref()
            .is_some_and(|event| is_last_of(event, sandbox))
        {
            // Nothing will come: this is how clients are told not to ask again.
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        must_be_known(api, &wanted, sandbox).await?;
    }
    wanted.after = seen.map(|event| event.seq);
    follow::answer(api, wanted)
}

/// After this, nothing can happen to the sandbox.
fn is_last_of(event: &SandboxEvent, sandbox: &SandboxId) -> bool {
    event.kind == EventKind::Killed && event.sandbox == *sandbox
}

async fn must_be_known(
    api: &Api,
    wanted: &EventQuery,
    sandbox: &SandboxId,
) -> Result<(), ApiError> {
    let any = EventQuery {
        sandbox: Some(sandbox.clone()),
        limit: 1,
        ..EventQuery::all(wanted.team.clone())
    };
    if api.store.events(&any).await?.is_empty() {
        // It may have lived for longer than events are kept.
        api.sandboxes.get(&wanted.team, sandbox).await?;
    }
    Ok(())
}

fn wants_a_stream(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let first = accept.and_then(|text| text.split([',', ';']).next());
    first.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Where a page begins, and how long it is.
fn page(query: &Query) -> Result<(u32, u32), ApiError> {
    const MOST: u32 = i32::MAX.unsigned_abs();
    let offset = query.number("offset", 0..=MOST)?.unwrap_or(0);
    let limit = query.number("limit", 1..=100)?.unwrap_or(PAGE);
    Ok((offset, limit))
}

fn order(query: &Query) -> Result<Order, ApiError> {
    let ascending = query.word("orderAsc", &BOOLEANS)?.unwrap_or(false);
    Ok(if ascending {
        Order::Ascending
    } else {
        Order::Descending
    })
}

fn kinds(query: &Query) -> Result<Vec<EventKind>, ApiError> {
    let names = query.list("types").into_iter();
    let kinds = names.map(|name| name.parse().map_err(|error| violation("types", error)));
    kinds.collect()
}

fn to_wire(event: SandboxEvent) -> wire::SandboxEvent {
    wire::SandboxEvent {
        id: event.id.to_string(),
        version: EVENT_VERSION.to_owned(),
        kind: event.kind.to_string(),
        event_category: EVENT_CATEGORY.to_owned(),
        event_label: event.kind.label().to_owned(),
        event_data: match event.data {
            Some(serde_json::Value::Object(data)) => Some(data),
            _ => None,
        },
        timestamp: event.at.to_string(),
        sandbox_id: event.sandbox.to_string(),
        sandbox_execution_id: event.execution.to_string(),
        sandbox_template_id: event.template.to_string(),
        sandbox_build_id: event.build.to_string(),
        sandbox_team_id: event.team.to_string(),
    }
}

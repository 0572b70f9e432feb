//! `GET /sandboxes` and `GET /v2/sandboxes`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use soulbox_api_types::sandbox::ListedSandbox;
use soulbox_store::{ListQuery, Order, RecordState, Team};
use soulbox_types::{TemplateId, Timestamp};

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{Query, violation, word};
use crate::metadata;
use crate::page::{self, NEXT_TOKEN, TOTAL_RUNNING};
use crate::state::{Api, Shared};
use crate::templates;

pub(crate) const STATES: [(&str, RecordState); 2] = [
    ("running", RecordState::Running),
    ("paused", RecordState::Paused),
];
pub(crate) const ORDERS: [(&str, Order); 2] =
    [("asc", Order::Ascending), ("desc", Order::Descending)];

/// The first version: running ones, newest first, all at once.
pub(crate) async fn v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Json<Vec<ListedSandbox>>, ApiError> {
    let wanted = ListQuery {
        metadata: metadata_filter(&query)?,
        states: vec![RecordState::Running],
        limit: u32::MAX,
        ..ListQuery::all(team.id)
    };
    let page = api.sandboxes.list(&wanted).await?;
    Ok(Json(
        page.items.iter().map(convert::listed_sandbox).collect(),
    ))
}

pub(crate) async fn v2(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Response, ApiError> {
    let wanted = ListQuery {
        metadata: metadata_filter(&query)?,
        states: states(&query)?,
        order: query.word("order", &ORDERS)?.unwrap_or(Order::Descending),
        started_after: started_after(&query)?,
        limit: query.page_limit()?,
        cursor: query.next_token(),
        ..ListQuery::all(team.id.clone())
    };
    let counts_running = wanted.states.is_empty() || wanted.states.contains(&RecordState::Running);
    let page = match template_filter(&api, &team, &query).await? {
        TemplateFilter::Unknown => {
            return Ok(answer(Vec::new(), None, counts_running.then_some(0)));
        }
        TemplateFilter::Any => api.sandboxes.list(&wanted).await?,
        TemplateFilter::Only(id) => {
            api.sandboxes
                .list(&ListQuery {
                    template_id: Some(id),
                    ..wanted
                })
                .await?
        }
    };
    let items = page.items.iter().map(convert::listed_sandbox).collect();
    Ok(answer(
        items,
        page.next_cursor,
        counts_running.then_some(page.total_running),
    ))
}

enum TemplateFilter {
    Any,
    Only(TemplateId),
    Unknown,
}

/// A template that does not exist has no sandboxes: an empty list, not an error.
async fn template_filter(
    api: &Api,
    team: &Team,
    query: &Query,
) -> Result<TemplateFilter, ApiError> {
    let Some(text) = query.text("template") else {
        return Ok(TemplateFilter::Any);
    };
    let reference = templates::reference(text, "Invalid template")?;
    if text.contains(':') {
        let message =
            "Invalid template: tags are not supported here because sandboxes are not tag-scoped";
        return Err(ApiError::invalid(message));
    }
    let found = api.store.find_template(team, &reference).await?;
    Ok(
        match found.filter(|template| template.public || template.team == team.id) {
            Some(template) => TemplateFilter::Only(template.id),
            None => TemplateFilter::Unknown,
        },
    )
}

fn metadata_filter(query: &Query) -> Result<std::collections::BTreeMap<String, String>, ApiError> {
    let parsed = query.text("metadata").map(metadata::parse).transpose();
    parsed
        .map(Option::unwrap_or_default)
        .map_err(|error| ApiError::invalid(format!("Error parsing metadata: {error}")))
}

fn states(query: &Query) -> Result<Vec<RecordState>, ApiError> {
    query
        .list("state")
        .into_iter()
        .map(|text| word("state", text, &STATES))
        .collect()
}

fn started_after(query: &Query) -> Result<Option<Timestamp>, ApiError> {
    let parse = |text| {
        Timestamp::parse_rfc3339(text)
            .ok_or_else(|| violation("startedAfter", "must be a date-time"))
    };
    query.text("startedAfter").map(parse).transpose()
}

fn answer(items: Vec<ListedSandbox>, next: Option<String>, total_running: Option<i64>) -> Response {
    let mut response = Json(items).into_response();
    page::set_header(&mut response, NEXT_TOKEN, next);
    page::set_header(
        &mut response,
        TOTAL_RUNNING,
        total_running.map(|n| n.to_string()),
    );
    response
}

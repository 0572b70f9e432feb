//! Branches of a running sandbox: snapshots that sandboxes can be created from, and forks.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use soulbox_api_types::sandbox::{ForkResult, ForkSandbox, NewSnapshot, SnapshotInfo};
use soulbox_orchestrator::SandboxError;
use soulbox_store::{PageRequest, Snapshot, SnapshotFilter, Team};
use soulbox_types::{SandboxId, TemplateRef};

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{JsonBody, OptionalJsonBody, Query, SandboxArg};
use crate::page;
use crate::sandboxes::admission::{SHORT_DEFAULT, timeout};
use crate::state::Shared;
use crate::templates;

pub(crate) async fn fork(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    OptionalJsonBody(body): OptionalJsonBody<ForkSandbox>,
) -> Result<(StatusCode, Json<Vec<ForkResult>>), ApiError> {
    let timeout = timeout(body.timeout, SHORT_DEFAULT, &api.limits)?;
    let count = body
        .count
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1);
    if count >= api.limits.max_concurrent {
        let max = api.limits.max_concurrent;
        let message =
            format!("Count must be lower than the maximum number of concurrent sandboxes ({max})");
        return Err(ApiError::invalid(message));
    }
    let memory = body.memory.unwrap_or(true);
    let forks = api
        .sandboxes
        .fork(&team, &sandbox.id, count, timeout, memory)
        .await?;
    let results = forks.into_iter().map(fork_result).collect();
    Ok((StatusCode::CREATED, Json(results)))
}

fn fork_result(fork: Result<soulbox_orchestrator::SandboxView, SandboxError>) -> ForkResult {
    match fork {
        Ok(view) => ForkResult {
            sandbox: Some(convert::sandbox(&view)),
            error: None,
        },
        Err(error) => ForkResult {
            sandbox: None,
            error: Some(ApiError::from(error).body()),
        },
    }
}

pub(crate) async fn snapshot(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<NewSnapshot>,
) -> Result<(StatusCode, Json<SnapshotInfo>), ApiError> {
    let name = body
        .name
        .as_deref()
        .map(|name| own_reference(&team, name))
        .transpose()?;
    let memory = body.memory.unwrap_or(true);
    let snapshot = (api.sandboxes)
        .snapshot(&team, &sandbox.id, name, memory)
        .await?;
    Ok((StatusCode::CREATED, Json(info(&team, &snapshot))))
}

pub(crate) async fn snapshots(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Response, ApiError> {
    let page = PageRequest {
        limit: query.page_limit()?,
        cursor: query.next_token(),
    };
    let mut filter = SnapshotFilter::default();
    if let Some(id) = query.text("sandboxID") {
        let id = SandboxId::parse_lenient(id);
        filter.saved_from = Some(id.map_err(|_| ApiError::invalid("Invalid sandbox ID"))?);
    }
    if let Some(name) = query.text("name") {
        let reference = own_reference(&team, name)?;
        let template = api.store.find_template(&team, &reference).await?;
        let Some(template) = template.filter(|template| template.team == team.id) else {
            return Ok(page::answer(Vec::<SnapshotInfo>::new(), None));
        };
        filter.template = Some(template.id);
        filter.tag = tag_of(name, reference);
    }
    let found = api.store.list_snapshots(&team, &filter, &page).await?;
    let items: Vec<SnapshotInfo> = found
        .items
        .iter()
        .map(|snapshot| info(&team, snapshot))
        .collect();
    Ok(page::answer(items, found.next_cursor))
}

/// The tag that is asked for. One that is the usual tag is not the same as none.
fn tag_of(name: &str, reference: TemplateRef) -> Option<String> {
    let says_so = name.contains(':');
    reference
        .tag
        .or_else(|| says_so.then(|| soulbox_store::snapshots::DEFAULT_TAG.to_owned()))
}

fn own_reference(team: &Team, name: &str) -> Result<TemplateRef, ApiError> {
    let reference = templates::reference(name, "Invalid name")?;
    templates::own_namespace(team, &reference)?;
    Ok(reference)
}

fn info(team: &Team, snapshot: &Snapshot) -> SnapshotInfo {
    let name = snapshot
        .alias
        .as_ref()
        .map(|alias| format!("{}/{alias}", team.slug));
    let identifier = name
        .clone()
        .unwrap_or_else(|| snapshot.template.to_string());
    SnapshotInfo {
        snapshot_id: format!("{identifier}:{}", snapshot.tag),
        names: name.into_iter().collect(),
        sandbox_id: Some(snapshot.saved_from.to_string()),
        size_bytes: Some(snapshot.size_bytes),
        created_at: Some(snapshot.created_at.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_is_named_counts() {
        let tag = |name: &str| tag_of(name, name.parse().unwrap());
        assert_eq!(tag("x"), None);
        assert_eq!(tag("x:default"), Some("default".to_owned()));
        assert_eq!(tag("default/x:v1"), Some("v1".to_owned()));
    }
}

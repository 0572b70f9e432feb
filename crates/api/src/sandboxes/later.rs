//! Operations that the wire has and this version does not: fork, snapshots, live changes of the network.
//!
//! They check who asks and whether the sandbox is there, so that a mistake is told apart from a missing feature, and
//! then answer 501 with `Should-Retry: false`: a 409 would be read as "already paused", a 503 would be tried again.

use std::time::Duration;

use axum::extract::State;
use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_api_types::sandbox::{ForkSandbox, NewSnapshot, SnapshotInfo};
use soulbox_store::Team;
use soulbox_types::SandboxId;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{JsonBody, OptionalJsonBody, Query, SandboxArg};
use crate::network::Egress;
use crate::page;
use crate::sandboxes::admission::timeout;
use crate::state::{Api, Shared};
use crate::templates;

/// What a fork and a resume mean by no timeout.
pub(crate) const SHORT_DEFAULT: Duration = Duration::from_secs(15);
const CREATE_INSTEAD: &str = "create a new sandbox from the same template and do its setup again.";

pub(crate) async fn fork(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    OptionalJsonBody(body): OptionalJsonBody<ForkSandbox>,
) -> Result<(), ApiError> {
    timeout(body.timeout, SHORT_DEFAULT, &api.limits)?;
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
    must_exist(&api, &team, &sandbox).await?;
    Err(ApiError::not_available(
        "Forking a sandbox is",
        CREATE_INSTEAD,
    ))
}

pub(crate) async fn snapshot(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<NewSnapshot>,
) -> Result<(), ApiError> {
    if let Some(name) = &body.name {
        let reference = templates::reference(name, "Invalid name")?;
        templates::own_namespace(&team, &reference)?;
    }
    must_exist(&api, &team, &sandbox).await?;
    Err(ApiError::not_available(
        "Taking a snapshot of a sandbox is",
        CREATE_INSTEAD,
    ))
}

/// Nothing can make a snapshot, so the list is empty whatever is asked.
pub(crate) async fn snapshots(
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<axum::response::Response, ApiError> {
    query.page_limit()?;
    if let Some(id) = query.text("sandboxID") {
        SandboxId::parse_lenient(id).map_err(|_| ApiError::invalid("Invalid sandbox ID"))?;
    }
    if let Some(name) = query.text("name") {
        let reference = templates::reference(name, "Invalid name")?;
        templates::own_namespace(&team, &reference)?;
    }
    if query.next_token().is_some() {
        return Err(ApiError::invalid("Invalid next token"));
    }
    Ok(page::answer(Vec::<SnapshotInfo>::new(), None))
}

/// The body is judged before the sandbox is looked for, as the contract has it.
pub(crate) async fn put_network(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<SandboxNetworkUpdate>,
) -> Result<(), ApiError> {
    Egress::of_update(&body).decide()?;
    must_exist(&api, &team, &sandbox).await?;
    Err(ApiError::not_available(
        "Changing the network of a running sandbox is",
        "create a sandbox with the network settings it needs.",
    ))
}

async fn must_exist(api: &Api, team: &Team, sandbox: &SandboxArg) -> Result<(), ApiError> {
    api.sandboxes.get(&team.id, &sandbox.id).await?;
    Ok(())
}

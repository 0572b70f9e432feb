//! `/admin/…`: acting on any team.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use soulbox_api_types::admin::{BuildCancelResult, RunningCounts, SandboxKillResult};
use soulbox_api_types::team::ApiKeyName;
use soulbox_store::{BuildReason, ListQuery, Team};
use soulbox_types::{ApiKeyId, SandboxId};

use crate::auth::{self, AdminAuth};
use crate::convert;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathArgs};
use crate::state::{Api, Shared};

/// Enough to keep the kernel busy, and not the whole server.
const PARALLEL_KILLS: usize = 16;

/// Kills every sandbox of a team. One that ends by itself meanwhile is neither killed nor failed.
pub(crate) async fn kill_sandboxes(
    State(api): State<Shared>,
    _admin: AdminAuth,
    path: PathArgs,
) -> Result<Json<SandboxKillResult>, ApiError> {
    let team = path_team(&api, &path).await?;
    let all = ListQuery {
        limit: u32::MAX,
        ..ListQuery::all(team.id.clone())
    };
    let views = api.sandboxes.list(&all).await?.items;
    let kills = views
        .into_iter()
        .map(|view| kill(&api, &team, view.record.id));
    let outcomes: Vec<Outcome> = stream::iter(kills)
        .buffer_unordered(PARALLEL_KILLS)
        .collect()
        .await;
    let count = |wanted| {
        outcomes
            .iter()
            .map(|outcome| u64::from(*outcome == wanted))
            .sum()
    };
    Ok(Json(SandboxKillResult {
        killed_count: count(Outcome::Killed),
        failed_count: count(Outcome::Failed),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Killed,
    EndedByItself,
    Failed,
}

async fn kill(api: &Api, team: &Team, id: SandboxId) -> Outcome {
    match api.sandboxes.kill(&team.id, &id).await {
        Ok(true) => Outcome::Killed,
        Ok(false) => Outcome::EndedByItself,
        Err(error) => {
            tracing::warn!(sandbox.id = %id, %error, "sandbox could not be killed");
            Outcome::Failed
        }
    }
}

pub(crate) async fn running_counts(
    State(api): State<Shared>,
    _admin: AdminAuth,
) -> Result<Json<RunningCounts>, ApiError> {
    let mut counts: RunningCounts = BTreeMap::new();
    for record in api.store.all_running().await? {
        *counts.entry(record.team.to_string()).or_default() += 1;
    }
    Ok(Json(counts))
}

/// Ends every build of a team that waits or is in progress. One that ends by itself meanwhile is neither.
pub(crate) async fn cancel_builds(
    State(api): State<Shared>,
    _admin: AdminAuth,
    path: PathArgs,
) -> Result<Json<BuildCancelResult>, ApiError> {
    let team = path_team(&api, &path).await?;
    let reason = BuildReason {
        message: "build was cancelled".to_owned(),
        step: None,
    };
    let (mut cancelled_count, mut failed_count) = (0, 0);
    for build in api.store.active_builds(&team.id).await? {
        if api.builds.cancel(&build) {
            cancelled_count += 1;
            continue;
        }
        match api.store.fail_build(&build, &reason).await {
            Ok(true) => cancelled_count += 1,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(build.id = %build, %error, "build could not be cancelled");
                failed_count += 1;
            }
        }
    }
    Ok(Json(BuildCancelResult {
        cancelled_count,
        failed_count,
    }))
}

pub(crate) async fn create_key(
    State(api): State<Shared>,
    _admin: AdminAuth,
    path: PathArgs,
    JsonBody(body): JsonBody<ApiKeyName>,
) -> Result<Response, ApiError> {
    let team = path_team(&api, &path).await?;
    let (key, raw) = api.store.create_api_key(&team.id, &body.name).await?;
    Ok((
        StatusCode::CREATED,
        Json(convert::created_api_key(key, raw)),
    )
        .into_response())
}

pub(crate) async fn delete_key(
    State(api): State<Shared>,
    _admin: AdminAuth,
    path: PathArgs,
) -> Result<StatusCode, ApiError> {
    let team = path_team(&api, &path).await?;
    let id = key_id(path.get("apiKeyID"))?;
    if api.store.delete_api_key(&team.id, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("API key not found"))
    }
}

/// The id of a key in a path.
pub(crate) fn key_id(text: &str) -> Result<ApiKeyId, ApiError> {
    let parsed = text.to_ascii_lowercase().parse();
    parsed.map_err(|error| ApiError::invalid(format!("Error when parsing API key ID: {error}")))
}

async fn path_team(api: &Api, path: &PathArgs) -> Result<Team, ApiError> {
    let id = path.get("teamID").to_ascii_lowercase().parse();
    let id = id.map_err(|_| ApiError::violation("parameter \"teamID\" in path: must be a UUID"))?;
    auth::team(api, &id).await
}

//! `/admin/…`: acting on any team.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use soulbox_api_types::admin::{
    BuildCancelResult, CollectGarbage, GarbageCollected, GarbageLayer, NewTeamRetention,
    RunningCounts, SandboxKillResult, TeamRetention,
};
use soulbox_api_types::team::ApiKeyName;
use soulbox_builder::GarbageError;
use soulbox_store::{BuildReason, Keeping, ListQuery, Team};
use soulbox_types::{ApiKeyId, SandboxId};

use crate::auth::{self, AdminAuth};
use crate::convert;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, OptionalJsonBody, PathArgs};
use crate::state::{Api, Shared};

/// Enough to keep the kernel busy, and not the whole server.
const PARALLEL_KILLS: usize = 16;

/// Days that state can be kept for.
const DAYS: std::ops::RangeInclusive<u32> = 1..=36_500;

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
/// Removes the files that nothing needs, or only tells which they are.
pub(crate) async fn collect_garbage(
    State(api): State<Shared>,
    _admin: AdminAuth,
    OptionalJsonBody(body): OptionalJsonBody<CollectGarbage>,
) -> Result<Json<GarbageCollected>, ApiError> {
    let found = api.builds.collect(body.dry_run == Some(true)).await?;
    let layers = found.layers.into_iter().map(|layer| GarbageLayer {
        digest: layer.digest.to_string(),
        size_bytes: layer.content_bytes,
        entries: layer.entries,
    });
    Ok(Json(GarbageCollected {
        layers: layers.collect(),
        memories: found.memories,
        in_use: found.in_use,
    }))
}

impl Body for CollectGarbage {}

/// For how long a team's paused sandboxes and snapshots are kept.
pub(crate) async fn retention(
    State(api): State<Shared>,
    _admin: AdminAuth,
    path: PathArgs,
) -> Result<Json<TeamRetention>, ApiError> {
    let team = path_team(&api, &path).await?;
    let keeping = api.store.keeping(&team.id).await?.unwrap_or_default();
    Ok(Json(told(keeping)))
}

fn told(keeping: Keeping) -> TeamRetention {
    TeamRetention {
        paused_days: keeping.paused_days,
        snapshot_days: keeping.snapshot_days,
    }
}

pub(crate) async fn set_retention(
    State(api): State<Shared>,
    _admin: AdminAuth,
    path: PathArgs,
    JsonBody(body): JsonBody<NewTeamRetention>,
) -> Result<Json<TeamRetention>, ApiError> {
    let team = path_team(&api, &path).await?;
    let keeping = Keeping {
        paused_days: body.paused_days,
        snapshot_days: body.snapshot_days,
    };
    api.store.set_keeping(&team.id, keeping).await?;
    Ok(Json(told(keeping)))
}

impl Body for NewTeamRetention {
    fn check(&self) -> Result<(), String> {
        let given = [
            ("pausedDays", self.paused_days),
            ("snapshotDays", self.snapshot_days),
        ];
        for (name, days) in given {
            if days.is_some_and(|days| !DAYS.contains(&days)) {
                let (first, last) = DAYS.into_inner();
                return Err(format!("{name}: must be {first} to {last}"));
            }
        }
        Ok(())
    }
}

impl From<GarbageError> for ApiError {
    fn from(error: GarbageError) -> Self {
        match error {
            GarbageError::Building => Self::new(error.kind(), error.to_string()),
            GarbageError::Store(error) => error.into(),
            GarbageError::Driver(error) => Self::internal(error),
        }
    }
}

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

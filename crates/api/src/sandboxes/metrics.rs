//! What sandboxes have used.

use axum::Json;
use axum::extract::State;
use soulbox_api_types::metrics::{SandboxMetric, SandboxesWithMetrics};
use soulbox_types::{SandboxId, Timestamp};

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{Query, SandboxArg};
use crate::state::Shared;

const MAX_SANDBOXES: usize = 100;
/// 2299-12-31T23:59:59Z, the contract's last second.
pub(crate) const LAST_SECOND: i64 = 10_413_791_999;

/// One sandbox over time. Unknown, foreign and killed ones differ only in what is left of them.
pub(crate) async fn of_one(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    query: Query,
) -> Result<Json<Vec<SandboxMetric>>, ApiError> {
    let start = query.number("start", 0..)?;
    let end = query.number("end", 0..)?;
    let too_late = |second: Option<i64>| second.is_some_and(|s| s > LAST_SECOND);
    if too_late(start) || too_late(end) || start.zip(end).is_some_and(|(start, end)| start > end) {
        return Err(ApiError::invalid("Invalid time range for metrics"));
    }
    let (start, end) = (start.map(first_moment), end.map(last_moment));
    let samples = api
        .sandboxes
        .metrics(&team.id, &sandbox.id, start, end)
        .await?;
    Ok(Json(samples.iter().map(convert::sandbox_metric).collect()))
}

/// The latest of several sandboxes.
pub(crate) async fn of_many(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Json<SandboxesWithMetrics>, ApiError> {
    query.required("sandbox_ids")?;
    let given = query.list("sandbox_ids");
    if given.len() > MAX_SANDBOXES {
        return Err(ApiError::invalid(format!(
            "Too many sandboxes requested, maximum is {MAX_SANDBOXES}"
        )));
    }
    let ids: Result<Vec<SandboxId>, _> = given.into_iter().map(SandboxId::parse_lenient).collect();
    let ids = ids.map_err(|_| ApiError::invalid("Invalid sandbox ID"))?;
    let samples = api.sandboxes.latest_metrics(&team.id, &ids).await?;
    let sandboxes = samples
        .iter()
        .map(|s| (s.sandbox.to_string(), convert::sandbox_metric(s)))
        .collect();
    Ok(Json(SandboxesWithMetrics { sandboxes }))
}

/// The beginning of a second.
pub(crate) fn first_moment(second: i64) -> Timestamp {
    Timestamp(second.saturating_mul(1_000_000))
}

/// The end of a second: whoever names it means all of it.
pub(crate) fn last_moment(second: i64) -> Timestamp {
    Timestamp(second.saturating_mul(1_000_000).saturating_add(999_999))
}

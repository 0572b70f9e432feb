//! Questions that the store has no call for yet, answered from those it has.
//!
//! In one place so that each moves into the store by deleting it here.

use std::time::Duration;

use soulbox_store::{ListQuery, RecordState, Store, StoreError, Team};
use soulbox_types::{TeamId, Timestamp};

/// All teams: there is one.
pub(crate) async fn teams(store: &Store) -> Result<Vec<Team>, StoreError> {
    Ok(vec![store.default_team().await?])
}

/// One reading of a team.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TeamSample {
    pub(crate) at: Timestamp,
    pub(crate) concurrent_sandboxes: i64,
    pub(crate) sandbox_start_rate: f64,
}

/// The team's present state, when the range includes the present. Nothing is kept of the past.
pub(crate) async fn team_samples(
    store: &Store,
    team: &TeamId,
    range: (Timestamp, Timestamp),
    step: Duration,
) -> Result<Vec<TeamSample>, StoreError> {
    let now = Timestamp::now();
    if now < range.0 || now > range.1.plus(Duration::from_secs(1)) {
        return Ok(Vec::new());
    }
    let step_micros = i64::try_from(step.as_micros()).unwrap_or(i64::MAX);
    let started = ListQuery {
        states: vec![RecordState::Running],
        started_after: Some(Timestamp(now.0.saturating_sub(step_micros))),
        limit: 1,
        ..ListQuery::all(team.clone())
    };
    let running = ListQuery {
        started_after: None,
        ..started.clone()
    };
    let started =
        u32::try_from(store.list_sandboxes(&started).await?.total_running).unwrap_or(u32::MAX);
    Ok(vec![TeamSample {
        at: now,
        concurrent_sandboxes: store.list_sandboxes(&running).await?.total_running,
        sandbox_start_rate: f64::from(started) / step.as_secs_f64(),
    }])
}

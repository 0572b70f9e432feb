//! Questions that the store has no call for yet, answered from those it has.
//!
//! In one place so that each moves into the store by deleting it here.

use std::collections::BTreeMap;
use std::time::Duration;

use soulbox_store::{Build, ListQuery, PageRequest, RecordState, Store, StoreError, Team};
use soulbox_types::{BuildId, TeamId, TemplateId, Timestamp};

/// All teams: there is one.
pub(crate) async fn teams(store: &Store) -> Result<Vec<Team>, StoreError> {
    Ok(vec![store.default_team().await?])
}

/// A build of a template.
pub(crate) async fn build(
    store: &Store,
    template: &TemplateId,
    id: &BuildId,
) -> Result<Option<Build>, StoreError> {
    Ok(builds(store, template)
        .await?
        .into_iter()
        .find(|build| build.id == *id))
}

async fn builds(store: &Store, template: &TemplateId) -> Result<Vec<Build>, StoreError> {
    Ok(store
        .list_builds(
            template,
            &PageRequest {
                limit: u32::MAX,
                cursor: None,
            },
        )
        .await?
        .items)
}

/// That a tag was given to a build.
#[derive(Debug, Clone)]
pub(crate) struct TagRow {
    pub(crate) id: String,
    pub(crate) tag: String,
    pub(crate) assigned_at: Timestamp,
    pub(crate) build: Build,
}

/// The assignments of a template's tags, newest first. Only the newest of each tag is known, and since it has no id
/// of its own, its build's stands for it.
pub(crate) async fn tag_rows(
    store: &Store,
    template: &TemplateId,
) -> Result<Vec<TagRow>, StoreError> {
    let builds: BTreeMap<_, _> = builds(store, template)
        .await?
        .into_iter()
        .map(|b| (b.id.clone(), b))
        .collect();
    let mut rows: Vec<TagRow> = store
        .list_tags(template)
        .await?
        .into_iter()
        .filter_map(|assignment| {
            let build = builds.get(&assignment.build)?.clone();
            let (id, assigned_at) = (assignment.build.to_string(), assignment.created_at);
            Some(TagRow {
                id,
                tag: assignment.tag,
                assigned_at,
                build,
            })
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.assigned_at));
    Ok(rows)
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

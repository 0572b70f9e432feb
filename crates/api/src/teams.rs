//! Teams: who the caller is, and how much a team has run.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use soulbox_api_types::metrics::{MaxTeamMetric, TeamMetric};
use soulbox_api_types::team::Team as WireTeam;
use soulbox_store::Team;
use soulbox_types::{ErrorKind, Timestamp};

use crate::auth::{TeamAuth, TeamsAuth};
use crate::derived::{self, TeamSample};
use crate::error::ApiError;
use crate::extract::{PathArg, Query};
use crate::sandboxes::metrics::{LAST_SECOND, first_moment, last_moment};
use crate::state::{Api, Shared};

const LOGIN_KEY_NAME: &str = "CLI login/configure";
const DEFAULT_RANGE: Duration = Duration::from_hours(24 * 7);

/// `GET /teams`. The holder of a key gets that key back; the operator gets a new one for each team, by the contract.
pub(crate) async fn list(
    State(api): State<Shared>,
    caller: TeamsAuth,
) -> Result<Json<Vec<WireTeam>>, ApiError> {
    let default = api.store.default_team().await?;
    let wire = |team: Team, key: String| WireTeam {
        is_default: team.id == default.id,
        team_id: team.id.to_string(),
        name: team.name,
        api_key: key,
    };
    match caller {
        TeamsAuth::Key { team, key } => Ok(Json(vec![WireTeam {
            is_default: true,
            ..wire(team, key)
        }])),
        TeamsAuth::Admin => {
            let mut teams = Vec::new();
            for team in derived::teams(&api.store).await? {
                let (_record, key) = api.store.create_api_key(&team.id, LOGIN_KEY_NAME).await?;
                teams.push(wire(team, key));
            }
            Ok(Json(teams))
        }
    }
}

pub(crate) async fn metrics(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
    query: Query,
) -> Result<Json<Vec<TeamMetric>>, ApiError> {
    let samples = samples(&api, &team, &id, &query).await?;
    Ok(Json(samples.iter().map(team_metric).collect()))
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Concurrent,
    StartRate,
}

pub(crate) async fn metrics_max(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
    query: Query,
) -> Result<Json<MaxTeamMetric>, ApiError> {
    query.required("metric")?;
    let words = [
        ("concurrent_sandboxes", Value::Concurrent),
        ("sandbox_start_rate", Value::StartRate),
    ];
    let metric = query.word("metric", &words)?.unwrap_or(Value::Concurrent);
    let samples = samples(&api, &team, &id, &query).await?;
    let values = samples.iter().map(team_metric).map(|m| match metric {
        Value::Concurrent => (
            f64::from(m.concurrent_sandboxes),
            m.timestamp,
            m.timestamp_unix,
        ),
        Value::StartRate => (m.sandbox_start_rate, m.timestamp, m.timestamp_unix),
    });
    let now = Timestamp::now();
    let largest = values.max_by(|a, b| a.0.total_cmp(&b.0));
    let (value, timestamp, timestamp_unix) =
        largest.unwrap_or((0.0, now.to_string(), now.unix_seconds()));
    Ok(Json(MaxTeamMetric {
        timestamp,
        timestamp_unix,
        value,
    }))
}

async fn samples(
    api: &Api,
    team: &Team,
    id: &str,
    query: &Query,
) -> Result<Vec<TeamSample>, ApiError> {
    if !id.eq_ignore_ascii_case(team.id.as_str()) {
        let message = format!(
            "You ({}) are not authorized to access this team's ({id}) metrics",
            team.id
        );
        return Err(ApiError::new(ErrorKind::PermissionDenied, message));
    }
    let (start, end) = range(
        query.number("start", 0..)?,
        query.number("end", 0..)?,
        Timestamp::now(),
    )?;
    Ok(derived::team_samples(&api.store, &team.id, (start, end), step(end.since(start))).await?)
}

/// By default the last seven days.
fn range(
    start: Option<i64>,
    end: Option<i64>,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), ApiError> {
    let end = end.map_or(now, last_moment);
    if end > last_moment(LAST_SECOND) {
        return Err(ApiError::invalid("end time cannot be after 2299-12-31"));
    }
    let default_range = i64::try_from(DEFAULT_RANGE.as_micros()).unwrap_or(i64::MAX);
    let start = start.map_or(Timestamp(end.0.saturating_sub(default_range)), first_moment);
    if start > end {
        return Err(ApiError::invalid("start time cannot be after end time"));
    }
    Ok((start, end))
}

/// The contract's steps: never more than a thousand points.
fn step(range: Duration) -> Duration {
    const HOUR: u64 = 3600;
    Duration::from_secs(match range.as_secs() {
        s if s < HOUR => 5,
        s if s < 6 * HOUR => 30,
        s if s < 12 * HOUR => 60,
        s if s < 24 * HOUR => 120,
        s if s < 7 * 24 * HOUR => 300,
        _ => 900,
    })
}

fn team_metric(sample: &TeamSample) -> TeamMetric {
    TeamMetric {
        timestamp: sample.at.to_string(),
        timestamp_unix: sample.at.unix_seconds(),
        concurrent_sandboxes: i32::try_from(sample.concurrent_sandboxes).unwrap_or(i32::MAX),
        sandbox_start_rate: sample.sandbox_start_rate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let now = last_moment(10_000_000);
        assert_eq!(
            range(None, None, now).unwrap().0,
            Timestamp(now.0 - 604_800_000_000)
        );
        assert!(range(Some(5), Some(5), now).is_ok());
        assert!(range(Some(6), Some(5), now).is_err());
        assert!(range(Some(10_000_001), None, now).is_err());
        assert!(range(None, Some(LAST_SECOND), now).is_ok());
        assert!(range(None, Some(LAST_SECOND + 1), now).is_err());
        assert!(range(None, Some(i64::MAX), now).is_err());
    }
}

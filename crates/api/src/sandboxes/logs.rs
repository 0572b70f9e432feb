//! What has happened to sandboxes. Both versions answer an unknown sandbox with nothing.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use soulbox_api_types::logs::{SandboxLogs, SandboxLogsV2};
use soulbox_store::{Direction, LogLevel, LogQuery};
use soulbox_types::Timestamp;

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{Query, SandboxArg, violation};
use crate::state::Shared;

/// How long entries are kept, and how far one question reaches.
const WINDOW: Duration = Duration::from_hours(24 * 7);
const DEFAULT_LIMIT: u32 = 1000;
const MAX_SEARCH: usize = 256;
/// The first version's `limit` is a 32-bit integer without upper bound.
const MAX_V1_LIMIT: u32 = i32::MAX.unsigned_abs();

pub(crate) const DIRECTIONS: [(&str, Direction); 2] = [
    ("forward", Direction::Forward),
    ("backward", Direction::Backward),
];
pub(crate) const LEVELS: [(&str, LogLevel); 4] = [
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warn", LogLevel::Warn),
    ("error", LogLevel::Error),
];

pub(crate) async fn v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    query: Query,
) -> Result<Json<SandboxLogs>, ApiError> {
    let now = Timestamp::now();
    let wanted = LogQuery {
        team: team.id,
        sandbox: sandbox.id,
        start: query
            .number("start", 0..)?
            .map_or_else(|| before(now), from_millis),
        end: now.plus(WINDOW),
        limit: query
            .number("limit", 0..=MAX_V1_LIMIT)?
            .unwrap_or(DEFAULT_LIMIT),
        direction: Direction::Forward,
        min_level: LogLevel::Debug,
        search: None,
    };
    let entries = api.sandboxes.logs(&wanted).await?;
    Ok(Json(SandboxLogs {
        logs: entries.iter().map(convert::log_line).collect(),
        log_entries: entries.into_iter().map(convert::log_entry).collect(),
    }))
}

pub(crate) async fn v2(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    query: Query,
) -> Result<Json<SandboxLogsV2>, ApiError> {
    let direction = query
        .word("direction", &DIRECTIONS)?
        .unwrap_or(Direction::Backward);
    let (start, end) = window(
        query.number("cursor", 0..)?.map(from_millis),
        direction,
        Timestamp::now(),
    );
    let search = query
        .text("search")
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    if search
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAX_SEARCH)
    {
        return Err(violation(
            "search",
            format_args!("maximum string length is {MAX_SEARCH}"),
        ));
    }
    let wanted = LogQuery {
        team: team.id,
        sandbox: sandbox.id,
        start,
        end,
        limit: query
            .number("limit", 0..=DEFAULT_LIMIT)?
            .unwrap_or(DEFAULT_LIMIT),
        direction,
        min_level: query.word("level", &LEVELS)?.unwrap_or(LogLevel::Debug),
        search,
    };
    let entries = api.sandboxes.logs(&wanted).await?;
    Ok(Json(SandboxLogsV2 {
        logs: entries.into_iter().map(convert::log_entry).collect(),
    }))
}

/// From the cursor a window's length in the direction, and never beyond what is kept.
pub(crate) fn window(
    cursor: Option<Timestamp>,
    direction: Direction,
    now: Timestamp,
) -> (Timestamp, Timestamp) {
    let oldest = before(now);
    match direction {
        Direction::Forward => {
            let start = cursor.unwrap_or(oldest).max(oldest);
            (start, start.plus(WINDOW))
        }
        Direction::Backward => {
            let end = cursor.unwrap_or_else(|| now.plus(Duration::from_secs(1)));
            (before(end).max(oldest), end)
        }
    }
}

fn before(moment: Timestamp) -> Timestamp {
    Timestamp(
        moment
            .0
            .saturating_sub(i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX)),
    )
}

pub(crate) fn from_millis(millis: i64) -> Timestamp {
    Timestamp(millis.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        const DAY: i64 = 86_400_000_000;
        let now = Timestamp(100 * DAY);
        let check = |cursor: Option<i64>, direction, want: (i64, i64)| {
            let (start, end) = window(cursor.map(|day| Timestamp(day * DAY)), direction, now);
            assert_eq!(
                (start.0 / DAY, end.0 / DAY),
                want,
                "{cursor:?} {direction:?}"
            );
        };
        check(None, Direction::Forward, (93, 100));
        check(Some(95), Direction::Forward, (95, 102));
        check(Some(1), Direction::Forward, (93, 100));
        check(None, Direction::Backward, (93, 100));
        check(Some(98), Direction::Backward, (93, 98));
        check(Some(120), Direction::Backward, (113, 120));
        let (start, end) = window(Some(Timestamp(i64::MAX)), Direction::Forward, now);
        assert!(start <= end);
    }
}

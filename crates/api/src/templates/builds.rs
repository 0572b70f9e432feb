//! Builds of templates: how far they are, and what they say.

use axum::Json;
use axum::extract::State;
use soulbox_api_types::build::{
    BuildLogEntry, BuildStatusReason, TemplateBuildInfo, TemplateBuildLogs,
};
use soulbox_store::{Build, BuildLogLine, BuildLogQuery, Direction, LogLevel, Team};
use soulbox_types::{BuildId, Timestamp};

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{PathArgs, Query};
use crate::sandboxes::logs::{DIRECTIONS, LEVELS, from_millis, window};
use crate::state::{Api, Shared};
use crate::templates::access::{by_id, foreign};

const MAX_LOG_LINES: u32 = 100;
/// Where logs may be asked from; there is one place here.
pub(crate) const SOURCES: [(&str, ()); 2] = [("temporary", ()), ("persistent", ())];

/// `GET …/builds/{buildID}/status`. The status is read before the log, so that one that is final never hides lines.
pub(crate) async fn status(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    query: Query,
) -> Result<Json<TemplateBuildInfo>, ApiError> {
    let offset = query.number("logsOffset", 0..=i32::MAX.unsigned_abs())?;
    let limit = query.number("limit", 0..=MAX_LOG_LINES)?;
    let level = query.word("level", &LEVELS)?;
    let build = own_build(&api, &team, &path).await?;
    let (offset, limit) = (
        u64::from(offset.unwrap_or(0)),
        limit.unwrap_or(MAX_LOG_LINES),
    );
    let lines = api.store.build_log(&build.id, offset, limit, level).await?;
    let reason = build.reason.map(|reason| BuildStatusReason {
        log_entries: lines
            .iter()
            .filter(|line| line.level >= LogLevel::Warn && line.step == reason.step)
            .map(entry)
            .collect(),
        message: reason.message,
        step: reason.step,
    });
    Ok(Json(TemplateBuildInfo {
        logs: Vec::new(),
        log_entries: lines.iter().map(entry).collect(),
        template_id: build.template.to_string(),
        build_id: build.id.to_string(),
        status: convert::build_status(build.status),
        reason,
    }))
}

/// `GET …/builds/{buildID}/logs`.
pub(crate) async fn logs(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    query: Query,
) -> Result<Json<TemplateBuildLogs>, ApiError> {
    let cursor = query.number::<i64>("cursor", 0..)?.map(from_millis);
    let limit = query.number("limit", 0..=MAX_LOG_LINES)?;
    let direction = query.word("direction", &DIRECTIONS)?;
    let level = query.word("level", &LEVELS)?;
    query.word("source", &SOURCES)?;
    let build = own_build(&api, &team, &path).await?;
    let direction = direction.unwrap_or(Direction::Forward);
    let (start, end) = window(cursor, direction, Timestamp::now());
    let wanted = BuildLogQuery {
        build: build.id,
        start,
        end,
        limit: limit.unwrap_or(MAX_LOG_LINES),
        direction,
        min_level: level.unwrap_or(LogLevel::Debug),
    };
    let lines = api.store.build_log_between(&wanted).await?;
    Ok(Json(TemplateBuildLogs {
        logs: lines.iter().map(entry).collect(),
    }))
}

fn entry(line: &BuildLogLine) -> BuildLogEntry {
    BuildLogEntry {
        timestamp: line.at.to_string(),
        message: line.message.clone(),
        level: convert::level(line.level),
        step: line.step.clone(),
    }
}

/// An unknown build is a 400 here, unlike anywhere else.
async fn own_build(api: &Api, team: &Team, path: &PathArgs) -> Result<Build, ApiError> {
    let id = path.get("templateID");
    let build_id = parse_build_id(path.get("buildID"), "Invalid build id")?;
    let missing = || ApiError::invalid(format!("Build '{build_id}' not found"));
    let summary = by_id(api, id).await?.ok_or_else(missing)?;
    if summary.template.team != team.id {
        return Err(foreign(id));
    }
    api.store
        .find_build(&summary.template.id, &build_id)
        .await?
        .ok_or_else(missing)
}

pub(crate) fn parse_build_id(text: &str, message: &str) -> Result<BuildId, ApiError> {
    text.to_ascii_lowercase()
        .parse()
        .map_err(|_| ApiError::invalid(message.to_owned()))
}

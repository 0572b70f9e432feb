//! Builds of templates: status and logs of those that exist, and the requests that would make new ones.

use axum::Json;
use axum::extract::State;
use soulbox_api_types::build::{
    NewTemplateBuild, StartTemplateBuild, TemplateBuildInfo, TemplateBuildLogs,
};
use soulbox_store::{Build, BuildStatus, Team};
use soulbox_types::name::parse_tag;
use soulbox_types::{BuildId, ErrorKind};

use crate::auth::TeamAuth;
use crate::convert;
use crate::derived;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArgs, Query};
use crate::sandboxes::logs::{DIRECTIONS, LEVELS};
use crate::sandboxes::schema::at_least;
use crate::state::{Api, Shared};
use crate::templates::access::{by_id, foreign, own_namespace, reference};

const MAX_NAME_LENGTH: usize = 128;
const MAX_CPU_COUNT: i32 = 32;
const MIN_MEMORY_MIB: i32 = 128;
const HASH_LENGTH: usize = 64;
const MAX_LOG_LINES: u32 = 100;
/// Where logs may be asked from; there is one place here.
pub(crate) const SOURCES: [(&str, ()); 2] = [("temporary", ()), ("persistent", ())];

impl Body for NewTemplateBuild {
    fn check(&self) -> Result<(), String> {
        at_least("cpuCount", self.cpu_count, 1)?;
        at_least("memoryMB", self.memory_mb, MIN_MEMORY_MIB)?;
        at_least("minFreeDiskMb", self.min_free_disk_mb, 0)?;
        let too_long = |text: &Option<String>| {
            text.as_ref()
                .is_some_and(|t| t.chars().count() > MAX_NAME_LENGTH)
        };
        if too_long(&self.name) || too_long(&self.alias) {
            return Err(format!("name: maximum string length is {MAX_NAME_LENGTH}"));
        }
        Ok(())
    }
}

impl Body for StartTemplateBuild {}

/// `POST /v3/templates`: judged in full, then refused.
pub(crate) async fn request(
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<NewTemplateBuild>,
) -> Result<(), ApiError> {
    if body
        .team_id
        .as_ref()
        .is_some_and(|id| !id.eq_ignore_ascii_case(team.id.as_str()))
    {
        return Err(crate::auth::not_your_team());
    }
    let name = body
        .name
        .as_deref()
        .or(body.alias.as_deref())
        .unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::invalid("Name is required"));
    }
    let wanted = reference(name, "Invalid name")?;
    own_namespace(&team, &wanted)?;
    check_tags(
        body.tags
            .iter()
            .flatten()
            .map(String::as_str)
            .chain(wanted.tag.as_deref()),
    )?;
    check_resources(&body)?;
    Err(building_not_available())
}

/// Tags that are to be given to a build. A tag that looks like a build id could never be told from one.
pub(crate) fn check_tags<'a>(tags: impl Iterator<Item = &'a str>) -> Result<(), ApiError> {
    for raw in tags {
        let invalid =
            |why: String| ApiError::invalid(format!("Invalid tag: invalid tag '{raw}': {why}"));
        let tag = parse_tag(raw).map_err(|error| invalid(error.to_string()))?;
        if tag.parse::<BuildId>().is_ok() {
            return Err(invalid("tag cannot be a UUID".to_owned()));
        }
    }
    Ok(())
}

fn check_resources(body: &NewTemplateBuild) -> Result<(), ApiError> {
    match body.cpu_count {
        Some(count) if count > MAX_CPU_COUNT => {
            return Err(ApiError::invalid(format!(
                "CPU count must be at most {MAX_CPU_COUNT}"
            )));
        }
        Some(count) if count != 1 && count % 2 != 0 => {
            return Err(ApiError::invalid("CPU count must be 1 or an even number"));
        }
        _ => {}
    }
    if body.memory_mb.is_some_and(|mib| mib % 2 != 0) {
        return Err(ApiError::invalid("Memory must be divisible by 2"));
    }
    Ok(())
}

/// `GET /templates/{templateID}/files/{hash}`.
pub(crate) async fn upload(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
) -> Result<(), ApiError> {
    let hash = path.get("hash");
    if hash.len() != HASH_LENGTH || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ApiError::invalid("Invalid files hash"));
    }
    let id = path.get("templateID");
    let own = by_id(&api, id)
        .await?
        .is_some_and(|summary| summary.template.team == team.id);
    if !own {
        return Err(ApiError::not_found(format!(
            "Error when getting template: template '{id}' not found"
        )));
    }
    Err(building_not_available())
}

/// `POST /v2/templates/{templateID}/builds/{buildID}`. No build ever waits to be started.
pub(crate) async fn start(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    JsonBody(_body): JsonBody<StartTemplateBuild>,
) -> Result<(), ApiError> {
    let (id, build) = (path.get("templateID"), path.get("buildID"));
    let build_id: BuildId = parse_build_id(build, &format!("Invalid build ID: {build}"))?;
    let missing = || {
        ApiError::not_found(format!(
            "Error when getting template: build '{build_id}' not found"
        ))
    };
    let summary = by_id(&api, id).await?.ok_or_else(missing)?;
    if summary.template.team != team.id {
        return Err(ApiError::new(
            ErrorKind::PermissionDenied,
            "User does not have access to the template",
        ));
    }
    let found = derived::build(&api.store, &summary.template.id, &build_id)
        .await?
        .ok_or_else(missing)?;
    match found.status {
        BuildStatus::Waiting => Err(building_not_available()),
        BuildStatus::Building | BuildStatus::Ready | BuildStatus::Error => {
            Err(ApiError::invalid("build is not in waiting state"))
        }
    }
}

/// `GET …/builds/{buildID}/status`. Builds of the server itself have no log.
pub(crate) async fn status(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    query: Query,
) -> Result<Json<TemplateBuildInfo>, ApiError> {
    query.number::<i32>("logsOffset", 0..)?;
    query.number("limit", 0..=MAX_LOG_LINES)?;
    query.word("level", &LEVELS)?;
    let build = own_build(&api, &team, &path).await?;
    Ok(Json(TemplateBuildInfo {
        logs: Vec::new(),
        log_entries: Vec::new(),
        template_id: build.template.to_string(),
        build_id: build.id.to_string(),
        status: convert::build_status(build.status),
        reason: None,
    }))
}

/// `GET …/builds/{buildID}/logs`.
pub(crate) async fn logs(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    query: Query,
) -> Result<Json<TemplateBuildLogs>, ApiError> {
    query.number::<i64>("cursor", 0..)?;
    query.number("limit", 0..=MAX_LOG_LINES)?;
    query.word("direction", &DIRECTIONS)?;
    query.word("level", &LEVELS)?;
    query.word("source", &SOURCES)?;
    own_build(&api, &team, &path).await?;
    Ok(Json(TemplateBuildLogs::default()))
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
    derived::build(&api.store, &summary.template.id, &build_id)
        .await?
        .ok_or_else(missing)
}

fn parse_build_id(text: &str, message: &str) -> Result<BuildId, ApiError> {
    text.to_ascii_lowercase()
        .parse()
        .map_err(|_| ApiError::invalid(message.to_owned()))
}

/// The answer of everything that would make or change a build.
pub(crate) fn building_not_available() -> ApiError {
    ApiError::not_available(
        "Building templates is",
        "create sandboxes from `base` and install what they need there.",
    )
}

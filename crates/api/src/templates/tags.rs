//! Tags of templates.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::tag::{
    AssignTags, AssignedTags, DeleteTags, TagAssignments, TagExists, TagGroups, TagsCount,
    TemplateTag,
};
use soulbox_store::{BuildStatus, TaggedBuild, Team};
use soulbox_types::BuildId;
use soulbox_types::name::{DEFAULT_TAG, parse_tag};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg, PathArgs, Query, violation};
use crate::state::{Api, Shared};
use crate::templates::access::{must_own, named, named_own, not_found, own_namespace, reference};
use crate::templates::tag_groups::{self, GroupQuery, Sort};

pub(crate) const SORTS: [(&str, Sort); 4] = [
    ("latest_desc", Sort::LatestDescending),
    ("latest_asc", Sort::LatestAscending),
    ("name_asc", Sort::NameAscending),
    ("name_desc", Sort::NameDescending),
];

impl Body for AssignTags {}
impl Body for DeleteTags {}

pub(crate) async fn list(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
) -> Result<Json<Vec<TemplateTag>>, ApiError> {
    let wanted = reference(&text, "Invalid template reference")?;
    let template = named_own(&api, &team, &wanted).await?;
    let tags = api.store.list_tags(&template.id).await?;
    let wire = tags.into_iter().map(|assignment| TemplateTag {
        tag: assignment.tag,
        build_id: assignment.build.to_string(),
        created_at: assignment.created_at.to_string(),
    });
    Ok(Json(wire.collect()))
}

pub(crate) async fn count(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
) -> Result<Json<TagsCount>, ApiError> {
    let rows = own_assignments(&api, &team, &text).await?;
    Ok(Json(TagsCount {
        total: tag_groups::count_ready(&rows),
    }))
}

pub(crate) async fn exists(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    query: Query,
) -> Result<Json<TagExists>, ApiError> {
    let raw = query.required("tag")?;
    let tag = parse_tag(raw).map_err(|error| ApiError::invalid(format!("Invalid tag: {error}")))?;
    let rows = own_assignments(&api, &team, &text).await?;
    let exists = rows
        .iter()
        .any(|row| row.tag == tag && row.build.status == BuildStatus::Ready);
    Ok(Json(TagExists {
        exists,
        normalized_tag: tag,
    }))
}

pub(crate) async fn groups(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    query: Query,
) -> Result<Json<TagGroups>, ApiError> {
    let wanted = GroupQuery {
        sort: query
            .word("sort", &SORTS)?
            .unwrap_or(Sort::LatestDescending),
        search: query
            .text("search")
            .unwrap_or_default()
            .trim()
            .to_lowercase(),
        tags_limit: query.number("tagsLimit", 1..=100)?.unwrap_or(25),
        assignment_limit: query.number("assignmentLimit", 1..=100)?.unwrap_or(6),
        cursor: query.text("tagsCursor").map(str::to_owned),
    };
    let rows = own_assignments(&api, &team, &text).await?;
    let groups = tag_groups::group(&rows, &wanted);
    groups
        .map(Json)
        .ok_or_else(|| violation("tagsCursor", "is not a cursor of this list"))
}

pub(crate) async fn assignments(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    query: Query,
) -> Result<Json<TagAssignments>, ApiError> {
    let tag = parse_tag(path.get("tag"))
        .map_err(|error| ApiError::invalid(format!("Invalid tag: {error}")))?;
    let limit = query.number("limit", 1..=100)?.unwrap_or(50);
    let rows = own_assignments(&api, &team, path.get("templateID")).await?;
    let page = tag_groups::page(&rows, &tag, limit, query.text("cursor"));
    page.map(Json)
        .ok_or_else(|| violation("cursor", "is not a cursor of this list"))
}

/// The newer endpoints answer a foreign template like a missing one.
async fn own_assignments(api: &Api, team: &Team, text: &str) -> Result<Vec<TaggedBuild>, ApiError> {
    let wanted = reference(text, "Invalid template reference")?;
    let template = named(api, team, &wanted).await?;
    if template.team != team.id {
        return Err(not_found(&wanted.identifier()));
    }
    Ok(api.store.tagged_builds(&template.id).await?)
}

/// `POST /templates/tags`, judged in the contract's order.
pub(crate) async fn assign(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<AssignTags>,
) -> Result<(StatusCode, Json<AssignedTags>), ApiError> {
    if body.tags.is_empty() {
        return Err(ApiError::invalid("At least one tag is required"));
    }
    let target = reference(&body.target, "Invalid target template format")?;
    own_namespace(&team, &target)?;
    let template = named(&api, &team, &target).await?;
    let tag = target.tag_or_default();
    let Some(build) = api.store.ready_build(&template.id, tag).await? else {
        let message = format!(
            "Template '{}' with tag '{tag}' not found",
            target.identifier()
        );
        return Err(ApiError::not_found(message));
    };
    must_own(&team, &template, &target)?;
    let tags = clean_tags(body.tags.iter().map(String::as_str))?;
    api.store.assign_tags(&build, &tags).await?;
    let build_id = build.id.to_string();
    Ok((StatusCode::CREATED, Json(AssignedTags { tags, build_id })))
}

/// `DELETE /templates/tags`. Tags that the template has not are no reason to refuse.
pub(crate) async fn remove(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<DeleteTags>,
) -> Result<StatusCode, ApiError> {
    let tags = clean_tags(body.tags.iter().map(String::as_str))?;
    if tags.is_empty() {
        return Err(ApiError::invalid("At least one tag is required"));
    }
    if tags.iter().any(|tag| tag == DEFAULT_TAG) {
        return Err(ApiError::invalid("Cannot delete the 'default' tag"));
    }
    let wanted = reference(&body.name, "Invalid template name format")?;
    own_namespace(&team, &wanted)?;
    if body.name.contains(':') {
        let message = "Template name should not contain a tag, use the 'tags' field instead";
        return Err(ApiError::invalid(message));
    }
    let template = named_own(&api, &team, &wanted).await?;
    api.store.remove_tags(&template.id, &tags).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tags that are to be given to a build, each once. One that looks like a build id could never be told from one.
pub(crate) fn clean_tags<'a>(
    given: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>, ApiError> {
    let mut tags = Vec::new();
    for raw in given {
        let invalid =
            |why: String| ApiError::invalid(format!("Invalid tag: invalid tag '{raw}': {why}"));
        let tag = parse_tag(raw).map_err(|error| invalid(error.to_string()))?;
        if tag.parse::<BuildId>().is_ok() {
            return Err(invalid("tag cannot be a UUID".to_owned()));
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

//! Lists, detail and aliases of templates.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use soulbox_api_types::template::{Template, TemplateAlias, TemplateWithBuilds};
use soulbox_store::{Order, PageRequest, Team};
use soulbox_types::ErrorKind;

use crate::auth::TeamAuth;
use crate::convert::{self, Usage};
use crate::error::ApiError;
use crate::extract::{PathArg, Query};
use crate::page;
use crate::state::Shared;
use crate::templates::access::{by_id, foreign, named, own_namespace, reference};

/// The first version: oldest first, all at once.
pub(crate) async fn list_v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Json<Vec<Template>>, ApiError> {
    team_param(&team, &query)?;
    let all = PageRequest {
        limit: u32::MAX,
        cursor: None,
    };
    let page = api
        .store
        .list_templates(&team.id, Order::Ascending, &all)
        .await?;
    Ok(Json(
        page.items
            .iter()
            .map(|t| convert::template(t, Usage::Shown))
            .collect(),
    ))
}

/// The second version: newest first, in pages.
pub(crate) async fn list_v2(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Response, ApiError> {
    team_param(&team, &query)?;
    let wanted = PageRequest {
        limit: query.page_limit()?,
        cursor: query.next_token(),
    };
    let page = api
        .store
        .list_templates(&team.id, Order::Descending, &wanted)
        .await?;
    let items: Vec<Template> = page
        .items
        .iter()
        .map(|t| convert::template(t, Usage::Shown))
        .collect();
    Ok(page::answer(items, page.next_cursor))
}

/// What the platform offers to everybody. How much others use it is not shown.
pub(crate) async fn defaults(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
) -> Result<Json<Vec<Template>>, ApiError> {
    let templates = api.store.default_templates().await?;
    let usage = |owner| {
        if owner == &team.id {
            Usage::Shown
        } else {
            Usage::Hidden
        }
    };
    Ok(Json(
        templates
            .iter()
            .map(|t| convert::template(t, usage(&t.template.team)))
            .collect(),
    ))
}

/// By raw id only, with a page of its builds.
pub(crate) async fn get(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
    query: Query,
) -> Result<Response, ApiError> {
    let wanted = PageRequest {
        limit: query.page_limit()?,
        cursor: query.next_token(),
    };
    let found = by_id(&api, &id).await?;
    let summary = found.ok_or_else(|| ApiError::not_found(format!("Template {id} not found")))?;
    if summary.template.team != team.id {
        return Err(foreign(&id));
    }
    let builds = api.store.list_builds(&summary.template.id, &wanted).await?;
    let body = TemplateWithBuilds {
        template: convert::template(&summary, Usage::Shown),
        builds: builds.items.iter().map(convert::template_build).collect(),
    };
    Ok(page::answer(body, builds.next_cursor))
}

/// SDKs ask this to learn whether a name is taken: 200 and 403 mean yes, 404 means no.
pub(crate) async fn alias(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
) -> Result<Json<TemplateAlias>, ApiError> {
    let wanted = reference(&text, "Invalid alias format")?;
    own_namespace(&team, &wanted)?;
    let template = named(&api, &team, &wanted).await?;
    if template.team != team.id && !template.public {
        let message = "You don't have access to this template alias";
        return Err(ApiError::new(ErrorKind::PermissionDenied, message));
    }
    // Without a tag the template need not have any build; with one, even `default`, it needs a usable one.
    let tag = wanted.tag_or_default();
    if text.contains(':') && api.store.ready_build(&template.id, tag).await?.is_none() {
        let message = format!(
            "tag '{tag}' does not exist for template '{}'",
            wanted.identifier()
        );
        return Err(ApiError::not_found(message));
    }
    Ok(Json(TemplateAlias {
        template_id: template.id.to_string(),
        public: template.public,
    }))
}

fn team_param(team: &Team, query: &Query) -> Result<(), ApiError> {
    match query.text("teamID") {
        Some(id) if !id.eq_ignore_ascii_case(team.id.as_str()) => {
            Err(ApiError::invalid("Team ID param mismatch with the API key"))
        }
        _ => Ok(()),
    }
}

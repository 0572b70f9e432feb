//! Changing and deleting templates.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::template::{TemplateUpdate, TemplateUpdated};
use soulbox_store::{DeleteTemplateError, PublishError, Team, Template};
use soulbox_types::ErrorKind;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg};
use crate::state::{Api, Shared};
use crate::templates::access::{named, reference};

impl Body for TemplateUpdate {}

/// The first version, of old command lines: what becomes public takes its bare name too.
pub(crate) async fn update_v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    JsonBody(body): JsonBody<TemplateUpdate>,
) -> Result<Json<()>, ApiError> {
    let template = own(&api, &team, &text).await?;
    if let Some(public) = body.public {
        let changed = api.store.set_template_public(&template, public, true).await;
        changed?;
    }
    Ok(Json(()))
}

/// The second version.
pub(crate) async fn update_v2(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    JsonBody(body): JsonBody<TemplateUpdate>,
) -> Result<Json<TemplateUpdated>, ApiError> {
    let template = own(&api, &team, &text).await?;
    if let Some(public) = body.public {
        let changed = api
            .store
            .set_template_public(&template, public, false)
            .await;
        changed?;
    }
    Ok(Json(TemplateUpdated {
        names: template.names,
    }))
}

/// Also the way SDKs delete snapshots: 404 means "was not there".
pub(crate) async fn delete(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
) -> Result<StatusCode, ApiError> {
    let template = own(&api, &team, &text).await?;
    let name = template.id.as_str();
    for build in api.store.delete_template(&template, name).await? {
        api.builds.cancel(&build);
    }
    api.builds.collect_soon();
    Ok(StatusCode::NO_CONTENT)
}

async fn own(api: &Api, team: &Team, text: &str) -> Result<Template, ApiError> {
    let wanted = reference(text, "Invalid template ID")?;
    let template = named(api, team, &wanted).await?;
    if template.team == team.id {
        return Ok(template);
    }
    let message = format!(
        "You don't have access to template '{}'",
        wanted.identifier()
    );
    Err(ApiError::new(ErrorKind::PermissionDenied, message))
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Store(error) => error.into(),
            PublishError::Taken { .. } => Self::new(error.kind(), error.to_string()),
        }
    }
}

impl From<DeleteTemplateError> for ApiError {
    fn from(error: DeleteTemplateError) -> Self {
        match error {
            DeleteTemplateError::Store(error) => error.into(),
            DeleteTemplateError::Running { .. }
            | DeleteTemplateError::Paused { .. }
            | DeleteTemplateError::Default { .. } => Self::new(error.kind(), error.to_string()),
        }
    }
}

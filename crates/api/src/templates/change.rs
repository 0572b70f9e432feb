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

/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 1000;

impl Body for TemplateUpdate {
    fn check(&self) -> Result<(), String> {
        let described = self.description.as_deref().unwrap_or_default();
        if described.chars().count() > MAX_DESCRIPTION {
            return Err(format!(
                "description: maximum string length is {MAX_DESCRIPTION}"
            ));
        }
        if described.contains('\0') {
            return Err("description: must not contain NUL".to_owned());
        }
        Ok(())
    }
}

/// The first version, of old command lines: what becomes public takes its bare name too.
pub(crate) async fn update_v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    JsonBody(body): JsonBody<TemplateUpdate>,
) -> Result<Json<()>, ApiError> {
    let template = own(&api, &team, &text).await?;
    change(&api, &template, &body, true).await?;
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
    change(&api, &template, &body, false).await?;
    Ok(Json(TemplateUpdated {
        names: template.names,
    }))
}

/// Publishing comes first: it is what can be refused.
async fn change(
    api: &Api,
    template: &Template,
    body: &TemplateUpdate,
    claim: bool,
) -> Result<(), ApiError> {
    if let Some(public) = body.public {
        let changed = api.store.set_template_public(template, public, claim);
        changed.await?;
    }
    if let Some(description) = &body.description {
        let changed = api.store.set_template_description(template, description);
        changed.await?;
    }
    Ok(())
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

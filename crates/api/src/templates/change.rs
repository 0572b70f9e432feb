//! Changing and deleting templates: later work, but a template that is not there is told first.

use axum::extract::State;
use soulbox_api_types::template::TemplateUpdate;
use soulbox_types::ErrorKind;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg};
use crate::state::{Api, Shared};
use crate::templates::access::{named, reference};

impl Body for TemplateUpdate {}

/// Both versions of `PATCH`.
pub(crate) async fn update(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    JsonBody(_body): JsonBody<TemplateUpdate>,
) -> Result<(), ApiError> {
    must_own(&api, &team, &text).await?;
    Err(ApiError::not_available(
        "Changing a template is",
        "use it as it is.",
    ))
}

/// Also the way SDKs delete snapshots: 404 means "was not there".
pub(crate) async fn delete(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
) -> Result<(), ApiError> {
    must_own(&api, &team, &text).await?;
    Err(ApiError::not_available(
        "Deleting a template is",
        "leave it; an unused template costs only disk space.",
    ))
}

async fn must_own(api: &Api, team: &soulbox_store::Team, text: &str) -> Result<(), ApiError> {
    let wanted = reference(text, "Invalid template ID")?;
    let template = named(api, team, &wanted).await?;
    if template.team == team.id {
        return Ok(());
    }
    let message = format!(
        "You don't have access to template '{}'",
        wanted.identifier()
    );
    Err(ApiError::new(ErrorKind::PermissionDenied, message))
}

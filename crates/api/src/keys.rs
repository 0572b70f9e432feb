//! API keys of a team, and the access tokens that are no more.
//!
//! A key cannot make, see or remove keys: whoever finds one must not be able to keep a way in.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use soulbox_api_types::team::{ApiKeyName, TeamApiKey};

use crate::auth::TeamAdminAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg};
use crate::operator::admin::key_id;
use crate::state::Shared;

impl Body for ApiKeyName {
    fn check(&self) -> Result<(), String> {
        if self.name.contains('\0') {
            Err("name: must not contain NUL bytes".to_owned())
        } else {
            Ok(())
        }
    }
}

pub(crate) async fn list(
    State(api): State<Shared>,
    TeamAdminAuth(team): TeamAdminAuth,
) -> Result<Json<Vec<TeamApiKey>>, ApiError> {
    let keys = api.store.list_api_keys(&team.id).await?;
    Ok(Json(keys.into_iter().map(convert::api_key).collect()))
}

pub(crate) async fn create(
    State(api): State<Shared>,
    TeamAdminAuth(team): TeamAdminAuth,
    JsonBody(body): JsonBody<ApiKeyName>,
) -> Result<Response, ApiError> {
    let (key, raw) = api.store.create_api_key(&team.id, &body.name).await?;
    Ok((
        StatusCode::CREATED,
        Json(convert::created_api_key(key, raw)),
    )
        .into_response())
}

/// 202, whatever the specification says: that is what the original answers.
pub(crate) async fn rename(
    State(api): State<Shared>,
    TeamAdminAuth(team): TeamAdminAuth,
    PathArg(id): PathArg,
    JsonBody(body): JsonBody<ApiKeyName>,
) -> Result<StatusCode, ApiError> {
    let id = key_id(&id)?;
    if api.store.rename_api_key(&team.id, &id, &body.name).await? {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err(ApiError::not_found("id not found"))
    }
}

pub(crate) async fn delete(
    State(api): State<Shared>,
    TeamAdminAuth(team): TeamAdminAuth,
    PathArg(id): PathArg,
) -> Result<StatusCode, ApiError> {
    let id = key_id(&id)?;
    if api.store.delete_api_key(&team.id, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("id not found"))
    }
}

/// Access tokens are gone upstream too; nobody can prove to be somebody here, so nobody is asked to.
pub(crate) async fn access_tokens() -> ApiError {
    ApiError::with_status(
        StatusCode::GONE,
        "Creating new access tokens is disabled. E2B_ACCESS_TOKEN is deprecated; use an API key (E2B_API_KEY) \
         instead. See https://e2b.dev/docs/migration/access-token-deprecation",
    )
}

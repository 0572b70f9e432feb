//! Volumes: made, listed, looked at, removed. `content` and `files` are about what is in them, `mounts` about where
//! sandboxes have them, `token` about who may see their content.

pub(crate) mod content;
pub(crate) mod files;
pub(crate) mod mounts;
pub(crate) mod token;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::volume::{NewVolume, Volume as WireVolume, VolumeAndToken};
use soulbox_orchestrator::{VolumeError, VolumesError};
use soulbox_store::Volume;
use soulbox_types::volume::is_name;
use soulbox_types::{ErrorKind, VolumeId};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg};
use crate::state::{Api, Shared};

impl Body for NewVolume {
    fn check(&self) -> Result<(), String> {
        if is_name(&self.name) {
            Ok(())
        } else {
            Err("name: string doesn't match the regular expression \"^[a-zA-Z0-9_-]+$\"".to_owned())
        }
    }
}

pub(crate) async fn list(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
) -> Result<Json<Vec<WireVolume>>, ApiError> {
    let volumes = api.volumes.list(&team.id).await?;
    let wire = volumes.into_iter().map(|volume| WireVolume {
        volume_id: volume.id.to_string(),
        name: volume.name,
    });
    Ok(Json(wire.collect()))
}

pub(crate) async fn create(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<NewVolume>,
) -> Result<(StatusCode, Json<VolumeAndToken>), ApiError> {
    if body.name.len() > LONGEST_NAME {
        return Err(ApiError::invalid("Invalid volume name"));
    }
    let made = api.volumes.create(&team.id, &body.name).await;
    let volume = made.map_err(not_made)?;
    Ok((StatusCode::CREATED, Json(with_token(&api, volume))))
}

pub(crate) async fn get(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
) -> Result<Json<VolumeAndToken>, ApiError> {
    let volume = api.volumes.get(&team.id, &volume_id(&id)?).await?;
    let volume = volume.ok_or_else(not_found)?;
    Ok(Json(with_token(&api, volume)))
}

pub(crate) async fn remove(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(id): PathArg,
) -> Result<StatusCode, ApiError> {
    if api.volumes.remove(&team.id, &volume_id(&id)?).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found())
    }
}

/// What a name has room for; nothing but its owner ever reads it.
const LONGEST_NAME: usize = 255;

fn volume_id(text: &str) -> Result<VolumeId, ApiError> {
    let id = text.to_ascii_lowercase().parse();
    id.map_err(|_| ApiError::invalid("Invalid volume ID"))
}

fn not_found() -> ApiError {
    ApiError::not_found("Volume not found")
}

fn with_token(api: &Api, volume: Volume) -> VolumeAndToken {
    VolumeAndToken {
        token: api.volume_tokens.mint(&volume.team, &volume.id),
        volume_id: volume.id.to_string(),
        name: volume.name,
    }
}

fn not_made(error: VolumesError) -> ApiError {
    match error {
        VolumesError::Store(error) => error.into(),
        VolumesError::Driver(error @ VolumeError::Host { .. }) => ApiError::internal(error),
        VolumesError::NameTaken(_) | VolumesError::TooMany | VolumesError::Driver(_) => {
            ApiError::new(error.kind(), error.to_string())
        }
    }
}

/// `code` in the errors of content, which is a word there.
fn code_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "invalid_argument",
        ErrorKind::Unauthenticated => "unauthenticated",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Conflict => "already_exists",
        ErrorKind::LimitExceeded => "limit_exceeded",
        ErrorKind::StorageFull => "storage_full",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Unimplemented => "unimplemented",
        ErrorKind::Internal => "internal",
    }
}

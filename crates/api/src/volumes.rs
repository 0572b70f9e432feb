//! Volumes: there are none yet, and no way to make one. Lists are empty, and every id is unknown.

use axum::Json;
use soulbox_api_types::volume::{NewVolume, Volume};
use soulbox_types::{BuildId, ErrorKind};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg};

impl Body for NewVolume {
    fn check(&self) -> Result<(), String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !self.name.is_empty() && self.name.bytes().all(allowed) {
            Ok(())
        } else {
            Err("name: string doesn't match the regular expression \"^[a-zA-Z0-9_-]+$\"".to_owned())
        }
    }
}

pub(crate) async fn list(_team: TeamAuth) -> Json<Vec<Volume>> {
    Json(Vec::new())
}

pub(crate) async fn create(_team: TeamAuth, JsonBody(_body): JsonBody<NewVolume>) -> ApiError {
    ApiError::new(ErrorKind::PermissionDenied, "use of volumes is not enabled")
}

/// Read and delete.
pub(crate) async fn unknown(_team: TeamAuth, PathArg(id): PathArg) -> ApiError {
    // Every id of this form is a UUID; which kind does not matter for one that does not exist.
    match id.to_ascii_lowercase().parse::<BuildId>() {
        Ok(_) => ApiError::not_found("Volume not found"),
        Err(_) => ApiError::invalid("Invalid volume ID"),
    }
}

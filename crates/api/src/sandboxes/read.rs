//! `GET` and `DELETE /sandboxes/{sandboxID}`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::sandbox::SandboxDetail;
use soulbox_types::ErrorKind;

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::SandboxArg;
use crate::sandboxes::{not_found, unknown};
use crate::state::Shared;

/// The one endpoint that names an unknown sandbox exactly as the caller did.
pub(crate) async fn get(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
) -> Result<Json<SandboxDetail>, ApiError> {
    match api.sandboxes.get(&team.id, &sandbox.id).await {
        Ok(view) => Ok(Json(convert::sandbox_detail(&view))),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(not_found(&sandbox.given)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn kill(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
) -> Result<StatusCode, ApiError> {
    if api.sandboxes.kill(&team.id, &sandbox.id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(unknown(&sandbox.id))
    }
}

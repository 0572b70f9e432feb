//! Pausing a sandbox, and the old way to bring it back; the new one is connect.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::sandbox::{PauseSandbox, ResumeSandbox, Sandbox};
use soulbox_store::PauseMode;

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{OptionalJsonBody, SandboxArg};
use crate::sandboxes::admission::{SHORT_DEFAULT, timeout};
use crate::state::Shared;

/// Without memory there is nothing that could bring a guest back which does not answer, so that is refused.
pub(crate) async fn pause(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    OptionalJsonBody(body): OptionalJsonBody<PauseSandbox>,
) -> Result<StatusCode, ApiError> {
    let (mode, strict) = match body.memory {
        Some(false) => (PauseMode::Filesystem, true),
        _ => (PauseMode::Full, body.require_healthy_guest == Some(true)),
    };
    api.sandboxes
        .pause(&team.id, &sandbox.id, mode, strict)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn resume(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    OptionalJsonBody(body): OptionalJsonBody<ResumeSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let timeout = timeout(body.timeout, SHORT_DEFAULT, &api.limits)?;
    let on_timeout = body.auto_pause.map(convert::at_the_end);
    let memory = body.memory.unwrap_or(true);
    let view = api
        .sandboxes
        .resume(&team.id, &sandbox.id, timeout, on_timeout, memory)
        .await?;
    Ok((StatusCode::CREATED, Json(convert::sandbox(&view))))
}

//! How long a sandbox lives: timeout, refreshes, connect.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::sandbox::{ConnectSandbox, Sandbox, SandboxRefresh, SandboxTimeout};

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::{JsonBody, OptionalJsonBody, SandboxArg};
use crate::sandboxes::admission::{timeout, within_limit};
use crate::sandboxes::schema;
use crate::state::{Api, Shared};

/// What the second version of connect means by no timeout.
const CONNECT_DEFAULT: Duration = Duration::from_secs(300);

pub(crate) async fn set_timeout(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<SandboxTimeout>,
) -> Result<StatusCode, ApiError> {
    api.sandboxes
        .set_timeout(&team.id, &sandbox.id, seconds(body.timeout))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn refresh(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    OptionalJsonBody(body): OptionalJsonBody<SandboxRefresh>,
) -> Result<StatusCode, ApiError> {
    let duration = Duration::from_secs(
        body.duration
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(0),
    );
    api.sandboxes
        .refresh(&team.id, &sandbox.id, duration)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The first version: `timeout` is required and may be 0, which changes nothing.
pub(crate) async fn connect_v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<ConnectSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let given = body
        .timeout
        .ok_or_else(|| ApiError::violation("request body: property \"timeout\" is missing"))?;
    let timeout = within_limit(seconds(given), &api.limits)?;
    connect(&api, &team.id, &sandbox, timeout, body).await
}

/// The second version: everything is optional, and 0 is refused.
pub(crate) async fn connect_v2(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    OptionalJsonBody(body): OptionalJsonBody<ConnectSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    schema::at_least("timeout", body.timeout, 1).map_err(ApiError::violation)?;
    let timeout = timeout(body.timeout, CONNECT_DEFAULT, &api.limits)?;
    connect(&api, &team.id, &sandbox, timeout, body).await
}

/// 201 says that the sandbox was paused.
async fn connect(
    api: &Api,
    team: &soulbox_types::TeamId,
    sandbox: &SandboxArg,
    timeout: Duration,
    body: ConnectSandbox,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let memory = body.memory.unwrap_or(true);
    let started = api
        .sandboxes
        .connect(team, &sandbox.id, timeout, memory)
        .await?;
    let status = if started.resumed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(convert::sandbox(&started.view))))
}

/// The schema has refused negative numbers already.
fn seconds(value: i32) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

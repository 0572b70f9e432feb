//! Addresses of ports of a sandbox, for people and programs that have no token.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::url::{NewPortUrl, PortUrl};
use soulbox_types::Timestamp;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{JsonBody, SandboxArg};
use crate::state::Shared;

/// envd's, which no address opens.
const ENVD_PORT: u16 = 49983;
/// How long an address is good where nobody says so, and at most.
const USUAL_SECONDS: u64 = 3600;
pub(crate) const LONGEST_SECONDS: u64 = 30 * 24 * 3600;

/// Nothing is kept of an address: it is good because it is signed.
pub(crate) async fn create(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<NewPortUrl>,
) -> Result<(StatusCode, Json<PortUrl>), ApiError> {
    let port = port(body.port)?;
    let seconds = seconds(body.expires_in)?;
    let view = api.sandboxes.get(&team.id, &sandbox.id).await?;
    let expires = Timestamp::now()
        .plus(Duration::from_secs(seconds))
        .unix_seconds();
    let signed = view
        .traffic_access_token
        .as_deref()
        .map(|token| (token, expires));
    let answer = PortUrl {
        url: (api.port_urls)(&sandbox.id, port, signed),
        port: port.into(),
        // What everybody may see has no end.
        expires_at: signed.map(|_| Timestamp(expires * 1_000_000).to_string()),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

fn port(port: i64) -> Result<u16, ApiError> {
    match u16::try_from(port) {
        Ok(port) if port != 0 && port != ENVD_PORT => Ok(port),
        Ok(ENVD_PORT) => Err(ApiError::invalid(format!(
            "Port {ENVD_PORT} has signed URLs of its own, for files"
        ))),
        _ => Err(ApiError::violation(format!(
            "request body: \"port\" must be between 1 and 65535: {port}"
        ))),
    }
}

fn seconds(asked: Option<i64>) -> Result<u64, ApiError> {
    let Some(asked) = asked else {
        return Ok(USUAL_SECONDS);
    };
    u64::try_from(asked)
        .ok()
        .filter(|seconds| (1..=LONGEST_SECONDS).contains(seconds))
        .ok_or_else(|| {
            ApiError::violation(format!(
                "request body: \"expiresIn\" must be between 1 and {LONGEST_SECONDS} seconds: {asked}"
            ))
        })
}

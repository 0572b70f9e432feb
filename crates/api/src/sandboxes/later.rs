//! What the wire has and this version does not: live changes of the network.
//!
//! It is checked who asks and whether the sandbox is there, so that a mistake is told apart from a missing feature; then
//! the answer is 501 with `Should-Retry: false`: a 409 would be read as "already paused", a 503 would be tried again.

use axum::extract::State;
use soulbox_api_types::network::SandboxNetworkUpdate;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{JsonBody, SandboxArg};
use crate::network::Egress;
use crate::state::Shared;

/// The body is judged before the sandbox is looked for, as the contract has it.
pub(crate) async fn put_network(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(body): JsonBody<SandboxNetworkUpdate>,
) -> Result<(), ApiError> {
    Egress::of_update(&body).decide()?;
    api.sandboxes.get(&team.id, &sandbox.id).await?;
    Err(ApiError::not_available(
        "Changing the network of a running sandbox is",
        "create a sandbox with the network settings it needs.",
    ))
}

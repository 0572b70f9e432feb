//! What a running sandbox may reach, changed.

use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_orchestrator::NetworkChange;
use soulbox_store::RecordState;
use soulbox_types::ErrorKind;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{JsonBody, SandboxArg};
use crate::network::{Egress, in_lower_case, without_secrets};
use crate::state::Shared;

/// The body is judged before the sandbox is looked for, as the contract has it.
pub(crate) async fn put_network(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    JsonBody(mut body): JsonBody<SandboxNetworkUpdate>,
) -> Result<StatusCode, ApiError> {
    let decided = Egress::of_update(&body).decide()?;
    let view = api.sandboxes.get(&team.id, &sandbox.id).await?;
    if view.record.state == RecordState::Paused {
        let message = format!("Sandbox \"{}\" is not running", sandbox.id);
        return Err(ApiError::new(ErrorKind::Conflict, message));
    }
    body.rules = body.rules.map(in_lower_case);
    body.egress_proxy = body.egress_proxy.map(without_secrets);
    let recorded = serde_json::to_value(&body).map_err(ApiError::internal)?;
    let Value::Object(mut egress) = recorded else {
        return Err(ApiError::internal(std::io::Error::other(
            "a body that is no object",
        )));
    };
    egress.remove("allow_internet_access");
    let network = decided.network(&api, &team.id).await?;
    let change = NetworkChange {
        network,
        egress,
        allow_internet_access: body.allow_internet_access,
    };
    api.sandboxes
        .set_network(&team.id, &sandbox.id, change)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

//! Sandboxes over HTTP, one file per thing that is asked of them.

pub(crate) mod admission;
pub(crate) mod branch;
pub(crate) mod contacts;
pub(crate) mod create;
pub(crate) mod idempotency;
pub(crate) mod lifetime;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod pause;
pub(crate) mod read;
pub(crate) mod schema;
mod timing;
pub(crate) mod urls;

use soulbox_types::SandboxId;

use crate::error::ApiError;

/// The answer for a sandbox that is unknown, foreign or being killed: the three are not told apart.
pub(crate) fn not_found(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "Sandbox \"{id}\" doesn't exist or you don't have access to it"
    ))
}

/// The same, by parsed id.
pub(crate) fn unknown(id: &SandboxId) -> ApiError {
    not_found(id.as_str())
}

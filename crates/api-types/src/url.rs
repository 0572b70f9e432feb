//! Addresses of ports of sandboxes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::present::present;

/// Body of `POST /sandboxes/{sandboxID}/urls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewPortUrl {
    /// The port inside.
    pub port: i64,
    /// For how many seconds it is good; an hour when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub expires_in: Option<i64>,
}

/// An address that leads to a port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortUrl {
    /// Opens the port for whoever has it.
    pub url: String,
    /// The port inside.
    pub port: i64,
    /// Until when. Absent when traffic to the sandbox is public: then it is good as long as the sandbox lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

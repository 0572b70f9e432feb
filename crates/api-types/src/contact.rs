//! What sandboxes have said to the network, and what became of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `GET /sandboxes/{sandboxID}/network/contacts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxContacts {
    /// Oldest first.
    pub contacts: Vec<SandboxContact>,
    /// What `after` is to be for those that follow.
    pub next: i64,
}

/// One DNS question, connection, request, refused packet or started program of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxContact {
    /// Its place in the order of all; grows.
    pub seq: i64,
    /// When it began.
    pub timestamp: String,
    /// `dns`, `tls`, `tcp`, `http` or `https`; `udp`, `icmp` or `ip` of packets that the kernel has refused; `process` of a
    /// program that was started.
    pub kind: String,
    /// The name or address that was asked for, or the command line.
    pub target: String,
    /// Where a connection went, with the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What became of it.
    pub verdict: ContactVerdict,
    /// The entry of the policy that decided, or why it was refused.
    pub rule: String,
    /// What was asked: a type of record, or method, path and status.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Bytes out of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<i64>,
    /// Bytes into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<i64>,
    /// So many before this one were not written down: there were too many at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_before: i64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContactVerdict {
    /// It was let through.
    Allowed,
    /// It was not.
    Refused,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over references"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

//! Bodies of envd's plain HTTP endpoints, and the document that envd reads at boot.
//!
//! Separate from the generated services: these are written by hand and spelled by the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the launcher hands to envd when a sandbox starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The sandbox this envd serves.
    #[serde(rename = "sandboxID", default)]
    pub sandbox_id: String,
    /// The template it was made from.
    #[serde(rename = "templateID", default)]
    pub template_id: String,
    /// The state that `POST /init` would set.
    #[serde(default)]
    pub init: InitBody,
}

/// The body of `POST /init`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitBody {
    /// Replaces the user-level default environment; absent leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// The token every request must bear; absent clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Account used when a request names none; absent or empty leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Directory for empty paths; absent or empty leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// RFC 3339. Older requests than the last accepted one are ignored, and the clock is set by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Another sandbox goes on from this one's memory: its id, for `E2B_SANDBOX_ID`; absent leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// And its template, for `E2B_TEMPLATE_ID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
}

/// The body of `POST /oom`: the kernel has killed a process of this sandbox for lack of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomReport {
    /// The process's name as the kernel has it.
    pub name: String,
    /// Its number inside; absent when it was gone before it could be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its parents by their numbers inside, nearest first; absent with `pid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ancestors: Option<Vec<i32>>,
}

/// Every error of the plain HTTP endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status.
    pub code: u16,
    /// What went wrong.
    pub message: String,
}

/// One written file in the answer to `POST /files` and `POST /files/compose`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWritten {
    /// The resolved path.
    pub path: String,
    /// Its last component.
    pub name: String,
    /// Always `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Present only when the file carries metadata: clients compare the whole object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The body of `POST /files/compose`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComposeRequest {
    /// Files to concatenate, in order; they are removed afterwards.
    pub source_paths: Vec<String>,
    /// Where the result goes.
    pub destination: String,
    /// Owner of the result; absent means the default user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// The answer of `GET /metrics`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Unix time in seconds.
    pub ts: i64,
    /// Processors the sandbox sees.
    pub cpu_count: u32,
    /// Share of all processors in use since the last sample, in percent, two decimals.
    pub cpu_used_pct: f64,
    /// Memory in MiB, kept for old readers.
    pub mem_total_mib: u64,
    /// Used memory in MiB, kept for old readers.
    pub mem_used_mib: u64,
    /// Memory in bytes.
    pub mem_total: u64,
    /// Used memory in bytes.
    pub mem_used: u64,
    /// Page cache in bytes.
    pub mem_cache: u64,
    /// Bytes of the root file system in use.
    pub disk_used: u64,
    /// Size of the root file system in bytes.
    pub disk_total: u64,
}

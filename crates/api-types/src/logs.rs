//! Logs of sandboxes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For diagnosis.
    Debug,
    /// Normal life.
    Info,
    /// Degraded, but went on.
    Warn,
    /// Someone must look.
    Error,
}

/// One structured line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxLogEntry {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// What.
    pub message: String,
    /// How bad.
    pub level: LogLevel,
    /// Everything else, flat.
    pub fields: BTreeMap<String, String>,
}

/// One line as text: a JSON object with at least `level`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxLog {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// The JSON text.
    pub line: String,
}

/// What the first version of the logs endpoint answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxLogs {
    /// As text.
    pub logs: Vec<SandboxLog>,
    /// The same, structured.
    pub log_entries: Vec<SandboxLogEntry>,
}

/// What the second version answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxLogsV2 {
    /// The lines, in the direction that was asked for.
    pub logs: Vec<SandboxLogEntry>,
}

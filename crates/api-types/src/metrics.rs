//! Measurements of sandboxes and teams.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One sample of one sandbox. Sizes are bytes; the CPU value is percent over all its CPUs together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxMetric {
    /// When, as RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// When, in whole seconds.
    pub timestamp_unix: i64,
    /// Virtual CPUs.
    pub cpu_count: i32,
    /// 0 to 100, two decimals.
    pub cpu_used_pct: f64,
    /// Memory in use without page cache.
    pub mem_used: i64,
    /// Memory limit.
    pub mem_total: i64,
    /// Page cache.
    pub mem_cache: i64,
    /// Disk in use.
    pub disk_used: i64,
    /// Disk size.
    pub disk_total: i64,
}

/// What `GET /sandboxes/metrics` answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxesWithMetrics {
    /// The latest sample by sandbox id; those without one are left out.
    pub sandboxes: BTreeMap<String, SandboxMetric>,
}

/// One sample of one team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamMetric {
    /// When, as RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// When, in whole seconds.
    pub timestamp_unix: i64,
    /// Running sandboxes.
    pub concurrent_sandboxes: i32,
    /// Sandboxes started per second.
    pub sandbox_start_rate: f64,
}

/// What `GET /teams/{teamID}/metrics/max` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaxTeamMetric {
    /// When, as RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// When, in whole seconds.
    pub timestamp_unix: i64,
    /// The largest value; 0 without samples.
    pub value: f64,
}

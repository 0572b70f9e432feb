//! What only the operator asks: nodes, counts, mass actions.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::present::present;

/// What `POST /admin/teams/{teamID}/sandboxes/kill` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxKillResult {
    /// How many were killed.
    pub killed_count: u64,
    /// How many could not be.
    pub failed_count: u64,
}

/// What `POST /admin/teams/{teamID}/builds/cancel` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildCancelResult {
    /// How many were cancelled.
    pub cancelled_count: u64,
    /// How many could not be.
    pub failed_count: u64,
}

/// Body of `POST /admin/gc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CollectGarbage {
    /// Only tells what would be removed. Absent: removes it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub dry_run: Option<bool>,
}

/// What `POST /admin/gc` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarbageCollected {
    /// Layers of files that nothing needed, and that are gone, or would be.
    pub layers: Vec<GarbageLayer>,
    /// Memory of sandboxes that nothing needed, and that is gone, or would be: of how many.
    pub memories: usize,
    /// Layers that nothing needs but that sandboxes stand on. Not known when it is only told what would be removed.
    pub in_use: usize,
}

/// Body of `PUT /admin/teams/{teamID}/retention`: as [`TeamRetention`]; what is absent is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewTeamRetention {
    /// After the pause of a sandbox.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 1, max = 36500))]
    pub paused_days: Option<u32>,
    /// After the last snapshot under the same id was taken, when no sandbox uses it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 1, max = 36500))]
    pub snapshot_days: Option<u32>,
}

/// Days after which a team's state is let go that nobody deletes; null keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamRetention {
    /// After the pause of a sandbox.
    pub paused_days: Option<u32>,
    /// After the last snapshot under the same id was taken, when no sandbox uses it.
    pub snapshot_days: Option<u32>,
}

/// A layer of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GarbageLayer {
    /// Its name: the digest of its content.
    pub digest: String,
    /// Sum of the sizes of its files.
    pub size_bytes: u64,
    /// Files, directories, links and so on in it.
    pub entries: u64,
}

/// What `GET /admin/sandboxes/running-counts` answers: sandboxes by team, at least one each.
pub type RunningCounts = BTreeMap<String, i64>;

/// Whether a node takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// It does.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It is coming up.
    Connecting,
    /// It does not answer.
    Unhealthy,
    /// It waits to be needed.
    Standby,
}

/// Body of `POST /nodes/{nodeID}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatusChange {
    /// Of no use here: there is one cluster.
    #[serde(
        default,
        rename = "clusterID",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub cluster_id: Option<String>,
    /// The wanted status.
    pub status: NodeStatus,
}

/// One disk of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskMetrics {
    /// Where it is mounted.
    pub mount_point: String,
    /// Its device.
    pub device: String,
    /// Its file system.
    pub filesystem_type: String,
    /// In use.
    pub used_bytes: u64,
    /// Size.
    pub total_bytes: u64,
}

/// What a node has and uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeMetrics {
    /// Virtual CPUs promised to sandboxes.
    #[serde(rename = "allocatedCPU")]
    pub allocated_cpu: u32,
    /// CPU in use, over all CPUs together.
    pub cpu_percent: u32,
    /// CPUs.
    pub cpu_count: u32,
    /// Memory promised to sandboxes.
    pub allocated_memory_bytes: u64,
    /// Memory in use.
    pub memory_used_bytes: u64,
    /// Memory.
    pub memory_total_bytes: u64,
    /// Huge pages.
    pub huge_pages_total: u64,
    /// Huge pages in use.
    pub huge_pages_used: u64,
    /// Huge pages promised.
    pub huge_pages_reserved: u64,
    /// Size of one.
    pub huge_page_size_bytes: u64,
    /// Disks.
    pub disks: Vec<DiskMetrics>,
}

/// What the machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineInfo {
    /// Family number.
    pub cpu_family: String,
    /// Model number.
    pub cpu_model: String,
    /// Model as text.
    pub cpu_model_name: String,
    /// For example `x86_64`.
    pub cpu_architecture: String,
}

/// One node; the list and the detail show the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The server's version.
    pub version: String,
    /// What it was built from.
    pub commit: String,
    /// Its id.
    pub id: String,
    /// Changes with each start of the server.
    #[serde(rename = "serviceInstanceID")]
    pub service_instance_id: String,
    /// Zeros: there is one cluster.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// What the machine is.
    pub machine_info: MachineInfo,
    /// Whether it takes work.
    pub status: NodeStatus,
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub status_changed_at: String,
    /// Running sandboxes.
    pub sandbox_count: u32,
    /// What it has and uses.
    pub metrics: NodeMetrics,
    /// Creates that worked since the start.
    pub create_successes: u64,
    /// Creates that failed since the start.
    pub create_fails: u64,
    /// Creates under way.
    pub sandbox_starting_count: i64,
}

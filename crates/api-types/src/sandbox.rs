//! Sandboxes: create, read, list, change, and the bodies of pause, resume, fork and snapshots.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ErrorBody;
use crate::network::SandboxNetworkConfig;
use crate::present::present;

/// Body of `POST /sandboxes` and `POST /v2/sandboxes`; they differ in the default of `timeout` and in `secure`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewSandbox {
    /// Id, alias, `namespace/alias`, each with an optional `:tag`.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds until the end time. Absent: 15 in the first version, 300 in the second.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 0))]
    pub timeout: Option<i32>,
    /// Pause instead of kill at the end time.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub auto_pause: Option<bool>,
    /// Whether such a pause keeps memory. Absent: true.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub auto_pause_memory: Option<bool>,
    /// Whether traffic wakes the sandbox from a pause.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub auto_resume: Option<AutoResume>,
    /// Only in the first version, and without effect: traffic to envd always needs its token.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub secure: Option<bool>,
    /// False closes all traffic out. Absent and true mean the same. Snake case on the wire.
    #[serde(
        default,
        rename = "allow_internet_access",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub allow_internet_access: Option<bool>,
    /// Traffic out and in.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub network: Option<SandboxNetworkConfig>,
    /// The caller's own keys and values, to filter by.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Environment of every process in the sandbox.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Names of MCP servers, for statistics only: the SDK starts the gateway itself. Nullable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-nullable" = true))]
    pub mcp: Option<Map<String, Value>>,
    /// Workload tokens.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub iam: Option<SandboxIam>,
    /// Volumes to mount.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

// Written by hand so that no log ever shows values of the environment or of metadata.
impl std::fmt::Debug for NewSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSandbox")
            .field("template_id", &self.template_id)
            .finish_non_exhaustive()
    }
}

/// `autoResume` of a create request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AutoResume {
    /// Traffic wakes the sandbox.
    pub enabled: bool,
}

/// `iam` of a create request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxIam {
    /// Tokens by name.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub tokens: Option<BTreeMap<String, IamToken>>,
}

/// One workload token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IamToken {
    /// Whom the token is meant for.
    pub audience: String,
    /// `JWT-SVID` is the only one.
    pub token_type: String,
}

/// A volume and where it appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeMount {
    /// The volume's name within the team.
    pub name: String,
    /// Absolute path in the sandbox.
    pub path: String,
}

/// What create, connect and resume answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// The template it was created from.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Its id.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// First alias of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// A constant that old clients need.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// A plain semantic version; clients gate features on it.
    pub envd_version: String,
    /// Secret for the header `X-Access-Token`; the same over the sandbox's whole life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    /// Secret for traffic to ports of a sandbox without public traffic. Nullable.
    pub traffic_access_token: Option<String>,
    /// Domain of its host names, when the server knows it. Nullable.
    pub domain: Option<String>,
}

/// Running or paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// It runs.
    Running,
    /// It is saved.
    Paused,
}

/// What happens at the end time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// The sandbox is killed.
    Kill,
    /// The sandbox is paused.
    Pause,
}

/// `lifecycle` of a sandbox's detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxLifecycle {
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// What happens at the end time.
    pub on_timeout: OnTimeout,
}

/// What `GET /sandboxes/{sandboxID}` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    /// The template it was created from.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// First alias of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Its id.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// A constant that old clients need.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// When the present run became ready.
    #[schemars(extend("format" = "date-time"))]
    pub started_at: String,
    /// When the lifecycle policy fires.
    #[schemars(extend("format" = "date-time"))]
    pub end_at: String,
    /// envd's version.
    pub envd_version: String,
    /// Secret for the header `X-Access-Token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    /// As given at create. Nullable.
    pub allow_internet_access: Option<bool>,
    /// Domain of its host names. Nullable.
    pub domain: Option<String>,
    /// Virtual CPUs.
    pub cpu_count: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    /// Root file system in MiB.
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u32,
    /// As given at create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Running or paused.
    pub state: SandboxState,
    /// As given at create, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<SandboxNetworkConfig>,
    /// What happens at the end time and afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<SandboxLifecycle>,
    /// Mounted volumes.
    pub volume_mounts: Vec<VolumeMount>,
    /// What a pause has kept; of paused ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_mode: Option<PauseMode>,
    /// True when envd did not answer at the pause; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_unresponsive_at_pause: Option<bool>,
    /// The sandbox that this is a fork of; it may be gone. An addition of SoulBox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<String>,
}

/// What a pause has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Memory and files.
    Full,
    /// Files.
    Filesystem,
}

/// One entry of the lists of sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedSandbox {
    /// The template it was created from.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// First alias of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Its id.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// A constant that old clients need.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// When the present run became ready.
    #[schemars(extend("format" = "date-time"))]
    pub started_at: String,
    /// When the lifecycle policy fires.
    #[schemars(extend("format" = "date-time"))]
    pub end_at: String,
    /// Virtual CPUs.
    pub cpu_count: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    /// Root file system in MiB.
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u32,
    /// As given at create; absent when none was given, empty when an empty one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Running or paused.
    pub state: SandboxState,
    /// envd's version.
    pub envd_version: String,
    /// Mounted volumes.
    pub volume_mounts: Vec<VolumeMount>,
    /// True when envd did not answer at the pause; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_unresponsive_at_pause: Option<bool>,
    /// The sandbox that this is a fork of; it may be gone. An addition of SoulBox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<String>,
}

/// Body of both versions of connect. The first requires `timeout`, the second defaults to 300.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectSandbox {
    /// Seconds that must be left at least.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 0))]
    pub timeout: Option<i32>,
    /// False restores without memory. Without effect on a running sandbox.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub memory: Option<bool>,
}

/// Body of `POST /sandboxes/{sandboxID}/resume`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeSandbox {
    /// Seconds until the end time.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 0))]
    pub timeout: Option<i32>,
    /// Changes the stored policy.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub auto_pause: Option<bool>,
    /// False restores without memory.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub memory: Option<bool>,
}

/// Body of `POST /sandboxes/{sandboxID}/timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxTimeout {
    /// Seconds from now; 0 ends it now.
    #[schemars(range(min = 0))]
    pub timeout: i32,
}

/// Body of `POST /sandboxes/{sandboxID}/refreshes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxRefresh {
    /// Seconds that must be left at least; 15 is the floor.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 0, max = 3600))]
    pub duration: Option<i64>,
}

/// Body of `POST /sandboxes/{sandboxID}/pause`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseSandbox {
    /// Whether memory is kept. Absent: true.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub memory: Option<bool>,
    /// Refuse when envd does not answer.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub require_healthy_guest: Option<bool>,
}

/// Body of `POST /sandboxes/{sandboxID}/fork`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkSandbox {
    /// Seconds until each fork's end time. Absent: 15.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 0))]
    pub timeout: Option<i32>,
    /// How many. Absent: 1.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 1, max = 100))]
    pub count: Option<i32>,
    /// False forks only files. An addition of SoulBox.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub memory: Option<bool>,
}

/// One entry of the answer to a fork: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkResult {
    /// The new sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// Body of `POST /sandboxes/{sandboxID}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewSnapshot {
    /// `[namespace/]alias[:tag]`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub name: Option<String>,
    /// False saves only files.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub memory: Option<bool>,
}

/// A snapshot that sandboxes can be created from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotInfo {
    /// Usable as a template id.
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
    /// `namespace/alias`, without tag.
    pub names: Vec<String>,
    /// The sandbox it was taken of. An addition of SoulBox.
    #[serde(default, rename = "sandboxID", skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Content of what it adds to the template of its sandbox, in bytes. An addition of SoulBox.
    #[serde(default, rename = "sizeBytes", skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// RFC 3339. An addition of SoulBox.
    #[serde(default, rename = "createdAt", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

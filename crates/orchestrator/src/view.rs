//! What callers give for a new sandbox and what they see of an existing one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use soulbox_store::{SandboxRecord, SavedMemory};
use soulbox_types::{
    BuildId, Limits, NetworkMode, OnTimeout, SandboxId, StartCommand, TeamId, TemplateImage,
    VolumeMount,
};

/// A sandbox to create. Everything is validated: templates are resolved, time limits are checked.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    /// Whose it will be.
    pub team: TeamId,
    /// What it starts from.
    pub image: TemplateImage,
    /// The build that the image is of.
    pub build_id: BuildId,
    /// First alias of the template.
    pub alias: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// Version of envd in it.
    pub envd_version: String,
    /// What its template runs in it before it is handed over.
    pub start: Option<StartCommand>,
    /// Memory that it goes on from, of the moment in which the files were saved that it starts from.
    pub memory: Option<SavedMemory>,
    /// How long it runs, from the moment it is usable.
    pub timeout: Duration,
    /// What happens then.
    pub on_timeout: OnTimeout,
    /// Whether a pause at the end time keeps the memory.
    pub auto_pause_memory: bool,
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// For how long it then runs.
    pub auto_resume_timeout_seconds: i64,
    /// What its creator writes on it; absent is not the same as empty.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Environment of every process.
    pub env_vars: BTreeMap<String, String>,
    /// What it may reach.
    pub network: NetworkMode,
    /// As the creator gave it.
    pub allow_internet_access: Option<bool>,
    /// The network policy as the creator gave it.
    pub network_json: Option<serde_json::Value>,
    /// Whether anybody may reach its ports.
    pub allow_public_traffic: bool,
    /// `Host` header to show to servers inside.
    pub mask_request_host: Option<String>,
    /// Ports inside that speak TLS.
    pub https_ports: Vec<u16>,
    /// Volumes to mount.
    pub volumes: Vec<VolumeMount>,
    /// The same as the creator gave them, for the record; an array.
    pub volume_mounts: serde_json::Value,
    /// The sandbox that it is a fork of.
    pub forked_from: Option<SandboxId>,
}

/// A sandbox as its owner may see it.
#[derive(Clone)]
pub struct SandboxView {
    /// What is recorded of it.
    pub record: SandboxRecord,
    /// What envd asks of its callers.
    pub envd_access_token: String,
    /// What callers of its ports must show, when these are not public.
    pub traffic_access_token: Option<String>,
    /// Domain under which it is reached; clients use their own when absent.
    pub domain: Option<String>,
}

/// Without the tokens.
impl fmt::Debug for SandboxView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxView")
            .field("record", &self.record)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

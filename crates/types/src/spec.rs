//! What is to be run: everything a driver needs to know to create a sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{EgressPolicy, LayerDigest, Limits, SandboxId, TeamId, TemplateId, VolumeMount};

/// What happens when a sandbox reaches its end time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The sandbox is killed.
    Kill,
    /// The sandbox is paused.
    Pause,
}

/// What a sandbox can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The internet over NAT; private ranges, metadata addresses and the host are closed.
    Internet,
    /// Loopback only.
    Offline,
    /// What of the internet a policy leaves open.
    Filtered(EgressPolicy),
}

impl NetworkMode {
    /// Whether there is a network device to the host.
    #[must_use]
    pub fn has_cable(&self) -> bool {
        *self != Self::Offline
    }

    /// The policy, where there is one.
    #[must_use]
    pub fn policy(&self) -> Option<&EgressPolicy> {
        match self {
            Self::Filtered(policy) => Some(policy),
            Self::Internet | Self::Offline => None,
        }
    }
}

/// A template as a driver sees it: immutable layers and the state a command starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateImage {
    /// Which template this is.
    pub template_id: TemplateId,
    /// Its layers, topmost first.
    pub layers: Vec<LayerDigest>,
    /// User that commands run as when the caller names none.
    pub default_user: String,
    /// Working directory of commands; the user's home when absent.
    pub default_workdir: Option<String>,
}

/// One sandbox to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its id; also its host name.
    pub id: SandboxId,
    /// What it starts from.
    pub image: TemplateImage,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: NetworkMode,
    /// Environment of every process, from the create request.
    pub env_vars: BTreeMap<String, String>,
    /// Secret that envd asks of every caller.
    pub envd_access_token: String,
    /// Volumes and where they appear. Records of before there were volumes have none.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Whose it is, where what all of a team have together is bounded. Records of before that have none.
    #[serde(default)]
    pub team: Option<TeamId>,
}

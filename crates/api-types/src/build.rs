//! Builds of templates: request, upload, start, status, logs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::logs::LogLevel;
use crate::present::present;

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BuildStatus {
    /// It runs.
    Building,
    /// It was asked for and not started.
    Waiting,
    /// Sandboxes can be created from it.
    Ready,
    /// It failed.
    Error,
}

/// Body of `POST /v3/templates`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewTemplateBuild {
    /// `[namespace/]alias[:tag]`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(length(max = 128))]
    pub name: Option<String>,
    /// More tags for the build.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub tags: Option<Vec<String>>,
    /// The old word for `name`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(length(max = 128))]
    pub alias: Option<String>,
    /// Only of use to callers with several teams.
    #[serde(
        default,
        rename = "teamID",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub team_id: Option<String>,
    /// Virtual CPUs.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 1))]
    pub cpu_count: Option<i32>,
    /// Memory in MiB.
    #[serde(
        default,
        rename = "memoryMB",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 128))]
    pub memory_mb: Option<i32>,
    /// Free space that must be left after the build, in MiB.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schemars(range(min = 0))]
    pub min_free_disk_mb: Option<i32>,
}

/// What `POST /v3/templates` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateBuildRequested {
    /// The template.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// The new build.
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// Whether other teams may use it.
    pub public: bool,
    /// `namespace/alias`.
    pub names: Vec<String>,
    /// All its tags.
    pub tags: Vec<String>,
    /// Bare aliases.
    pub aliases: Vec<String>,
}

/// One step of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateStep {
    /// `RUN`, `COPY`, `ENV`, `WORKDIR`, `USER`, in any case.
    pub r#type: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Which uploaded files it uses.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub files_hash: Option<String>,
    /// Ignore the cache from here on.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub force: Option<bool>,
}

/// Body of `POST /v2/templates/{templateID}/builds/{buildID}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartTemplateBuild {
    /// Image to start from.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub from_image: Option<String>,
    /// Template to start from.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub from_template: Option<String>,
    /// Dockerfile to build; then there are no steps. SoulBox's own.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub from_dockerfile: Option<FromDockerfile>,
    /// Root file system to start from. SoulBox's own.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub from_rootfs: Option<FromFiles>,
    /// Archive of an image in the OCI layout to start from. SoulBox's own.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub from_archive: Option<FromFiles>,
    /// Credentials for the image's registry; its shape depends on `type`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub from_image_registry: Option<ImageRegistry>,
    /// Ignore the cache.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub force: Option<bool>,
    /// What to do, in order.
    #[serde(default)]
    pub steps: Vec<TemplateStep>,
    /// Command that runs in every sandbox.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub start_cmd: Option<String>,
    /// Command that succeeds when the start command is ready.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub ready_cmd: Option<String>,
}

/// A Dockerfile and what it is built with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromDockerfile {
    /// The file's text.
    pub dockerfile: String,
    /// Uploaded files that COPY and ADD read, by the SHA-256 in hex of their tar before it is compressed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub context_hash: Option<String>,
    /// Values for the file's ARGs, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// Name or number of the stage to build; the last one when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub target: Option<String>,
}

/// Uploaded files that a build starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromFiles {
    /// The name of the upload: a SHA-256 in hex.
    pub files_hash: String,
}

/// Credentials for an image registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ImageRegistry {
    /// Amazon's.
    #[serde(rename_all = "camelCase")]
    Aws {
        /// Key id.
        aws_access_key_id: String,
        /// Secret.
        aws_secret_access_key: String,
        /// Region.
        aws_region: String,
    },
    /// Google's.
    #[serde(rename_all = "camelCase")]
    Gcp {
        /// The account file's text.
        service_account_json: String,
    },
    /// Any other.
    Registry {
        /// Name.
        username: String,
        /// Secret.
        password: String,
    },
}

// Written by hand so that no log ever shows a credential.
impl std::fmt::Debug for ImageRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Aws { .. } => "Aws",
            Self::Gcp { .. } => "Gcp",
            Self::Registry { .. } => "Registry",
        })
    }
}

/// What `GET /templates/{templateID}/files/{hash}` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateFileUpload {
    /// Whether the files are there already.
    pub present: bool,
    /// Where to put them.
    pub url: String,
    /// Headers to send along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
}

/// One line of a build's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildLogEntry {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// What.
    pub message: String,
    /// How bad.
    pub level: LogLevel,
    /// `base`, `finalize`, or the number of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// Why a build failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildStatusReason {
    /// For a person.
    pub message: String,
    /// Which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Lines of that step, warnings and worse.
    #[serde(default)]
    pub log_entries: Vec<BuildLogEntry>,
}

/// What the status endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateBuildInfo {
    /// Always empty: old clients need the key.
    pub logs: Vec<String>,
    /// From the offset that was asked for.
    pub log_entries: Vec<BuildLogEntry>,
    /// The template.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// The build.
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// How far it is.
    pub status: BuildStatus,
    /// Only when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<BuildStatusReason>,
}

/// What the logs endpoint answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateBuildLogs {
    /// The lines.
    pub logs: Vec<BuildLogEntry>,
}

//! Templates: lists, detail, aliases, changes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::build::BuildStatus;
use crate::present::present;

/// Who made something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TeamUser {
    /// Id of the user.
    pub id: String,
    /// Always null here: e-mail addresses are not given out.
    pub email: Option<String>,
}

/// One entry of the lists of templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Its id.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Newest ready build with the tag `default`; zeros when there is none.
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// Virtual CPUs.
    pub cpu_count: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    /// Root file system in MiB.
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u32,
    /// Whether other teams may use it.
    pub public: bool,
    /// Bare aliases.
    pub aliases: Vec<String>,
    /// `namespace/alias`, or the bare alias when it has no namespace.
    pub names: Vec<String>,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When it was changed.
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
    /// Who made it. Required and nullable.
    pub created_by: Option<TeamUser>,
    /// When a sandbox was last created from it. Required and nullable.
    #[schemars(extend("format" = "date-time"))]
    pub last_spawned_at: Option<String>,
    /// Sandboxes created from it.
    pub spawn_count: i64,
    /// Builds it has.
    pub build_count: i32,
    /// envd's version in that build.
    pub envd_version: String,
    /// Status of the newest build with the tag `default`.
    pub build_status: BuildStatus,
    /// Whether it comes with the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_default: Option<bool>,
    /// One line about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// One build in a template's detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateBuild {
    /// Its id.
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// How far it is.
    pub status: BuildStatus,
    /// When it was asked for.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When it last changed.
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub finished_at: Option<String>,
    /// Virtual CPUs.
    pub cpu_count: u32,
    /// Memory in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    /// Root file system in MiB.
    #[serde(
        default,
        rename = "diskSizeMB",
        skip_serializing_if = "Option::is_none"
    )]
    pub disk_size_mb: Option<u32>,
    /// envd's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_version: Option<String>,
    /// SoulBox's own: its semantic version, unique among the builds of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SoulBox's own: content of its own layers, without those that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
}

/// What `GET /templates/{templateID}` answers: the template and a page of its builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateWithBuilds {
    /// The template.
    #[serde(flatten)]
    pub template: Template,
    /// Newest first.
    pub builds: Vec<TemplateBuild>,
}

/// What `GET /templates/aliases/{alias}` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateAlias {
    /// Whom the alias names.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Whether other teams may use it.
    pub public: bool,
}

/// Body of `PATCH` on a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateUpdate {
    /// Whether other teams may use it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub public: Option<bool>,
    /// SoulBox's own: what the template is, at most 1000 characters; an empty text takes it away.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub description: Option<String>,
}

/// What `PATCH /v2/templates/{templateID}` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateUpdated {
    /// Its names.
    pub names: Vec<String>,
}

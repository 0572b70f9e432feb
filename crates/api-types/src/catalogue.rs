//! The catalogue of templates. SoulBox's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry of `GET /template-catalogue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueTemplate {
    /// Its id.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// `namespace/alias`, or the bare alias when it has no namespace.
    pub names: Vec<String>,
    /// What its owner says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The slug of the team that owns it.
    pub author: String,
    /// Its tags that have a ready build.
    pub tags: Vec<String>,
    /// Version of the build in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Content of that build's own layers.
    pub size_bytes: i64,
    /// Sandboxes created from it.
    pub downloads: i64,
    /// Whether other teams may use it.
    pub public: bool,
    /// When it was changed.
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
}

//! Tags of templates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One tag and the build it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateTag {
    /// The tag.
    pub tag: String,
    /// The build.
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// When it was assigned.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
}

/// Body of `POST /templates/tags`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignTags {
    /// `name[:tag]` of the build.
    pub target: String,
    /// Tags to give it.
    pub tags: Vec<String>,
}

/// What `POST /templates/tags` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignedTags {
    /// The tags, in lower case and once each.
    pub tags: Vec<String>,
    /// The build.
    #[serde(rename = "buildID")]
    pub build_id: String,
}

/// Body of `DELETE /templates/tags`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteTags {
    /// The template.
    pub name: String,
    /// Tags to remove.
    pub tags: Vec<String>,
}

/// What `…/tags/count` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TagsCount {
    /// Different tags that have a ready build.
    pub total: i64,
}

/// What `…/tags/exists` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagExists {
    /// Whether a ready build has it.
    pub exists: bool,
    /// The tag as stored.
    pub normalized_tag: String,
}

/// That a tag was given to a build. Ids end in `Id` here, unlike elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagAssignment {
    /// Its own id.
    pub assignment_id: String,
    /// The build.
    pub build_id: String,
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub assigned_at: String,
    /// When the build was asked for.
    #[schemars(extend("format" = "date-time"))]
    pub build_created_at: String,
    /// When it ended. Required and nullable.
    #[schemars(extend("format" = "date-time"))]
    pub build_finished_at: Option<String>,
}

/// What `…/tags/{tag}/assignments` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagAssignments {
    /// Newest first.
    pub data: Vec<TagAssignment>,
    /// For the next page. Required and nullable.
    pub next_cursor: Option<String>,
}

/// One tag with its newest assignments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagGroup {
    /// The tag.
    pub tag: String,
    /// Newest first.
    pub assignments: Vec<TagAssignment>,
    /// Whether there are more than shown.
    pub has_more: bool,
}

/// What `…/tags/groups` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TagGroups {
    /// In the order that was asked for.
    pub tags: Vec<TagGroup>,
    /// For the next page. Required and nullable.
    pub next_cursor: Option<String>,
}

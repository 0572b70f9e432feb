//! Teams and their API keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::template::TeamUser;

/// One entry of `GET /teams`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Team {
    /// Its id.
    #[serde(rename = "teamID")]
    pub team_id: String,
    /// Its name.
    pub name: String,
    /// A key that acts for it.
    pub api_key: String,
    /// Whether it is the one to use when none is named.
    pub is_default: bool,
}

// Written by hand so that no log ever shows the key.
impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team")
            .field("team_id", &self.team_id)
            .finish_non_exhaustive()
    }
}

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyMask {
    /// `e2b_`.
    pub prefix: String,
    /// Length of what follows.
    pub value_length: i32,
    /// Its first characters.
    pub masked_value_prefix: String,
    /// Its last characters.
    pub masked_value_suffix: String,
}

/// An API key without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamApiKey {
    /// Id of its record.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What may be shown.
    pub mask: KeyMask,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// Who made it. Nullable.
    pub created_by: Option<TeamUser>,
    /// When it last was used. Nullable.
    #[schemars(extend("format" = "date-time"))]
    pub last_used: Option<String>,
}

/// A new API key, with the key: shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedTeamApiKey {
    /// The record.
    #[serde(flatten)]
    pub record: TeamApiKey,
    /// The key itself.
    pub key: String,
}

// Written by hand so that no log ever shows the key.
impl std::fmt::Debug for CreatedTeamApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedTeamApiKey")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// Body of the requests that make or rename a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKeyName {
    /// The name.
    pub name: String,
}

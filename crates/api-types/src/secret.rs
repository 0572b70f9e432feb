//! Secrets. A value goes in and never comes out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::present::present;

/// Body of `POST /secrets`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewSecret {
    /// 1 to 128 of `[a-zA-Z0-9_-]`.
    #[schemars(regex(pattern = "^[a-zA-Z0-9_-]{1,128}$"))]
    pub name: String,
    /// The secret.
    pub value: String,
    /// The caller's own keys and values.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub metadata: Option<BTreeMap<String, String>>,
}

// Written by hand so that no log ever shows the value.
impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSecret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Body of `POST /secrets/{secretID}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretUpdate {
    /// The secret.
    pub value: String,
    /// Absent: as before.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub metadata: Option<BTreeMap<String, String>>,
}

// Written by hand so that no log ever shows the value.
impl std::fmt::Debug for SecretUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretUpdate").finish_non_exhaustive()
    }
}

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// `sec_…`.
    #[serde(rename = "secretID")]
    pub secret_id: String,
    /// Its name.
    pub name: String,
    /// Counts up with each value.
    pub current_version: i64,
    /// Always there, maybe empty.
    pub metadata: BTreeMap<String, String>,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When its value last changed.
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
}

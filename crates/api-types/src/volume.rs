//! Volumes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewVolume {
    /// `[a-zA-Z0-9_-]+`.
    #[schemars(regex(pattern = "^[a-zA-Z0-9_-]+$"))]
    pub name: String,
}

/// One entry of `GET /volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Its id.
    #[serde(rename = "volumeID")]
    pub volume_id: String,
    /// Its name.
    pub name: String,
}

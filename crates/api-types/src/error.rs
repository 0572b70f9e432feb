//! The one error body of the control plane.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What every answer with a status of 400 or more carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// The HTTP status again: several clients look only here.
    pub code: u16,
    /// What went wrong, for a person.
    pub message: String,
    /// What went wrong, for a program. An open set of snake-case words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

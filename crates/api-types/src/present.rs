//! Optional but not nullable: a key that may be missing, yet when it is there must hold a value.
//!
//! Serde's own `Option` takes `null` for "missing", which the contract forbids for most fields.

use serde::{Deserialize, Deserializer};

/// For `#[serde(default, deserialize_with = "present")]`: `null` is a type error.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

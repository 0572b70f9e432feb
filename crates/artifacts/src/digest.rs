//! What is learnt while a layer is hashed.

use serde::{Deserialize, Serialize};
pub use soulbox_types::LayerDigest;

/// What was learnt while a layer was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFacts {
    /// Its name.
    pub digest: LayerDigest,
    /// Files, directories, links and so on.
    pub entries: u64,
    /// Sum of the sizes of regular files; one that has several names counts once.
    pub content_bytes: u64,
}

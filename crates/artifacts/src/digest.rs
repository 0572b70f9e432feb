//! The name of a layer: a hash of everything in it that a sandbox can see.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// BLAKE3 over the canonical listing of a layer (see [`crate::tree`]), written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerDigest([u8; 32]);

/// What was learnt while a layer was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFacts {
    /// Its name.
    pub digest: LayerDigest,
    /// Files, directories, links and so on.
    pub entries: u64,
    /// Sum of the sizes of regular files.
    pub content_bytes: u64,
}

/// A text that is no layer digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a layer digest is 64 lower-case hexadecimal digits")]
pub struct InvalidDigest;

impl From<blake3::Hash> for LayerDigest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl FromStr for LayerDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        // One text per digest: it is a directory name.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidDigest);
        }
        blake3::Hash::from_hex(text)
            .map(Self::from)
            .map_err(|_| InvalidDigest)
    }
}

impl TryFrom<String> for LayerDigest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<LayerDigest> for String {
    fn from(digest: LayerDigest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for LayerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LayerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerDigest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let digest = LayerDigest([0xab; 32]);
        assert_eq!(digest.to_string(), "ab".repeat(32));
        assert_eq!("ab".repeat(32).parse(), Ok(digest));
        for bad in [
            "",
            "ab",
            &"AB".repeat(32),
            &"zz".repeat(32),
            &format!("{}/", "ab".repeat(32)),
        ] {
            assert_eq!(bad.parse::<LayerDigest>(), Err(InvalidDigest), "{bad}");
        }
    }
}

//! The name of a layer: a hash of everything in it that a sandbox can see.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 32 bytes of BLAKE3 over the canonical listing of a layer, written as 64 lower-case hexadecimal digits. The text is
/// the name of a directory, so there is one text per digest, and it can be nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerDigest([u8; 32]);

/// A text that is no layer digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a layer digest is 64 lower-case hexadecimal digits")]
pub struct InvalidDigest;

impl LayerDigest {
    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Stacks of layers that grow are kept about this short: from here on, many become one.
pub const TALL_STACK: usize = 48;

/// Puts a layer on top of a stack, topmost first. A stack that has it already, deeper down, needs it there no more: whatever
/// the lower one does to those below it, the upper one does, too. Returns where it was.
pub fn lay(stack: &mut Vec<LayerDigest>, layer: LayerDigest) -> Option<usize> {
    let was = stack.iter().position(|known| *known == layer);
    if let Some(at) = was {
        stack.remove(at);
    }
    stack.insert(0, layer);
    was
}

impl FromStr for LayerDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(InvalidDigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = pair.iter().try_fold(0, |byte, digit| {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(InvalidDigest),
                };
                Ok(byte << 4 | value)
            })?;
        }
        Ok(Self(bytes))
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
            "..",
            &"AB".repeat(32),
            &"zz".repeat(32),
            &"é".repeat(32),
            &format!("{}/", "ab".repeat(32)),
        ] {
            assert_eq!(bad.parse::<LayerDigest>(), Err(InvalidDigest), "{bad}");
        }
    }
}

//! The operator's secret.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Held as a hash, so that a comparison takes the same time for every guess, whatever its length.
#[derive(Clone)]
pub struct AdminToken([u8; 32]);

impl AdminToken {
    /// The token with this text. None for an empty text, which would let everybody in.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(Sha256::digest(text).into()))
    }

    /// Whether this is the token.
    pub(crate) fn matches(&self, guess: &[u8]) -> bool {
        let guess: [u8; 32] = Sha256::digest(guess).into();
        self.0.ct_eq(&guess).into()
    }
}

/// Without the hash.
impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_matches() {
        let token = AdminToken::new("secret").unwrap();
        assert!(token.matches(b"secret"));
        for guess in [&b"secre"[..], b"secret ", b"", b"SECRET"] {
            assert!(!token.matches(guess));
        }
        assert!(AdminToken::new("").is_none());
        assert!(!format!("{token:?}").contains("secret"));
    }
}

//! How secrets are named.
//!
//! A selector names a secret by its id or by its name. Both are read here once, so that a placeholder in a rule and a path
//! of the API mean the same secret.

use std::fmt;

use crate::SecretId;

const LONGEST_NAME: usize = 128;
/// What all ids begin with, and no name.
pub const ID_PREFIX: &str = "sec_";

/// The name of a secret, in the one form that is compared: lower case, without space around it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl SecretName {
    /// Reads a name as callers write it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.trim().to_ascii_lowercase();
        let usual = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits = (1..=LONGEST_NAME).contains(&name.len())
            && name.bytes().all(usual)
            && !name.starts_with(ID_PREFIX);
        fits.then_some(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which secret of a team is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSelector {
    /// The one with this id.
    Id(SecretId),
    /// The one with this name.
    Name(SecretName),
}

impl SecretSelector {
    /// Reads an id or a name. What begins like an id is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text.starts_with(ID_PREFIX) {
            text.parse().ok().map(Self::Id)
        } else {
            SecretName::parse(&text).map(Self::Name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for (text, want) in [
            (" OpenAI_key-1 ", Some("openai_key-1")),
            ("a", Some("a")),
            ("", None),
            (" ", None),
            ("a b", None),
            ("a.b", None),
            ("ä", None),
            ("a}", None),
            ("Sec_x", None),
            ("sec-x", Some("sec-x")),
        ] {
            let name = SecretName::parse(text);
            assert_eq!(name.as_ref().map(SecretName::as_str), want, "{text:?}");
        }
        assert!(SecretName::parse(&"a".repeat(128)).is_some());
        assert!(SecretName::parse(&"a".repeat(129)).is_none());
    }

    #[test]
    fn what_begins_like_an_id_is_one() {
        let id = SecretId::random();
        let shouted = format!(" {} ", id.as_str().to_uppercase());
        assert_eq!(
            SecretSelector::parse(&shouted),
            Some(SecretSelector::Id(id))
        );
        assert_eq!(SecretSelector::parse("SEC_../x"), None);
        assert!(matches!(
            SecretSelector::parse("x"),
            Some(SecretSelector::Name(_))
        ));
    }
}

//! Identifiers, parsed once and typed ever after.
//!
//! Formats are the wire's: a sandbox id is `i` and 20 characters of `[a-z0-9]`, so that it can stand in a host name;
//! a template id is 20 such characters; everything else is a UUID.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The text is not a valid id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind}")]
pub struct InvalidId {
    /// What was expected, for example `sandbox ID`.
    pub kind: &'static str,
}

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Returns `n` random characters of `[a-z0-9]`.
///
/// # Panics
/// If the operating system gives no randomness, which no caller could act on.
#[must_use]
pub fn random_label(n: usize) -> String {
    let mut out = String::with_capacity(n);
    let mut bytes = [0u8; 64];
    while out.len() < n {
        getrandom::fill(&mut bytes).expect("the operating system provides randomness");
        // 252 is the largest multiple of 36 below 256: the rest is thrown away so that no letter is likelier.
        out.extend(
            bytes
                .iter()
                .filter(|b| **b < 252)
                .take(n - out.len())
                .map(|b| char::from(ALPHABET[usize::from(*b % 36)])),
        );
    }
    out
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn random_uuid() -> String {
    let mut b = [0u8; 16];
    getrandom::fill(&mut b).expect("the operating system provides randomness");
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:expr, $random:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Makes a new, random id.
            #[must_use]
            pub fn random() -> Self {
                Self($random)
            }

            /// The id as text, as it stands on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidId { kind: $kind }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// One sandbox. Kept over pause and resume.
    SandboxId, "sandbox ID", is_label, format!("i{}", random_label(20))
);
id_type!(
    /// A template, or a snapshot used as one.
    TemplateId, "template ID", is_label, random_label(20)
);
id_type!(
    /// One build of a template.
    BuildId, "build ID", is_uuid, random_uuid()
);
id_type!(
    /// The owner of every row.
    TeamId, "team ID", is_uuid, random_uuid()
);
id_type!(
    /// An API key's record (never the key itself).
    ApiKeyId, "API key ID", is_uuid, random_uuid()
);
id_type!(
    /// One run of a sandbox, from start to stop.
    ExecutionId, "execution ID", is_uuid, random_uuid()
);

id_type!(
    /// Memory of a sandbox on disk, as it was at one moment.
    MemoryId, "memory ID", is_uuid, random_uuid()
);
id_type!(
    /// A volume: files that outlive sandboxes.
    VolumeId, "volume ID", is_uuid, random_uuid()
);
id_type!(
    /// Something that has happened to a sandbox.
    EventId, "event ID", is_uuid, random_uuid()
);
id_type!(
    /// An address that is told of events.
    WebhookId, "webhook ID", is_uuid, random_uuid()
);
id_type!(
    /// One event for one webhook; the same over all tries.
    DeliveryId, "delivery ID", is_uuid, random_uuid()
);

id_type!(
    /// A value that sandboxes may use and nobody may read.
    SecretId, "secret ID",
    |text| text.strip_prefix("sec_").is_some_and(is_label),
    format!("sec_{}", random_label(20))
);

impl SandboxId {
    /// Reads an id as clients may send it: `<id>` or the old `<id>-<clientID>`, whose suffix is dropped.
    ///
    /// # Errors
    /// When more than one dash or a character outside `[a-z0-9]` is found.
    pub fn parse_lenient(text: &str) -> Result<Self, InvalidId> {
        let mut parts = text.split('-');
        let id = parts.next().unwrap_or_default();
        let suffix_ok = parts.next().is_none_or(is_label) && parts.next().is_none();
        if suffix_ok {
            id.parse()
        } else {
            Err(InvalidId { kind: "sandbox ID" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse() {
        for _ in 0..100 {
            let id = SandboxId::random();
            assert_eq!(id.as_str().len(), 21);
            assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
        }
        assert!(TeamId::random().as_str().parse::<TeamId>().is_ok());
        assert_eq!(TemplateId::random().as_str().len(), 20);
    }

    #[test]
    fn lenient_sandbox_ids() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(
                SandboxId::parse_lenient(text)
                    .ok()
                    .as_ref()
                    .map(SandboxId::as_str),
                want,
                "{text}"
            );
        };
        check("iabc", Some("iabc"));
        check("iabc-6532622b", Some("iabc"));
        check("iabc-1-2", None);
        check("IABC", None);
        check("i/../x", None);
        check("", None);
        check("-x", None);
    }
}

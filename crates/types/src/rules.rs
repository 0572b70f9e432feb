//! Header rules of one sandbox: which requests get which headers, and what they are made of.
//!
//! A rule names a secret and never holds one: what stands in the place of a placeholder is looked up for each request, by
//! whoever sends it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DomainPattern, SecretName, TeamId};

/// Domains of one sandbox.
pub const MOST_DOMAINS: usize = 10;
/// Headers of one domain.
pub const MOST_HEADERS: usize = 20;
const PLACEHOLDER: &str = "${e2b.";

/// The rules of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderRules {
    /// Whose secrets they mean.
    pub team: TeamId,
    /// Who vouches for the domains inside of the sandbox.
    pub authority: Authority,
    /// One for each domain.
    pub list: Vec<HeaderRule>,
}

/// A certificate authority that one sandbox trusts, for the domains of its rules.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its name; certificates that it signs bear it.
    pub name: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, sealed: only the server can use it.
    pub sealed_key: String,
}

/// What requests to one domain get.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderRule {
    /// Which requests.
    pub domain: DomainPattern,
    /// Names of headers in lower case, and the templates of their values.
    pub headers: Vec<(String, String)>,
}

// Written by hand so that no log ever shows the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// Written by hand: who does not use placeholders has the secret in the rule itself.
impl fmt::Debug for HeaderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderRule")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// A piece of a header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// As it stands.
    Literal(&'a str),
    /// The value of this secret.
    Secret(SecretName),
    /// A token of the sandbox's identity.
    Token(&'a str),
}

/// A text that begins like a placeholder and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed placeholder")]
pub struct Malformed;

/// Reads the template of a header's value.
///
/// # Errors
/// When it holds something that begins like a placeholder and is none.
pub fn parts(template: &str) -> Result<Vec<Part<'_>>, Malformed> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once(PLACEHOLDER) {
        if !before.is_empty() {
            parts.push(Part::Literal(before));
        }
        let (inner, behind) = after.split_once('}').ok_or(Malformed)?;
        parts.push(placeholder(inner).ok_or(Malformed)?);
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest));
    }
    Ok(parts)
}

fn placeholder(inner: &str) -> Option<Part<'_>> {
    if let Some(name) = inner.strip_prefix("secrets.") {
        return SecretName::parse(name).map(Part::Secret);
    }
    let name = inner.strip_prefix("identity.tokens.")?;
    (!name.is_empty()).then_some(Part::Token(name))
}

impl HeaderRules {
    /// The rule for a name in its canonical form: that of the name itself, else that of the longest wildcard.
    #[must_use]
    pub fn of_name(&self, name: &str) -> Option<&HeaderRule> {
        let length = |rule: &&HeaderRule| match &rule.domain {
            DomainPattern::Exactly(_) => usize::MAX,
            DomainPattern::Below(parent) => parent.len(),
            DomainPattern::Any => 0,
        };
        let matching = self.list.iter().filter(|rule| rule.domain.matches(name));
        matching.max_by_key(length)
    }

    /// Whether they are of a size that is accepted.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.list.len() <= MOST_DOMAINS
            && self
                .list
                .iter()
                .all(|rule| rule.headers.len() <= MOST_HEADERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_parts() {
        let secret = |name| Part::Secret(SecretName::parse(name).unwrap());
        for (template, want) in [
            ("", vec![]),
            ("plain $x ${x}", vec![Part::Literal("plain $x ${x}")]),
            ("${e2b.secrets. My-Key }", vec![secret("my-key")]),
            (
                "Bearer ${e2b.secrets.a}:${e2b.secrets.b}!",
                vec![
                    Part::Literal("Bearer "),
                    secret("a"),
                    Part::Literal(":"),
                    secret("b"),
                    Part::Literal("!"),
                ],
            ),
            ("${e2b.identity.tokens.aws}", vec![Part::Token("aws")]),
        ] {
            assert_eq!(parts(template), Ok(want), "{template}");
        }
        for wrong in [
            "${e2b.",
            "${e2b.secrets.x",
            "${e2b.secrets.}",
            "${e2b.secrets.a b}",
            "${e2b.other.x}",
            "${e2b.identity.tokens.}",
        ] {
            assert_eq!(parts(wrong), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn the_nearest_rule_counts() {
        let rule = |domain| HeaderRule {
            domain: DomainPattern::parse(domain).unwrap(),
            headers: vec![("x-key".into(), "hidden".into())],
        };
        let rules = HeaderRules {
            team: TeamId::random(),
            authority: Authority {
                name: "n".into(),
                certificate: "c".into(),
                sealed_key: "hidden".into(),
            },
            list: ["*.b.c", "*.c", "x.b.c"].map(rule).into(),
        };
        let found = |name| rules.of_name(name).map(|rule| rule.domain.to_string());
        for (name, want) in [
            ("x.b.c", Some("x.b.c")),
            ("y.b.c", Some("*.b.c")),
            ("z.x.b.c", Some("*.b.c")),
            ("b.c", Some("*.c")),
            ("c", None),
            ("xb.d", None),
        ] {
            assert_eq!(found(name).as_deref(), want, "{name}");
        }
        assert!(!format!("{rules:?}").contains("hidden"));
    }
}

//! How a caller names a template: `[namespace/]alias[:tag]`, an id in place of the alias, a build id in place of the tag.
//!
//! One parser for every request that takes a template, so that no handler has its own idea of what is allowed.
//! The texts of the errors are the wire's; handlers put their own words before them.

use std::fmt;
use std::str::FromStr;

use crate::id::BuildId;

/// The tag that is meant when none is given.
pub const DEFAULT_TAG: &str = "default";

/// A parsed reference to a template. Every part is trimmed and lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TemplateRef {
    /// Owner's name, when the caller gave one.
    pub namespace: Option<String>,
    /// Alias or template id; which of the two only resolution can tell.
    pub alias_or_id: String,
    /// Tag or build id; absent also when `default` was spelled out.
    pub tag: Option<String>,
}

/// Why a text names no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplateRef {
    /// The part after the colon.
    #[error("invalid tag: {0}")]
    Tag(String),
    /// The part before the slash.
    #[error("invalid namespace: {0}")]
    Namespace(String),
    /// The name itself.
    #[error("invalid template ID: {0}")]
    Name(String),
}

impl TemplateRef {
    /// The reference without its tag, as messages show it: `alias` or `namespace/alias`.
    #[must_use]
    pub fn identifier(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.alias_or_id),
            None => self.alias_or_id.clone(),
        }
    }

    /// The tag to look for: the given one or `default`.
    #[must_use]
    pub fn tag_or_default(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }

    /// The build that the tag position names, when it holds a build id instead of a tag.
    #[must_use]
    pub fn build_id(&self) -> Option<BuildId> {
        self.tag.as_deref().and_then(|tag| tag.parse().ok())
    }
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identifier())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

impl FromStr for TemplateRef {
    type Err = InvalidTemplateRef;

    fn from_str(text: &str) -> Result<Self, InvalidTemplateRef> {
        let (identifier, raw_tag) = match text.trim().split_once(':') {
            Some((identifier, tag)) => (identifier, Some(tag)),
            None => (text, None),
        };
        let tag = match raw_tag {
            Some(raw) => Some(parse_tag(raw)?).filter(|tag| tag != DEFAULT_TAG),
            None => None,
        };
        let (raw_namespace, raw_name) = match identifier.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, identifier),
        };
        let namespace = match raw_namespace {
            Some(raw) => Some(
                clean(raw, is_name_byte)
                    .ok_or_else(|| InvalidTemplateRef::Namespace(raw.trim().into()))?,
            ),
            None => None,
        };
        let alias_or_id = clean(raw_name, is_name_byte)
            .ok_or_else(|| InvalidTemplateRef::Name(raw_name.trim().into()))?;
        Ok(Self {
            namespace,
            alias_or_id,
            tag,
        })
    }
}

/// Reads a tag (or a build id in its place): trimmed, lower-case, `[a-z0-9-_.]+`.
///
/// # Errors
/// When another character is found, or none.
pub fn parse_tag(raw: &str) -> Result<String, InvalidTemplateRef> {
    clean(raw, |b| is_name_byte(b) || b == b'.')
        .ok_or_else(|| InvalidTemplateRef::Tag(raw.trim().into()))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
}

fn clean(raw: &str, allowed: impl Fn(u8) -> bool) -> Option<String> {
    let text = raw.trim().to_lowercase();
    (!text.is_empty() && text.bytes().all(allowed)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<(Option<&str>, &str, Option<&str>), &str>) {
        let got = text.parse::<TemplateRef>();
        match (&got, want) {
            (Ok(r), Ok((namespace, name, tag))) => {
                let got = (
                    r.namespace.as_deref(),
                    r.alias_or_id.as_str(),
                    r.tag.as_deref(),
                );
                assert_eq!(got, (namespace, name, tag), "{text:?}");
            }
            (Err(error), Err(message)) => assert_eq!(error.to_string(), message, "{text:?}"),
            _ => panic!("{text:?}: got {got:?}, wanted {want:?}"),
        }
    }

    #[test]
    fn references() {
        check("base", Ok((None, "base", None)));
        check(" My-T : V1 ", Ok((None, "my-t", Some("v1"))));
        check("base:default", Ok((None, "base", None)));
        check("base: Default ", Ok((None, "base", None)));
        check(
            "Team/alias_1:v1.2",
            Ok((Some("team"), "alias_1", Some("v1.2"))),
        );
        check(" team / alias ", Ok((Some("team"), "alias", None)));
    }

    #[test]
    fn bad_references() {
        check("name:", Err("invalid tag: "));
        check(":x", Err("invalid template ID: "));
        check("", Err("invalid template ID: "));
        check("a/b/c", Err("invalid template ID: b/c"));
        check("/b", Err("invalid namespace: "));
        check("a b", Err("invalid template ID: a b"));
        check("a:b:c", Err("invalid tag: b:c"));
        check("é", Err("invalid template ID: é"));
        // The tag is judged first, then the namespace, then the name.
        check("A!/B!:C!", Err("invalid tag: C!"));
        check("A!/B!", Err("invalid namespace: A!"));
    }

    #[test]
    fn tag_may_be_a_build() {
        let id = BuildId::random();
        let reference: TemplateRef = format!("base:{id}").parse().unwrap();
        assert_eq!(reference.build_id(), Some(id));
        assert_eq!("base:v1".parse::<TemplateRef>().unwrap().build_id(), None);
    }

    #[test]
    fn shown_as_given() {
        let shown = |text: &str| text.parse::<TemplateRef>().unwrap().to_string();
        assert_eq!(shown("A/b:V"), "a/b:v");
        assert_eq!(shown("b:default"), "b");
    }
}

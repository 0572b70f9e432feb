//! Ids and names: what is read can be written and read again.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use soulbox_types::name::{TemplateRef, parse_tag};
use soulbox_types::{
    ApiKeyId, BuildId, ExecutionId, LayerDigest, SandboxId, TeamId, TemplateId, Timestamp,
};

/// Input: a text.
pub(crate) fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    round_trip::<SandboxId>(text);
    round_trip::<TemplateId>(text);
    round_trip::<BuildId>(text);
    round_trip::<TeamId>(text);
    round_trip::<ApiKeyId>(text);
    round_trip::<ExecutionId>(text);
    round_trip::<LayerDigest>(text);
    let strict = text.parse::<SandboxId>();
    let lenient = SandboxId::parse_lenient(text);
    if let Ok(id) = &strict {
        assert_eq!(lenient.as_ref(), Ok(id), "what is strict is lenient too");
    }
    if let Ok(id) = lenient {
        // It may stand in host names and file names.
        assert!(
            id.as_str()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        );
        assert!((1..=63).contains(&id.as_str().len()));
        assert!(text == id.as_str() || text.starts_with(&format!("{id}-")));
    }
    if let Some(moment) = Timestamp::parse_rfc3339(text) {
        assert_eq!(Timestamp::parse_rfc3339(&moment.to_string()), Some(moment));
    }
}

/// As text and as JSON; both accept the same.
fn round_trip<T>(text: &str)
where
    T: FromStr + Display + Debug + PartialEq + Serialize + DeserializeOwned,
    T::Err: Debug,
{
    let json: Result<T, _> = serde_json::from_value(text.into());
    match text.parse::<T>() {
        Ok(id) => {
            assert_eq!(id.to_string(), text);
            let written = serde_json::to_value(&id).expect("an id is a text");
            assert_eq!(written, text);
            assert_eq!(json.expect("what parses is JSON too"), id);
        }
        Err(_) => assert!(json.is_err(), "JSON takes what the text does not: {text:?}"),
    }
}

/// Input: a reference to a template, or a tag.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = text.parse::<TemplateRef>() {
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
        assert_eq!(text.to_ascii_uppercase().parse().as_ref(), Ok(&reference));
        assert_eq!(format!(" {text} ").parse().as_ref(), Ok(&reference));
        assert!(!reference.alias_or_id.is_empty());
        assert!(
            !reference
                .to_string()
                .contains(['%', '\0', '\\', '.'].as_slice())
                || reference.tag.is_some()
        );
    }
    if let Ok(tag) = parse_tag(text) {
        assert_eq!(parse_tag(&tag).as_ref(), Ok(&tag));
        assert!(!tag.contains(['/', ':']));
    }
}

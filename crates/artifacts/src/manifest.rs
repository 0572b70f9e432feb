//! The file that says what a template is made of. Small, checksummed, written last.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use soulbox_types::{Limits, Timestamp};

use crate::digest::LayerDigest;

/// What a template is: immutable layers, and what a sandbox made of it starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateManifest {
    /// Its name: file name of the manifest and alias of the template.
    pub name: String,
    /// Its layers, topmost first.
    pub layers: Vec<LayerDigest>,
    /// User that commands run as when the caller names none.
    pub default_user: String,
    /// Working directory of commands; the user's home when absent.
    pub default_workdir: Option<String>,
    /// What a sandbox of it may use.
    pub limits: Limits,
    /// When it was built.
    pub created_at: Timestamp,
    /// Distribution and release, for people: `debian 13 (trixie)`.
    pub distribution: String,
    /// Machine architecture, as Rust names it: `x86_64`.
    pub architecture: String,
    /// Which recipe built it; another recipe means that a rebuild would differ.
    pub recipe: String,
    /// Entries of all layers.
    pub entries: u64,
    /// Bytes of file content of all layers.
    pub size_bytes: u64,
    /// Distribution packages inside, `name=version`, sorted.
    pub packages: Vec<String>,
}

/// Version of the file format. A reader refuses what it does not know.
const FORMAT: u64 = 1;

/// Wraps a value for storing: `{"format": 1, "checksum": …, <key>: value}`.
pub(crate) fn seal<T: Serialize>(key: &str, value: &T) -> Vec<u8> {
    let body = serde_json::to_value(value)
        .expect("our own types have string keys and no failing serializers");
    let document = serde_json::json!({ "format": FORMAT, "checksum": checksum(&body), key: body });
    let mut bytes = serde_json::to_vec_pretty(&document).expect("a JSON value can be written");
    bytes.push(b'\n');
    bytes
}

/// The reverse of [`seal`]; the error says why the file is not believed.
pub(crate) fn open<T: for<'de> Deserialize<'de>>(key: &str, bytes: &[u8]) -> Result<T, String> {
    let mut document: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if document.get("format").and_then(Value::as_u64) != Some(FORMAT) {
        return Err("its format is not known to this version of soulbox".into());
    }
    let body = document
        .get_mut(key)
        .map(Value::take)
        .ok_or_else(|| format!("it has no {key}"))?;
    if document.get("checksum").and_then(Value::as_str) != Some(&checksum(&body)) {
        return Err("its checksum does not match".into());
    }
    serde_json::from_value(body).map_err(|e| e.to_string())
}

/// Independent of white space and of the order of keys, so that a hand that only looks does no harm.
fn checksum(body: &Value) -> String {
    let mut text = String::new();
    canonical(body, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in entries {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Whether a name may be a file name of ours and an alias on the wire.
pub(crate) fn is_valid_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TemplateManifest {
        TemplateManifest {
            name: "base".into(),
            layers: vec!["ab".repeat(32).parse().unwrap()],
            default_user: "user".into(),
            default_workdir: None,
            limits: Limits::STANDARD,
            created_at: Timestamp(1_700_000_000_000_000),
            distribution: "debian 13 (trixie)".into(),
            architecture: "x86_64".into(),
            recipe: "r".into(),
            entries: 3,
            size_bytes: 4,
            packages: vec!["bash=5.2".into()],
        }
    }

    #[test]
    fn round_trip() {
        let bytes = seal("template", &sample());
        assert_eq!(open::<TemplateManifest>("template", &bytes), Ok(sample()));
    }

    #[test]
    fn layout_does_not_matter_content_does() {
        let text = String::from_utf8(seal("template", &sample())).unwrap();
        let compact: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            open::<TemplateManifest>("template", compact.to_string().as_bytes()),
            Ok(sample())
        );
        let tampered = text.replace("\"user\"", "\"root\"");
        assert_eq!(
            open::<TemplateManifest>("template", tampered.as_bytes()),
            Err("its checksum does not match".into())
        );
        let newer = text.replace("\"format\": 1", "\"format\": 2");
        assert!(
            open::<TemplateManifest>("template", newer.as_bytes())
                .unwrap_err()
                .contains("format")
        );
        for half in [0, 1, text.len() / 2, text.len() - 3] {
            assert!(
                open::<TemplateManifest>("template", &text.as_bytes()[..half]).is_err(),
                "{half}"
            );
        }
        assert_eq!(
            open::<TemplateManifest>("marker", text.as_bytes()),
            Err("it has no marker".into())
        );
    }

    #[test]
    fn names() {
        for good in ["base", "my-template_2"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "..", "a/b", "A", "a.json", "a b", &"x".repeat(129)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}

//! JSON as the schema has it: an object is an object, a word is a word.
//!
//! What serde derives reads more than that: it takes `["base"]` for an object whose first field is `"base"`, and
//! `{"ready": null}` for the word `"ready"`. This stands between `serde_json` and the derived code, at every depth,
//! and asks for maps where structs are read and for texts where words are. Nothing is copied on the way.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer,
    MapAccess, SeqAccess, Visitor,
};

/// Reads one value and nothing after it.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    // What is skipped is not looked at closely, and would hide bytes that are no text (RFC 8259 §8.1).
    let text = std::str::from_utf8(bytes).map_err(Error::custom)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Strict(&mut json))?;
    json.end()?;
    Ok(value)
}

/// A deserializer, visitor, seed or access whose inner values are read strictly too.
struct Strict<T>(T);

macro_rules! pass_on {
    ($($method:ident($($argument:ident: $kind:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Strict(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_f32() deserialize_f64()
        deserialize_char() deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_option() deserialize_unit() deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str) deserialize_seq() deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize) deserialize_map() deserialize_identifier()
        deserialize_ignored_any()
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Strict(visitor))
    }

    /// The wire's enums are words. Those with content are read as maps before they get here.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let word: StringDeserializer<D::Error> = String::deserialize(self.0)?.into_deserializer();
        visitor.visit_enum(word)
    }
}

macro_rules! hand_over {
    ($($method:ident: $kind:ty,)*) => {$(
        fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.0.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    hand_over! {
        visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64,
        visit_char: char, visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(entries))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(inner))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use soulbox_api_types::admin::NodeStatusChange;
    use soulbox_api_types::build::StartTemplateBuild;
    use soulbox_api_types::network::SandboxNetworkUpdate;
    use soulbox_api_types::sandbox::{NewSandbox, PauseSandbox};

    use super::*;

    fn reads<T: DeserializeOwned>(json: &str) -> bool {
        from_slice::<T>(json.as_bytes()).is_ok()
    }

    #[test]
    fn lists_are_no_objects() {
        for json in [
            r#"["base"]"#,
            r#"{"templateID": "base", "network": []}"#,
            r#"{"templateID": "base", "autoResume": [true]}"#,
            r#"{"templateID": "base", "volumeMounts": [["v", "/v"]]}"#,
            r#"{"templateID": "base", "network": {"egressProxy": ["h:1"]}}"#,
            r#"{"templateID": "base", "iam": {"tokens": {"t": ["a", "JWT-SVID"]}}}"#,
        ] {
            assert!(serde_json::from_str::<NewSandbox>(json).is_ok(), "{json}");
            assert!(!reads::<NewSandbox>(json), "{json}");
        }
        assert!(!reads::<PauseSandbox>("[]"));
        assert!(!reads::<SandboxNetworkUpdate>(
            r#"{"rules": {"a.b": [[]]}}"#
        ));
    }

    #[test]
    fn skipped_values_are_text_too() {
        let body = b"{\"unknown\": \"\xff\"}";
        assert!(serde_json::from_slice::<PauseSandbox>(body).is_ok());
        assert!(from_slice::<PauseSandbox>(body).is_err());
    }

    #[test]
    fn words_are_texts() {
        assert!(reads::<NodeStatusChange>(r#"{"status": "ready"}"#));
        for json in [
            r#"{"status": {"ready": null}}"#,
            r#"{"status": 0}"#,
            r#"{"status": "x"}"#,
        ] {
            assert!(!reads::<NodeStatusChange>(json), "{json}");
        }
    }

    #[test]
    fn everything_else_reads_as_before() {
        for json in [
            r#"{"templateID": "base"}"#,
            r#"{"templateID": "b", "timeout": 5, "secure": true, "metadata": {"a": "b"}, "mcp": {"x": [1, {"y": null}]},
                "network": {"allowOut": [], "rules": {"a.b": [{"transform": {"headers": {"k": "v"}}}]}},
                "volumeMounts": [{"name": "v", "path": "/v"}], "unknown": [[{}]]}"#,
        ] {
            let plain: NewSandbox = serde_json::from_str(json).unwrap();
            assert_eq!(from_slice::<NewSandbox>(json.as_bytes()).unwrap(), plain);
        }
        assert!(reads::<StartTemplateBuild>(
            r#"{"steps": [{"type": "RUN", "args": ["x"]}], "fromImageRegistry": {"type": "registry", "username": "u", "password": "p"}}"#
        ));
        assert!(!reads::<PauseSandbox>("{} {}"));
        assert!(!reads::<PauseSandbox>(""));
    }
}

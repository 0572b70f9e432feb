//! Sealing: a value becomes bytes that nobody reads, moves or changes without the key.
//!
//! AES-256-GCM with a random nonce for each value. What a value belongs to is authenticated with it, so that a row of one
//! secret cannot be put in the place of another's. A key may seal 2^32 values (NIST SP 800-38D §8.3), which no server
//! reaches.

use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Says how the bytes after it are to be read.
const FORMAT: u8 = 1;
const KEY_BYTES: usize = 32;

/// What values are sealed with.
pub struct Key(LessSafeKey);

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits")]
pub struct NotAKey;

/// It was sealed with another key, for another place, or is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// A value in the clear. No `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// Takes a value in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The value, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(…)")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads a key from its text.
    ///
    /// # Errors
    /// When it is no key.
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes());
        let bytes = bytes.map_err(|_| NotAKey)?;
        // An accident with an empty file, not a key.
        if bytes.len() != KEY_BYTES || bytes.iter().all(|byte| *byte == 0) {
            return Err(NotAKey);
        }
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| NotAKey)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    pub(crate) fn seal(&self, place: &str, value: &Value) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the operating system provides randomness");
        let mut body = value.0.clone().into_bytes();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place),
                &mut body,
            )
            .expect("a value is far below the cipher's limit of 64 GiB");
        [&[FORMAT][..], &nonce, &body].concat()
    }

    pub(crate) fn open(&self, place: &str, sealed: &[u8]) -> Result<Value, Unreadable> {
        let (format, rest) = sealed.split_first().ok_or(Unreadable)?;
        let (nonce, body) = rest.split_first_chunk().ok_or(Unreadable)?;
        if *format != FORMAT {
            return Err(Unreadable);
        }
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut body);
        let text = opened.map_err(|_| Unreadable)?.to_vec();
        String::from_utf8(text).map(Value).map_err(|_| Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: &str) -> Key {
        Key::parse(&digit.repeat(64)).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_only_where_it_belongs() {
        let value = Value::new("hidden");
        let sealed = key("a").seal("here", &value);
        assert!(!sealed.windows(6).any(|part| part == b"hidden"));
        assert_eq!(key("a").open("here", &sealed), Ok(value.clone()));
        assert_eq!(key("a").open("there", &sealed), Err(Unreadable));
        assert_eq!(key("b").open("here", &sealed), Err(Unreadable));
        assert_ne!(sealed, key("a").seal("here", &value), "a nonce of its own");
        for place in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[place] ^= 1;
            assert_eq!(key("a").open("here", &damaged), Err(Unreadable), "{place}");
            assert_eq!(key("a").open("here", &sealed[..place]), Err(Unreadable));
        }
    }

    #[test]
    fn keys_are_64_digits() {
        assert!(Key::parse(&format!("{}\n", "aB".repeat(32))).is_ok());
        for wrong in ["", "a", &"a".repeat(63), &"g".repeat(64), &"0".repeat(64)] {
            assert!(Key::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_shown() {
        let shown = format!("{:?} {:?}", key("a"), Value::new("hidden"));
        assert_eq!(shown, "Key(…) Value(…)");
    }
}

//! Who may read or write a file without the access token in a header: whoever holds a signed URL.
//!
//! Pure: the caller brings the clock.

use data_encoding::BASE64_NOPAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// As in the URL, before any expansion.
    pub(crate) path: &'a str,
    pub(crate) operation: Operation,
    /// As in the URL; empty when absent.
    pub(crate) username: &'a str,
    /// Unix seconds.
    pub(crate) expiration: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Read,
    Write,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("access token present in header but does not match")]
    WrongToken,
    #[error("missing signature query parameter")]
    Missing,
    #[error("invalid signature")]
    Invalid,
    #[error("signature is already expired")]
    Expired,
}

/// Decides: without a token everything is allowed; a token in the header settles it; else the signature must hold.
/// An old signature is only called expired when it is genuine.
pub(crate) fn authorize(
    token: Option<&str>,
    shown_token: Option<&[u8]>,
    signature: Option<&str>,
    signed: &Signed<'_>,
    now_seconds: i64,
) -> Result<(), Denied> {
    let Some(token) = token else { return Ok(()) };
    if let Some(shown) = shown_token {
        return if token.as_bytes().ct_eq(shown).into() {
            Ok(())
        } else {
            Err(Denied::WrongToken)
        };
    }
    let signature = signature.filter(|s| !s.is_empty()).ok_or(Denied::Missing)?;
    if !bool::from(sign(signed, token).as_bytes().ct_eq(signature.as_bytes())) {
        return Err(Denied::Invalid);
    }
    match signed.expiration {
        Some(expiration) if expiration < now_seconds => Err(Denied::Expired),
        _ => Ok(()),
    }
}

fn sign(signed: &Signed<'_>, token: &str) -> String {
    let operation = match signed.operation {
        Operation::Read => "read",
        Operation::Write => "write",
    };
    let mut text = format!("{}:{operation}:{}:{token}", signed.path, signed.username);
    if let Some(expiration) = signed.expiration {
        text.push(':');
        text.push_str(&expiration.to_string());
    }
    format!(
        "v1_{}",
        BASE64_NOPAD.encode(&Sha256::digest(text.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";

    fn read(
        path: &'static str,
        username: &'static str,
        expiration: Option<i64>,
    ) -> Signed<'static> {
        Signed {
            path,
            operation: Operation::Read,
            username,
            expiration,
        }
    }

    fn write(
        path: &'static str,
        username: &'static str,
        expiration: Option<i64>,
    ) -> Signed<'static> {
        Signed {
            operation: Operation::Write,
            ..read(path, username, expiration)
        }
    }

    #[test]
    fn vectors_of_the_wire() {
        let vectors = [
            (
                read("hello.txt", "user", None),
                "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E",
            ),
            (
                read("hello.txt", "user", Some(1_735_689_600)),
                "v1_A0Bc5cjQ38VzxwNidSA95b0yxkjhtMKut4LMlJpD54c",
            ),
            (
                write("/root/hello.txt", "root", Some(1_735_689_600)),
                "v1_Dawsvxom3KJp5yNMBpCWn9JO0xD7Zin01bnPkyvDDoU",
            ),
            (
                write("", "", None),
                "v1_+Ndakv8aCLGD5gjOtfiA7J8PrN3cGaRiZZq/4vOYGKA",
            ),
        ];
        for (signed, expected) in vectors {
            assert_eq!(sign(&signed, TOKEN), expected, "{signed:?}");
        }
    }

    #[test]
    fn order_of_checks() {
        let signed = read("f", "", Some(100));
        let good = sign(&signed, TOKEN);
        let check = |header: Option<&[u8]>, signature: Option<&str>, now| {
            authorize(Some(TOKEN), header, signature, &signed, now)
        };
        assert_eq!(authorize(None, None, Some("nonsense"), &signed, 0), Ok(()));
        assert_eq!(check(Some(TOKEN.as_bytes()), Some("nonsense"), 999), Ok(()));
        assert_eq!(check(Some(b"x"), Some(&good), 0), Err(Denied::WrongToken));
        assert_eq!(check(None, None, 0), Err(Denied::Missing));
        assert_eq!(check(None, Some("v1_x"), 999), Err(Denied::Invalid));
        assert_eq!(check(None, Some(&good), 101), Err(Denied::Expired));
        assert_eq!(check(None, Some(&good), 100), Ok(()));
    }
}

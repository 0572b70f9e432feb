//! Signed addresses of ports whose traffic is not public: whoever has one may look until its end date.
//!
//! The key is the sandbox's traffic token, so the edge judges a signature without asking anybody, and it ends with the
//! sandbox. The signature is for one port and one end date. A first request shows it as a parameter; the answer puts it
//! into a cookie of that one host, for whatever the page asks for next. Neither reaches the server inside: code there
//! must not learn what opens it to others.

use hmac::{Hmac, Mac as _};
use http::header::COOKIE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use sha2::Sha256;
use soulbox_types::SandboxId;

use crate::answer::Refusal;

/// Name of the parameter and of the cookie.
const NAME: &str = "soulbox_preview";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Where sandboxes are reached by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Whether over TLS.
    pub https: bool,
    /// What follows `<port>-<id>.`, with a port where one is needed.
    pub domain: String,
}

impl Base {
    /// The address of a port. With the traffic token of a sandbox whose traffic is not public, it opens that port until
    /// `expires`, in seconds since 1970.
    #[must_use]
    pub fn address(&self, id: &SandboxId, port: u16, signed: Option<(&str, i64)>) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let plain = format!("{scheme}://{port}-{id}.{}/", self.domain);
        match signed {
            Some((token, expires)) => {
                let signature = hex(&mac(token, port, expires).finalize().into_bytes());
                format!("{plain}?{NAME}={expires}.{signature}")
            }
            None => plain,
        }
    }
}

fn mac(token: &str, port: u16, expires: i64) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("preview\n{port}\n{expires}").as_bytes());
    mac
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(HEX[usize::from(value & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .bytes()
        .map(|b| HEX.iter().position(|digit| *digit == b))
        .map(|value| u8::try_from(value?).ok())
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| {
        let bytes = pairs.map(|pair| pair[0] << 4 | pair[1]);
        bytes.collect()
    })
}

/// What opened a port, and whether the client is to keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The signature with its end date, where it came as a parameter.
    keep: Option<(String, i64)>,
}

/// Judges what a request shows. `None` when it shows nothing. Of a parameter and a cookie, the parameter counts.
pub(crate) fn judge(
    token: &str,
    port: u16,
    uri: &Uri,
    headers: &HeaderMap,
    now: i64,
) -> Option<Result<Opened, Refusal>> {
    let (shown, is_new) = match shown_by_query(uri) {
        Some(shown) => (shown, true),
        None => (shown_by_cookie(headers)?, false),
    };
    Some(shown.and_then(|shown| {
        let expires = verify(token, port, shown).ok_or(Refusal::PreviewInvalid)?;
        if expires <= now {
            return Err(Refusal::PreviewExpired);
        }
        let keep = is_new.then(|| (shown.to_owned(), expires));
        Ok(Opened { keep })
    }))
}

/// The value of the one pair of this name. Two may be meant differently by two readers.
fn shown<'a>(pairs: impl Iterator<Item = &'a str>) -> Option<Result<&'a str, Refusal>> {
    let mut found = pairs.filter_map(value);
    let first = found.next()?;
    Some(if found.next().is_some() {
        Err(Refusal::PreviewInvalid)
    } else {
        Ok(first)
    })
}

fn value(pair: &str) -> Option<&str> {
    pair.trim().strip_prefix(NAME)?.strip_prefix('=')
}

/// Whether a request shows any signature at all.
pub(crate) fn is_shown(uri: &Uri, headers: &HeaderMap) -> bool {
    shown_by_query(uri).is_some() || shown_by_cookie(headers).is_some()
}

fn shown_by_query(uri: &Uri) -> Option<Result<&str, Refusal>> {
    shown(uri.query().unwrap_or_default().split('&'))
}

fn shown_by_cookie(headers: &HeaderMap) -> Option<Result<&str, Refusal>> {
    let lines = headers.get_all(COOKIE).iter();
    shown(
        lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';')),
    )
}

/// The end date, if the signature is ours; in a time that does not depend on it.
fn verify(token: &str, port: u16, shown: &str) -> Option<i64> {
    let (expires, signature) = shown.split_once('.')?;
    let number: i64 = expires.parse().ok()?;
    let signature = unhex(signature).filter(|_| number.to_string() == expires)?;
    mac(token, port, number)
        .verify_slice(&signature)
        .is_ok()
        .then_some(number)
}

/// Takes the parameter and the cookie out of a request on its way inside.
pub(crate) fn strip(uri: &mut Uri, headers: &mut HeaderMap) {
    if uri.query().is_some_and(|query| query.contains(NAME)) {
        strip_query(uri);
    }
    let of_ours = |line: &HeaderValue| {
        line.as_bytes()
            .windows(NAME.len())
            .any(|w| w == NAME.as_bytes())
    };
    if headers.get_all(COOKIE).iter().any(of_ours) {
        strip_cookie(headers);
    }
}

fn strip_query(uri: &mut Uri) {
    let query = uri.query().unwrap_or_default().split('&');
    let kept: Vec<&str> = query.filter(|pair| value(pair).is_none()).collect();
    let path = match kept.as_slice() {
        [] => uri.path().to_owned(),
        kept => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    // A part of what was a path and a query is one, too.
    if let Ok(path) = path.parse::<PathAndQuery>() {
        parts.path_and_query = Some(path);
        if let Ok(stripped) = Uri::from_parts(parts) {
            *uri = stripped;
        }
    }
}

fn strip_cookie(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let kept = match line.to_str() {
            Ok(text) => {
                let pairs = text.split(';').map(str::trim);
                let kept: Vec<&str> = pairs.filter(|pair| value(pair).is_none()).collect();
                HeaderValue::from_str(&kept.join("; ")).ok()
            }
            Err(_) => Some(line),
        };
        if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
            headers.append(COOKIE, kept);
        }
    }
}

impl Opened {
    /// The cookie that carries it on, if the client has none yet. It has no domain: it is for that one host. Over TLS a
    /// page may stand in a frame of another site's, which then has a cookie of its own.
    pub(crate) fn cookie(&self, now: i64, secure: bool) -> Option<HeaderValue> {
        let (shown, expires) = self.keep.as_ref()?;
        let rest = if secure {
            "SameSite=None; Secure; Partitioned"
        } else {
            "SameSite=Lax"
        };
        let age = expires.saturating_sub(now);
        let cookie = format!("{NAME}={shown}; Path=/; Max-Age={age}; HttpOnly; {rest}");
        HeaderValue::from_str(&cookie).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "5228d207c570d1290d6bd6d3a12cd549ba00b781e732e8742aad66b98921979f";

    fn base() -> Base {
        Base {
            https: true,
            domain: "box.test:8443".to_owned(),
        }
    }

    fn signed(port: u16, expires: i64) -> Uri {
        let id = "iabc".parse().unwrap();
        let address = base().address(&id, port, Some((TOKEN, expires)));
        address.parse().unwrap()
    }

    fn asked(uri: &Uri, port: u16, now: i64) -> Option<Result<Opened, Refusal>> {
        judge(TOKEN, port, uri, &HeaderMap::new(), now)
    }

    #[test]
    fn addresses() {
        let id = "iabc".parse().unwrap();
        assert_eq!(
            base().address(&id, 3000, None),
            "https://3000-iabc.box.test:8443/"
        );
        let signature = hex(&mac(TOKEN, 3000, 1000).finalize().into_bytes());
        assert_eq!(
            signed(3000, 1000).query().unwrap(),
            format!("soulbox_preview=1000.{signature}")
        );
    }

    #[test]
    fn a_signature_is_for_one_port_until_its_end() {
        let uri = signed(3000, 1000);
        assert!(asked(&uri, 3000, 999).unwrap().is_ok());
        assert_eq!(
            asked(&uri, 3000, 1000).unwrap(),
            Err(Refusal::PreviewExpired)
        );
        assert_eq!(
            asked(&uri, 3001, 999).unwrap(),
            Err(Refusal::PreviewInvalid)
        );
        let other = judge("other", 3000, &uri, &HeaderMap::new(), 999);
        assert_eq!(other.unwrap(), Err(Refusal::PreviewInvalid));
        assert!(asked(&Uri::from_static("/?a=1"), 3000, 0).is_none());
    }

    #[test]
    fn what_was_changed_opens_nothing() {
        let whole = signed(3000, 1000).query().unwrap().to_owned();
        let later = whole.replace("=1000.", "=2000.");
        for query in [
            later.as_str(),
            &whole.replace("=1000.", "=01000."),
            &whole.replace("=1000.", "=+1000."),
            &whole[..whole.len() - 1],
            &whole[..whole.len() - 2],
            &whole.to_uppercase().replace("SOULBOX_PREVIEW", NAME),
            &format!("{whole}&{whole}"),
            "soulbox_preview=",
            "soulbox_preview=1000",
            "soulbox_preview=1000.",
            "soulbox_preview=1000.zz",
        ] {
            let uri: Uri = format!("/?{query}").parse().unwrap();
            let verdict = asked(&uri, 3000, 0).unwrap();
            assert_eq!(verdict, Err(Refusal::PreviewInvalid), "{query}");
        }
    }

    #[test]
    fn a_cookie_carries_it_on() {
        let opened = asked(&signed(3000, 1000), 3000, 400).unwrap().unwrap();
        let cookie = opened.cookie(400, true).unwrap();
        let cookie = cookie.to_str().unwrap();
        assert!(
            cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=None; Secure; Partitioned"),
            "{cookie}"
        );
        let pair = cookie.split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("a=1; {pair}; b=2").parse().unwrap());
        let next = judge(TOKEN, 3000, &Uri::from_static("/x"), &headers, 500);
        let next = next.unwrap().unwrap();
        assert_eq!(next.cookie(500, true), None, "it is there already");
        let late = judge(TOKEN, 3000, &Uri::from_static("/x"), &headers, 1000);
        assert_eq!(late.unwrap(), Err(Refusal::PreviewExpired));
    }

    #[test]
    fn nothing_of_it_goes_inside_and_all_else_does() {
        let check = |asked: &str, cookie: Option<&'static str>, want: &str, left: Option<&str>| {
            let mut uri: Uri = asked.parse().unwrap();
            let mut headers = HeaderMap::new();
            if let Some(cookie) = cookie {
                headers.insert(COOKIE, HeaderValue::from_static(cookie));
            }
            strip(&mut uri, &mut headers);
            assert_eq!(uri.to_string(), want);
            let cookies = headers.get(COOKIE).map(|line| line.to_str().unwrap());
            assert_eq!(cookies, left);
        };
        check("/a?soulbox_preview=1.a", None, "/a", None);
        check("/a?b&soulbox_preview=1.a&c=%20", None, "/a?b&c=%20", None);
        check("/a?x=soulbox_preview", None, "/a?x=soulbox_preview", None);
        check("/?", Some("a=1"), "/?", Some("a=1"));
        check(
            "/",
            Some("a=1; soulbox_preview=1.a; b=2"),
            "/",
            Some("a=1; b=2"),
        );
        check("/", Some("soulbox_preview=1.a"), "/", None);
        check(
            "http://h:1/?soulbox_preview=1",
            Some("a=soulbox_preview"),
            "http://h:1/",
            Some("a=soulbox_preview"),
        );
    }

    proptest! {
        #[test]
        fn nothing_that_is_made_up_opens(text in "[0-9a-f.]{0,80}", port in 1u16..) {
            let uri: Uri = format!("/?soulbox_preview={text}").parse().unwrap();
            prop_assert_eq!(asked(&uri, port, 0), Some(Err(Refusal::PreviewInvalid)));
        }
    }
}

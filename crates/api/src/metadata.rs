//! The filter by metadata in a query.
//!
//! SDKs encode each key and value, join the pairs as a form, and let their HTTP library encode the whole once more.
//! The query parser has undone the outermost layer; this undoes the other two.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// A filter that cannot be read. The text completes the endpoint's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidMetadata {
    /// A part is not `key=value`.
    #[error("each part must be key=value")]
    NotAPair,
    /// Escapes that are not UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
}

/// Reads the pairs; of repeated keys the last counts.
pub(crate) fn parse(value: &str) -> Result<BTreeMap<String, String>, InvalidMetadata> {
    let once = unescape(value)?;
    let parts = once.split('&').filter(|_| !once.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').ok_or(InvalidMetadata::NotAPair)?;
            if value.contains('=') {
                return Err(InvalidMetadata::NotAPair);
            }
            Ok((unescape(key)?, unescape(value)?))
        })
        .collect()
}

fn unescape(text: &str) -> Result<String, InvalidMetadata> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| InvalidMetadata::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, want: Result<&[(&str, &str)], InvalidMetadata>) {
        let want = want.map(|pairs| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        });
        assert_eq!(parse(value), want, "{value:?}");
    }

    #[test]
    fn pairs() {
        check("", Ok(&[]));
        check("a=1", Ok(&[("a", "1")]));
        check("a=1&b=2&a=3", Ok(&[("a", "3"), ("b", "2")]));
        check("a=x+y%2520z", Ok(&[("a", "x y z")]));
        check("user%2520id=a%253Db", Ok(&[("user id", "a=b")]));
        check("a", Err(InvalidMetadata::NotAPair));
        check("a=b=c", Err(InvalidMetadata::NotAPair));
        check("a=1&", Err(InvalidMetadata::NotAPair));
        check("a=%25ff", Err(InvalidMetadata::NotUtf8));
    }

    /// What the Python SDK does: quote both, then `urlencode` the list; the HTTP library's layer is undone before.
    fn as_the_sdks_do(pairs: &BTreeMap<String, String>) -> String {
        let escape = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (key, value) in pairs {
            form.append_pair(&escape(key), &escape(value));
        }
        form.finish()
    }

    proptest! {
        #[test]
        fn what_the_sdks_encode_comes_back(pairs in prop::collection::btree_map(".{0,12}", ".{0,12}", 0..5)) {
            prop_assert_eq!(parse(&as_the_sdks_do(&pairs)), Ok(pairs));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _outcome = parse(&text);
        }
    }
}

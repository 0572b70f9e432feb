//! Which form of a file a client gets: as it is, or gzipped.

use http::header::{ACCEPT_ENCODING, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};

/// The two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

/// Chooses; `None` when the client rules out both. Requests for a part of a file speak of the file itself.
pub(crate) fn negotiate(headers: &HeaderMap) -> Option<Encoding> {
    let accept: Vec<&str> = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let accepted = Accepted::parse(&accept.join(","));
    let conditional = [RANGE, IF_RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE];
    if conditional.iter().any(|name| headers.contains_key(name)) {
        return (!accepted.identity_rejected()).then_some(Encoding::Identity);
    }
    accepted.choose()
}

struct Accepted(Vec<(String, f64)>);

impl Accepted {
    /// In order of preference; equal ones as given.
    fn parse(header: &str) -> Self {
        let mut entries: Vec<(String, f64)> = header.split(',').filter_map(entry).collect();
        entries.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Self(entries)
    }

    fn rejects(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(encoding, quality)| encoding == name && *quality <= 0.0)
    }

    fn names(&self, name: &str) -> bool {
        self.0.iter().any(|(encoding, _)| encoding == name)
    }

    fn identity_rejected(&self) -> bool {
        self.rejects("identity") || (self.rejects("*") && !self.names("identity"))
    }

    fn choose(&self) -> Option<Encoding> {
        for (encoding, _) in self.0.iter().filter(|(_, quality)| *quality > 0.0) {
            match encoding.as_str() {
                "gzip" => return Some(Encoding::Gzip),
                "identity" => return Some(Encoding::Identity),
                "*" if !self.rejects("identity") => return Some(Encoding::Identity),
                "*" if !self.rejects("gzip") => return Some(Encoding::Gzip),
                _ => {}
            }
        }
        (!self.identity_rejected()).then_some(Encoding::Identity)
    }
}

fn entry(text: &str) -> Option<(String, f64)> {
    let mut parts = text.split(';');
    let name = parts.next()?.trim().to_ascii_lowercase();
    let quality = parts
        .find_map(|part| part.trim().strip_prefix("q="))
        .map(str::trim);
    // A quality that cannot be read is the default one.
    let quality = quality
        .and_then(|q| q.parse::<f64>().ok())
        .filter(|q| q.is_finite())
        .unwrap_or(1.0);
    (!name.is_empty()).then_some((name, quality))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(accept: &str) -> Option<Encoding> {
        negotiate(&HeaderMap::from_iter([(
            ACCEPT_ENCODING,
            HeaderValue::from_str(accept).unwrap(),
        )]))
    }

    #[test]
    fn every_kind_of_header() {
        use Encoding::{Gzip, Identity};
        assert_eq!(negotiate(&HeaderMap::new()), Some(Identity));
        let cases = [
            ("", Some(Identity)),
            ("gzip, deflate", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Gzip)),
            ("br, zstd", Some(Identity)),
            ("identity, gzip", Some(Identity)),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("GZIP;q=0.1", Some(Gzip)),
            ("gzip;q=0", Some(Identity)),
            ("*", Some(Identity)),
            ("*, identity;q=0", Some(Gzip)),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Gzip)),
            ("br, identity;q=0", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(of(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn parts_are_of_the_file_itself() {
        let with = |accept: &'static str| {
            HeaderMap::from_iter([
                (ACCEPT_ENCODING, HeaderValue::from_static(accept)),
                (RANGE, HeaderValue::from_static("bytes=0-1")),
            ])
        };
        assert_eq!(negotiate(&with("gzip")), Some(Encoding::Identity));
        assert_eq!(negotiate(&with("gzip, identity;q=0")), None);
    }
}

//! Conditional and range requests (RFC 9110 §13, §14), as Go's `http.ServeContent` decides them. Pure.

use std::time::{Duration, SystemTime};

use http::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Whole,
    /// Start and length of each part, none empty.
    Parts(Vec<(u64, u64)>),
    NotModified,
    PreconditionFailed,
    NotSatisfiable,
}

/// More parts than any sane client asks for.
const PARTS_MAX: usize = 256;

/// Decides for a file of this size and time. Files here have no entity tags.
pub(crate) fn decide(headers: &HeaderMap, size: u64, modified: SystemTime) -> Answer {
    let modified = whole_seconds(modified);
    if text(headers, IF_MATCH).is_some_and(|tags| tags.trim() != "*") {
        return Answer::PreconditionFailed;
    }
    if !headers.contains_key(IF_MATCH)
        && date(headers, IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since)
    {
        return Answer::PreconditionFailed;
    }
    match text(headers, IF_NONE_MATCH) {
        Some(tags) if tags.trim() == "*" => return Answer::NotModified,
        Some(_) => {}
        None if date(headers, IF_MODIFIED_SINCE).is_some_and(|since| modified <= since) => {
            return Answer::NotModified;
        }
        None => {}
    }
    let Some(range) = text(headers, RANGE) else {
        return Answer::Whole;
    };
    if headers.contains_key(IF_RANGE) && date(headers, IF_RANGE) != Some(modified) {
        return Answer::Whole;
    }
    parts(range, size)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|value| !value.is_empty())
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

/// Dates in headers have no fractions.
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn parts(range: &str, size: u64) -> Answer {
    let Some(list) = range.strip_prefix("bytes=") else {
        return Answer::NotSatisfiable;
    };
    let (mut found, mut beyond) = (Vec::new(), false);
    for text in list
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        match part(text, size) {
            Some(Some(part)) => found.push(part),
            Some(None) => beyond = true,
            None => return Answer::NotSatisfiable,
        }
    }
    let total = found
        .iter()
        .fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
    match found.len() {
        // Clients that always send a range still get their empty file.
        0 if beyond && size > 0 => Answer::NotSatisfiable,
        0 => Answer::Whole,
        // More than the file itself: a mistake or an attack.
        _ if total > size || found.len() > PARTS_MAX => Answer::Whole,
        _ => Answer::Parts(found),
    }
}

/// `None`: not a range. `Some(None)`: beyond the end.
fn part(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (start.trim(), end.trim());
    if start.is_empty() {
        let length = number(end)?.min(size);
        return Some((length > 0).then(|| (size - length, length)));
    }
    let start = number(start)?;
    let last = if end.is_empty() {
        u64::MAX
    } else {
        number(end)?
    };
    if last < start {
        return None;
    }
    if start >= size {
        return Some(None);
    }
    Some(Some((start, last.min(size - 1) - start + 1)))
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(headers: &[(HeaderName, &str)]) -> Answer {
        let headers = headers
            .iter()
            .map(|(n, v)| (n.clone(), HeaderValue::from_str(v).unwrap()))
            .collect();
        decide(
            &headers,
            10,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500),
        )
    }

    #[test]
    fn ranges() {
        let range = |text| of(&[(RANGE, text)]);
        assert_eq!(range("bytes=0-3"), Answer::Parts(vec![(0, 4)]));
        assert_eq!(range("bytes=4-"), Answer::Parts(vec![(4, 6)]));
        assert_eq!(range("bytes=-3"), Answer::Parts(vec![(7, 3)]));
        assert_eq!(range("bytes=-30"), Answer::Parts(vec![(0, 10)]));
        assert_eq!(range("bytes=8-100"), Answer::Parts(vec![(8, 2)]));
        assert_eq!(range("bytes=0-1, 8-9"), Answer::Parts(vec![(0, 2), (8, 2)]));
        assert_eq!(range("bytes=0-1,20-30"), Answer::Parts(vec![(0, 2)]));
        assert_eq!(range("bytes=10-"), Answer::NotSatisfiable);
        assert_eq!(range("bytes=3-1"), Answer::NotSatisfiable);
        assert_eq!(range("bytes=a-b"), Answer::NotSatisfiable);
        assert_eq!(range("lines=1-2"), Answer::NotSatisfiable);
        assert_eq!(range("bytes=0-9,0-9"), Answer::Whole);
        assert_eq!(parts("bytes=0-", 0), Answer::Whole);
        assert_eq!(
            parts("bytes=18446744073709551615-", 5),
            Answer::NotSatisfiable
        );
    }

    #[test]
    fn conditions() {
        let at = "Thu, 01 Jan 1970 00:16:40 GMT";
        let before = "Thu, 01 Jan 1970 00:16:39 GMT";
        assert_eq!(of(&[(IF_MODIFIED_SINCE, at)]), Answer::NotModified);
        assert_eq!(of(&[(IF_MODIFIED_SINCE, before)]), Answer::Whole);
        assert_eq!(of(&[(IF_NONE_MATCH, "*")]), Answer::NotModified);
        assert_eq!(
            of(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, at)]),
            Answer::Whole
        );
        assert_eq!(
            of(&[(IF_UNMODIFIED_SINCE, before)]),
            Answer::PreconditionFailed
        );
        assert_eq!(of(&[(IF_UNMODIFIED_SINCE, at)]), Answer::Whole);
        assert_eq!(of(&[(IF_MATCH, "\"x\"")]), Answer::PreconditionFailed);
        assert_eq!(of(&[(IF_MATCH, "*")]), Answer::Whole);
        assert_eq!(
            of(&[(RANGE, "bytes=0-0"), (IF_RANGE, at)]),
            Answer::Parts(vec![(0, 1)])
        );
        assert_eq!(
            of(&[(RANGE, "bytes=0-0"), (IF_RANGE, before)]),
            Answer::Whole
        );
        assert_eq!(
            of(&[(RANGE, "bytes=0-0"), (IF_RANGE, "\"tag\"")]),
            Answer::Whole
        );
    }
}

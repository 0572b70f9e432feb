//! SoulBox's addition to Start and Connect: a client that was cut off says what it has, and is given what it missed.
//!
//! It is made of headers, so that clients that know nothing of it are served as ever.

use std::time::Duration;

use connectrpc::{ConnectError, RequestContext, Response, ServiceStream};
use http::HeaderMap;

use super::heard::Begin;
use super::table::{END_RETENTION, OUTPUT_RETENTION};

/// Asks for output from a position, or `oldest`.
const OUTPUT_FROM: &str = "soulbox-output-from";
/// Says at which position the output begins that follows.
const OUTPUT_AT: &str = "soulbox-output-at";
/// Which process it is, whatever others had or will have its number. In an answer, and then in a request.
const PROCESS: &str = "soulbox-process";
/// Of a header that is shown in an error.
const SHOWN_MAX: usize = 40;

/// What a Connect asks for besides its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) begin: Begin,
    /// The one process that is meant, if the client knows.
    process: Option<String>,
}

impl Asked {
    /// # Errors
    /// When a header is neither a number nor what else it may be.
    pub(crate) fn of(ctx: &RequestContext) -> Result<Self, ConnectError> {
        Self::from_headers(ctx.headers())
    }

    fn from_headers(headers: &HeaderMap) -> Result<Self, ConnectError> {
        let text = |name: &str| {
            headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let begin = match text(OUTPUT_FROM) {
            None => Begin::Now,
            Some(text) => position(&text).ok_or_else(|| no_position(&text))?,
        };
        Ok(Self {
            begin,
            process: text(PROCESS),
        })
    }

    /// Whether this stream takes the place of one that was cut.
    pub(crate) fn resumes(&self) -> bool {
        self.begin != Begin::Now
    }

    /// How long ago the process may have ended.
    pub(crate) fn retention(&self) -> Duration {
        if self.resumes() {
            OUTPUT_RETENTION
        } else {
            END_RETENTION
        }
    }

    /// Whether the client means the process of this name.
    pub(crate) fn means(&self, name: &str) -> bool {
        self.process.as_ref().is_none_or(|process| process == name)
    }
}

fn position(text: &str) -> Option<Begin> {
    match text {
        "oldest" => Some(Begin::Oldest),
        // `parse` alone would take a sign.
        number if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok().map(Begin::At),
        _ => None,
    }
}

fn no_position(text: &str) -> ConnectError {
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    ConnectError::invalid_argument(format!(
        "Soulbox-Output-From is no position: {shown:?}\n\
         FIX: send the number of bytes that were received of the process, or 'oldest'"
    ))
}

/// Says in an answer where its output begins and whose it is.
pub(crate) fn tell<T>(
    response: Response<ServiceStream<T>>,
    at: u64,
    process: &str,
) -> Response<ServiceStream<T>> {
    response
        .with_header(OUTPUT_AT, at.to_string())
        .with_header(PROCESS, process)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn asked(pairs: &[(&'static str, &'static [u8])]) -> Result<Asked, ConnectError> {
        let pair = |(name, value): &(&'static str, &'static [u8])| {
            let value = HeaderValue::from_bytes(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        Asked::from_headers(&pairs.iter().map(pair).collect())
    }

    #[test]
    fn positions() {
        let begin = |text| asked(&[(OUTPUT_FROM, text)]).unwrap().begin;
        assert_eq!(asked(&[]).unwrap().begin, Begin::Now);
        assert_eq!(begin(b"oldest"), Begin::Oldest);
        assert_eq!(begin(b"0"), Begin::At(0));
        assert_eq!(begin(b"18446744073709551615"), Begin::At(u64::MAX));
        for wrong in [
            b"".as_slice(),
            b"-1",
            b"+1",
            b"1.5",
            b"0x1",
            b"Oldest",
            b"18446744073709551616",
            b"\xff\xfe",
            &[b'9'; 5000],
        ] {
            let error = asked(&[(OUTPUT_FROM, wrong)]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("\nFIX: ") && text.len() < 300, "{text}");
        }
    }

    #[test]
    fn which_process() {
        let any = asked(&[]).unwrap();
        assert!(any.means("x") && any.retention() == END_RETENTION);
        let one = asked(&[(PROCESS, b"x"), (OUTPUT_FROM, b"7")]).unwrap();
        assert!(one.means("x") && !one.means("y") && one.retention() == OUTPUT_RETENTION);
    }
}

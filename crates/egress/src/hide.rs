//! Answers of a server that repeats what it was sent: the values that were added are covered, whatever the pieces come in.
//!
//! A value is covered by as many stars as it has bytes, so that lengths stay true, and nothing waits that cannot be the
//! beginning of one: streams keep their pace. What a server encodes in its own way is not found.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Frame, SizeHint};
use memchr::memmem;

use crate::plain::Body;

/// Shorter values are no secrets, and are found everywhere.
const SHORTEST: usize = 8;
const COVER: u8 = b'*';

/// The values that are to be covered.
#[derive(Clone, Default)]
pub(crate) struct Values(Arc<[Vec<u8>]>);

impl Values {
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let values = values.into_iter().map(|value| value.as_bytes().to_vec());
        Self(values.filter(|value| value.len() >= SHORTEST).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Covers every value in a text that is whole.
    fn cover(&self, text: &mut [u8]) -> bool {
        let mut found = false;
        for value in self.0.iter() {
            let places: Vec<usize> = memmem::find_iter(text, value).collect();
            for place in places {
                if let Some(part) = text.get_mut(place..place + value.len()) {
                    part.fill(COVER);
                    found = true;
                }
            }
        }
        found
    }

    /// How many bytes at the end may be the beginning of a value.
    fn unfinished(&self, text: &[u8]) -> usize {
        let of = |value: &Vec<u8>| {
            let most = text.len().min(value.len() - 1);
            (1..=most)
                .rev()
                .find(|length| text.ends_with(&value[..*length]))
        };
        self.0.iter().filter_map(of).max().unwrap_or_default()
    }

    /// Covers the values in the head of an answer, or what stands behind its body.
    pub(crate) fn cover_head(&self, head: &mut HeaderMap) {
        for value in head.values_mut() {
            let mut text = value.as_bytes().to_vec();
            if self.cover(&mut text) {
                // Stars are allowed wherever other text is.
                *value = HeaderValue::from_bytes(&text)
                    .unwrap_or_else(|_| HeaderValue::from_static("***"));
            }
        }
    }
}

/// A body in which values are covered.
pub(crate) struct Covered {
    inner: Body,
    values: Values,
    /// What may be the beginning of a value.
    held: BytesMut,
    /// What came behind what is held, and is no data.
    trailers: Option<Frame<Bytes>>,
    ended: bool,
}

impl Covered {
    pub(crate) fn new(inner: Body, values: Values) -> Self {
        Self {
            inner,
            values,
            held: BytesMut::new(),
            trailers: None,
            ended: false,
        }
    }

    /// What can go on of what is held and a piece behind it.
    fn take(&mut self, piece: &[u8]) -> Bytes {
        self.held.extend_from_slice(piece);
        self.values.cover(&mut self.held);
        let kept = self.values.unfinished(&self.held);
        self.held.split_to(self.held.len() - kept).freeze()
    }

    /// The rest, when nothing comes any more.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.held.split().freeze();
        if rest.is_empty() {
            return self.trailers.take();
        }
        Some(Frame::data(rest))
    }
}

impl hyper::body::Body for Covered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            if self.ended {
                return Poll::Ready(self.rest().map(Ok));
            }
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.ended = true;
                    continue;
                }
            };
            match frame.into_data() {
                Ok(piece) => {
                    let passed = self.take(&piece);
                    if !passed.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(passed))));
                    }
                }
                Err(mut trailers) => {
                    if let Some(trailers) = trailers.trailers_mut() {
                        self.values.cover_head(trailers);
                    }
                    self.trailers = Some(trailers);
                    self.ended = true;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty()
            && self.trailers.is_none()
            && (self.ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let held = u64::try_from(self.held.len()).unwrap_or(u64::MAX);
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn covered(pieces: &[&str], values: &[&str]) -> (String, Vec<usize>) {
        let nothing = Full::new(Bytes::new())
            .map_err(|never| match never {})
            .boxed();
        let mut body = Covered::new(nothing, Values::new(values.iter().copied()));
        let mut out = Vec::new();
        let mut lengths = Vec::new();
        for piece in pieces {
            let passed = body.take(piece.as_bytes());
            lengths.push(passed.len());
            out.extend_from_slice(&passed);
        }
        let rest = body.rest().and_then(|frame| frame.into_data().ok());
        out.extend_from_slice(&rest.unwrap_or_default());
        (String::from_utf8(out).unwrap(), lengths)
    }

    #[test]
    fn values_are_covered_whatever_the_pieces() {
        let text = "a sk-hidden-1 b sk-hidden-1sk-hidden-1 sk-hidden-";
        let want = "a *********** b ********************** sk-hidden-";
        for size in 1..text.len() {
            let pieces: Vec<&str> = (0..text.len())
                .step_by(size)
                .map(|at| &text[at..text.len().min(at + size)])
                .collect();
            assert_eq!(covered(&pieces, &["sk-hidden-1"]).0, want, "{size}");
        }
        let two = covered(
            &["x first-value second-val", "ue"],
            &["first-value", "second-value"],
        );
        assert_eq!(two.0, "x *********** ************");
    }

    #[test]
    fn nothing_waits_without_reason() {
        let (_, lengths) = covered(&["data: one\n", "data: s", "o\n"], &["sk-hidden-1"]);
        assert_eq!(lengths, [10, 6, 3]);
        assert_eq!(covered(&["short"], &["short"]).0, "short");
    }

    #[tokio::test]
    async fn what_stands_behind_a_body_is_covered_too() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-message", HeaderValue::from_static("no sk-hidden-1"));
        let frames = [
            Frame::data(Bytes::from("sk-hid")),
            Frame::trailers(trailers),
        ];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, hyper::Error>));
        let body = http_body_util::StreamBody::new(frames).boxed();
        let mut body = Covered::new(body, Values::new(["sk-hidden-1"]));
        let data = body.frame().await.unwrap().unwrap();
        assert_eq!(data.into_data().unwrap(), "sk-hid");
        let last = body.frame().await.unwrap().unwrap();
        let last = last.into_trailers().unwrap();
        assert_eq!(last["grpc-message"], "no ***********");
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn heads_are_covered() {
        let mut head = HeaderMap::new();
        head.insert("x-echo", HeaderValue::from_static("key=sk-hidden-1;"));
        head.insert("x-other", HeaderValue::from_static("sk-hidden"));
        Values::new(["sk-hidden-1"]).cover_head(&mut head);
        assert_eq!(head["x-echo"], "key=***********;");
        assert_eq!(head["x-other"], "sk-hidden");
    }
}

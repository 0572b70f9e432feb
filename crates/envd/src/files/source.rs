//! What an upload brings: a request body, unpacked if need be, in chunks.

use std::io::{self, Write as _};
use std::time::Duration;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::reply::Refusal;

/// A client that sends nothing for so long has gone without saying so.
const IDLE: Duration = Duration::from_secs(600);
/// Compressed bytes unpacked at once: one may become a thousand.
const UNPACK_STEP: usize = 2048;
/// What is still read after a refusal, so that the client sees the answer instead of a broken connection.
const DRAIN_MAX_BYTES: usize = 16 * 1024 * 1024;
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// The form the body comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
}

impl Packing {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let header = headers
            .get(CONTENT_ENCODING)
            .map(|value| value.to_str().unwrap_or("?"));
        match header
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "" | "identity" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            other => Err(Refusal::bad_request(format!(
                "error decompressing request body: unsupported content encoding {other:?}"
            ))),
        }
    }
}

/// The body's bytes. `InvalidData` is a packing that cannot be undone.
pub(crate) fn chunks(
    body: &mut Incoming,
    packing: Packing,
) -> impl Stream<Item = io::Result<Bytes>> + Send + '_ {
    let raw = stream::unfold(body, |body| async move {
        loop {
            let frame = match tokio::time::timeout(IDLE, body.frame()).await {
                Ok(frame) => frame?,
                Err(_) => return Some((Err(io::ErrorKind::TimedOut.into()), body)),
            };
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => return Some((Ok(data), body)),
                // Trailers.
                Ok(Err(_)) => {}
                Err(error) => return Some((Err(io::Error::other(error)), body)),
            }
        }
    });
    match packing {
        Packing::None => raw.left_stream(),
        Packing::Gzip => unpacked(raw).right_stream(),
    }
}

fn unpacked<S>(raw: S) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let state = (
        Box::pin(raw),
        Some(MultiGzDecoder::new(Vec::new())),
        Bytes::new(),
    );
    stream::unfold(state, |(mut raw, mut decoder, mut pending)| async move {
        loop {
            let mut unpacker = decoder.take()?;
            if pending.is_empty() {
                match raw.next().await {
                    Some(Ok(more)) => pending = more,
                    Some(Err(error)) => return Some((Err(error), (raw, None, pending))),
                    None => {
                        let rest = unpacker.finish().map(Bytes::from).map_err(not_gzip);
                        return Some((rest, (raw, None, pending)));
                    }
                }
            }
            let step = pending.split_to(pending.len().min(UNPACK_STEP));
            if let Err(error) = unpacker.write_all(&step) {
                return Some((Err(not_gzip(error)), (raw, None, pending)));
            }
            let output = std::mem::take(unpacker.get_mut());
            decoder = Some(unpacker);
            if !output.is_empty() {
                return Some((Ok(output.into()), (raw, decoder, pending)));
            }
        }
    })
}

fn not_gzip(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads what a refused client still sends, within reason.
pub(crate) async fn drain(body: &mut Incoming) {
    let read = async {
        let mut taken = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            taken = taken.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if taken > DRAIN_MAX_BYTES {
                return;
            }
        }
    };
    // A client that is slower than that sees a broken connection.
    let _ = tokio::time::timeout(DRAIN_PATIENCE, read).await;
}

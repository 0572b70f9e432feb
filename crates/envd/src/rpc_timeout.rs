//! `Connect-Timeout-Ms`, checked before the RPC layer sees it: that one takes garbage for no timeout, and 0 for an
//! instant one, where the wire says an error and no limit.

use bytes::{BufMut as _, BytesMut};
use connectrpc::ConnectError;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};

use crate::reply::{Reply, full};

const HEADER: &str = "connect-timeout-ms";

/// Removes a zero; gives the refusal of what is no number of at most ten digits.
pub(crate) fn refuse<B>(request: &mut Request<B>) -> Option<Reply> {
    match parse(request.headers().get(HEADER)?.as_bytes()) {
        Some(0) => {
            request.headers_mut().remove(HEADER);
            None
        }
        Some(_) => None,
        None => Some(refusal(request)),
    }
}

fn parse(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn refusal<B>(request: &Request<B>) -> Reply {
    let error = ConnectError::invalid_argument("protocol error: invalid Connect-Timeout-Ms header")
        .to_json();
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let streaming = content_type
        .as_ref()
        .is_some_and(|value| value.as_bytes().starts_with(b"application/connect+"));
    let (status, content_type, body) = if streaming {
        // The end-of-stream envelope: flag 2, length, JSON.
        let json = [b"{\"error\":".as_slice(), &error, b"}"].concat();
        let mut frame = BytesMut::with_capacity(json.len() + 5);
        frame.put_u8(2);
        frame.put_u32(u32::try_from(json.len()).unwrap_or_default());
        frame.put_slice(&json);
        (StatusCode::OK, content_type, frame.freeze())
    } else {
        (StatusCode::BAD_REQUEST, None, error)
    };
    let mut reply = Response::new(full(body));
    *reply.status_mut() = status;
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_pass_zero_is_none_and_the_rest_is_refused() {
        let request = |value: &str| Request::builder().header(HEADER, value).body(()).unwrap();
        let mut timed = request("60000");
        assert!(refuse(&mut timed).is_none() && timed.headers().contains_key(HEADER));
        let mut zero = request("0");
        assert!(refuse(&mut zero).is_none() && !zero.headers().contains_key(HEADER));
        for wrong in ["", "x", "-1", "1.5", "12345678901"] {
            assert_eq!(
                refuse(&mut request(wrong)).unwrap().status(),
                400,
                "{wrong}"
            );
        }
        let mut stream = request("x");
        stream.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/connect+json"),
        );
        assert_eq!(refuse(&mut stream).unwrap().status(), 200);
    }
}

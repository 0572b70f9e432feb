//! envd's way with files: names of parts, signatures, ranges, paths.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use futures_util::stream;
use http::header::{HeaderMap, HeaderValue, RANGE};
use multer::Multipart;
use sha2::{Digest as _, Sha256};

use crate::taken::multipart::file_name;
use crate::taken::path::{base_name, clean, resolve};
use crate::taken::range::{Answer, decide};
use crate::taken::signature::{Denied, Operation, Signed, authorize};

/// Input: the size of the pieces, the parameters of a content type up to a line feed, then a body.
pub(crate) fn multipart(data: &[u8]) {
    let Some((size, rest)) = data.split_first() else {
        return;
    };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (parameters, body) = (&rest[..end], &rest[end + 1..]);
    let Ok(parameters) = std::str::from_utf8(parameters) else {
        return;
    };
    let Ok(boundary) = multer::parse_boundary(format!("multipart/form-data;{parameters}")) else {
        return;
    };
    let whole = parts(&boundary, std::iter::once(body));
    let pieces = parts(&boundary, body.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, pieces, "the cuts do not matter");
}

/// Field, file name and content of each part; none when the form is broken.
type Parts = Option<Vec<(Option<String>, Option<String>, Vec<u8>)>>;

fn parts<'a>(boundary: &str, pieces: impl Iterator<Item = &'a [u8]>) -> Parts {
    let pieces: Vec<Result<Bytes, std::io::Error>> = pieces
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let mut form = Multipart::new(stream::iter(pieces), boundary);
    finish(async move {
        let mut found = Vec::new();
        while let Some(part) = form.next_field().await.ok()? {
            let field = part.name().map(str::to_owned);
            let file = file_name(part.headers());
            let content = part.bytes().await.ok()?.to_vec();
            found.push((field, file, content));
        }
        Some(found)
    })
}

/// Drives what never has to wait for anybody.
fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = work.as_mut().poll(&mut context) {
            return value;
        }
    }
    unreachable!("everything was there from the beginning")
}

/// Input: path, user, token, claimed signature, expiration, each up to a byte 255.
pub(crate) fn signature(data: &[u8]) {
    let mut fields = data
        .split(|byte| *byte == 255)
        .map(|field| String::from_utf8_lossy(field).into_owned());
    let mut next = || fields.next().unwrap_or_default();
    let (path, username, token, claimed, expiration) = (next(), next(), next(), next(), next());
    let expiration: Option<i64> = expiration.parse().ok();
    let now = 1_800_000_000;
    let signed = |operation| Signed {
        path: &path,
        operation,
        username: &username,
        expiration,
    };
    for (operation, other, word) in [
        (Operation::Read, Operation::Write, "read"),
        (Operation::Write, Operation::Read, "write"),
    ] {
        let signed = |operation| signed(operation);
        let good = sign(&path, word, &username, expiration, &token);
        let ask = |operation, signature: Option<&str>| {
            authorize(Some(&token), None, signature, &signed(operation), now)
        };
        let alive = expiration.is_none_or(|end| end >= now);
        let wanted = if alive { Ok(()) } else { Err(Denied::Expired) };
        assert_eq!(ask(operation, Some(&good)), wanted, "a genuine signature");
        assert_eq!(
            ask(other, Some(&good)),
            Err(Denied::Invalid),
            "of another operation"
        );
        if claimed != good {
            assert!(
                ask(operation, Some(&claimed)).is_err(),
                "an invented signature"
            );
        }
        let mut broken = good.clone();
        broken.pop();
        assert_eq!(ask(operation, Some(&broken)), Err(Denied::Invalid));
        assert_eq!(ask(operation, None), Err(Denied::Missing));
        let shown = authorize(
            Some(&token),
            Some(claimed.as_bytes()),
            Some(&good),
            &signed(operation),
            now,
        );
        assert_eq!(
            shown.is_ok(),
            claimed == token,
            "a token in the header settles it"
        );
    }
}

/// The wire's definition, written a second time.
fn sign(path: &str, operation: &str, user: &str, expiration: Option<i64>, token: &str) -> String {
    let end = expiration.map_or(String::new(), |end| format!(":{end}"));
    let text = format!("{path}:{operation}:{user}:{token}{end}");
    format!("v1_{}", BASE64_NOPAD.encode(&Sha256::digest(text)))
}

/// Input: two bytes of a size, then a `Range` header.
pub(crate) fn ranges(data: &[u8]) {
    let Some((size, header)) = data.split_at_checked(2) else {
        return;
    };
    let size = u64::from(u16::from_be_bytes([size[0], size[1]]));
    let Ok(value) = HeaderValue::from_bytes(header) else {
        return;
    };
    let headers = HeaderMap::from_iter([(RANGE, value)]);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    match decide(&headers, size, modified) {
        Answer::Parts(parts) => {
            assert!(!parts.is_empty() && parts.len() <= 256);
            let mut total = 0;
            for (start, length) in parts {
                assert!(length > 0 && start < size && length <= size - start);
                total += length;
            }
            assert!(total <= size, "never more than the file");
        }
        Answer::Whole | Answer::NotSatisfiable => {}
        other => unreachable!("no condition was asked for: {other:?}"),
    }
}

/// Input: a path as a client writes it.
pub(crate) fn paths(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else {
        return;
    };
    let cleaned = clean(path);
    assert_eq!(clean(&cleaned), cleaned, "cleaning is done after one time");
    assert_eq!(cleaned.starts_with('/'), path.starts_with('/'));
    if cleaned.starts_with('/') {
        assert!(!cleaned.split('/').any(|part| part == ".." || part == "."));
    }
    assert!(!base_name(path).is_empty());
    if let Ok(resolved) = resolve(path, "/home/user", Some("/work")) {
        assert!(resolved.starts_with('/') && !resolved.contains('\0'));
        assert_eq!(
            resolve(&resolved, "/elsewhere", None).as_ref(),
            Ok(&resolved)
        );
    }
}

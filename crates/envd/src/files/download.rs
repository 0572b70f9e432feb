//! `GET /files`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::SystemTime;

use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE,
    LAST_MODIFIED, VARY,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use rustix::fs::OFlags;

use super::content::{Content, Gzipped, Segment, read};
use super::content_type::{SNIFF_BYTES, by_name, sniff};
use super::encoding::{Encoding, negotiate};
use super::query::{Query, resolve};
use super::range::{Answer, decide, whole_seconds};
use super::signature::Operation;
use crate::app::App;
use crate::path::base_name;
use crate::reply::{Body, Refusal, Reply, empty};

pub(crate) fn download<B>(app: &App, request: &Request<B>) -> Result<Reply, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    query.authorize(app, request.headers(), Operation::Read)?;
    let user = query.user(app)?;
    let path = resolve(app, &user, query.path.as_deref().unwrap_or_default())?;
    let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Refusal::new(
            StatusCode::NOT_FOUND,
            format!("path '{path}' does not exist"),
        ),
        _ => Refusal::internal(format!("error checking if path '{path}' exists: {error}")),
    })?;
    if metadata.is_dir() {
        return Err(Refusal::bad_request(format!(
            "path '{path}' is a directory"
        )));
    }
    let encoding = negotiate(request.headers()).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "no acceptable encoding: gzip and identity are supported",
        )
    })?;
    let file =
        open(&path).map_err(|e| Refusal::internal(format!("error opening file '{path}': {e}")))?;
    let found = Found {
        name: base_name(&path),
        file,
        size: metadata.len(),
        modified: metadata.modified().ok(),
    };
    let mut reply = match encoding {
        Encoding::Gzip => found.gzipped(),
        Encoding::Identity => found.identity(request.headers())?,
    };
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(CONTENT_DISPOSITION, disposition(base_name(&path)));
    Ok(reply)
}

/// Never waits: opening a pipe that nobody writes to would otherwise stop everything.
fn open(path: &str) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
}

/// File systems whose files do not have the size they claim.
fn has_no_size(file: &File) -> bool {
    const PROC: u64 = 0x9fa0;
    const SYSFS: u64 = 0x6265_6572;
    const CGROUP: u64 = 0x0027_e0eb;
    const CGROUP2: u64 = 0x6367_7270;
    let kind =
        rustix::fs::fstatfs(file).map(|found| u64::try_from(found.f_type).unwrap_or_default());
    matches!(kind, Ok(PROC | SYSFS | CGROUP | CGROUP2))
}

struct Found<'a> {
    name: &'a str,
    file: File,
    size: u64,
    modified: Option<SystemTime>,
}

impl Found<'_> {
    fn gzipped(self) -> Reply {
        let kind = by_name(self.name).unwrap_or_else(|| "application/octet-stream".to_owned());
        let mut reply = Response::new(Gzipped::new(self.file).map_err(Into::into).boxed_unsync());
        reply
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        reply.headers_mut().insert(CONTENT_TYPE, value(&kind));
        reply
    }

    fn identity(self, headers: &HeaderMap) -> Result<Reply, Refusal> {
        let failed = |e: io::Error| Refusal::internal(format!("error reading file: {e}"));
        let regular = self.file.metadata().is_ok_and(|m| m.is_file());
        if !regular || self.size == 0 || has_no_size(&self.file) {
            return self.unsized_identity(regular).map_err(failed);
        }
        let kind = match by_name(self.name) {
            Some(kind) => kind,
            None => sniff(&head(&self.file).map_err(failed)?).to_owned(),
        };
        let modified = whole_seconds(self.modified.unwrap_or(SystemTime::UNIX_EPOCH));
        let mut reply = match decide(headers, self.size, modified) {
            Answer::NotModified => empty(StatusCode::NOT_MODIFIED),
            Answer::PreconditionFailed => empty(StatusCode::PRECONDITION_FAILED),
            Answer::NotSatisfiable => {
                let mut reply =
                    Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "invalid range").into_reply();
                reply
                    .headers_mut()
                    .insert(CONTENT_RANGE, value(&format!("bytes */{}", self.size)));
                return Ok(reply);
            }
            Answer::Whole => {
                let mut reply = Response::new(body(
                    self.file,
                    [Segment::Part {
                        start: 0,
                        length: self.size,
                    }],
                ));
                reply.headers_mut().insert(CONTENT_TYPE, value(&kind));
                reply
            }
            Answer::Parts(parts) => partial(self.file, &parts, self.size, &kind),
        };
        reply
            .headers_mut()
            .insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        reply
            .headers_mut()
            .insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified)));
        Ok(reply)
    }

    /// Read to its end, since its size says nothing: `/proc` has files of size 0 that are not empty.
    fn unsized_identity(self, regular: bool) -> io::Result<Reply> {
        // A pipe without writers and a terminal without input would have to be waited for: they are empty now.
        let start = match read(&self.file, SNIFF_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Vec::new(),
            other => other?,
        };
        let kind = by_name(self.name).unwrap_or_else(|| sniff(&start).to_owned());
        let segments = if start.is_empty() {
            Vec::new()
        } else {
            vec![Segment::Bytes(start.into()), Segment::Rest]
        };
        let mut reply = Response::new(body(self.file, segments));
        reply.headers_mut().insert(CONTENT_TYPE, value(&kind));
        if let (true, Some(modified)) = (regular, self.modified) {
            let modified = httpdate::fmt_http_date(whole_seconds(modified));
            reply.headers_mut().insert(LAST_MODIFIED, value(&modified));
            reply
                .headers_mut()
                .insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        Ok(reply)
    }
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(SNIFF_BYTES);
    rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), 0)?;
    Ok(buffer)
}

fn partial(file: File, parts: &[(u64, u64)], size: u64, kind: &str) -> Reply {
    let range = |start: u64, length: u64| format!("bytes {start}-{}/{size}", start + length - 1);
    let part = |(start, length): (u64, u64)| Segment::Part { start, length };
    let mut reply = if let [(start, length)] = *parts {
        let mut reply = Response::new(body(file, [part((start, length))]));
        reply
            .headers_mut()
            .insert(CONTENT_RANGE, value(&range(start, length)));
        reply.headers_mut().insert(CONTENT_TYPE, value(kind));
        reply
    } else {
        let boundary = boundary();
        let mut segments = Vec::with_capacity(parts.len() * 2 + 1);
        for (index, (start, length)) in parts.iter().enumerate() {
            let lead = if index == 0 { "" } else { "\r\n" };
            let range = range(*start, *length);
            let head = format!(
                "{lead}--{boundary}\r\nContent-Range: {range}\r\nContent-Type: {kind}\r\n\r\n"
            );
            segments.push(Segment::Bytes(head.into()));
            segments.push(part((*start, *length)));
        }
        segments.push(Segment::Bytes(format!("\r\n--{boundary}--\r\n").into()));
        let mut reply = Response::new(body(file, segments));
        let kind = format!("multipart/byteranges; boundary={boundary}");
        reply.headers_mut().insert(CONTENT_TYPE, value(&kind));
        reply
    };
    *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
    reply
}

/// Random, so that a file cannot contain it by intent.
fn boundary() -> String {
    crate::random::lower_alphanumeric(40)
}

fn body(file: File, segments: impl IntoIterator<Item = Segment>) -> Body {
    Content::new(file, segments)
        .map_err(Into::into)
        .boxed_unsync()
}

/// `inline; filename=…`, quoted only where RFC 2183 needs it; other alphabets in the form of RFC 5987.
fn disposition(name: &str) -> HeaderValue {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let text = if name.chars().all(token) {
        format!("inline; filename={name}")
    } else if name.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        format!(
            "inline; filename=\"{}\"",
            name.replace('\\', "\\\\").replace('"', "\\\"")
        )
    } else {
        let attribute = |b: u8| b.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&b);
        let encode = |b: u8| {
            if attribute(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        };
        format!(
            "inline; filename*=utf-8''{}",
            name.bytes().map(encode).collect::<String>()
        )
    };
    value(&text)
}

fn value(text: &str) -> HeaderValue {
    // Everything passed here is visible ASCII already, except a media type nobody could read anyway.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_only_when_needed() {
        assert_eq!(disposition("a-b_1.txt"), "inline; filename=a-b_1.txt");
        assert_eq!(disposition("a b.txt"), "inline; filename=\"a b.txt\"");
        assert_eq!(
            disposition("a\"b\\.txt"),
            "inline; filename=\"a\\\"b\\\\.txt\""
        );
        assert_eq!(disposition("é.txt"), "inline; filename*=utf-8''%C3%A9.txt");
        assert_eq!(disposition("a\nb"), "inline; filename*=utf-8''a%0Ab");
    }
}

//! Cross-origin rules: any page may talk to a sandbox; the token is what protects it.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};

use crate::reply::{Reply, empty};

const METHODS: &str = "HEAD, GET, POST, PUT, PATCH, DELETE";
const EXPOSED: &str = "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Connect-Content-Encoding, \
                       Connect-Accept-Encoding, Location, Cache-Control, X-Content-Type-Options, \
                       Soulbox-Output-At, Soulbox-Process";
const MAX_AGE_SECONDS: &str = "7200";

/// Answers a preflight, before any authentication: browsers send none with it.
pub(crate) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Reply> {
    if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    let mut reply = empty(StatusCode::NO_CONTENT);
    let answer = reply.headers_mut();
    answer.insert(
        VARY,
        HeaderValue::from_static(
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        ),
    );
    if wanted
        .to_str()
        .is_ok_and(|wanted| METHODS.split(", ").any(|method| method == wanted))
    {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        answer.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(METHODS),
        );
        answer.insert(
            ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static(MAX_AGE_SECONDS),
        );
        // Any header is allowed: say back what was asked, since `*` leaves Authorization out.
        if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
    }
    Some(reply)
}

/// Lets a page read the answer.
pub(crate) fn expose(from_page: bool, reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if from_page {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
    }
}

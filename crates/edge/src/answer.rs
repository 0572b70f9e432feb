//! The answers of the edge itself: their exact bodies, and whether a browser gets a page instead of JSON.
//!
//! Clients compare these texts (data-plane.md §1.5, newest-sdk-delta.md §6): a changed word changes which
//! exception a user's program sees.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use soulbox_types::SandboxId;

/// Why the edge answers a sandbox request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No such sandbox, or it is gone.
    NotFound,
    /// Nothing listens on the port.
    PortClosed(u16),
    /// The sandbox is private and the request bears no token.
    TokenMissing,
    /// The sandbox is private and the token is wrong.
    TokenInvalid,
    /// The sandbox is private and the end date of the signed address has come.
    PreviewExpired,
    /// The sandbox is private and the signed address is not genuine, or for another port.
    PreviewInvalid,
    /// Too many requests of this sandbox are open.
    TooManyConnections(usize),
    /// The path is envd's, for the control plane alone.
    Reserved(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    code: u16,
    /// For programs. Only where the wire has no words of its own.
    #[serde(rename = "error_code", skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::PortClosed(_) => StatusCode::BAD_GATEWAY,
            Self::TokenMissing
            | Self::TokenInvalid
            | Self::PreviewExpired
            | Self::PreviewInvalid => StatusCode::FORBIDDEN,
            Self::TooManyConnections(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Reserved(_) => StatusCode::NOT_FOUND,
        }
    }

    fn message(&self) -> String {
        let text = match self {
            Self::NotFound => "The sandbox was not found",
            Self::PortClosed(_) => "The sandbox is running but port is not open",
            Self::TokenMissing => {
                "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing"
            }
            Self::TokenInvalid => {
                "Sandbox is secured with traffic access token. \
                 Provided token in header 'e2b-traffic-access-token' is invalid"
            }
            Self::PreviewExpired => {
                "The signed URL has expired. FIX: ask whoever gave it to you for a new one (soulbox sandbox url)"
            }
            Self::PreviewInvalid => {
                "The signed URL is not genuine, or not for this port. FIX: use it exactly as it was given to you, \
                 or ask for a new one (soulbox sandbox url)"
            }
            Self::TooManyConnections(limit) => {
                return format!(
                    "The sandbox has too many concurrent incoming connections (limit: {limit})"
                );
            }
            Self::Reserved(_) => {
                "This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL"
            }
        };
        text.to_owned()
    }

    /// The response, as JSON or as a page by what the request's headers say.
    #[must_use]
    pub fn response(&self, sandbox: &SandboxId, request_headers: &HeaderMap) -> Response<Bytes> {
        let (status, message) = (self.status(), self.message());
        let body = Body {
            sandbox_id: (!matches!(self, Self::Reserved(_))).then(|| sandbox.as_str()),
            message: &message,
            port: if let Self::PortClosed(port) = self {
                Some(*port)
            } else {
                None
            },
            connection_limit: if let Self::TooManyConnections(limit) = self {
                Some(*limit)
            } else {
                None
            },
            path: if let Self::Reserved(path) = self {
                Some(path)
            } else {
                None
            },
            code: status.as_u16(),
            error_code: match self {
                Self::PreviewExpired => Some("preview_url_expired"),
                Self::PreviewInvalid => Some("preview_url_invalid"),
                _ => None,
            },
        };
        if wants_html(request_headers) {
            let page = page(status, &message, sandbox);
            return respond(status, "text/html; charset=utf-8", page.into());
        }
        // Strings and numbers always serialize.
        let json = serde_json::to_vec(&body).unwrap_or_default();
        respond(status, "application/json; charset=utf-8", json.into())
    }
}

/// What a sandbox is told that may not ask for this: as by the proxy that its other connections go through.
pub(crate) fn denied(host: &str, reason: &str) -> Response<Bytes> {
    let body = serde_json::json!({"error": "egress_denied", "host": host, "reason": reason});
    respond(
        StatusCode::FORBIDDEN,
        "application/json",
        format!("{body}\n").into(),
    )
}

/// A plain text answer, as Go's `http.Error` makes it.
#[must_use]
pub fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = respond(
        status,
        "text/plain; charset=utf-8",
        format!("{text}\n").into(),
    );
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // A sandbox that is not there now may be there in a second.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn page(status: StatusCode, message: &str, sandbox: &SandboxId) -> String {
    // Neither text holds markup: the message is ours, an id is `[a-z0-9]`.
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{code} {message}</title></head>\
         <body style=\"font-family: system-ui, sans-serif; margin: 15vh auto; max-width: 40rem\">\
         <h1>{message}</h1><p>Sandbox <code>{sandbox}</code>, status {code}.</p></body></html>\n",
        code = status.as_u16(),
    )
}

/// Whether the client is a browser that navigates; the first matching rule decides (data-plane.md §1.5).
fn wants_html(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    let accept = text(ACCEPT);
    if accept.contains("application/json") && !accept.contains("text/html") {
        return false;
    }
    match text(HeaderName::from_static("sec-fetch-mode")).as_str() {
        "cors" | "no-cors" | "same-origin" | "websocket" => return false,
        "navigate" => {}
        _ if !text(HeaderName::from_static("x-requested-with")).is_empty() => return false,
        _ => {}
    }
    let agent = text(USER_AGENT);
    [
        "mozilla", "chrome", "safari", "firefox", "edge", "opera", "msie",
    ]
    .iter()
    .any(|name| agent.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    fn json(refusal: &Refusal) -> (u16, String) {
        let response = refusal.response(&"iabc".parse().unwrap(), &HeaderMap::new());
        assert_eq!(
            response.headers()[CONTENT_TYPE],
            "application/json; charset=utf-8"
        );
        (
            response.status().as_u16(),
            String::from_utf8(response.body().to_vec()).unwrap(),
        )
    }

    #[test]
    fn exact_bodies() {
        let check = |refusal: Refusal, status: u16, body: &str| {
            assert_eq!(json(&refusal), (status, body.to_owned()));
        };
        check(
            Refusal::NotFound,
            502,
            r#"{"sandboxId":"iabc","message":"The sandbox was not found","code":502}"#,
        );
        check(
            Refusal::PortClosed(3000),
            502,
            r#"{"sandboxId":"iabc","message":"The sandbox is running but port is not open","port":3000,"code":502}"#,
        );
        check(
            Refusal::TokenMissing,
            403,
            r#"{"sandboxId":"iabc","message":"Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing","code":403}"#,
        );
        check(
            Refusal::TokenInvalid,
            403,
            r#"{"sandboxId":"iabc","message":"Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid","code":403}"#,
        );
        check(
            Refusal::PreviewExpired,
            403,
            r#"{"sandboxId":"iabc","message":"The signed URL has expired. FIX: ask whoever gave it to you for a new one (soulbox sandbox url)","code":403,"error_code":"preview_url_expired"}"#,
        );
        check(
            Refusal::TooManyConnections(5),
            429,
            r#"{"sandboxId":"iabc","message":"The sandbox has too many concurrent incoming connections (limit: 5)","connectionLimit":5,"code":429}"#,
        );
        check(
            Refusal::Reserved("/init".into()),
            404,
            r#"{"message":"This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL","path":"/init","code":404}"#,
        );
    }

    #[test]
    fn html_or_json() {
        const BROWSER: (&str, &str) = ("user-agent", "Mozilla/5.0 (X11) Firefox/130");
        let check = |pairs: &[(&'static str, &'static str)], want: bool| {
            assert_eq!(wants_html(&headers(pairs)), want, "{pairs:?}");
        };
        check(&[], false);
        check(&[BROWSER], true);
        check(&[BROWSER, ("accept", "application/json")], false);
        check(&[BROWSER, ("accept", "text/html, application/json")], true);
        check(&[BROWSER, ("sec-fetch-mode", "cors")], false);
        check(
            &[
                BROWSER,
                ("sec-fetch-mode", "navigate"),
                ("x-requested-with", "x"),
            ],
            true,
        );
        check(&[BROWSER, ("x-requested-with", "XMLHttpRequest")], false);
        check(&[("user-agent", "node"), ("sec-fetch-mode", "cors")], false);
        check(&[("user-agent", "e2b-python-sdk/2.63.0")], false);
        let response = Refusal::NotFound.response(&"iabc".parse().unwrap(), &headers(&[BROWSER]));
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(String::from_utf8_lossy(response.body()).contains("The sandbox was not found"));
    }

    #[test]
    fn plain_text_is_as_go_makes_it() {
        let response = plain(StatusCode::BAD_REQUEST, "missing header");
        assert_eq!(response.body(), "missing header\n");
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}

//! Plain HTTP: every request of a connection is judged by the name that it asks for.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use soulbox_types::Timestamp;
use soulbox_types::policy::canonical_name;
use tokio::net::TcpStream;

use crate::far::{Failed, Far, Held, THROUGH, forward};
use crate::gate::{Gate, Passed};
use crate::outside::Goal;
use crate::proxy::Way;

/// How long a client may take over the head of a request, and be silent between two.
pub(crate) const HEAD: Duration = Duration::from_mins(1);

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// Carries requests to where the connection was to go, as long as they may.
pub(crate) async fn pass(gate: Arc<Gate>, way: Way, stream: TcpStream) {
    let server = Arc::new(Held::default());
    let service = service_fn(move |request| {
        let (gate, server) = (Arc::clone(&gate), Arc::clone(&server));
        async move { Ok::<_, Infallible>(answer(&gate, way, &server, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of a sandbox has ended");
    }
}

async fn answer(
    gate: &Gate,
    way: Way,
    server: &Held,
    request: Request<Incoming>,
) -> Response<Body> {
    let host = match target(&request, "80") {
        Ok(host) => host,
        Err(reason) => {
            gate.refused(way.client, "http", &way.server.to_string(), reason);
            return refusal(&way.server.to_string(), reason);
        }
    };
    let own = way.server.ip();
    let name = (address(&host) != Some(own)).then_some(host.as_str());
    let rule = match gate.judge(way.client, name, own) {
        Ok(rule) => rule,
        Err(reason) => {
            gate.refused(way.client, "http", &host, &reason);
            return refusal(&host, &reason);
        }
    };
    let asked = asked(&request);
    let at = Timestamp::now();
    let known = canonical_name(&host);
    let goal = Goal::of(gate, way, known.as_deref(), &rule);
    let forwarded = forward(gate, goal, &Far::Plain, server, request).await;
    if let Err(Failed {
        error: THROUGH,
        reason,
    }) = &forwarded
    {
        gate.refused(way.client, "http", &host, reason);
        return told(StatusCode::BAD_GATEWAY, THROUGH, &host, reason);
    }
    let passed = Passed {
        kind: "http",
        target: &host,
        rule: &rule,
        at,
        detail: &format!("{asked} {}", became(&forwarded)),
        bytes: None,
    };
    gate.passed(way, &passed);
    match forwarded {
        Ok(response) => response,
        Err(Failed { error, reason }) => {
            tracing::debug!(reason, server = %way.server, "a server cannot be reached for a sandbox");
            told(StatusCode::BAD_GATEWAY, error, &host, &reason)
        }
    }
}

/// What a request is, without its query: it may hold what is for the server alone.
pub(crate) fn asked(request: &Request<Incoming>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

/// What became of it.
pub(crate) fn became(forwarded: &Result<Response<Body>, Failed>) -> String {
    match forwarded {
        Ok(response) => response.status().as_u16().to_string(),
        Err(_) => "no answer".to_owned(),
    }
}

/// The address that a host is, as clients write it (RFC 3986 §3.2.2).
fn address(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    }
}

/// The one host that a request asks for, in all the places where it may say so.
pub(crate) fn target<B>(request: &Request<B>, own_port: &str) -> Result<String, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("it asks for a tunnel (CONNECT)");
    }
    let authority = request.uri().authority().map(Authority::as_str);
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| "its Host is no text")?,
        // In HTTP/2 the address says it alone (RFC 9113 §8.3.1).
        (None, None) if request.version() == Version::HTTP_2 => {
            authority.ok_or("it has no :authority")?
        }
        _ => return Err("it has not exactly one Host"),
    };
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
        return Err("its Host is not that of its address");
    }
    // An address of IPv6 has colons itself.
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (host, own_port),
    };
    if port != own_port {
        return Err("its Host names another port");
    }
    let upgrade = request.headers().get(UPGRADE);
    if upgrade.is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err("it asks for another protocol than WebSocket");
    }
    Ok(host.to_owned())
}

pub(crate) fn refusal(host: &str, reason: &str) -> Response<Body> {
    told(StatusCode::FORBIDDEN, "egress_denied", host, reason)
}

/// An answer that programs and people understand.
pub(crate) fn told(status: StatusCode, error: &str, host: &str, reason: &str) -> Response<Body> {
    let text = serde_json::json!({"error": error, "host": host, "reason": reason}).to_string();
    let body = Full::from(text + "\n").map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(version: Version, uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn one_host_in_every_version() {
        let named = |version, uri: &str, headers: &[_]| target(&asks(version, uri, headers), "443");
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        let good = Ok("a.example".to_owned());
        let numbers = Ok("[2a0b::5]".to_owned());
        assert_eq!(named(one, "/x", &[("host", "[2a0b::5]")]), numbers);
        assert_eq!(named(one, "/x", &[("host", "[2a0b::5]:443")]), numbers);
        assert_eq!(named(one, "/x", &[("host", "a.example")]), good);
        assert_eq!(named(one, "/x", &[("host", "a.example:443")]), good);
        assert_eq!(named(two, "https://a.example/x", &[]), good);
        assert_eq!(
            named(two, "https://a.example/x", &[("host", "a.example")]),
            good
        );
        for (version, uri, headers) in [
            (one, "/x", &[][..]),
            (one, "http://a.example/x", &[]),
            (one, "/x", &[("host", "a.example"), ("host", "a.example")]),
            (one, "/x", &[("host", "a.example:80")]),
            (one, "/x", &[("host", "[2a0b::5]:80")]),
            (one, "/x", &[("host", "2a0b::5")]),
            (one, "http://b.example/x", &[("host", "a.example")]),
            (two, "/x", &[]),
            (two, "https://b.example/x", &[("host", "a.example")]),
            (two, "https://a.example:80/x", &[]),
            (
                two,
                "https://a.example/x",
                &[("upgrade", "h2c"), ("host", "a.example")],
            ),
        ] {
            assert!(named(version, uri, headers).is_err(), "{uri} {headers:?}");
        }
    }

    #[test]
    fn addresses_as_clients_write_them() {
        assert_eq!(address("9.9.9.9"), Some([9, 9, 9, 9].into()));
        assert_eq!(address("[2A0B:0::5]"), "2a0b::5".parse().ok());
        for other in [
            "2a0b::5",
            "[9.9.9.9]",
            "9.9",
            "0x9090909",
            "[2a0b::5",
            "[2a0b::5%1]",
            "a.example",
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }
}

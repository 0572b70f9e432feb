//! What changes in a message on its way through: hop-by-hop headers go, `Host` may be masked, envd's own paths stop.
//!
//! Pure functions on headers and paths. What must stay true: framing headers are never a matter of what the peer
//! lists in `Connection`, and nothing that is not hop-by-hop is touched.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Uri, Version};
use soulbox_driver::route::Route;
use subtle::ConstantTimeEq as _;

use crate::Secrets;
use crate::answer::Refusal;
use crate::preview::{self, Opened};

/// The port envd listens on in every sandbox.
pub const ENVD_PORT: u16 = 49983;
/// Shows that the caller may reach the ports of a private sandbox.
pub const TRAFFIC_TOKEN: HeaderName = HeaderName::from_static("e2b-traffic-access-token");
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What concerns only one hop, whatever a peer says.
static ONE_HOP: [HeaderName; 8] = [
    CONNECTION,
    TE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

const RESERVED: [&str; 8] = [
    "/init",
    "/oom",
    "/freeze",
    "/unfreeze",
    "/collapse",
    "/fsfreeze",
    "/fsthaw",
    "/upgrade",
];

/// The cleaned path, when it is one of those of envd's that only the control plane may call.
#[must_use]
pub fn reserved_path(port: u16, path: &str) -> Option<String> {
    if port != ENVD_PORT {
        return None;
    }
    // Nothing to decode and nothing to clean, as nearly always.
    if !path.contains('%') && !path.contains("//") && !path.contains("/.") && !path.starts_with('.')
    {
        let bare = path.trim_matches('/');
        let reserved = RESERVED
            .iter()
            .find(|reserved| reserved.strip_prefix('/') == Some(bare));
        return reserved.map(|&reserved| reserved.to_owned());
    }
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let mut clean: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    let clean = format!("/{}", clean.join("/"));
    RESERVED.contains(&clean.as_str()).then_some(clean)
}

/// Checks the traffic token or the signed address, where the sandbox asks for one. envd has a token of its own.
///
/// # Errors
/// What to answer when there is none, or it is wrong.
pub(crate) fn check_traffic_token(
    route: &Route,
    port: u16,
    uri: &Uri,
    headers: &HeaderMap,
    now: i64,
) -> Result<Option<Opened>, Refusal> {
    let Some(wanted) = route
        .traffic_access_token
        .as_ref()
        .filter(|_| port != ENVD_PORT)
    else {
        return Ok(None);
    };
    let Some(given) = headers.get(TRAFFIC_TOKEN).filter(|it| !it.is_empty()) else {
        let shown = preview::judge(wanted, port, uri, headers, now);
        return shown.ok_or(Refusal::TokenMissing)?.map(Some);
    };
    if bool::from(given.as_bytes().ct_eq(wanted.as_bytes())) {
        Ok(None)
    } else {
        Err(Refusal::TokenInvalid)
    }
}

/// Whether a request may bring a paused sandbox back. Nothing inside can judge that, so unlike with a running one, the edge
/// looks at what is for envd, too.
#[must_use]
pub(crate) fn may_wake(
    secrets: Secrets<'_>,
    port: u16,
    uri: &Uri,
    headers: &HeaderMap,
    now: i64,
) -> bool {
    let (name, wanted) = if port == ENVD_PORT {
        (ACCESS_TOKEN, secrets.envd)
    } else if let Some(token) = secrets.traffic {
        if !headers.contains_key(TRAFFIC_TOKEN) {
            return preview::judge(token, port, uri, headers, now).is_some_and(|it| it.is_ok());
        }
        (TRAFFIC_TOKEN, token)
    } else {
        return true;
    };
    headers
        .get(name)
        .is_some_and(|given| given.as_bytes().ct_eq(wanted.as_bytes()).into())
}

/// The protocol that an HTTP/1.1 request wants to switch to, if any. `h2c` does not count: a server may ignore that
/// offer (RFC 9110 §7.8), and a sandbox must not talk HTTP/2 to whoever sits behind the edge's HTTP/1.1 parser.
#[must_use]
pub fn wanted_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11
        || !connection_tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"))
    {
        return None;
    }
    let protocol = headers.get(UPGRADE)?;
    (!protocol.is_empty() && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
        .then(|| protocol.clone())
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes what concerns only one hop (RFC 9110 §7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Few messages have many of them: to look at the names that are there costs less than to ask for each.
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ONE_HOP.contains(name))
        .cloned()
        .collect();
    if found.contains(&CONNECTION) {
        let named: Vec<HeaderName> = connection_tokens(headers)
            .filter_map(|name| name.parse().ok())
            .collect();
        // A peer that lists these wants the other side to misread the message.
        for name in named
            .iter()
            .filter(|name| **name != HOST && **name != CONTENT_LENGTH)
        {
            headers.remove(name);
        }
    }
    for name in found {
        let value = headers.remove(&name);
        // gRPC servers insist on `TE: trailers`, which is harmless to pass on.
        if name == TE && value.is_some_and(|value| has_trailers(&value)) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

fn has_trailers(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| {
        text.split(',')
            .any(|t| t.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// Makes the headers of the request to the server inside: `host` is the host the client asked for.
pub fn to_upstream(headers: &mut HeaderMap, route: &Route, port: u16, host: &str) {
    strip_hop_by_hop(headers);
    // The edge has answered the expectation itself.
    headers.remove(EXPECT);
    let host = HeaderValue::from_str(host)
        .ok()
        .filter(|host| !host.is_empty());
    let host = host.unwrap_or(HeaderValue::from_static("localhost"));
    let mask = route
        .mask_request_host
        .as_ref()
        .filter(|_| port != ENVD_PORT);
    let masked = mask
        .and_then(|mask| HeaderValue::from_str(&mask.replace("${PORT}", &port.to_string())).ok());
    if let Some(masked) = masked {
        headers.insert(HOST, masked);
        headers.insert(FORWARDED_HOST, host);
    } else {
        headers.insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn reserved_paths_however_they_are_written() {
        for path in [
            "/init",
            "/init/",
            "//init",
            "/x/../init",
            "/./init",
            "/%69nit",
            "/init%2F",
            "/../init",
            "./init",
            "init/",
        ] {
            assert_eq!(
                reserved_path(ENVD_PORT, path).as_deref(),
                Some("/init"),
                "{path}"
            );
        }
        assert_eq!(
            reserved_path(ENVD_PORT, "/fsthaw").as_deref(),
            Some("/fsthaw")
        );
        assert_eq!(reserved_path(ENVD_PORT, "init").as_deref(), Some("/init"));
        for path in [
            "/",
            "",
            ".",
            "/health",
            "/init2",
            "/files/init",
            "/INIT",
            "*",
        ] {
            assert_eq!(reserved_path(ENVD_PORT, path), None, "{path}");
        }
        assert_eq!(reserved_path(8080, "/init"), None);
    }

    #[test]
    fn hop_by_hop_headers_go_and_no_others() {
        let mut map = headers(&[
            ("connection", "close, X-Private"),
            ("connection", "host, content-length"),
            ("x-private", "1"),
            ("x-public", "1"),
            ("host", "h"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "trailers, deflate"),
            ("trailer", "x-sum"),
            ("authorization", "Basic x"),
        ]);
        strip_hop_by_hop(&mut map);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "authorization",
                "content-length",
                "host",
                "te",
                "trailer",
                "x-public"
            ]
        );
        assert_eq!(map[TE], "trailers");
    }

    #[test]
    fn upgrades() {
        let wanted = |pairs: &[(&'static str, &'static str)]| {
            wanted_upgrade(Version::HTTP_11, &headers(pairs))
        };
        assert_eq!(
            wanted(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket")
            ])
            .unwrap(),
            "websocket"
        );
        assert_eq!(wanted(&[("upgrade", "websocket")]), None);
        assert_eq!(wanted(&[("connection", "upgrade")]), None);
        assert_eq!(
            wanted(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            None
        );
        let map = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(wanted_upgrade(Version::HTTP_10, &map), None);
    }
}

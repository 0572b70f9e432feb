//! Whose request is this: the control plane's, a sandbox's, or nobody's.
//!
//! One pure function on the head of a request, so that the rule can be read, tested and trusted in one place.
//! What must stay true: a request that two readers could understand differently (two `Host` headers, `Host` and
//! request target that disagree, doubled routing headers) is refused, never guessed at.

use http::header::{CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, Version};
use soulbox_types::SandboxId;

/// Names the sandbox of a request, whatever its `Host`.
pub const SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
/// Names the port of a request that bears [`SANDBOX_ID`].
pub const SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// To the control plane.
    Control,
    /// To a port of a sandbox.
    Sandbox {
        /// Which sandbox.
        id: SandboxId,
        /// Which port inside.
        port: u16,
    },
    /// Nowhere; the text is the body of the 400.
    BadRequest(&'static str),
}

/// The head of a request, as far as routing looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target; over HTTP/2 it bears the `:authority`.
    pub uri: &'a Uri,
    /// The protocol.
    pub version: Version,
    /// All headers.
    pub headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    /// The head of this request.
    pub fn of<B>(request: &'a http::Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
        }
    }
}

/// Decides where a request goes. `domain` is the domain this server answers for, in lower case and without port.
#[must_use]
pub fn decide(domain: Option<&str>, head: Head<'_>) -> Decision {
    match route(domain, head) {
        Ok(decision) => decision,
        Err(text) => Decision::BadRequest(text),
    }
}

fn route(domain: Option<&str>, head: Head<'_>) -> Result<Decision, &'static str> {
    check_framing(head)?;
    let host = host_name(effective_host(head)?)?.to_ascii_lowercase();
    // A host name made for a sandbox wins over the headers, as the contract says (data-plane.md §1.4).
    let by_host = from_host(&host, domain);
    if let Ok(Some(decision)) = by_host {
        return Ok(decision);
    }
    if let Some(decision) = from_headers(head.headers)? {
        return Ok(decision);
    }
    by_host.map(|_| Decision::Control)
}

/// Refuses what makes the end of a message, or its addressee, a matter of opinion.
fn check_framing(head: Head<'_>) -> Result<(), &'static str> {
    if head.method == Method::CONNECT {
        return Err("CONNECT is not supported");
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || encodings.next().is_some() || head.version != Version::HTTP_11 {
            return Err("unsupported Transfer-Encoding");
        }
        if head.headers.contains_key(CONTENT_LENGTH) {
            return Err("both Transfer-Encoding and Content-Length");
        }
    }
    if head.headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err("duplicate Content-Length");
    }
    Ok(())
}

/// The one host this request is for: from the request target where it has one, else the `Host` header.
pub(crate) fn effective_host<'a>(head: Head<'a>) -> Result<&'a str, &'static str> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err("duplicate Host");
    }
    let header = header
        .map(|value| value.to_str().map_err(|_| "Invalid host"))
        .transpose()?;
    if head
        .uri
        .scheme()
        .is_some_and(|s| s != &http::uri::Scheme::HTTP && s != &http::uri::Scheme::HTTPS)
    {
        return Err("unsupported scheme in the request target");
    }
    match (head.uri.authority(), header) {
        (Some(authority), _) if authority.as_str().contains('@') => Err("Invalid host"),
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err("Host and request target disagree")
        }
        (Some(authority), _) => Ok(authority.as_str()),
        (None, Some(host)) => Ok(host),
        // RFC 9112 §3.2: every HTTP/1.1 request bears Host. HTTP/1.0 may lack it.
        (None, None) if head.version == Version::HTTP_11 => Err("missing Host"),
        (None, None) => Ok(""),
    }
}

/// Cuts the port off a host, and refuses what is no host at all.
pub(crate) fn host_name(host: &str) -> Result<&str, &'static str> {
    const INVALID: &str = "Invalid host";
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(INVALID)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| INVALID)?;
        (address, port)
    } else {
        let name = host.split(':').next().unwrap_or_default();
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        {
            return Err(INVALID);
        }
        (name, &host[name.len()..])
    };
    let port_ok = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if port_ok {
        Ok(name.strip_suffix('.').unwrap_or(name))
    } else {
        Err(INVALID)
    }
}

/// `<port>-<sandboxID>.<anything>`; `Ok(None)` when the name is not made for a sandbox.
fn from_host(host: &str, domain: Option<&str>) -> Result<Option<Decision>, &'static str> {
    // Below the configured domain every name but `api.` belongs to sandboxes; elsewhere a name like `my-host.lan`
    // may be the server's own, and only a number before the dash marks a sandbox.
    let below_domain = domain
        .and_then(|domain| host.strip_suffix(domain)?.strip_suffix('.'))
        .is_some_and(|name| name != "api");
    let Some((label, _)) = host.split_once('.').filter(|(_, rest)| !rest.is_empty()) else {
        return Ok(None);
    };
    let mut parts = label.split('-');
    let (port, id) = (parts.next().unwrap_or_default(), parts.next());
    let Some(id) = id.filter(|_| below_domain || is_number(port)) else {
        return if below_domain {
            Err("Invalid host")
        } else {
            Ok(None)
        };
    };
    Ok(Some(Decision::Sandbox {
        port: parse_port(port)?,
        id: parse_id(id)?,
    }))
}

/// The two routing headers; `Ok(None)` when the request bears neither.
fn from_headers(headers: &HeaderMap) -> Result<Option<Decision>, &'static str> {
    match (
        single(headers, &SANDBOX_ID)?,
        single(headers, &SANDBOX_PORT)?,
    ) {
        (None, None) => Ok(None),
        (Some(id), Some(port)) => Ok(Some(Decision::Sandbox {
            port: parse_port(port)?,
            id: parse_id(id)?,
        })),
        _ => Err("missing header"),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err("duplicate routing header");
    }
    let text = first
        .map(|value| value.to_str().map_err(|_| "invalid routing header"))
        .transpose()?;
    Ok(text.map(str::trim).filter(|text| !text.is_empty()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    let port = if is_number(text) {
        text.parse().ok()
    } else {
        None
    };
    port.filter(|port| *port != 0).ok_or("Invalid sandbox port")
}

fn parse_id(text: &str) -> Result<SandboxId, &'static str> {
    text.parse().map_err(|_| "Invalid sandbox ID")
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;

    fn sandbox(id: &str, port: u16) -> Decision {
        Decision::Sandbox {
            id: id.parse().unwrap(),
            port,
        }
    }

    fn on(domain: Option<&str>, uri: &str, headers: &[(&str, &str)]) -> Decision {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        decide(domain, Head::of(&request.body(()).unwrap()))
    }

    fn host(text: &str) -> Decision {
        on(None, "/", &[("host", text)])
    }

    #[test]
    fn host_names() {
        assert_eq!(host("localhost:3000"), Decision::Control);
        assert_eq!(host("127.0.0.1:3000"), Decision::Control);
        assert_eq!(host("[::1]:3000"), Decision::Control);
        assert_eq!(host("my-host.lan"), Decision::Control);
        assert_eq!(host("3000-iabc"), Decision::Control, "no dot, no sandbox");
        assert_eq!(host("3000-iabc.localhost:3000"), sandbox("iabc", 3000));
        assert_eq!(host("3000-IABC.Example.COM."), sandbox("iabc", 3000));
        assert_eq!(
            host("49983-iabc-6532622b.e2b.app"),
            sandbox("iabc", 49983),
            "old suffix ignored"
        );
        assert_eq!(
            host("99999-iabc.x"),
            Decision::BadRequest("Invalid sandbox port")
        );
        assert_eq!(
            host("0-iabc.x"),
            Decision::BadRequest("Invalid sandbox port")
        );
        assert_eq!(host("3000-.x"), Decision::BadRequest("Invalid sandbox ID"));
        assert_eq!(
            host("3000-i_b.x"),
            Decision::BadRequest("Invalid sandbox ID")
        );
        for bad in [
            "a b",
            "a/b",
            "a@b",
            "[::1",
            "[x]",
            "a:b",
            "::1",
            "a:1:2",
            "user:pw@h",
        ] {
            assert_eq!(host(bad), Decision::BadRequest("Invalid host"), "{bad}");
        }
    }

    #[test]
    fn domain_mode() {
        let at = |text: &str| on(Some("box.test"), "/", &[("host", text)]);
        assert_eq!(at("api.box.test"), Decision::Control);
        assert_eq!(at("box.test:8443"), Decision::Control);
        assert_eq!(at("localhost"), Decision::Control);
        assert_eq!(at("my-host.lan"), Decision::Control);
        assert_eq!(at("49983-iabc.box.test"), sandbox("iabc", 49983));
        assert_eq!(at("sandbox.box.test"), Decision::BadRequest("Invalid host"));
        assert_eq!(
            at("x-iabc.box.test"),
            Decision::BadRequest("Invalid sandbox port")
        );
        assert_eq!(
            at("notbox.test"),
            Decision::Control,
            "another domain that ends alike"
        );
        let headers = [
            ("host", "sandbox.box.test"),
            ("e2b-sandbox-id", "iabc"),
            ("e2b-sandbox-port", "49983"),
        ];
        assert_eq!(on(Some("box.test"), "/", &headers), sandbox("iabc", 49983));
    }

    #[test]
    fn routing_headers() {
        let with = |id: &str, port: &str| {
            on(
                None,
                "/",
                &[
                    ("host", "localhost"),
                    ("e2b-sandbox-id", id),
                    ("e2b-sandbox-port", port),
                ],
            )
        };
        assert_eq!(with("iabc", "49983"), sandbox("iabc", 49983));
        assert_eq!(with("", ""), Decision::Control, "empty is absent");
        assert_eq!(with("iabc", ""), Decision::BadRequest("missing header"));
        assert_eq!(with("", "80"), Decision::BadRequest("missing header"));
        assert_eq!(
            with("i/../x", "80"),
            Decision::BadRequest("Invalid sandbox ID")
        );
        assert_eq!(
            with("iabc", "+80"),
            Decision::BadRequest("Invalid sandbox port")
        );
        assert_eq!(
            with("iabc", "65536"),
            Decision::BadRequest("Invalid sandbox port")
        );
        let ignored = [
            ("host", "80-iabc.x"),
            ("e2b-sandbox-id", "iother"),
            ("e2b-sandbox-port", "81"),
        ];
        assert_eq!(
            on(None, "/", &ignored),
            sandbox("iabc", 80),
            "the host name wins"
        );
        let odd = [
            ("host", "99999-x.y"),
            ("e2b-sandbox-id", "iabc"),
            ("e2b-sandbox-port", "81"),
        ];
        assert_eq!(on(None, "/", &odd), sandbox("iabc", 81));
    }

    #[test]
    fn ambiguity_is_refused() {
        let refused = |uri: &str, headers: &[(&str, &str)]| {
            assert!(
                matches!(on(None, uri, headers), Decision::BadRequest(_)),
                "{uri} {headers:?}"
            );
        };
        refused("/", &[]);
        refused("/", &[("host", "a"), ("host", "a")]);
        refused("http://a/x", &[("host", "b")]);
        refused("http://u@a/x", &[("host", "u@a")]);
        refused("ftp://a/x", &[("host", "a")]);
        refused(
            "/",
            &[
                ("host", "a"),
                ("e2b-sandbox-id", "ia"),
                ("e2b-sandbox-id", "ib"),
            ],
        );
        refused(
            "/",
            &[
                ("host", "a"),
                ("transfer-encoding", "chunked"),
                ("content-length", "3"),
            ],
        );
        refused(
            "/",
            &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
        );
        refused(
            "/",
            &[
                ("host", "a"),
                ("content-length", "3"),
                ("content-length", "3"),
            ],
        );
        assert_eq!(
            on(None, "http://A:80/x", &[("host", "a:80")]),
            Decision::Control
        );
        let connect = Request::builder()
            .method("CONNECT")
            .uri("a:80")
            .header("host", "a:80")
            .body(())
            .unwrap();
        assert!(matches!(
            decide(None, Head::of(&connect)),
            Decision::BadRequest(_)
        ));
        let old = Request::builder()
            .version(Version::HTTP_10)
            .uri("/")
            .body(())
            .unwrap();
        assert_eq!(decide(None, Head::of(&old)), Decision::Control);
    }

    proptest! {
        #[test]
        fn any_valid_pair_is_found(port in 1u16.., id in "[a-z0-9]{1,30}", rest in "[a-z]{1,8}(\\.[a-z]{1,8}){0,2}") {
            prop_assert_eq!(host(&format!("{port}-{id}.{rest}")), sandbox(&id, port));
            let headers = [("host", rest.as_str()), ("e2b-sandbox-id", &id), ("e2b-sandbox-port", &port.to_string())];
            prop_assert_eq!(on(None, "/", &headers), sandbox(&id, port));
        }

        #[test]
        fn no_input_panics_and_ids_are_clean(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let Ok(value) = HeaderValue::from_bytes(&text) else { return Ok(()) };
            let request = Request::builder().uri("/").header("host", &value).header("e2b-sandbox-id", &value)
                .header("e2b-sandbox-port", "80").body(()).unwrap();
            if let Decision::Sandbox { id, port } = decide(Some("box.test"), Head::of(&request)) {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
                prop_assert_ne!(port, 0);
            }
        }
    }
}

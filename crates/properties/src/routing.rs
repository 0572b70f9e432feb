//! Whose request is this: the edge's decision, and the paths that are not for callers.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use soulbox_edge::decide::{Decision, Head, SANDBOX_ID, decide};
use soulbox_edge::rewrite::{ENVD_PORT, reserved_path, strip_hop_by_hop};

/// Paths of envd that only the server may call.
const CONTROL_PATHS: [&str; 2] = ["/init", soulbox_envd_proto::OOM_PATH];

/// Input: `method target version`, then `name: value` lines. A first byte `@` sets a domain.
pub(crate) fn routing(data: &[u8]) {
    let (domain, data) = match data.split_first() {
        Some((b'@', rest)) => (Some("sandbox.example"), rest),
        _ => (None, data),
    };
    let Some(request) = request(data) else { return };
    let decision = decide(domain, Head::of(&request));
    spelling_does_not_matter(domain, &request, &decision);
    doubt_is_never_resolved(domain, &request, &decision);
    sandboxes_have_one_name(&decision);
    hops_keep_what_is_not_theirs(request.headers());
}

/// As lenient as the HTTP crate, which is what stands before the edge.
fn request(data: &[u8]) -> Option<Request<()>> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut head = lines.next()?.split(|byte| *byte == b' ');
    let (method, target, version) = (head.next()?, head.next()?, head.next()?);
    let version = match version {
        b"0" => Version::HTTP_10,
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .version(version)
        .body(())
        .ok()?;
    for line in lines.take(64) {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..at)?, line.get(at + 1..)?);
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(value.trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

fn spelling_does_not_matter(domain: Option<&str>, request: &Request<()>, decision: &Decision) {
    let mut upper = request.clone();
    if let Some(host) = upper.headers_mut().get_mut(HOST)
        && let Ok(text) = HeaderValue::from_bytes(&host.as_bytes().to_ascii_uppercase())
    {
        *host = text;
    }
    assert_eq!(&decide(domain, Head::of(&upper)), decision, "upper case");
    let mut more = request.clone();
    more.headers_mut()
        .append("x-other", HeaderValue::from_static("1"));
    assert_eq!(&decide(domain, Head::of(&more)), decision, "another header");
}

/// A second `Host`, a second routing header, or two ways to say where the message ends.
fn doubt_is_never_resolved(domain: Option<&str>, request: &Request<()>, decision: &Decision) {
    let with = |name: HeaderName, value: &'static str| {
        let mut request = request.clone();
        request
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
        decide(domain, Head::of(&request))
    };
    let refused = |decision: &Decision| matches!(decision, Decision::BadRequest(_));
    if request.headers().contains_key(HOST) {
        assert!(refused(&with(HOST, "other.example")), "two hosts");
    }
    if request.headers().contains_key(TRANSFER_ENCODING) {
        assert!(refused(&with(CONTENT_LENGTH, "0")), "two lengths");
        assert!(
            refused(&with(TRANSFER_ENCODING, "chunked")),
            "two encodings"
        );
    }
    if request.headers().contains_key(CONTENT_LENGTH) {
        assert!(refused(&with(CONTENT_LENGTH, "7")), "two lengths");
    }
    if request
        .headers()
        .get(SANDBOX_ID)
        .is_some_and(|id| !id.is_empty())
    {
        let second = with(SANDBOX_ID, "iother");
        // Only a host name that was made for a sandbox may win over a doubled header.
        assert!(refused(&second) || &second == decision, "two ids");
    }
}

/// What was found has a host name of its own, and that name leads to it.
fn sandboxes_have_one_name(decision: &Decision) {
    let Decision::Sandbox { id, port } = decision else {
        return;
    };
    assert_ne!(*port, 0);
    let name = format!("{port}-{id}.sandbox.example");
    for domain in [None, Some("sandbox.example")] {
        let request = Request::builder()
            .header(HOST, &name)
            .body(())
            .expect("an id is a legal label");
        assert_eq!(&decide(domain, Head::of(&request)), decision);
    }
}

fn hops_keep_what_is_not_theirs(headers: &HeaderMap) {
    let mut once = headers.clone();
    strip_hop_by_hop(&mut once);
    for gone in [CONNECTION, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHORIZATION] {
        assert!(!once.contains_key(&gone), "{gone}");
    }
    for kept in [HOST, CONTENT_LENGTH] {
        let values = |map: &HeaderMap| map.get_all(&kept).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(&once), values(headers), "{kept}");
    }
    let mut twice = once.clone();
    strip_hop_by_hop(&mut twice);
    assert_eq!(once, twice);
}

/// Input: a path.
pub(crate) fn reserved(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else {
        return;
    };
    let found = reserved_path(ENVD_PORT, path);
    assert_eq!(reserved_path(8080, path), None, "only envd has such paths");
    for written in [
        format!("/{path}"),
        format!("{path}/."),
        format!("{path}/x/.."),
        format!("{path}/%2e/"),
    ] {
        assert_eq!(reserved_path(ENVD_PORT, &written), found, "{written:?}");
    }
    if let Some(clean) = found {
        assert_eq!(reserved_path(ENVD_PORT, &clean), Some(clean));
    }
    for control in CONTROL_PATHS {
        // In whatever spelling, once it is decoded and cleaned.
        let hidden = format!("{}{control}", path.replace("..", "").replace('%', ""));
        let depth = hidden
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .count();
        if depth == 1 {
            assert!(reserved_path(ENVD_PORT, &hidden).is_some(), "{hidden:?}");
        }
    }
}

//! Plain HTTP: every request of a connection is judged by the name that it asks for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use soulbox_types::Timestamp;
use soulbox_types::policy::canonical_name;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::gate::{Gate, Passed};
use crate::outside::{Goal, Outside, Unreached, connect};
use crate::proxy::{PATIENCE, Way};

/// How long a client may take over the head of a request, and be silent between two.
pub(crate) const HEAD: Duration = Duration::from_mins(1);

/// What is carried at once in one direction, behind an upgrade.
const PIECE_BYTES: usize = 64 * 1024;

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
    let name = (host != own.to_string()).then_some(host.as_str());
    let rule = match gate.judge(way.client, name, *own) {
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

/// The one host that a request asks for, in all the places where it may say so.
pub(crate) fn target(request: &Request<Incoming>, own_port: &str) -> Result<String, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("it asks for a tunnel (CONNECT)");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("it has not exactly one Host");
    };
    let host = host.to_str().map_err(|_| "its Host is no text")?;
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
        return Err("its Host is not that of its address");
    }
    let (host, port) = host.rsplit_once(':').unwrap_or((host, own_port));
    if port != own_port {
        return Err("its Host names another port");
    }
    let upgrade = request.headers().get(UPGRADE);
    if upgrade.is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err("it asks for another protocol than WebSocket");
    }
    Ok(host.to_owned())
}

/// How a server is reached.
pub(crate) enum Far {
    /// Without TLS.
    Plain,
    /// Over TLS, with a certificate for this name that is trusted.
    Verified(TlsConnector, ServerName<'static>),
}

/// The connection to a server that the last request went over, and where it goes.
pub(crate) type Held = Mutex<Option<(Goal, SendRequest<Incoming>)>>;

/// For programs: the sandbox's own proxy is why there is no answer.
const THROUGH: &str = "egress_proxy_failed";

/// Why there is no answer of a server.
pub(crate) struct Failed {
    /// For programs.
    pub(crate) error: &'static str,
    /// For people.
    pub(crate) reason: String,
}

impl Failed {
    /// The connection has lost what it was about.
    pub(crate) fn gone() -> Self {
        Self {
            error: "rule_unusable",
            reason: "the server is not ready".to_owned(),
        }
    }

    fn of(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            error: "upstream_failed",
            reason: reason.into().to_string(),
        }
    }
}

/// Sends a request on, over the connection that is held or a new one.
pub(crate) async fn forward(
    gate: &Gate,
    goal: Goal,
    far: &Far,
    server: &Held,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Failed> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let upgrades = request.headers().contains_key(UPGRADE);
    if request.headers().contains_key(TRANSFER_ENCODING) {
        // Of two lengths a server may believe the other one (RFC 9112 §6.1).
        request.headers_mut().remove(CONTENT_LENGTH);
    }
    of_this_connection(request.headers_mut(), upgrades);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let mut held = server.lock().await;
    let usable = match held.as_mut() {
        Some((same, sender)) => *same == goal && sender.ready().await.is_ok(),
        None => false,
    };
    if !usable {
        *held = None;
    }
    let (_, sender) = match &mut *held {
        Some(held) => held,
        none => {
            let sender = open(gate, &goal, far).await?;
            none.insert((goal, sender))
        }
    };
    let sent = sender.send_request(request).await;
    drop(held);
    let mut response = sent.map_err(Failed::of)?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    of_this_connection(response.headers_mut(), switched);
    if let (true, Some(client)) = (switched, client) {
        let far = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(near), Ok(far)) = tokio::join!(client, far) {
                let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
                // How it ends is for the two sides to know.
                copy_bidirectional_with_sizes(&mut near, &mut far, PIECE_BYTES, PIECE_BYTES)
                    .await
                    .ok();
            }
        });
    }
    Ok(response.map(BodyExt::boxed))
}

/// Takes away what is said of one connection only (RFC 9110 §7.6.1).
fn of_this_connection(headers: &mut HeaderMap, upgrades: bool) {
    for name in ["keep-alive", "proxy-connection", "connection"] {
        headers.remove(name);
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

async fn open(gate: &Gate, goal: &Goal, far: &Far) -> Result<SendRequest<Incoming>, Failed> {
    match connect(gate, goal).await {
        Ok(Outside::Tcp(stream)) => over(stream, far).await,
        Ok(Outside::Tls(stream)) => over(stream, far).await,
        Err(Unreached::Server(error)) => Err(Failed::of(error)),
        Err(Unreached::Proxy(reason)) => Err(Failed {
            error: THROUGH,
            reason,
        }),
    }
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    far: &Far,
) -> Result<SendRequest<Incoming>, Failed> {
    let (tls, name) = match far {
        Far::Plain => return begin(stream).await,
        Far::Verified(tls, name) => (tls, name.clone()),
    };
    match timeout(PATIENCE, tls.connect(name, stream)).await {
        Ok(Ok(stream)) => begin(stream).await,
        Ok(Err(error)) => Err(Failed {
            error: "upstream_untrusted",
            reason: format!("the server does not prove who it is: {error}"),
        }),
        Err(_) => Err(Failed::of("the server does not speak TLS in time")),
    }
}

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Incoming>, Failed> {
    let opened = handshake(TokioIo::new(stream)).await;
    let (sender, connection) = opened.map_err(Failed::of)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection for a sandbox has ended");
        }
    });
    Ok(sender)
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

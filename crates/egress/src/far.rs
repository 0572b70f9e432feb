//! Requests on their way to a server, and the connections that they go over.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::gate::Gate;
use crate::outside::{Goal, Outside, Unreached, connect};
use crate::plain::Body;
use crate::proxy::PATIENCE;

/// What is carried at once in one direction, behind an upgrade.
const PIECE_BYTES: usize = 64 * 1024;
/// HTTP/2 and HTTP/1.1 in TLS (RFC 7301).
pub(crate) const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How a server is reached.
pub(crate) enum Far {
    /// Without TLS.
    Plain,
    /// Over TLS, with a certificate for this name that is trusted.
    Verified(TlsConnector, ServerName<'static>),
}

/// The connections to servers that requests of one connection went over. Those of HTTP/1 are here while no request has
/// them, so there are never more than there were requests at a time.
#[derive(Default)]
pub(crate) struct Held(Mutex<Vec<(Goal, Sender)>>);

struct Sender {
    speaks: Speaks,
    /// Beside the client's connection it is one more of the sandbox's, where there may be many to one of the client.
    place: Option<Arc<OwnedSemaphorePermit>>,
}

enum Speaks {
    One(http1::SendRequest<Incoming>),
    Many(http2::SendRequest<Incoming>),
}

/// For programs: the sandbox's own proxy is why there is no answer.
pub(crate) const THROUGH: &str = "egress_proxy_failed";

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

impl Held {
    /// A connection to there that can carry a request now.
    async fn take(&self, goal: &Goal, version: Version) -> Option<Sender> {
        let found = {
            let mut held = self.0.lock();
            held.retain(|(_, sender)| !sender.is_closed());
            let usable = |(same, sender): &(Goal, Sender)| {
                same == goal && (version < Version::HTTP_2 || sender.is_ready())
            };
            let at = held.iter().position(usable)?;
            match held.get(at)?.1.shared() {
                Some(shared) => return Some(shared),
                None => held.swap_remove(at).1,
            }
        };
        // In HTTP/1 the answer before is over: what is left to be done with it takes no time.
        found.when_ready().await
    }

    fn keep(&self, goal: Goal, sender: Sender) {
        let mut held = self.0.lock();
        // Of those that requests share, one is enough.
        let shared = sender.shared().is_some();
        if !shared || !held.iter().any(|(same, _)| *same == goal) {
            held.push((goal, sender));
        }
    }
}

impl Sender {
    fn is_closed(&self) -> bool {
        match &self.speaks {
            Speaks::One(own) => own.is_closed(),
            Speaks::Many(shared) => shared.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match &self.speaks {
            Speaks::One(own) => own.is_ready(),
            Speaks::Many(shared) => shared.is_ready(),
        }
    }

    /// For one request more on the same connection, if it carries many at a time.
    fn shared(&self) -> Option<Self> {
        let Speaks::Many(shared) = &self.speaks else {
            return None;
        };
        Some(Self {
            speaks: Speaks::Many(shared.clone()),
            place: self.place.clone(),
        })
    }

    async fn when_ready(mut self) -> Option<Self> {
        let ready = match &mut self.speaks {
            Speaks::One(own) => own.ready().await,
            Speaks::Many(shared) => shared.ready().await,
        };
        ready.is_ok().then_some(self)
    }

    async fn send(&mut self, mut request: Request<Incoming>) -> hyper::Result<Response<Incoming>> {
        match &mut self.speaks {
            Speaks::One(own) => {
                to_http1(&mut request);
                own.send_request(request).await
            }
            Speaks::Many(shared) => {
                to_http2(&mut request);
                shared.send_request(request).await
            }
        }
    }
}

/// Sends a request on, over a connection that is held or a new one. In HTTP/2 only where the client speaks it, too: what
/// comes over HTTP/1 may want to be a WebSocket.
pub(crate) async fn forward(
    gate: &Gate,
    goal: Goal,
    far: &Far,
    held: &Held,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Failed> {
    let version = request.version();
    let upgrades = version < Version::HTTP_2 && request.headers().contains_key(UPGRADE);
    if request.headers().contains_key(TRANSFER_ENCODING) {
        // Of two lengths a server may believe the other one (RFC 9112 §6.1).
        request.headers_mut().remove(CONTENT_LENGTH);
    }
    of_this_connection(request.headers_mut(), upgrades);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let mut sender = match held.take(&goal, version).await {
        Some(sender) => sender,
        None => open(gate, &goal, far, version).await?,
    };
    let sent = sender.send(request).await;
    held.keep(goal, sender);
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
    Ok(response.map(|body| body.boxed()))
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

/// As HTTP/1.1 says it: the host in a header, one line of cookies (RFC 9113 §8.2.3), nothing about trailers.
fn to_http1<B>(request: &mut Request<B>) {
    let uri = std::mem::take(request.uri_mut());
    let headers = request.headers_mut();
    if !headers.contains_key(HOST)
        && let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    let cookies: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(one) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, one);
    }
    headers.remove(TE);
    let path = uri.path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
}

/// As HTTP/2 says it: the host in the address alone.
fn to_http2<B>(request: &mut Request<B>) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = request.headers_mut().remove(HOST);
    parts.authority = parts
        .authority
        .or_else(|| host.and_then(|host| host.as_bytes().try_into().ok()));
    parts.scheme = Some(Scheme::HTTPS);
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    // Without an authority it stays as it was, and is refused by the connection.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}

async fn open(gate: &Gate, goal: &Goal, far: &Far, version: Version) -> Result<Sender, Failed> {
    let place = match version {
        Version::HTTP_2 => {
            let place = gate.place(goal.client());
            let place = place.ok_or_else(|| Failed::of("too many connections are open"))?;
            Some(Arc::new(place))
        }
        _ => None,
    };
    let speaks = match connect(gate, goal).await {
        Ok(Outside::Tcp(stream)) => over(stream, far, version).await?,
        Ok(Outside::Tls(stream)) => over(stream, far, version).await?,
        Err(Unreached::Server(error)) => return Err(Failed::of(error)),
        Err(Unreached::Proxy(reason)) => {
            return Err(Failed {
                error: THROUGH,
                reason,
            });
        }
    };
    Ok(Sender { speaks, place })
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    far: &Far,
    version: Version,
) -> Result<Speaks, Failed> {
    let (tls, name) = match far {
        Far::Plain => return one(stream).await,
        Far::Verified(tls, name) => (tls, name.clone()),
    };
    let offered = match version {
        Version::HTTP_2 => ALPN.map(<[u8]>::to_vec).to_vec(),
        _ => Vec::new(),
    };
    match timeout(PATIENCE, tls.with_alpn(offered).connect(name, stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ALPN[0]) => many(stream).await,
        Ok(Ok(stream)) => one(stream).await,
        Ok(Err(error)) => Err(Failed {
            error: "upstream_untrusted",
            reason: format!("the server does not prove who it is: {error}"),
        }),
        Err(_) => Err(Failed::of("the server does not speak TLS in time")),
    }
}

async fn one(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Speaks, Failed> {
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = opened.map_err(Failed::of)?;
    carry(async move { connection.with_upgrades().await });
    Ok(Speaks::One(sender))
}

async fn many(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Speaks, Failed> {
    let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = opened.map_err(Failed::of)?;
    carry(connection);
    Ok(Speaks::Many(sender))
}

fn carry(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection for a sandbox has ended");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_said_in_the_words_of_its_connection() {
        let mut request = Request::post("https://a.example/x?y=1")
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(())
            .unwrap();
        to_http1(&mut request);
        assert_eq!(request.uri(), "/x?y=1");
        assert_eq!(request.version(), Version::HTTP_11);
        let headers = request.headers();
        assert_eq!(headers["host"], "a.example");
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers.get_all("cookie").iter().count(), 1);
        assert!(!headers.contains_key("te"));

        let mut request = Request::get("https://a.example/x?y=1")
            .header("host", "a.example")
            .header("te", "trailers")
            .body(())
            .unwrap();
        to_http2(&mut request);
        assert_eq!(request.uri(), "https://a.example/x?y=1");
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(!request.headers().contains_key("host"));
        assert_eq!(request.headers()["te"], "trailers");
        to_http1(&mut request);
        assert_eq!(
            (request.uri().path(), &request.headers()["host"]),
            ("/x", &HeaderValue::from_static("a.example"))
        );
    }
}

//! TLS to a domain with a header rule: read in the middle, request by request, and sent on over TLS of its own.
//!
//! Inside, a certificate of the sandbox's own authority speaks for the domain; outside, the server must show one that this
//! host trusts, for the same name, before anything is sent. What must stay true: a header goes to the domain of its rule
//! and nowhere else, whatever the guest writes into `Host`, and no answer carries one back.

use std::convert::Infallible;
use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{ACCEPT_ENCODING, CONNECTION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use soulbox_types::Timestamp;
use soulbox_types::policy::{Rule, canonical_name};
use soulbox_types::rules::{HeaderRule, Part, parts};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::Added;
use crate::far::{ALPN, Failed, Far, Held, forward};
use crate::gate::{Gate, Passed};
use crate::hide::Covered;
use crate::outside::Goal;
use crate::plain::{Body, HEAD, asked, refusal, target, told};
use crate::proxy::{PATIENCE, Way, reset};

/// Requests at a time on one connection of HTTP/2: to a server that speaks HTTP/1 each has a connection of its own.
const MOST_STREAMS: u32 = 128;
/// What an answer must not be encoded by, so that it can be looked at.
const AS_IT_IS: HeaderValue = HeaderValue::from_static("identity");

/// A connection whose TLS asks for a name with a rule.
struct Middle {
    gate: Arc<Gate>,
    way: Way,
    name: String,
    server: Held,
}

/// Speaks for the name. `said` is what the client has sent so far.
pub(crate) async fn pass(
    gate: Arc<Gate>,
    way: Way,
    name: String,
    said: Vec<u8>,
    stream: TcpStream,
) {
    let rules = gate.rules(way.client);
    let acceptor = match (gate.broker(), &rules) {
        (Some(broker), Some(ruled)) => broker.acceptor(&ruled.rules, &name),
        _ => Err("the server is not ready".into()),
    };
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::warn!(%error, "TLS of a sandbox cannot be read for a rule");
            gate.refused(way.client, "tls", &name, "its certificate cannot be made");
            return reset(stream);
        }
    };
    let (read, write) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(said).chain(read), write);
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS of a sandbox has failed");
            let reason = format!("its TLS has failed: {error}");
            return gate.refused(way.client, "tls", &name, &reason);
        }
        Err(_) => return,
    };
    let middle = Arc::new(Middle {
        gate,
        way,
        name,
        server: Held::default(),
    });
    let served = if stream.get_ref().1.alpn_protocol() == Some(ALPN[0]) {
        serve_http2(middle, stream).await
    } else {
        serve_http1(middle, stream).await
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of a sandbox has ended");
    }
}

async fn serve_http1<S>(middle: Arc<Middle>, stream: S) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let middle = Arc::clone(&middle);
        async move { Ok::<_, Infallible>(middle.answer(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
}

/// A connection that asks for nothing for as long as a head may take ends: what is being answered on it goes on.
async fn serve_http2<S>(middle: Arc<Middle>, stream: S) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let service = service_fn(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let middle = Arc::clone(&middle);
        async move {
            let mut response = middle.answer(request).await;
            // In HTTP/2 no answer speaks of the connection (RFC 9113 §8.2.2).
            response.headers_mut().remove(CONNECTION);
            Ok::<_, Infallible>(response)
        }
    });
    let mut serving = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut before = 0;
    loop {
        if let Ok(ended) = timeout(HEAD, serving.as_mut()).await {
            return ended;
        }
        let now = asked.load(Ordering::Relaxed);
        match now == before {
            true if now == 0 => return Ok(()),
            true => serving.as_mut().graceful_shutdown(),
            false => before = now,
        }
    }
}

impl Middle {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let rule = match self.judge(&request) {
            Ok(rule) => rule,
            Err(reason) => {
                self.gate
                    .refused(self.way.client, "https", &self.name, &reason);
                return refusal(&self.name, &reason);
            }
        };
        let (at, asked) = (Timestamp::now(), asked(&request));
        match self.send(request).await {
            Ok((response, used)) => {
                let passed = Passed {
                    kind: "https",
                    target: &self.name,
                    rule: &rule,
                    at,
                    detail: &format!("{asked} {}{used}", response.status().as_u16()),
                    bytes: None,
                };
                self.gate.passed(self.way, &passed);
                response
            }
            Err(Failed { error, reason }) => {
                self.gate
                    .refused(self.way.client, "https", &self.name, &reason);
                told(StatusCode::BAD_GATEWAY, error, &self.name, &reason)
            }
        }
    }

    /// Whether a request may be sent: to the name that the TLS asked for, and by the policy of this moment.
    fn judge(&self, request: &Request<Incoming>) -> Result<Rule, String> {
        let host = target(request, "443")?;
        if canonical_name(&host).as_deref() != Some(&self.name) {
            return Err("its Host is not the name that its TLS asks for".to_owned());
        }
        if request.method() == Method::TRACE {
            return Err("it asks for its own headers (TRACE)".to_owned());
        }
        let address = self.way.server.ip();
        self.gate.judge(self.way.client, Some(&self.name), address)
    }

    /// The answer, and which headers the request got, with which secrets, for whoever looks at it later.
    async fn send(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<(Response<Body>, String), Failed> {
        let (added, used) = self.added().await.map_err(|reason| Failed {
            error: "rule_unusable",
            reason,
        })?;
        let Added { headers, hidden } = added;
        for (name, value) in headers {
            // The guest's own ones go, however many.
            request.headers_mut().insert(name, value);
        }
        if !hidden.is_empty() {
            request.headers_mut().insert(ACCEPT_ENCODING, AS_IT_IS);
        }
        let broker = self.gate.broker().ok_or_else(Failed::gone)?;
        let far = Far::Verified(broker.upstream().clone(), server_name(&self.name)?);
        let goal = Goal::named(&self.gate, self.way, Some(&self.name));
        let mut response = forward(&self.gate, goal, &far, &self.server, request).await?;
        if hidden.is_empty() {
            return Ok((response, used));
        }
        hidden.cover_head(response.headers_mut());
        let response = response.map(|body| Covered::new(body, hidden).boxed());
        Ok((response, used))
    }

    /// What the rule of this moment adds.
    async fn added(&self) -> Result<(Added, String), String> {
        let gone = || "the rule is gone; connect again".to_owned();
        let ruled = self.gate.rules(self.way.client).ok_or_else(gone)?;
        let rule = ruled.rules.of_name(&self.name).ok_or_else(gone)?;
        let broker = self.gate.broker().ok_or_else(gone)?;
        let added = broker.headers(&ruled, rule).await;
        let added = added.map_err(|unresolved| unresolved.0)?;
        Ok((added, used(rule)))
    }
}

/// What a rule adds, by names: `, header authorization, secret openai-key`.
fn used(rule: &HeaderRule) -> String {
    let mut text = String::new();
    for (name, template) in &rule.headers {
        text += &format!(", header {name}");
        for part in parts(template).unwrap_or_default() {
            match part {
                Part::Literal(_) => {}
                Part::Secret(secret) => text += &format!(", secret {secret}"),
                Part::Token(token) => text += &format!(", token {token}"),
            }
        }
    }
    text
}

fn server_name(name: &str) -> Result<ServerName<'static>, Failed> {
    ServerName::try_from(name.to_owned()).map_err(|_| Failed {
        error: "upstream_failed",
        reason: "no certificate can have this name".to_owned(),
    })
}

//! Carries one request: decides, finds the sandbox, sends, and hands the answer back as it comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, SET_COOKIE, UPGRADE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use soulbox_driver::route::{Route, Woken};
use soulbox_types::{SandboxId, Timestamp};

use crate::answer::{Refusal, denied, plain};
use crate::body::{Broken, Closed, Drive, Kind, ResponseBody, SandboxBody};
use crate::decide::{Decision, Head, decide};
use crate::errand::{Errand, Outcome, unreachable_upstream};
use crate::guard::StreamGuard;
use crate::lent::{ClientBody, lend};
use crate::pool::OpenRequest;
use crate::preview::{self, Opened};
use crate::rewrite::{
    check_traffic_token, may_wake, reserved_path, strip_hop_by_hop, wanted_upgrade,
};
use crate::tunnel::Tunnel;
use crate::within::Guest;
use crate::{Admits, Inner, OverTls};

/// How long a request waits for a sandbox to come back.
const WAKE_PATIENCE: Duration = Duration::from_secs(60);

/// As much fits into what the connection to the client holds.
const SHORT_ANSWER_BYTES: u64 = 16 * 1024;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

type Answer = Response<ResponseBody>;

impl Inner {
    /// Answers any request of a client. An error breaks the stream off.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        stream: StreamGuard,
    ) -> Result<Answer, Broken> {
        let (request, rest) = lend(request);
        let mut answer = self.answer(request, stream).await?;
        rest.settle(answer.headers_mut()).await;
        Ok(answer)
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<ClientBody>,
        stream: StreamGuard,
    ) -> Result<Answer, Broken> {
        let domain = self.config.domain.as_deref();
        let decision = decide(domain, Head::of(&request));
        if let Some(guest) = request.extensions().get::<Arc<Guest>>()
            && let Err(refused) = guest.judge(domain, &decision, &request)
        {
            return Ok(full(denied(&refused.name, &refused.reason), stream));
        }
        match decision {
            Decision::Control => Ok(Box::pin(self.to_control(request, stream)).await),
            Decision::Sandbox { id, port } => self.to_sandbox(request, stream, id, port).await,
            Decision::BadRequest(text) => Ok(full(plain(StatusCode::BAD_REQUEST, text), stream)),
        }
    }

    async fn to_control(&self, request: Request<ClientBody>, stream: StreamGuard) -> Answer {
        let mut request = request;
        if request.extensions().get::<OverTls>().is_some() {
            // What it answers may hold addresses of itself.
            let https = HeaderValue::from_static("https");
            request.headers_mut().insert(FORWARDED_PROTO, https);
        }
        match self.control.call(request).await {
            Ok(response) => response.map(|body| ResponseBody {
                kind: Kind::Control(body),
                _stream: stream,
            }),
            Err(error) => {
                tracing::error!(%error, "the control plane failed");
                full(
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
                    stream,
                )
            }
        }
    }

    async fn to_sandbox(
        &self,
        request: Request<ClientBody>,
        stream: StreamGuard,
        id: SandboxId,
        port: u16,
    ) -> Result<Answer, Broken> {
        let mut admitted = self.admit(&request, &id, port);
        if matches!(admitted, Err(Refusal::NotFound)) {
            admitted = match Box::pin(self.wake(&request, &id, port)).await {
                Ok(()) => self.admit(&request, &id, port),
                Err(refusal) => Err(refusal),
            };
        }
        let (route, open, opened) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(full(refusal.response(&id, request.headers()), stream)),
        };
        // One future for the whole life of the request; it moves into the body of the answer.
        let mut closed: Closed = Box::pin(route.closed.clone().cancelled_owned());
        let upgrade = wanted_upgrade(request.version(), request.headers());
        let mut request = request;
        let secure = request.extensions().get::<OverTls>().is_some();
        let (mut uri, mut headers) = (request.uri().clone(), std::mem::take(request.headers_mut()));
        preview::strip(&mut uri, &mut headers);
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let errand = Errand {
            route: &route,
            port,
            sending: Arc::new(()),
        };
        let request = errand.prepare(request, upgrade.as_ref());
        let outcome = if client.is_some() {
            Box::pin(errand.converse_for_upgrade(request, &mut closed)).await
        } else {
            errand.converse(request, &open, &mut closed).await
        };
        let (mut response, drive) = match outcome {
            Outcome::Answered(response, drive) => (response, drive),
            Outcome::Refused(response) => return Ok(full(response, stream)),
            Outcome::Broken(broken) => return Err(broken),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(client), Drive::Task(connection)) = (client, drive) else {
                // The server inside switches protocols though nobody asked.
                return Ok(full(unreachable_upstream(), stream));
            };
            let sandbox = hyper::upgrade::on(&mut response);
            let hard_stop = self.hard_stop.clone();
            let tunnel = Tunnel {
                client,
                sandbox,
                connection,
                closed,
                hard_stop,
                open,
                stream,
            };
            return Ok(self.switch(response, tunnel));
        }
        if !is_short(&response) {
            stream
                .cut
                .set(Some(Box::pin(route.closed.clone().cancelled_owned())));
        }
        let (mut parts, incoming) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        if let Some(cookie) = opened.and_then(|opened| opened.cookie(now(), secure)) {
            parts.headers.append(SET_COOKIE, cookie);
        }
        let body = SandboxBody {
            incoming,
            drive,
            closed,
            port,
            open,
        };
        let body = ResponseBody {
            kind: Kind::Sandbox(Box::new(body)),
            _stream: stream,
        };
        Ok(Response::from_parts(parts, body))
    }

    /// Brings a paused sandbox back, if that is wanted.
    async fn wake(
        &self,
        request: &Request<ClientBody>,
        id: &SandboxId,
        port: u16,
    ) -> Result<(), Refusal> {
        let (uri, headers) = (request.uri().clone(), request.headers().clone());
        let admits: Admits =
            Box::new(move |secrets| may_wake(secrets, port, &uri, &headers, now()));
        let waking = tokio::time::timeout(WAKE_PATIENCE, self.routes.wake(id, admits));
        match waking.await {
            Ok(Woken::Open(_)) => Ok(()),
            Ok(Woken::Denied) if preview::is_shown(request.uri(), request.headers()) => {
                Err(Refusal::PreviewInvalid)
            }
            Ok(Woken::Denied) => Err(Refusal::TokenInvalid),
            Ok(Woken::Nobody) | Err(_) => Err(Refusal::NotFound),
        }
    }

    /// All that can be said no to before a connection into the sandbox is needed.
    fn admit(
        &self,
        request: &Request<ClientBody>,
        id: &SandboxId,
        port: u16,
    ) -> Result<(Arc<Route>, OpenRequest, Option<Opened>), Refusal> {
        if let Some(path) = reserved_path(port, request.uri().path()) {
            return Err(Refusal::Reserved(path));
        }
        let route = self
            .routes
            .route(id)
            .filter(|route| !route.closed.is_cancelled())
            .ok_or(Refusal::NotFound)?;
        let opened = check_traffic_token(&route, port, request.uri(), request.headers(), now())?;
        let limit = self.config.max_requests_per_sandbox;
        let open = self.pools.of(&route).admit(limit);
        let open = open.ok_or(Refusal::TooManyConnections(limit.unwrap_or(usize::MAX)))?;
        Ok((route, open, opened))
    }

    /// Answers 101 and lets the tunnel run.
    fn switch(&self, response: Response<Incoming>, tunnel: Tunnel) -> Answer {
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(UPGRADE).cloned();
        strip_hop_by_hop(&mut parts.headers);
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(UPGRADE, protocol);
        }
        let stream = tunnel.stream.sibling();
        self.tasks.spawn(tunnel.run());
        Response::from_parts(
            parts,
            ResponseBody {
                kind: Kind::Full(None),
                _stream: stream,
            },
        )
    }
}

/// Whether an answer is read in whole before anybody could be stuck in writing it.
fn is_short(answer: &Response<Incoming>) -> bool {
    answer
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= SHORT_ANSWER_BYTES)
}

/// Seconds since 1970.
fn now() -> i64 {
    Timestamp::now().unix_seconds()
}

fn full(response: Response<Bytes>, stream: StreamGuard) -> Answer {
    response.map(|bytes| ResponseBody {
        kind: Kind::Full(Some(bytes)),
        _stream: stream,
    })
}

//! One request's errand into a sandbox: a connection, the request sent, the head of the answer.
//!
//! What must stay true: a request is sent a second time only when the first sending cannot have had an effect, and
//! once something was sent that may have had an effect, the closing of the route breaks the stream off instead of
//! answering it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use soulbox_driver::DialError;
use soulbox_driver::route::Route;
use tokio_util::task::AbortOnDropHandle;

use crate::answer::{Refusal, plain};
use crate::body::{Broken, Closed, Drive, RequestBody};
use crate::decide::{Head, effective_host};
use crate::lent::ClientBody;
use crate::pool::OpenRequest;
use crate::rewrite::to_upstream;
use crate::upstream::{ConnectError, SendResult, Upstream, connect};

/// What an exchange with a sandbox came to.
pub(crate) enum Outcome {
    /// The server inside answers.
    Answered(Response<Incoming>, Drive),
    /// The edge answers in its place.
    Refused(Response<Bytes>),
    /// The client's stream is to be broken off.
    Broken(Broken),
}

/// The fixed facts of one request on its way.
pub(crate) struct Errand<'a> {
    pub(crate) route: &'a Route,
    pub(crate) port: u16,
    /// Marks, while shared, that the request's body is still being sent.
    pub(crate) sending: Arc<()>,
}

impl Errand<'_> {
    /// Turns the client's request into the one for the server inside.
    pub(crate) fn prepare(
        &self,
        request: Request<ClientBody>,
        upgrade: Option<&HeaderValue>,
    ) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        let head = Head {
            method: &parts.method,
            uri: &parts.uri,
            version: parts.version,
            headers: &parts.headers,
        };
        let host = effective_host(head).unwrap_or_default().to_owned();
        to_upstream(&mut parts.headers, self.route, self.port, &host);
        if parts.uri.authority().is_some() {
            parts.uri = parts
                .uri
                .path_and_query()
                .cloned()
                .map_or_else(|| Uri::from_static("/"), Uri::from);
        }
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        if let Some(protocol) = upgrade {
            parts
                .headers
                .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        let body = if body.is_end_stream() {
            RequestBody::Empty
        } else {
            // Said explicitly, because hyper drops a body of unknown length on GET.
            if !parts.headers.contains_key(CONTENT_LENGTH) {
                parts
                    .headers
                    .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            RequestBody::Incoming {
                body,
                _sending: Arc::clone(&self.sending),
            }
        };
        Request::from_parts(parts, body)
    }

    /// Sends the request over a pooled or a new connection, and waits for the head of the answer.
    pub(crate) async fn converse(
        &self,
        mut request: Request<RequestBody>,
        open: &OpenRequest,
        closed: &mut Closed,
    ) -> Outcome {
        let mut pooled = open.pool.take(self.port);
        let looks_only = matches!(*request.method(), Method::GET | Method::HEAD)
            && matches!(request.body(), RequestBody::Empty);
        loop {
            let reused = pooled.is_some();
            let mut upstream = match pooled.take() {
                Some(upstream) => upstream,
                None => match Box::pin(self.connect(&request, closed)).await {
                    Ok(upstream) => upstream,
                    Err(refusal) => return Outcome::Refused(refusal),
                },
            };
            // The server may have closed at the very moment of sending; only then is a second try safe. What a refusal wants
            // to know of the request is in the same copy.
            let spare = if reused || looks_only {
                copy_of(&request)
            } else {
                None
            };
            let mut error = match exchange(&mut upstream, request, closed).await {
                Ok((Ok(response), finished)) => {
                    let drive = if finished {
                        Drive::Done
                    } else {
                        self.drive(upstream)
                    };
                    return Outcome::Answered(response, drive);
                }
                Ok((Err(error), _)) => error,
                Err(Broken::Closed) if looks_only && let Some(spare) = &spare => {
                    let gone = Refusal::NotFound;
                    return Outcome::Refused(
                        gone.response(&self.route.sandbox_id, spare.headers()),
                    );
                }
                Err(broken) => return Outcome::Broken(broken),
            };
            match error.take_message().or(spare).filter(|_| reused) {
                Some(again) => request = again,
                None => {
                    tracing::debug!(sandbox = %self.route.sandbox_id, port = self.port, error = %error.into_error(), "no answer");
                    return Outcome::Refused(unreachable_upstream());
                }
            }
        }
    }

    /// The same for a request that may turn its connection into something else: never over a pooled connection.
    pub(crate) async fn converse_for_upgrade(
        &self,
        request: Request<RequestBody>,
        closed: &mut Closed,
    ) -> Outcome {
        let upstream = match Box::pin(self.connect(&request, closed)).await {
            Ok(upstream) => *upstream,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        let Upstream {
            mut sender,
            connection,
            ..
        } = upstream;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection into the sandbox broke");
            }
        }));
        tokio::select! {
            biased;
            () = closed => Outcome::Broken(Broken::Closed),
            result = sender.send_request(request) => match result {
                Ok(response) => Outcome::Answered(response, Drive::Task(driver)),
                Err(_) => Outcome::Refused(unreachable_upstream()),
            },
        }
    }

    /// Connects. The edge answers itself when the sandbox goes away meanwhile: nothing has been sent yet.
    async fn connect(
        &self,
        request: &Request<RequestBody>,
        closed: &mut Closed,
    ) -> Result<Box<Upstream>, Response<Bytes>> {
        let refuse = |refusal: Refusal| refusal.response(&self.route.sandbox_id, request.headers());
        let result = tokio::select! {
            biased;
            () = closed => return Err(refuse(Refusal::NotFound)),
            result = connect(self.route, self.port) => result,
        };
        result.map_err(|error| match error {
            ConnectError::Dial(DialError::PortClosed { .. }) => refuse(Refusal::PortClosed(self.port)),
            ConnectError::Dial(DialError::Gone) => refuse(Refusal::NotFound),
            other => {
                tracing::warn!(sandbox = %self.route.sandbox_id, port = self.port, error = %chain(&other), "cannot connect");
                unreachable_upstream()
            }
        })
    }

    /// Who shall drive the connection from now on.
    fn drive(&self, upstream: Box<Upstream>) -> Drive {
        if Arc::strong_count(&self.sending) == 1 {
            return Drive::Reader(upstream);
        }
        let Upstream {
            sender, connection, ..
        } = *upstream;
        Drive::Task(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection into the sandbox broke");
            }
            drop(sender);
        })))
    }
}

/// Sends and drives the connection until the head of the answer is there; says, too, whether the connection has
/// come to its end by then.
async fn exchange(
    upstream: &mut Upstream,
    request: Request<RequestBody>,
    closed: &mut Closed,
) -> Result<(SendResult, bool), Broken> {
    let mut answer = pin!(upstream.send(request));
    let Upstream {
        connection, gate, ..
    } = upstream;
    let mut finished = false;
    poll_fn(|cx| {
        if closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Broken::Closed));
        }
        gate.poll(cx, |cx| {
            // Its error, if any, is given to the answer.
            finished = finished || Pin::new(&mut *connection).poll(cx).is_ready();
            answer
                .as_mut()
                .poll(cx)
                .map(|answer| Ok((answer, finished)))
        })
    })
    .await
}

/// A second copy of a request that may be sent twice: no body, and a method that means the same twice.
fn copy_of(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    if !safe || !matches!(request.body(), RequestBody::Empty) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

pub(crate) fn unreachable_upstream() -> Response<Bytes> {
    plain(
        StatusCode::BAD_GATEWAY,
        "Failed to route request to sandbox",
    )
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

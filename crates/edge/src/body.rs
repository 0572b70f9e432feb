//! Bodies on their way through: nothing is buffered, and an end that is not an end is an error.
//!
//! What must stay true: when the sandbox's route closes, or the server inside breaks off, the body fails. hyper turns
//! that into a dropped connection (HTTP/1.1) or `RST_STREAM INTERNAL_ERROR` (HTTP/2); a clean end would make clients
//! believe an incomplete answer (newest-sdk-delta.md §6).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::guard::StreamGuard;
use crate::lent::ClientBody;
use crate::pool::OpenRequest;
use crate::upstream::Upstream;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was broken off by the edge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the sandbox was stopped")]
    Closed,
    #[error("the connection into the sandbox broke")]
    Upstream(#[from] hyper::Error),
}

/// Body of a request on its way into a sandbox.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Incoming {
        body: ClientBody,
        /// Lives as long as hyper still has to send from the body.
        _sending: Arc<()>,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Incoming { body, .. } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming { body, .. } => body.size_hint(),
        }
    }
}

/// Future that ends when the route of a sandbox closes.
pub(crate) type Closed = Pin<Box<WaitForCancellationFutureOwned>>;

/// Who moves the bytes of an upstream connection while its response is read.
#[derive(Debug)]
pub(crate) enum Drive {
    /// The reader of the body itself. Afterwards the connection can serve another request.
    Reader(Box<Upstream>),
    /// A task, because the request is still being sent: a client that reads slowly must not stop its own upload.
    Task(AbortOnDropHandle<()>),
    /// Nobody: the connection is finished, or came to its end with the head.
    Done,
}

/// Body of a response from a sandbox.
#[derive(Debug)]
pub(crate) struct SandboxBody {
    pub(crate) incoming: Incoming,
    pub(crate) drive: Drive,
    pub(crate) closed: Closed,
    pub(crate) port: u16,
    pub(crate) open: OpenRequest,
}

impl SandboxBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Broken::Closed)));
        }
        let Drive::Reader(upstream) = &mut self.drive else {
            return next_frame(&mut self.incoming, cx);
        };
        let Upstream {
            connection, gate, ..
        } = &mut **upstream;
        let (incoming, mut finished) = (&mut self.incoming, false);
        let frame = gate.poll(cx, |cx| {
            let frame = next_frame(incoming, cx);
            if frame.is_ready() || finished {
                return frame;
            }
            // Its error, if any, goes into the body.
            finished = Pin::new(&mut *connection).poll(cx).is_ready();
            next_frame(incoming, cx)
        });
        if finished {
            self.drive = Drive::Done;
        }
        frame
    }

    /// Returns the connection to the pool once the body is at its end.
    fn finish(&mut self) {
        if let Drive::Reader(upstream) = std::mem::replace(&mut self.drive, Drive::Done) {
            self.open.pool.give(self.port, upstream);
        }
    }
}

/// The next frame that says something: some HTTP/2 clients count empty ones as an attack.
fn next_frame(
    incoming: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    loop {
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            frame => return Poll::Ready(frame.map(|frame| frame.map_err(Broken::from))),
        }
    }
}

/// Body of any response of the edge.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    pub(crate) kind: Kind,
    /// Keeps the client's connection from counting as idle.
    pub(crate) _stream: StreamGuard,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Full(Option<Bytes>),
    Sandbox(Box<SandboxBody>),
    Control(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Control(body) => Pin::new(body).poll_frame(cx),
            Kind::Sandbox(body) => {
                let frame = ready!(body.poll(cx));
                let ended = match &frame {
                    None => true,
                    Some(Ok(_)) => body.incoming.is_end_stream(),
                    Some(Err(_)) => {
                        body.drive = Drive::Done;
                        false
                    }
                };
                if ended {
                    body.finish();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Control(body) => body.is_end_stream(),
            Kind::Sandbox(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Control(body) => body.size_hint(),
            Kind::Sandbox(body) => body.incoming.size_hint(),
        }
    }
}

impl Drop for SandboxBody {
    fn drop(&mut self) {
        // A body that never had anything to say (HEAD, 204) is not polled at all.
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }
}

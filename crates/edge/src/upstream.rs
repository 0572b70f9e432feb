//! One connection to a server inside a sandbox, and how it comes about.
//!
//! The connection is driven by whoever uses it, not by a task of its own: a small request then costs no wake-up of
//! another thread, and dropping the response closes the socket at once. A connection at rest is driven by nobody;
//! the kernel keeps what arrives, and [`Upstream::is_alive`] finds out before the next use.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Request;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use soulbox_driver::route::Route;
use soulbox_driver::{DialError, Guest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::body::RequestBody;
use crate::gate::Gate;
use crate::rewrite::ENVD_PORT;
use crate::tls;

/// Waits between attempts at a port that refuses: a server that has just been started inside needs a moment.
const RETRY_GAPS_MS: [u64; 4] = [100, 200, 300, 400];
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes that hyper holds per direction of a connection. Large enough that one system call moves much.
pub(crate) const BUFFER_BYTES: usize = 512 * 1024;

/// A socket into a sandbox.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Socket::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_shutdown(cx))
    }
}

/// An HTTP/1.1 connection to a port of a sandbox.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) sender: SendRequest<RequestBody>,
    pub(crate) connection: Connection<TokioIo<Socket>, RequestBody>,
    /// Through which sender, connection and body are polled together.
    pub(crate) gate: Gate,
    /// Since when it lies in the pool.
    pub(crate) idle_since: Instant,
}

impl Upstream {
    /// Whether another request can be sent.
    pub(crate) fn is_alive(&mut self) -> bool {
        // The reactor remembers readiness without a waker, so a poll with none sees a close that came meanwhile.
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.connection).poll(&mut cx).is_pending() && self.sender.is_ready()
    }

    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = SendResult> + use<> {
        self.sender.try_send_request(request)
    }
}

pub(crate) type SendResult = Result<
    http::Response<hyper::body::Incoming>,
    hyper::client::conn::TrySendError<Request<RequestBody>>,
>;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot dial the sandbox")]
    Dial(#[from] DialError),
    #[error("the server inside does not speak TLS")]
    Tls(#[source] io::Error),
    #[error("cannot start HTTP")]
    Http(#[from] hyper::Error),
    #[error("dialling took longer than {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
}

/// Connects to a port of the sandbox, with patience where a server may just be starting.
pub(crate) async fn connect(route: &Route, port: u16) -> Result<Box<Upstream>, ConnectError> {
    timeout(DIAL_TIMEOUT, establish(route, port))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

async fn establish(route: &Route, port: u16) -> Result<Box<Upstream>, ConnectError> {
    let stream = dial_patiently(&route.guest, port).await?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY refused");
    }
    let socket = if route.https_ports.contains(&port) {
        wrap_tls(stream).await?
    } else {
        Socket::Plain(stream)
    };
    let (sender, connection) = http1::Builder::new()
        // What the servers inside have always seen from this platform's proxies; some are picky about case.
        .title_case_headers(true)
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(socket))
        .await?;
    Ok(Box::new(Upstream {
        sender,
        connection,
        gate: Gate::new(),
        idle_since: Instant::now(),
    }))
}

async fn wrap_tls(stream: TcpStream) -> Result<Socket, ConnectError> {
    let name = ServerName::try_from("localhost").expect("localhost is a host name");
    let connector = tokio_rustls::TlsConnector::from(tls::unverified_client());
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(ConnectError::Tls)?;
    Ok(Socket::Tls(Box::new(stream)))
}

async fn dial_patiently(guest: &Arc<dyn Guest>, port: u16) -> Result<TcpStream, DialError> {
    let gaps: &[u64] = if port == ENVD_PORT {
        &[]
    } else {
        &RETRY_GAPS_MS
    };
    for gap_ms in gaps {
        match guest.dial(port).await {
            Err(DialError::PortClosed { .. }) => sleep(Duration::from_millis(*gap_ms)).await,
            other => return other,
        }
    }
    guest.dial(port).await
}

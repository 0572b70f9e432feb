//! One client connection: finding out the protocol, serving it, ending it.
//!
//! What must stay true: shutdown never sends GOAWAY on an HTTP/2 connection with live streams, because some clients
//! (undici) kill everything in flight on it; a connection whose sandbox has closed is cut even when it is stuck in a
//! write.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::guard::{Client, ClientIo, ClientSocket, CutSlot, LOOK_INTERVAL, Watch};
use crate::h2_streams::StreamExecutor;
use crate::upstream::BUFFER_BYTES;
use crate::within::Guest;
use crate::{ClientAddress, Inner, OverTls};

const HEAD_BYTES: usize = 64 * 1024;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(30);
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(50);
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const H2_STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const H2_FRAME_BYTES: u32 = 64 * 1024;
const H2_SEND_BUFFER_BYTES: usize = 1024 * 1024;
/// The hosted service allows 100; clients open more connections when it is used up.
const H2_STREAMS: u32 = 250;

/// One client connection and what it is served with.
pub(crate) struct Connection {
    pub(crate) inner: Arc<Inner>,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) client: Arc<Client>,
    /// Whether the client speaks TLS.
    pub(crate) secure: bool,
    /// Which sandbox the client is, if it is one.
    pub(crate) guest: Option<Arc<Guest>>,
}

impl Connection {
    pub(crate) async fn accept(self, socket: TcpStream, acceptor: Option<TlsAcceptor>) {
        if let Err(error) = tune(&socket) {
            tracing::debug!(%error, "socket options refused");
        }
        let hard_stop = self.inner.hard_stop.clone();
        let result = tokio::select! {
            biased;
            result = self.begin(socket, acceptor) => result,
            () = hard_stop.cancelled() => Ok(()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "client connection ended");
        }
    }

    async fn begin(self, socket: TcpStream, acceptor: Option<TlsAcceptor>) -> io::Result<()> {
        let shutdown = self.shutdown.clone();
        // Boxed, so that an idle connection does not hold room for the larger of its two futures twice.
        let Some(acceptor) = acceptor else {
            let mut socket = socket;
            let sniffed = tokio::select! {
                biased;
                sniffed = timeout(FIRST_BYTE_LIMIT, sniff(&mut socket)) => sniffed,
                () = shutdown.cancelled() => return Ok(()),
            };
            let (first, is_h2) = sniffed.map_err(|_| io::ErrorKind::TimedOut)??;
            return if is_h2 {
                Box::pin(self.serve_h2(socket, first)).await
            } else {
                Box::pin(self.serve_h1(socket, first)).await
            };
        };
        let stream = timeout(HANDSHAKE_LIMIT, acceptor.accept(socket))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Box::pin(self.serve_h2(stream, Bytes::new())).await
        } else {
            Box::pin(self.serve_h1(stream, Bytes::new())).await
        }
    }

    async fn serve_h1<S>(self, socket: S, first: Bytes) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + ClientSocket + Unpin + Send + 'static,
    {
        let io = TokioIo::new(ClientIo::new(socket, first, Arc::clone(&self.client)));
        let cut = CutSlot::default();
        let service = service_fn(|request| self.handle(request, cut.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // See `guard` for why.
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .title_case_headers(true)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut watch = Watch::new(false);
        let mut look = interval(LOOK_INTERVAL);
        look.reset();
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => return result.map_err(|error| {
                    // An error of the answer's body, that is. After a malformed request, hyper's refusal must arrive.
                    if error.is_user() {
                        self.client.break_off();
                    }
                    io::Error::other(error)
                }),
                () = poll_fn(|cx| cut.poll(cx)) => {
                    self.client.break_off();
                    return Ok(());
                }
                () = self.shutdown.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => if watch.look(&self.client) {
                    return Ok(());
                },
            }
        }
    }

    async fn serve_h2<S>(self, socket: S, first: Bytes) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + ClientSocket + Unpin + Send + 'static,
    {
        let io = TokioIo::new(ClientIo::new(socket, first, Arc::clone(&self.client)));
        let executor = StreamExecutor::default();
        let service = service_fn(|request| {
            let cut = executor.next_stream();
            self.handle(request, cut)
        });
        let connection = http2::Builder::new(executor.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_frame_size(H2_FRAME_BYTES)
            .max_send_buf_size(H2_SEND_BUFFER_BYTES)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let mut watch = Watch::new(true);
        let mut look = interval(LOOK_INTERVAL);
        look.reset();
        let (mut draining, mut said_goodbye) = (false, false);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => return result.map_err(io::Error::other),
                () = self.shutdown.cancelled(), if !draining => {
                    draining = true;
                    look = interval(DRAIN_LOOK_INTERVAL);
                }
                _ = look.tick() => {
                    let ready = if draining { self.client.is_idle() } else { watch.look(&self.client) };
                    if ready && !said_goodbye {
                        said_goodbye = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }

    fn handle(
        &self,
        mut request: Request<Incoming>,
        cut: CutSlot,
    ) -> impl Future<Output = Result<http::Response<crate::body::ResponseBody>, crate::body::Broken>>
    + use<> {
        request.extensions_mut().insert(ClientAddress(self.address));
        if self.secure {
            request.extensions_mut().insert(OverTls);
        }
        if let Some(guest) = &self.guest {
            request.extensions_mut().insert(Arc::clone(guest));
        }
        Arc::clone(&self.inner).handle(request, self.client.begin(cut))
    }
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    // Finds clients that vanished without a word while a stream of theirs is silent.
    rustix::net::sockopt::set_socket_keepalive(socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    rustix::net::sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    rustix::net::sockopt::set_tcp_keepcnt(socket, 4)?;
    Ok(())
}

/// Reads until it is sure whether the client opens with the HTTP/2 preface (RFC 9113 §3.3).
async fn sniff(socket: &mut TcpStream) -> io::Result<(Bytes, bool)> {
    let mut first = BytesMut::with_capacity(H2_PREFACE.len());
    loop {
        let mut rest = [0; 24];
        let n = socket.read(&mut rest[first.len()..]).await?;
        first.extend_from_slice(&rest[first.len()..first.len() + n]);
        let is_prefix = H2_PREFACE.starts_with(&first);
        if n == 0 || !is_prefix || first.len() == H2_PREFACE.len() {
            return Ok((first.freeze(), is_prefix && n > 0));
        }
    }
}

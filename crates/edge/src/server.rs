//! Connections of clients: accepting, finding out the protocol, serving, draining.
//!
//! What must stay true: shutdown never sends GOAWAY on an HTTP/2 connection with live streams, because some clients
//! (undici) kill everything in flight on it; a connection whose sandbox has closed is cut even when it is stuck in a
//! write.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guard::{Client, ClientIo, CutSlot, LOOK_INTERVAL, Watch};
use crate::upstream::BUFFER_BYTES;
use crate::{ClientAddress, Inner};

const HEAD_BYTES: usize = 64 * 1024;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(30);
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long an HTTP/2 stream whose sandbox has closed may wait for the client to make room for the reset.
const STUCK_STREAM_GRACE: Duration = Duration::from_secs(5);
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const H2_STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const H2_FRAME_BYTES: u32 = 64 * 1024;
const H2_SEND_BUFFER_BYTES: usize = 1024 * 1024;
/// The hosted service allows 100; clients open more connections when it is used up.
const H2_STREAMS: u32 = 250;
/// How many clients at a time are told why they are turned away.
const APOLOGIES: usize = 64;
const TOO_MANY: &str = "too many client connections to this server\nFIX: close idle ones, or raise the limit of connections\n";

/// Accepts until `shutdown`, then drains.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: CancellationToken,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let apologies = Arc::new(Semaphore::new(APOLOGIES));
    let room = Arc::new(Semaphore::new(
        inner.config.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let connections = TaskTracker::new();
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            now = sweep.tick() => {
                inner.pools.sweep(now);
                continue;
            }
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                accept_failed(&error).await;
                continue;
            }
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(place) => {
                let connection = Connection {
                    inner: Arc::clone(&inner),
                    address,
                    shutdown: shutdown.clone(),
                    client: Client::new(place),
                };
                connections.spawn(connection.accept(socket, acceptor.clone()));
            }
            Err(_) => {
                metrics::counter!("soulbox_edge_connections_refused_total").increment(1);
                // Over TLS the answer would cost a handshake: exactly what there is no room for.
                if let (None, Ok(place)) = (&acceptor, Arc::clone(&apologies).try_acquire_owned()) {
                    tokio::spawn(async move {
                        drop(timeout(Duration::from_secs(2), turn_away(socket)).await);
                        drop(place);
                    });
                }
            }
        }
    }
    drop(listener);
    connections.close();
    let drained = async {
        connections.wait().await;
        inner.tasks.close();
        inner.tasks.wait().await;
    };
    if timeout(inner.config.drain, drained).await.is_err() {
        inner.hard_stop.cancel();
        connections.wait().await;
    }
}

async fn accept_failed(error: &io::Error) {
    // A client that went away while it was queued concerns nobody else; the rest is a lack of something.
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        tracing::warn!(%error, "cannot accept connections\nFIX: raise the limit of open files (ulimit -n)");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Says why, then waits for the client to close: closing first, with its request unread, would reset the connection
/// and take the answer with it.
async fn turn_away(mut socket: TcpStream) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{TOO_MANY}",
        TOO_MANY.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.shutdown().await?;
    let mut rest = [0; 1024];
    while socket.read(&mut rest).await? > 0 {}
    Ok(())
}

/// One client connection and what it is served with.
struct Connection {
    inner: Arc<Inner>,
    address: SocketAddr,
    shutdown: CancellationToken,
    client: Arc<Client>,
}

impl Connection {
    async fn accept(self, socket: TcpStream, acceptor: Option<TlsAcceptor>) {
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
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
                result = connection.as_mut() => return result.map_err(io::Error::other),
                () = poll_fn(|cx| cut.poll(cx)) => return Ok(()),
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
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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

/// Runs the streams of one HTTP/2 connection, and gives up those that are stuck in a write after their sandbox has
/// closed. hyper calls the service and then the executor, in the same poll: that is how the two halves of a stream
/// meet in `last`.
#[derive(Debug, Clone, Default)]
struct StreamExecutor {
    last: Arc<Mutex<CutSlot>>,
}

impl StreamExecutor {
    fn next_stream(&self) -> CutSlot {
        let cut = CutSlot::default();
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&cut);
        cut
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let ended = poll_fn(|cx: &mut Context<'_>| match stream.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => cut.poll(cx).map(|()| false),
            })
            .await;
            if !ended && timeout(STUCK_STREAM_GRACE, stream).await.is_err() {
                tracing::debug!("gave up a stream whose client does not read");
            }
        });
    }
}

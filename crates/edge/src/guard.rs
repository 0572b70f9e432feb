//! What is known about one client connection while it lives: open streams, bytes read, and what may cut it.
//!
//! Kept apart from serving so that the rules for idle and for slow clients are plain functions on numbers.
//! hyper's own header timeout is not used: it also ends idle connections, and it arms a timer for every request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;

use crate::body::Closed;

/// How often a connection is looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// A client that has begun a request must finish its head within this time; also the time for the first request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Longer than any client keeps an idle connection, so that clients close first.
const IDLE_LIMIT: Duration = Duration::from_secs(610);

/// Holds the end of a sandbox's route for whoever could be stuck in a write and never ask the body again.
#[derive(Debug, Clone, Default)]
pub(crate) struct CutSlot(Arc<Mutex<Option<Closed>>>);

impl CutSlot {
    pub(crate) fn set(&self, closed: Option<Closed>) {
        let old = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            closed,
        );
        drop(old);
    }

    /// Ready when the route has closed; pending, too, when there is none.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            Some(closed) => closed.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// Counters of one client connection.
#[derive(Debug, Default)]
pub(crate) struct Client {
    active: AtomicUsize,
    served: AtomicBool,
    bytes_in: AtomicU64,
    /// `bytes_in` when the last stream ended: more than that, and a head has been begun.
    bytes_settled: AtomicU64,
    /// An answer was broken off: the connection is reset.
    broken_off: AtomicBool,
    /// Its place under the limit of connections, kept by tunnels too.
    _place: Option<OwnedSemaphorePermit>,
}

impl Client {
    pub(crate) fn new(place: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Self {
            _place: Some(place),
            ..Self::default()
        })
    }

    /// A request has begun.
    pub(crate) fn begin(self: &Arc<Self>, cut: CutSlot) -> StreamGuard {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
        StreamGuard {
            client: Arc::clone(self),
            cut,
        }
    }

    /// An answer has been broken off; when the connection is dropped, the client is told by a reset.
    pub(crate) fn break_off(&self) {
        self.broken_off.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0
    }

    fn phase(&self) -> Phase {
        if !self.is_idle() {
            Phase::Busy
        } else if !self.served.load(Ordering::Relaxed)
            || self.bytes_in.load(Ordering::Relaxed) != self.bytes_settled.load(Ordering::Relaxed)
        {
            Phase::Head
        } else {
            Phase::Idle
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Busy,
    /// The first request, or the rest of a head, is awaited.
    Head,
    Idle,
}

/// Watches how long a connection stays in one phase.
#[derive(Debug)]
pub(crate) struct Watch {
    phase: Phase,
    looks: u32,
    is_h2: bool,
}

impl Watch {
    pub(crate) fn new(is_h2: bool) -> Self {
        Self {
            phase: Phase::Head,
            looks: 0,
            is_h2,
        }
    }

    /// To be called every [`LOOK_INTERVAL`]; true when the connection has outstayed.
    pub(crate) fn look(&mut self, client: &Client) -> bool {
        self.judge(client.phase())
    }

    fn judge(&mut self, phase: Phase) -> bool {
        // HTTP/2 reads pings and settings at any time: bytes say nothing about a head there, and its pings find the
        // dead.
        let phase = if self.is_h2 && phase == Phase::Head {
            Phase::Idle
        } else {
            phase
        };
        self.looks = if phase == self.phase {
            self.looks + 1
        } else {
            1
        };
        self.phase = phase;
        let limit = match phase {
            Phase::Busy => return false,
            Phase::Head => HEAD_LIMIT,
            Phase::Idle => IDLE_LIMIT,
        };
        LOOK_INTERVAL * self.looks >= limit
    }
}

/// One open stream (request and response) of a client connection.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    client: Arc<Client>,
    pub(crate) cut: CutSlot,
}

impl StreamGuard {
    /// Another guard for the same stream.
    pub(crate) fn sibling(&self) -> Self {
        self.client.begin(self.cut.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.cut.set(None);
        self.client.bytes_settled.store(
            self.client.bytes_in.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        self.client.active.fetch_sub(1, Ordering::Release);
    }
}

/// A client's socket: counts what is read, and gives back first what was read to find out the protocol.
#[derive(Debug)]
pub(crate) struct ClientIo<S: ClientSocket> {
    inner: S,
    first: Bytes,
    client: Arc<Client>,
}

/// A socket that can be closed so that the other end notices that something was broken off.
pub(crate) trait ClientSocket {
    /// Makes the close that follows a reset (RST) instead of an ordinary end (FIN).
    fn reset_on_close(&self);
}

impl ClientSocket for TcpStream {
    fn reset_on_close(&self) {
        // Refused only for a socket that is gone already.
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl<S: ClientSocket> ClientSocket for TlsStream<S> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

/// Clients read an ordinary end in the middle of a chunked answer as a mistake of the protocol, and a reset as what it
/// is: the sandbox is gone. Only then do they ask why.
impl<S: ClientSocket> Drop for ClientIo<S> {
    fn drop(&mut self) {
        if self.client.broken_off.load(Ordering::Relaxed) {
            self.inner.reset_on_close();
        }
    }
}

impl<S: ClientSocket> ClientIo<S> {
    pub(crate) fn new(inner: S, first: Bytes, client: Arc<Client>) -> Self {
        client.bytes_in.store(first.len() as u64, Ordering::Relaxed);
        Self {
            inner,
            first,
            client,
        }
    }
}

impl<S: AsyncRead + ClientSocket + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let n = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..n]);
            this.first.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buf);
        let n = buf.filled().len().saturating_sub(before);
        if n > 0 {
            this.client.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncWrite + ClientSocket + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks_until_cut(watch: &mut Watch, phase: Phase) -> u32 {
        (1..1000).find(|_| watch.judge(phase)).unwrap_or(0)
    }

    #[test]
    fn slow_heads_are_cut_soon_and_idle_connections_late() {
        assert_eq!(looks_until_cut(&mut Watch::new(false), Phase::Head), 3);
        assert_eq!(looks_until_cut(&mut Watch::new(false), Phase::Idle), 61);
        assert_eq!(looks_until_cut(&mut Watch::new(false), Phase::Busy), 0);
        assert_eq!(looks_until_cut(&mut Watch::new(true), Phase::Head), 61);
        let mut watch = Watch::new(false);
        assert!(
            !watch.judge(Phase::Head) && !watch.judge(Phase::Head) && !watch.judge(Phase::Busy)
        );
        assert_eq!(
            looks_until_cut(&mut watch, Phase::Head),
            3,
            "a new phase starts anew"
        );
    }

    #[test]
    fn phases() {
        let client = Arc::new(Client::default());
        assert_eq!(client.phase(), Phase::Head);
        client.bytes_in.store(100, Ordering::Relaxed);
        let stream = client.begin(CutSlot::default());
        assert_eq!(client.phase(), Phase::Busy);
        drop(stream);
        assert_eq!(client.phase(), Phase::Idle);
        client.bytes_in.store(101, Ordering::Relaxed);
        assert_eq!(client.phase(), Phase::Head);
    }
}

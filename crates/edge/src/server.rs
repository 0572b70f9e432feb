//! Accepting clients, turning away those for whom there is no room, and draining at the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Inner;
use crate::connection::Connection;
use crate::guard::Client;
use crate::within::{Guest, Within};

const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// How many clients at a time are told why they are turned away.
const APOLOGIES: usize = 64;
const TOO_MANY: &str = "too many client connections to this server\nFIX: close idle ones, or raise the limit of connections\n";

/// Where clients come from, and how.
pub(crate) struct Clients {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// They are sandboxes.
    pub(crate) within: Option<Arc<dyn Within>>,
}

/// Accepts until `shutdown`, then drains.
pub(crate) async fn serve(inner: Arc<Inner>, clients: Clients, shutdown: CancellationToken) {
    let Clients {
        listener,
        tls,
        within,
    } = clients;
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
        let guest = within.as_ref().map(|within| Guest::new(within, address));
        let guest = match guest {
            // Nobody's address, or it has all that it may have.
            Some(None) => continue,
            Some(guest) => guest,
            None => None,
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(place) => {
                let connection = Connection {
                    inner: Arc::clone(&inner),
                    address,
                    shutdown: shutdown.clone(),
                    client: Client::new(place),
                    secure: acceptor.is_some(),
                    guest,
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

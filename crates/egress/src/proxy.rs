//! Connections that the kernel leads here instead of to where they were to go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use soulbox_types::Timestamp;
use soulbox_types::policy::Rule;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::gate::{Gate, Passed};
use crate::hello::{self, Said};
use crate::relay::relay;
use crate::{intercept, plain};

/// How long a client may take to say what it wants, and a server to let somebody in.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may say nothing where everything is open: the server may be the one that speaks first.
const SILENCE: Duration = Duration::from_secs(1);
/// Connections of all sandboxes: each takes two descriptors of the server.
const CONNECTIONS: usize = 4096;

/// One connection of a sandbox, and where it was to go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) client: Ipv4Addr,
    pub(crate) server: SocketAddrV4,
}

/// Binds the listeners for connections to port 80 and to port 443, on the gateway.
///
/// # Errors
/// When one of the ports is taken.
pub fn listeners(gateway: Ipv4Addr) -> io::Result<[std::net::TcpListener; 2]> {
    let [http, tls] = soulbox_net::policy::PROXY_PORTS;
    let bind = |port| std::net::TcpListener::bind((gateway, port));
    Ok([bind(http)?, bind(tls)?])
}

/// Serves until the future ends; open connections are then closed.
///
/// # Errors
/// When the listeners cannot be used by the runtime.
pub async fn serve(
    gate: Arc<Gate>,
    [http, tls]: [std::net::TcpListener; 2],
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    for listener in [&http, &tls] {
        listener.set_nonblocking(true)?;
    }
    let (http, tls) = (TcpListener::from_std(http)?, TcpListener::from_std(tls)?);
    let open = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    tokio::pin!(until);
    loop {
        let (accepted, is_tls) = tokio::select! {
            () = &mut until => return Ok(()),
            accepted = http.accept() => (accepted, false),
            accepted = tls.accept() => (accepted, true),
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection of a sandbox failed");
                }
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection of a sandbox");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let way = way(&stream, peer);
        let places = way.and_then(|way| {
            let place = gate.place(way.client)?;
            Some((way, place, Arc::clone(&open).try_acquire_owned().ok()?))
        });
        let Some((way, place, open)) = places else {
            reset(stream);
            continue;
        };
        // An answer in two pieces must not wait until the client has acknowledged the first.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection of a sandbox has ended");
            continue;
        }
        let gate = Arc::clone(&gate);
        tasks.spawn(async move {
            if is_tls {
                pass_tls(&gate, way, stream).await;
            } else {
                plain::pass(gate, way, stream).await;
            }
            drop((place, open));
        });
    }
}

/// Where a connection was to go before the kernel led it here.
fn way(stream: &TcpStream, peer: SocketAddr) -> Option<Way> {
    let meant = rustix::net::sockopt::ip_original_dst(stream).ok();
    match (peer, meant) {
        (SocketAddr::V4(peer), Some(server)) => Some(Way {
            client: *peer.ip(),
            server,
        }),
        _ => None,
    }
}

/// Ends a connection so that the other side is told at once.
pub(crate) fn reset(stream: TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)) {
        tracing::debug!(%error, "a refused connection is closed, not reset");
    }
    drop(stream);
}

/// Connects to where a sandbox wanted to.
pub(crate) async fn connect(way: Way) -> io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(way.server)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn pass_tls(gate: &Arc<Gate>, way: Way, mut stream: TcpStream) {
    let mut said = Vec::new();
    let at = Timestamp::now();
    // Where the address is open by itself, the name is asked for only because a rule may be about it.
    let by_address = gate.judge(way.client, None, *way.server.ip());
    let patience = if by_address.is_ok() {
        SILENCE
    } else {
        PATIENCE
    };
    let hello = timeout(patience, first_words(&mut stream, &mut said)).await;
    let (target, judged) = match hello {
        Ok(Some(hello)) => {
            let name = hello.name.as_deref();
            let judged = gate.judge(way.client, name, *way.server.ip());
            if let (Ok(_), Some(name)) = (&judged, name.and_then(|n| gate.ruled(way.client, n))) {
                return intercept::pass(Arc::clone(gate), way, name, said, stream).await;
            }
            let judged = match judged {
                Ok(Rule::AllowName(_)) if hello.encrypted => {
                    Err("its TLS may hide another name (ECH)".to_owned())
                }
                judged => judged,
            };
            (
                hello.name.unwrap_or_else(|| way.server.ip().to_string()),
                judged,
            )
        }
        Ok(None) => (
            way.server.to_string(),
            by_address.map_err(|_| "it is no TLS".to_owned()),
        ),
        Err(_) => (
            way.server.to_string(),
            by_address.map_err(|_| "it says nothing".to_owned()),
        ),
    };
    let rule = match judged {
        Ok(rule) => rule,
        Err(reason) => {
            gate.refused(way.client, "tls", &target, &reason);
            return reset(stream);
        }
    };
    let sent = async {
        let mut server = connect(way).await?;
        server.write_all(&said).await?;
        io::Result::Ok(server)
    };
    match sent.await {
        Ok(server) => {
            let first = u64::try_from(said.len()).unwrap_or(u64::MAX);
            // How it ends is for the two sides to know.
            let carried = relay(&stream, &server).await.ok();
            let passed = Passed {
                kind: "tls",
                target: &target,
                rule: &rule,
                at,
                detail: "",
                bytes: carried.map(|(sent, received)| (sent + first, received)),
            };
            gate.passed(way, &passed);
        }
        Err(error) => {
            tracing::debug!(%error, server = %way.server, "a server cannot be reached for a sandbox");
            reset(stream);
        }
    }
}

/// Reads until the client has said which name it wants; `None` when it says something else, or goes away.
async fn first_words(stream: &mut TcpStream, said: &mut Vec<u8>) -> Option<hello::Hello> {
    loop {
        match hello::read(said) {
            Said::Hello(hello) => return Some(hello),
            Said::NotTls => return None,
            Said::Incomplete if said.len() > hello::MOST_BYTES => return None,
            Said::Incomplete => {}
        }
        if stream.read_buf(said).await.ok()? == 0 {
            return None;
        }
    }
}

//! Connections that the kernel leads here instead of to where they were to go.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
use soulbox_types::Timestamp;
use soulbox_types::policy::{Rule, canonical_name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::gate::{Gate, Passed, sandbox_at};
use crate::hello::{self, Said};
use crate::outside::{Goal, Outside, Unreached, connect};
use crate::{intercept, plain};

/// How long a client may take to say what it wants, and a server to let somebody in.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may say nothing where everything is open: the server may be the one that speaks first.
const SILENCE: Duration = Duration::from_secs(1);
/// The port on which clients are expected to speak TLS.
const TLS_PORT: u16 = 443;
/// Connections of all sandboxes: each takes two descriptors of the server.
const CONNECTIONS: usize = 4096;

/// One connection of a sandbox, known by its address of IPv4, and where it was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) client: Ipv4Addr,
    pub(crate) server: SocketAddr,
}

/// Listeners of one address, for connections to port 80 and to port 443.
pub type Listeners = [std::net::TcpListener; 2];

/// Binds those of an address of the gateway.
///
/// # Errors
/// When one of the ports is taken.
pub fn listeners(gateway: IpAddr) -> io::Result<Listeners> {
    let [http, tls] = soulbox_net::policy::PROXY_PORTS;
    let bind = |port| std::net::TcpListener::bind((gateway, port));
    Ok([bind(http)?, bind(tls)?])
}

/// A listener, and what is expected of those who come to it.
struct Door {
    listener: TcpListener,
    is_tls: bool,
}

impl Door {
    fn both(listeners: Listeners) -> io::Result<[Self; 2]> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let [http, tls] = listeners;
        let door = |listener, is_tls| {
            TcpListener::from_std(listener).map(|listener| Self { listener, is_tls })
        };
        Ok([door(http, false)?, door(tls, true)?])
    }
}

/// Who comes next, and whether to a door of TLS. The next look begins at another door, so that none is forgotten over one
/// where many come.
async fn next(doors: &mut [Door]) -> (io::Result<(TcpStream, SocketAddr)>, bool) {
    doors.rotate_left(1);
    poll_fn(|context| {
        for door in &*doors {
            if let Poll::Ready(accepted) = door.listener.poll_accept(context) {
                return Poll::Ready((accepted, door.is_tls));
            }
        }
        Poll::Pending
    })
    .await
}

/// Serves until the future ends; open connections are then closed.
///
/// # Errors
/// When the listeners cannot be used by the runtime.
pub async fn serve(
    gate: Arc<Gate>,
    listeners: Vec<Listeners>,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    let doors = listeners.into_iter().map(Door::both);
    let mut doors: Vec<Door> = doors
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    let open = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    tokio::pin!(until);
    loop {
        let (accepted, is_tls) = tokio::select! {
            () = &mut until => return Ok(()),
            next = next(&mut doors) => next,
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
            let place = gate.share(way.client, open.available_permits())?;
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
    let meant = match peer {
        SocketAddr::V4(_) => ip_original_dst(stream).map(SocketAddr::from),
        SocketAddr::V6(_) => ipv6_original_dst(stream).map(SocketAddr::from),
    };
    Some(Way {
        client: sandbox_at(peer.ip())?,
        server: meant.ok()?,
    })
}

/// Ends a connection so that the other side is told at once.
pub(crate) fn reset(stream: TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)) {
        tracing::debug!(%error, "a refused connection is closed, not reset");
    }
    drop(stream);
}

/// What a client has asked for, before it was judged.
struct Asked {
    kind: &'static str,
    /// For people.
    target: String,
    name: Option<String>,
    at: Timestamp,
}

async fn pass_tls(gate: &Arc<Gate>, way: Way, mut stream: TcpStream) {
    let mut said = Vec::new();
    let mut asked = Asked {
        kind: "tls",
        target: way.server.to_string(),
        name: None,
        at: Timestamp::now(),
    };
    // Where the address is open by itself, the name is asked for only because a rule may be about it.
    let by_address = gate.judge(way.client, None, way.server.ip());
    if way.server.port() != TLS_PORT {
        // On its way to a proxy; no entry of a name is about it.
        asked.kind = "tcp";
        return go_on(gate, way, asked, by_address, said, stream).await;
    }
    let patience = if by_address.is_ok() {
        SILENCE
    } else {
        PATIENCE
    };
    let hello = timeout(patience, first_words(&mut stream, &mut said)).await;
    let judged = match hello {
        Ok(Some(hello)) => {
            let name = hello.name.as_deref();
            let judged = gate.judge(way.client, name, way.server.ip());
            if let (Ok(_), Some(name)) = (&judged, name.and_then(|n| gate.ruled(way.client, n))) {
                return intercept::pass(Arc::clone(gate), way, name, said, stream).await;
            }
            let target = hello.name.clone();
            asked.target = target.unwrap_or_else(|| way.server.ip().to_string());
            asked.name = hello.name;
            match judged {
                Ok(Rule::AllowName(_)) if hello.encrypted => {
                    Err("its TLS may hide another name (ECH)".to_owned())
                }
                judged => judged,
            }
        }
        Ok(None) => by_address.map_err(|_| "it is no TLS".to_owned()),
        Err(_) => by_address.map_err(|_| "it says nothing".to_owned()),
    };
    go_on(gate, way, asked, judged, said, stream).await;
}

/// Carries a connection that was judged. `said` is what the client has sent so far.
async fn go_on(
    gate: &Gate,
    way: Way,
    asked: Asked,
    judged: Result<Rule, String>,
    said: Vec<u8>,
    stream: TcpStream,
) {
    let Asked { kind, target, .. } = &asked;
    let rule = match judged {
        Ok(rule) => rule,
        Err(reason) => {
            gate.refused(way.client, kind, target, &reason);
            return reset(stream);
        }
    };
    let name = asked.name.as_deref().and_then(canonical_name);
    let goal = Goal::of(gate, way, name.as_deref(), &rule);
    let sent = async {
        let mut server = connect(gate, &goal).await?;
        let sent = match &mut server {
            Outside::Tcp(server) => server.write_all(&said).await,
            Outside::Tls(server) => server.write_all(&said).await,
        };
        sent.map(|()| server).map_err(Unreached::Server)
    };
    match sent.await {
        Ok(server) => {
            let first = u64::try_from(said.len()).unwrap_or(u64::MAX);
            let carried = server.carry(stream).await;
            let passed = Passed {
                kind,
                target,
                rule: &rule,
                at: asked.at,
                detail: "",
                bytes: carried.map(|(sent, received)| (sent + first, received)),
            };
            gate.passed(way, &passed);
        }
        Err(Unreached::Server(error)) => {
            tracing::debug!(%error, server = %way.server, "a server cannot be reached for a sandbox");
            reset(stream);
        }
        Err(Unreached::Proxy(reason)) => {
            gate.refused(way.client, kind, target, &reason);
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

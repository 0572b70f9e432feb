//! Connections to where sandboxes want to: straight, or through the SOCKS5 proxy that the policy names.
//!
//! What must stay true: who has a proxy reaches nothing but through it, whatever fails.

use std::io;
use std::net::Ipv4Addr;

use rustls::pki_types::ServerName;
use soulbox_types::policy::Rule;
use soulbox_types::upstream::Upstream;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;

use crate::broker::Broker;
use crate::gate::Gate;
use crate::proxy::{PATIENCE, Way};
use crate::relay::relay;

/// What is carried at once in one direction, where TLS is spoken to a proxy.
const PIECE_BYTES: usize = 64 * 1024;

/// Where a connection is to go, and by which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Goal {
    way: Way,
    through: Option<Through>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Through {
    proxy: Box<Upstream>,
    /// What the proxy is asked for in place of the address.
    name: Option<String>,
}

impl Goal {
    /// By the way of the sandbox's policy at this moment. A proxy is asked for a name only where the policy names it: what
    /// a guest says that it wants is judged by the address, and may mean another one to the proxy.
    pub(crate) fn of(gate: &Gate, way: Way, name: Option<&str>, rule: &Rule) -> Self {
        let named = matches!(rule, Rule::AllowName(_)).then_some(name).flatten();
        Self::named(gate, way, named)
    }

    /// The same for a name of the policy.
    pub(crate) fn named(gate: &Gate, way: Way, name: Option<&str>) -> Self {
        let through = gate.upstream(way.client).map(|proxy| Through {
            proxy,
            name: name.map(str::to_owned),
        });
        Self { way, through }
    }

    /// The sandbox whose connection it is.
    pub(crate) fn client(&self) -> Ipv4Addr {
        self.way.client
    }
}

/// A connection to the outside.
pub(crate) enum Outside {
    /// As it is.
    Tcp(TcpStream),
    /// Within TLS to a proxy.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Outside {
    /// Carries until both directions have ended; how many bytes out and in, if neither broke.
    pub(crate) async fn carry(self, mut client: TcpStream) -> Option<(u64, u64)> {
        // How it ends is for the two sides to know.
        match self {
            Self::Tcp(server) => relay(&client, &server).await.ok(),
            Self::Tls(mut server) => {
                copy_bidirectional_with_sizes(&mut client, &mut server, PIECE_BYTES, PIECE_BYTES)
                    .await
                    .ok()
            }
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Unreached {
    /// The server cannot be reached.
    Server(io::Error),
    /// The proxy cannot be used, or does not reach the server.
    Proxy(String),
}

/// Connects.
pub(crate) async fn connect(gate: &Gate, goal: &Goal) -> Result<Outside, Unreached> {
    let Some(through) = &goal.through else {
        let straight = timeout(PATIENCE, TcpStream::connect(goal.way.server)).await;
        let stream = straight.unwrap_or_else(|late| Err(late.into()));
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        return stream.map(Outside::Tcp).map_err(Unreached::Server);
    };
    let asked = async {
        let broker = gate.broker().ok_or("the server is not ready")?;
        ask(broker, through, goal.way).await
    };
    let asked = timeout(PATIENCE, asked).await;
    let asked = asked.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
    asked.map_err(|why| Unreached::Proxy(format!("egress proxy: {why}")))
}

async fn ask(broker: &Broker, through: &Through, way: Way) -> Result<Outside, String> {
    let proxy = &through.proxy;
    let addresses = broker.reach().addresses(&proxy.host, proxy.port).await;
    let addresses = addresses.map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(|error| format!("it cannot be reached: {error}"))?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let Some(tls) = &proxy.tls else {
        let stream = request(broker, through, way, stream).await?;
        return Ok(Outside::Tcp(stream));
    };
    let connector = broker
        .trusting(tls.ca_cert.as_deref())
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(tls.server_name.clone())
        .map_err(|_| "no certificate can have its name".to_owned())?;
    let stream = connector.connect(name, stream).await;
    let stream = stream.map_err(|error| format!("it does not prove who it is: {error}"))?;
    let stream = request(broker, through, way, stream).await?;
    Ok(Outside::Tls(Box::new(stream)))
}

/// Has the proxy connect to the server (RFC 1928, RFC 1929).
async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    broker: &Broker,
    through: &Through,
    way: Way,
    stream: S,
) -> Result<S, String> {
    let target = match &through.name {
        Some(name) => TargetAddr::Domain(name.as_str().into(), way.server.port()),
        None => TargetAddr::Ip(way.server),
    };
    let credentials = broker.credentials(&through.proxy);
    let opened = match credentials.map_err(|error| error.to_string())? {
        Some((username, password)) => {
            let password = password.expose();
            Socks5Stream::connect_with_password_and_socket(stream, target, username, password).await
        }
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    opened
        .map(Socks5Stream::into_inner)
        .map_err(|error| error.to_string())
}

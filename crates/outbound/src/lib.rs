//! Requests of the server to places that somebody else has named: registries, webhooks.
//!
//! Whoever names a place must not be able to make the server ask its own networks. So a connection goes to a public
//! address, or to one that the operator has listed. The address that was looked at is the one that is connected to, and
//! redirections are not followed: whoever wants to follows them with a request that is judged anew.

mod reach;

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use soulbox_client::TrustError;
use soulbox_types::egress::is_public;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

pub use reach::{NoWay, Reach};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// From a request to the beginning of its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("soulbox/", env!("CARGO_PKG_VERSION"));

/// Why there was no answer. Texts tell of places without what may be secret.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// It may not be asked without TLS.
    #[error("{0} is not asked without TLS")]
    Plain(String),
    /// It is at an address that is not public, and not listed.
    #[error("{0} is at an address that is not public")]
    NotPublic(String),
    /// There was no connection, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// The certificates of this host cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Who may be asked how.
pub trait Permits {
    /// Whether this place may be asked without TLS.
    fn without_tls(&self, url: &Url) -> bool;
    /// Whether this place may be at an address that is not public.
    fn at(&self, url: &Url, address: IpAddr) -> bool;
}

/// Makes the requests.
#[derive(Default)]
pub struct Outbound {
    tls: OnceLock<TlsConnector>,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

impl Outbound {
    /// Connects with this instead of the system's certificates.
    #[must_use]
    pub fn trusting(tls: TlsConnector) -> Self {
        Self { tls: tls.into() }
    }

    /// Sends one request over a connection of its own; the answer's body is still to come.
    ///
    /// # Errors
    /// When the place may not be connected to, or does not answer.
    pub async fn send(
        &self,
        permits: &impl Permits,
        url: &Url,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, OutboundError> {
        let stream = self.connect(permits, url).await?;
        let failed = |error: hyper::Error| {
            OutboundError::Unreachable(format!("{}: {}", shown(url), chain(&error)))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        // It ends with the body, or when the body is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the outside broke");
            }
        });
        let authority = HeaderValue::from_str(url.authority());
        let authority = authority.map_err(|error| OutboundError::Unreachable(error.to_string()))?;
        request.headers_mut().insert(header::HOST, authority);
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        match timeout(ANSWER_PATIENCE, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(OutboundError::Unreachable(format!(
                "{} does not answer",
                shown(url)
            ))),
        }
    }

    async fn connect(
        &self,
        permits: &impl Permits,
        url: &Url,
    ) -> Result<Box<dyn Stream>, OutboundError> {
        let unreachable =
            |why: String| OutboundError::Unreachable(format!("{}: {why}", shown(url)));
        if url.scheme() != "https" && !permits.without_tls(url) {
            return Err(OutboundError::Plain(url.authority().to_owned()));
        }
        let host = url
            .host()
            .ok_or_else(|| unreachable("no host".to_owned()))?
            .to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let connecting = async {
            let found: Vec<SocketAddr> = match &host {
                Host::Ipv4(address) => vec![(*address, port).into()],
                Host::Ipv6(address) => vec![(*address, port).into()],
                Host::Domain(name) => tokio::net::lookup_host((name.as_str(), port))
                    .await
                    .map_err(|error| unreachable(error.to_string()))?
                    .collect(),
            };
            let allowed: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_public(address.ip()) || permits.at(url, address.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(OutboundError::NotPublic(url.authority().to_owned()));
            }
            let stream = TcpStream::connect(allowed.as_slice()).await;
            let stream = stream.map_err(|error| unreachable(error.to_string()))?;
            if url.scheme() == "http" {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            }
            let name = ServerName::try_from(host.to_string().trim_matches(['[', ']']).to_owned())
                .map_err(|error| unreachable(error.to_string()))?;
            let secure = self.tls()?.connect(name, stream).await;
            Ok(
                Box::new(secure.map_err(|error| unreachable(error.to_string()))?)
                    as Box<dyn Stream>,
            )
        };
        match timeout(CONNECT_PATIENCE, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(unreachable("no connection within 10 s".to_owned())),
        }
    }

    fn tls(&self) -> Result<&TlsConnector, OutboundError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls);
        }
        let made = soulbox_client::trust(None)?;
        Ok(self.tls.get_or_init(|| made))
    }
}

/// A URL without what may be secret.
#[must_use]
pub fn shown(url: &Url) -> String {
    format!(
        "{}://{}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

//! Connections: plain, TLS with the trust the endpoint names, or made by somebody else.
//!
//! Separate from [`crate::http`] because it is the only place that knows about certificates.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where distributions keep the certificates they trust.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Makes a connection to the one peer there is, however that is reached.
pub type Dial =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>> + Send + Sync>;

/// Makes connections.
#[derive(Clone)]
pub(crate) enum Connector {
    /// For `http` and `https` addresses.
    Network {
        tcp: HttpConnector,
        /// None until an endpoint needs TLS.
        tls: Option<TlsConnector>,
    },
    /// Whatever the address.
    Through(Dial),
}

/// The certificates that are to be trusted cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTPS: {0}")]
pub struct TrustError(String);

/// What connects over TLS and trusts the certificates of `ca_file`, else the system's. Speaks HTTP/1.1.
///
/// # Errors
/// When there are none that can be read.
pub fn trust(ca_file: Option<&Path>) -> Result<TlsConnector, TrustError> {
    connector(ca_file).map_err(TrustError)
}

/// The same with the system's certificates, and those of a PEM text besides.
///
/// # Errors
/// When there are none, or the text holds none.
pub fn trust_also(more: &[u8]) -> Result<TlsConnector, TrustError> {
    let mut roots = match system_bundle() {
        Some(path) => roots_of(path).map_err(TrustError)?,
        None => rustls::RootCertStore::empty(),
    };
    for certificate in CertificateDer::pem_slice_iter(more) {
        let added = certificate.map_err(|error| error.to_string());
        let added = added.and_then(|one| roots.add(one).map_err(|error| error.to_string()));
        added.map_err(TrustError)?;
    }
    verifying(roots).map_err(TrustError)
}

/// The file with the certificates that this system trusts.
#[must_use]
pub fn system_bundle() -> Option<&'static Path> {
    let mut known = SYSTEM_BUNDLES.iter().map(Path::new);
    known.find(|path| path.exists())
}

pub(crate) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let missing = "no system certificates found; name a file with SSL_CERT_FILE";
    let path = match ca_file {
        Some(path) => path,
        None => system_bundle().ok_or(missing)?,
    };
    verifying(roots_of(path)?)
}

fn roots_of(path: &Path) -> Result<rustls::RootCertStore, String> {
    let readable = |error: rustls::pki_types::pem::Error| {
        format!("certificates of {}: {error}", path.display())
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(readable)? {
        // A bundle may hold one that we cannot use; the others still count.
        roots.add(certificate.map_err(readable)?).ok();
    }
    match roots.is_empty() {
        true => Err(format!("no certificate in {}", path.display())),
        false => Ok(roots),
    }
}

fn verifying(roots: rustls::RootCertStore) -> Result<TlsConnector, String> {
    if roots.is_empty() {
        return Err("no certificate is trusted".to_owned());
    }
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|error| error.to_string())?
    .with_root_certificates(roots)
    .with_no_client_auth();
    // One protocol for both kinds of address: streams are then connections, and no window limits a transfer.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Network { tcp, .. } => tcp.poll_ready(cx).map_err(Into::into),
            Self::Through(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tcp, tls) = match self {
            Self::Network { tcp, tls } => (tcp, tls.clone()),
            Self::Through(dial) => {
                let connecting = dial();
                return Box::pin(
                    async move { Ok(Stream(TokioIo::new(Box::new(connecting.await?)))) },
                );
            }
        };
        let secure = uri.scheme() == Some(&::http::uri::Scheme::HTTPS);
        let name = uri.host().unwrap_or_default().to_owned();
        let connecting = tcp.call(uri);
        Box::pin(async move {
            let tcp = connecting.await?.into_inner();
            if !secure {
                return Ok(Stream(TokioIo::new(Box::new(tcp))));
            }
            let tls = tls.ok_or("https is not set up for this endpoint")?;
            let stream = tls.connect(ServerName::try_from(name)?, tcp).await?;
            Ok(Stream(TokioIo::new(Box::new(stream))))
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, plain or TLS.
pub(crate) struct Stream(TokioIo<Box<dyn Io>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

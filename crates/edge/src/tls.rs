//! TLS towards clients, and towards servers inside sandboxes that want it.

mod authority;

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

pub use authority::{Authority, AuthorityTexts};

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No usable certificate.
    #[error(
        "the certificate file holds no PEM certificate\nFIX: give a file with `-----BEGIN CERTIFICATE-----`, leaf first, then intermediates"
    )]
    Certificate,
    /// No usable key.
    #[error(
        "the key file holds no PEM private key\nFIX: give a file with an unencrypted `-----BEGIN PRIVATE KEY-----`"
    )]
    Key,
    /// The two do not fit, or are of an unknown kind.
    #[error(
        "certificate and key cannot be used together\nFIX: give the key that the certificate was issued for (RSA, ECDSA or Ed25519)"
    )]
    Mismatch(#[source] rustls::Error),
    /// The authority of our own cannot make certificates.
    #[error(
        "the private certificate authority cannot be used\nFIX: restore its files (`ca-…`) in the data directory, or remove them to get a new one"
    )]
    Authority(#[source] rcgen::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate that the operator gives, and may give anew while clients are served.
#[derive(Debug)]
pub struct Given {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Given {
    /// Takes a chain, leaf first, and its key, both PEM.
    ///
    /// # Errors
    /// When they cannot be used; the text says what to do.
    pub fn new(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let current = RwLock::new(certified(cert_pem, key_pem)?);
        Ok(Self { current })
    }

    /// Uses these from the next connection on. Without success, what was used before stays.
    ///
    /// # Errors
    /// As [`Given::new`].
    pub fn replace(&self, cert_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        let next = certified(cert_pem, key_pem)?;
        *self.current.write() = next;
        Ok(())
    }
}

fn certified(cert_pem: &[u8], key_pem: &[u8]) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Certificate)?;
    if chain.is_empty() {
        return Err(TlsError::Certificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsError::Key)?;
    CertifiedKey::from_der(chain, key, &provider())
        .map(Arc::new)
        .map_err(TlsError::Mismatch)
}

/// A certificate that is still to come. Until it does, an authority of this server's own makes them.
#[derive(Debug)]
pub struct Awaited {
    meanwhile: Authority,
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl Awaited {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(meanwhile: Authority) -> Self {
        Self {
            meanwhile,
            current: RwLock::default(),
        }
    }

    /// Uses this chain, leaf first, and its key, both PEM, from the next connection on. Without success, what was used
    /// before stays.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn replace(&self, cert_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        let next = certified(cert_pem, key_pem)?;
        *self.current.write() = Some(next);
        Ok(())
    }
}

/// Who makes the certificates that clients are shown.
#[derive(Debug, Clone)]
pub enum Certificates {
    /// The operator.
    Given(Arc<Given>),
    /// An authority that is asked for them.
    Awaited(Arc<Awaited>),
    /// This server.
    Private(Arc<Authority>),
}

impl Certificates {
    /// The certificate that clients are to trust, PEM, where none of theirs vouches for this server.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        match self {
            Self::Given(_) | Self::Awaited(_) => None,
            Self::Private(authority) => Some(authority.certificate_pem().to_owned()),
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Given(given) => Some(Arc::clone(&given.current.read())),
            Self::Awaited(awaited) => {
                let current = awaited.current.read().clone();
                current.or_else(|| {
                    awaited
                        .meanwhile
                        .leaf(hello.server_name()?, SystemTime::now())
                })
            }
            Self::Private(authority) => authority.leaf(hello.server_name()?, SystemTime::now()),
        }
    }
}

/// Makes the configuration of a TLS listener that offers HTTP/2 and HTTP/1.1.
///
/// # Panics
/// Never: ring supports the protocol versions.
#[must_use]
pub fn server_config(certificates: Certificates) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Client side for `httpsPorts`: any certificate will do. The bytes travel over the sandbox's own loopback, and the
/// server there is the user's; TLS is spoken because that server speaks nothing else, not to learn who it is.
pub(crate) fn unverified_client() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let made = rcgen::generate_simple_self_signed(vec!["box.test".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["box.test".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let given = Given::new(cert.as_bytes(), key.as_bytes()).unwrap();
        let before = Arc::clone(&given.current.read());
        let other = other.signing_key.serialize_pem();
        let cases = [
            given.replace(b"", key.as_bytes()),
            given.replace(cert.as_bytes(), b"nonsense"),
            given.replace(cert.as_bytes(), other.as_bytes()),
        ];
        for case in cases {
            assert!(case.unwrap_err().to_string().contains("FIX:"));
        }
        assert!(
            Arc::ptr_eq(&before, &given.current.read()),
            "the one that works stays"
        );
    }
}

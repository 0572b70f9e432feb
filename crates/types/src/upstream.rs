//! The proxy of its owner that all TCP of a sandbox goes through.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::TeamId;

/// Bytes of the texts of one proxy, which its sealed password is the longest of but for a certificate.
const MOST_TEXT_BYTES: usize = 1024;
/// Bytes of the certificates that its server is trusted by.
pub const MOST_CA_BYTES: usize = 8192;

/// A SOCKS5 proxy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Who has named it.
    pub team: TeamId,
    /// A name, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who the proxy is told that we are; nobody when absent.
    pub credentials: Option<Credentials>,
    /// How TLS is spoken to it, if so.
    pub tls: Option<UpstreamTls>,
}

/// A username, and a password that only the server can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// As it is.
    pub username: String,
    /// Sealed for this proxy.
    pub sealed_password: String,
}

/// TLS to a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTls {
    /// The name that is asked for and verified.
    pub server_name: String,
    /// PEM that is trusted in place of the host's certificates.
    pub ca_cert: Option<String>,
}

// Written by hand so that no log ever shows credentials.
impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Upstream {
    /// Whether it is of a size that is kept with a sandbox.
    #[must_use]
    pub fn fits(&self) -> bool {
        let credentials = self.credentials.as_ref();
        let texts = [
            Some(&self.host),
            credentials.map(|it| &it.username),
            credentials.map(|it| &it.sealed_password),
            self.tls.as_ref().map(|tls| &tls.server_name),
        ];
        let certificate = self.tls.as_ref().and_then(|tls| tls.ca_cert.as_ref());
        texts
            .into_iter()
            .flatten()
            .all(|text| text.len() <= MOST_TEXT_BYTES)
            && certificate.is_none_or(|pem| pem.len() <= MOST_CA_BYTES)
    }
}

//! What header rules need besides the rules: certificates for the sandbox, the values of secrets, and whom to trust outside.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use soulbox_secrets::{Secrets, SecretsError};
use soulbox_types::rules::{HeaderRule, HeaderRules, Part, parts};
use soulbox_types::{SecretName, SecretSelector};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Half of the time that a certificate is good: whoever connects has the other half.
const KEPT: Duration = Duration::from_hours(24);
/// Certificates that are kept ready.
const MOST_KEPT: usize = 1024;

/// See the module.
pub struct Broker {
    secrets: Secrets,
    upstream: TlsConnector,
    ready: Mutex<HashMap<(String, String), Ready>>,
}

struct Ready {
    acceptor: TlsAcceptor,
    since: Instant,
}

/// A header that a request gets.
pub(crate) struct Header {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

/// A header cannot be made; in words that name no value.
pub(crate) struct Unresolved(pub(crate) String);

// Written by hand: there is nothing to show.
impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker(…)")
    }
}

impl Broker {
    /// A broker of these secrets. Servers outside must show certificates that `upstream` trusts.
    #[must_use]
    pub fn new(secrets: Secrets, upstream: TlsConnector) -> Self {
        Self {
            secrets,
            upstream,
            ready: Mutex::default(),
        }
    }

    /// What connects to servers outside and verifies them.
    pub(crate) fn upstream(&self) -> &TlsConnector {
        &self.upstream
    }

    /// What speaks for a name inside of the sandbox.
    pub(crate) fn acceptor(
        &self,
        rules: &HeaderRules,
        name: &str,
    ) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
        let key = (rules.authority.name.clone(), name.to_owned());
        let mut ready = self.ready.lock();
        ready.retain(|_, one| one.since.elapsed() < KEPT);
        if let Some(one) = ready.get(&key) {
            return Ok(one.acceptor.clone());
        }
        let leaf = self.secrets.leaf(&rules.authority, name)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(leaf.certificate)],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key)),
            )?;
        // Requests are read one by one.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        if ready.len() >= MOST_KEPT {
            ready.clear();
        }
        let kept = Ready {
            acceptor: acceptor.clone(),
            since: Instant::now(),
        };
        ready.insert(key, kept);
        Ok(acceptor)
    }

    /// The headers of a rule as they are at this moment.
    pub(crate) async fn headers(
        &self,
        rules: &HeaderRules,
        rule: &HeaderRule,
    ) -> Result<Vec<Header>, Unresolved> {
        let mut headers = Vec::new();
        for (name, template) in &rule.headers {
            let damaged = || Unresolved(format!("the rule's header {name} is damaged"));
            let mut text = String::new();
            for part in parts(template).map_err(|_| damaged())? {
                match part {
                    Part::Literal(literal) => text += literal,
                    Part::Secret(secret) => text += &self.value(rules, &secret).await?,
                    Part::Token(_) => return Err(damaged()),
                }
            }
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                Unresolved(format!(
                    "header {name} cannot be sent: the secret in it has a line break or other bytes that no header holds"
                ))
            })?;
            // HTTP/2 keeps such out of its tables, and logs that show headers hide them.
            value.set_sensitive(true);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| damaged())?;
            headers.push(Header { name, value });
        }
        Ok(headers)
    }

    async fn value(&self, rules: &HeaderRules, secret: &SecretName) -> Result<String, Unresolved> {
        let selector = SecretSelector::Name(secret.clone());
        let found = self.secrets.value(&rules.team, &selector).await;
        match found {
            Ok(value) => Ok(value.expose().to_owned()),
            Err(SecretsError::Unknown) => Err(Unresolved(format!("there is no secret {secret}"))),
            Err(error) => {
                tracing::error!(secret = %secret, %error, "a secret cannot be read for a sandbox");
                Err(Unresolved(format!("secret {secret} cannot be read")))
            }
        }
    }
}

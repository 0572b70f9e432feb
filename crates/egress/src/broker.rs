//! What header rules need besides the rules: certificates for the sandbox, the values of secrets, and whom to trust outside.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use soulbox_outbound::Reach;
use soulbox_secrets::{Identity, NoPassword, Secrets, SecretsError, Value};
use soulbox_types::rules::{HeaderRule, HeaderRules, Part, parts};
use soulbox_types::upstream::Upstream;
use soulbox_types::{SandboxId, SecretName, SecretSelector};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::far::ALPN;
use crate::hide::Values;

/// Half of the time that a certificate is good: whoever connects has the other half.
const KEPT: Duration = Duration::from_hours(24);
/// Certificates that are kept ready.
const MOST_KEPT: usize = 1024;

/// See the module.
pub struct Broker {
    secrets: Secrets,
    identity: Arc<Identity>,
    upstream: TlsConnector,
    reach: Reach,
    ready: Mutex<HashMap<(String, String), Ready>>,
}

struct Ready {
    acceptor: TlsAcceptor,
    since: Instant,
}

/// The rules of a sandbox, and who it is.
pub(crate) struct Ruled {
    pub(crate) sandbox: SandboxId,
    pub(crate) rules: Box<HeaderRules>,
    pub(crate) tokens: BTreeMap<String, String>,
}

/// What a request gets.
pub(crate) struct Added {
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What of it the sandbox must not see.
    pub(crate) hidden: Values,
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
    /// A broker of these secrets. Servers outside must show certificates that `upstream` trusts; proxies
    /// of sandboxes are where `reach` says.
    #[must_use]
    pub fn new(
        secrets: Secrets,
        identity: Arc<Identity>,
        upstream: TlsConnector,
        reach: Reach,
    ) -> Self {
        Self {
            secrets,
            identity,
            upstream,
            reach,
            ready: Mutex::default(),
        }
    }

    /// What connects to servers outside and verifies them.
    pub(crate) fn upstream(&self) -> &TlsConnector {
        &self.upstream
    }

    /// Where proxies may be.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// What a proxy is told about who we are.
    pub(crate) fn credentials<'a>(
        &self,
        proxy: &'a Upstream,
    ) -> Result<Option<(&'a str, Value)>, NoPassword> {
        self.secrets.credentials(proxy)
    }

    /// What connects to a proxy and verifies it: by these certificates, else by those that this host trusts.
    pub(crate) fn trusting(
        &self,
        ca_cert: Option<&str>,
    ) -> Result<TlsConnector, Box<dyn std::error::Error + Send + Sync>> {
        let Some(pem) = ca_cert else {
            return Ok(self.upstream.clone());
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
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
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
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
        ruled: &Ruled,
        rule: &HeaderRule,
    ) -> Result<Added, Unresolved> {
        let mut headers = Vec::new();
        let mut hidden = Vec::new();
        for (name, template) in &rule.headers {
            let damaged = || Unresolved(format!("the rule's header {name} is damaged"));
            let mut text = String::new();
            for part in parts(template).map_err(|_| damaged())? {
                let value = match part {
                    Part::Literal(literal) => {
                        text += literal;
                        continue;
                    }
                    Part::Secret(secret) => self.value(&ruled.rules, &secret).await?,
                    Part::Token(token) => self.token(ruled, token)?,
                };
                text += &value;
                hidden.push(value);
            }
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                Unresolved(format!(
                    "header {name} cannot be sent: the secret in it has a line break or other bytes that no header holds"
                ))
            })?;
            // HTTP/2 keeps such out of its tables, and logs that show headers hide them.
            value.set_sensitive(true);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| damaged())?;
            headers.push((name, value));
        }
        let hidden = Values::new(hidden.iter().map(String::as_str));
        Ok(Added { headers, hidden })
    }

    fn token(&self, ruled: &Ruled, name: &str) -> Result<String, Unresolved> {
        let audience = ruled.tokens.get(name);
        let audience = audience.ok_or_else(|| Unresolved(format!("there is no token {name}")))?;
        let token = self
            .identity
            .token(&ruled.sandbox, &ruled.rules.team, audience);
        Ok(token.expose().to_owned())
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

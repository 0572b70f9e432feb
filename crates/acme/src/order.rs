//! One order, from the account to the certificate.

use std::time::{Duration, Instant};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewOrder, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::peer::Peer;

/// How long the authority may look for the records, and then sign.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
const FIRST_LOOK: Duration = Duration::from_secs(1);
const SLOWER: f32 = 1.5;

/// Makes it so that a text record `_acme-challenge.<domain>` with this value is there, beside others of that name.
pub trait Present {
    /// Returns when the authority can see it; else with what was wrong.
    fn present(&self, value: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// What is asked for, and of whom.
#[derive(Debug)]
pub struct Order<'a> {
    /// URL of the authority's directory.
    pub directory: &'a str,
    /// Where the authority may write to.
    pub contact: Option<&'a str>,
    /// The domain; all names one label below it are asked for, too.
    pub domain: &'a str,
    /// The account's key, as [`new_key`] makes it.
    pub account_key: &'a str,
}

/// What came of an order, PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate and those between it and its authority.
    pub chain: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(…)")
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The account's key cannot be used.
    #[error(
        "the key of the ACME account is damaged\nFIX: restore acme-account.key, or remove it to get a new account"
    )]
    AccountKey,
    /// A key or a request for a certificate could not be made.
    #[error("cannot make a key")]
    Making(#[from] rcgen::Error),
    /// The authority offers no challenge that DNS answers.
    #[error("the authority offers no challenge dns-01 for {0}")]
    NoDnsChallenge(String),
    /// The record was not made.
    #[error("{0}")]
    Record(String),
    /// The authority did not find what it looked for.
    #[error("the authority does not accept the record of {name}: {reason}")]
    NotAccepted {
        /// Of which name.
        name: String,
        /// In its words.
        reason: String,
    },
    /// Anything else between the authority and us.
    #[error(transparent)]
    Protocol(#[from] Error),
}

/// An order that failed.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: AcmeError,
    /// How long the authority wants to be left alone, if it has said so.
    pub told: Option<Duration>,
}

/// Makes a private key, PEM.
///
/// # Errors
/// When there is no randomness.
pub fn new_key() -> Result<String, AcmeError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

impl Order<'_> {
    /// Has a certificate issued. The records that were made may be removed when this returns.
    ///
    /// # Errors
    /// When the authority cannot be asked or refuses, or a record cannot be made.
    pub async fn obtain(&self, peer: &Peer, records: &impl Present) -> Result<Issued, Failure> {
        // What an earlier order was told does not count for this one.
        peer.take_told();
        self.carry_out(peer, records).await.map_err(|error| {
            let told = peer.take_told().or(match &error {
                AcmeError::Protocol(Error::Timeout(Some(next))) => {
                    Some(next.saturating_duration_since(Instant::now()))
                }
                _ => None,
            });
            Failure { error, told }
        })
    }

    async fn carry_out(&self, peer: &Peer, records: &impl Present) -> Result<Issued, AcmeError> {
        let account = self.account(peer).await?;
        let names = [self.domain.to_owned(), format!("*.{}", self.domain)];
        let identifiers = names.clone().map(Identifier::Dns);
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        if present_all(&mut order, records).await? {
            look(&mut order).await?;
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&patience()).await?;
        Ok(Issued {
            chain,
            key: key.serialize_pem(),
        })
    }

    /// Finds the account of the key, or opens one. The key was kept before: whoever dies in between finds it again.
    async fn account(&self, peer: &Peer) -> Result<Account, AcmeError> {
        let unusable = |_| AcmeError::AccountKey;
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.account_key.as_bytes());
        let der = key.map_err(|_| AcmeError::AccountKey)?;
        let key = Key::from_pkcs8_der(der.clone_key()).map_err(unusable)?;
        let (account, _) = Account::builder_with_http(Box::new(peer.clone()))
            .create_from_key((key, PrivateKeyDer::Pkcs8(der)), self.directory.to_owned())
            .await?;
        if let Some(contact) = self.contact {
            let contact = format!("mailto:{contact}");
            account.update_contacts(&[&contact]).await?;
        }
        Ok(account)
    }
}

fn patience() -> RetryPolicy {
    RetryPolicy::new()
        .initial_delay(FIRST_LOOK)
        .backoff(SLOWER)
        .timeout(PATIENCE)
}

/// Makes the records of all names, then tells the authority of them. Whether there was any to make: it may remember
/// earlier ones.
async fn present_all(
    order: &mut instant_acme::Order,
    records: &impl Present,
) -> Result<bool, AcmeError> {
    let mut open = false;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let name = authorization.identifier().to_string();
        let challenge = authorization.challenge(ChallengeType::Dns01);
        let challenge = challenge.ok_or(AcmeError::NoDnsChallenge(name))?;
        let value = challenge.key_authorization().dns_value();
        let made = records.present(&value).await;
        made.map_err(AcmeError::Record)?;
        open = true;
    }
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01)
        {
            challenge.set_ready().await?;
        }
    }
    Ok(open)
}

/// Waits until the authority has looked.
async fn look(order: &mut instant_acme::Order) -> Result<(), AcmeError> {
    if order.poll_ready(&patience()).await? == OrderStatus::Ready {
        return Ok(());
    }
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        let state = authorization.refresh().await?;
        let reason = state.challenges.iter().find_map(|one| one.error.as_ref());
        if let Some(reason) = reason {
            let reason = reason.to_string();
            return Err(AcmeError::NotAccepted { name, reason });
        }
    }
    Err(AcmeError::Protocol(Error::Str("a reason for the refusal")))
}

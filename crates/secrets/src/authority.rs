//! Certificate authorities of sandboxes: made for the domains of their rules, used by the server only.
//!
//! The private key is sealed like a secret and travels with the rules, so that a sandbox keeps its authority over pauses,
//! forks and restarts of the server. What must stay true: an authority vouches for the domains of its rules and nothing
//! else (RFC 5280 §4.2.1.10), and what it signs is no authority.

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use soulbox_types::id::random_label;
use soulbox_types::rules::Authority;
use soulbox_types::{DomainPattern, Timestamp};

use crate::{Secrets, Value};

/// What the key of an authority is sealed for, besides its name.
const PLACE: &str = "authority";
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// How long a sandbox can be kept is not known when its authority is made.
const AUTHORITY_DAYS: i64 = 10 * 365;
/// Clocks inside may be behind.
const BEFORE_DAYS: i64 = 1;
/// How long a certificate of a domain is good.
const LEAF_DAYS: i64 = 2;

/// A certificate for one name.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS #8.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaf(…)")
    }
}

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its key was sealed with another key, or is damaged.
    #[error(
        "the authority of a sandbox cannot be used with this key\nFIX: give the sandbox its rules again"
    )]
    Sealed,
    /// The library refuses.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

impl Secrets {
    /// Makes an authority for domains.
    ///
    /// # Errors
    /// When one of them is no domain of certificates.
    pub fn new_authority<'a>(
        &self,
        domains: impl IntoIterator<Item = &'a DomainPattern>,
    ) -> Result<Authority, AuthorityError> {
        let name = format!("SoulBox sandbox {}", random_label(12));
        let key = KeyPair::generate()?;
        let mut params = params(&name, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: domains.into_iter().filter_map(subtree).collect(),
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(&key)?.pem();
        let sealed = self
            .key
            .seal(&place(&name), &Value::new(key.serialize_pem()));
        Ok(Authority {
            name,
            certificate,
            sealed_key: BASE64.encode(&sealed),
        })
    }

    /// A certificate for a name that one of the authority's domains matches.
    ///
    /// # Errors
    /// When the authority is not of this server, or the name none of certificates.
    pub fn leaf(&self, authority: &Authority, name: &str) -> Result<Leaf, AuthorityError> {
        let sealed = BASE64.decode(authority.sealed_key.as_bytes());
        let sealed = sealed.map_err(|_| AuthorityError::Sealed)?;
        let key = self.key.open(&place(&authority.name), &sealed);
        let key = KeyPair::from_pem(key.map_err(|_| AuthorityError::Sealed)?.expose())?;
        let issuer = Issuer::new(params(&authority.name, AUTHORITY_DAYS)?, key);
        let own = KeyPair::generate()?;
        let mut leaf = params(name, LEAF_DAYS)?;
        leaf.subject_alt_names = CertificateParams::new(vec![name.to_owned()])?.subject_alt_names;
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&own, &issuer)?;
        Ok(Leaf {
            certificate: certificate.der().to_vec(),
            key: own.serialize_der(),
        })
    }
}

fn place(name: &str) -> String {
    format!("{PLACE} {name}")
}

/// What all certificates of a subject have.
fn params(subject: &str, days: i64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    // Of a long name of a host, as much as fits (RFC 5280, ub-common-name); the whole one is in the extension.
    let common: String = subject.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, common);
    let now = Timestamp::now().0 / 1_000_000;
    let moment = |seconds| {
        let start = rcgen::date_time_ymd(1970, 1, 1);
        start + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    params.not_before = moment(now - BEFORE_DAYS * DAY_SECONDS);
    params.not_after = moment(now + days * DAY_SECONDS);
    Ok(params)
}

/// A constraint means a name and all below it.
fn subtree(domain: &DomainPattern) -> Option<GeneralSubtree> {
    match domain {
        DomainPattern::Any => None,
        DomainPattern::Exactly(name) | DomainPattern::Below(name) => {
            Some(GeneralSubtree::DnsName(name.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use soulbox_store::Store;

    use super::*;
    use crate::Key;

    async fn secrets(directory: &tempfile::TempDir, digit: &str) -> Secrets {
        let store = Store::open(&directory.path().join("soulbox.db"))
            .await
            .unwrap();
        let key = Key::parse(&digit.repeat(64)).unwrap();
        Secrets::open(store, key).await.unwrap()
    }

    /// Whether who trusts the authority believes the leaf to be this name.
    fn believed(authority: &Authority, leaf: &Leaf, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let leaf = CertificateDer::from(leaf.certificate.clone());
        let verifier = verifier.build().unwrap();
        let verified = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
        verified.is_ok()
    }

    #[tokio::test]
    async fn an_authority_vouches_for_its_domains_only() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = secrets(&directory, "a").await;
        let domains = ["a.example", "*.b.example"].map(|text| DomainPattern::parse(text).unwrap());
        let authority = secrets.new_authority(&domains).unwrap();
        let other = secrets.new_authority(&domains).unwrap();
        for (name, want) in [
            ("a.example", true),
            ("x.b.example", true),
            ("c.example", false),
            ("nota.example", false),
            ("example", false),
        ] {
            let leaf = secrets.leaf(&authority, name).unwrap();
            assert_eq!(believed(&authority, &leaf, name), want, "{name}");
            assert!(!believed(&authority, &leaf, "y.b.example"), "{name}");
            assert!(!believed(&other, &leaf, name), "{name}: another sandbox");
        }
        assert!(!authority.certificate.contains("PRIVATE"));
    }

    #[tokio::test]
    async fn its_key_is_of_use_to_this_server_only() {
        let directory = tempfile::tempdir().unwrap();
        let domains = [DomainPattern::parse("a.example").unwrap()];
        let authority = secrets(&directory, "a")
            .await
            .new_authority(&domains)
            .unwrap();
        let other = secrets(&directory, "b").await;
        let refused = other.leaf(&authority, "a.example");
        assert!(matches!(refused, Err(AuthorityError::Sealed)));
        let renamed = Authority {
            name: "other".into(),
            ..authority
        };
        let refused = secrets(&directory, "a").await.leaf(&renamed, "a.example");
        assert!(matches!(refused, Err(AuthorityError::Sealed)));
    }
}

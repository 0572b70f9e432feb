//! A private certificate authority for one domain: who trusts it trusts the names below that domain, and no others.
//!
//! What must stay true: the authority's certificate permits names of its domain only (RFC 5280 §4.2.1.10) and may not
//! make further authorities; a leaf is for one name, lasts some weeks, and is no authority. All leaves of a process
//! share one key, so that a new name costs one signature. How many are kept is bounded, since clients choose the names.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::{TlsError, provider};

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LASTS: Duration = Duration::from_hours(24 * 3650);
const LEAF_LASTS: Duration = Duration::from_hours(24 * 60);
/// A leaf is used no longer than this, so that no client sees one that is about to end.
const LEAF_IS_USED: Duration = Duration::from_hours(24 * 20);
/// Clocks of clients are not all right.
const BEFORE: Duration = DAY;
/// Leaves kept. Of more, all are forgotten and made again as they are asked for.
const LEAVES: usize = 2048;
/// A common name has room for 64 characters (RFC 5280, appendix A).
const COMMON_NAME: usize = 64;

/// Makes certificates for the names below a domain.
pub struct Authority {
    domain: String,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<String, Leaf>>,
}

struct Leaf {
    made: SystemTime,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// An authority as it is kept: certificate and key, both PEM.
#[expect(missing_debug_implementations, reason = "no log ever shows a key")]
pub struct AuthorityTexts {
    /// What clients are to trust.
    pub certificate: String,
    /// What must stay secret.
    pub key: String,
}

impl AuthorityTexts {
    /// Makes a new authority for `domain`, in lower case and without port.
    ///
    /// # Errors
    /// When the domain cannot stand in a certificate.
    pub fn generate(domain: &str) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(TlsError::Authority)?;
        let mut params = params(domain);
        let now = SystemTime::now();
        lasts(&mut params, now, AUTHORITY_LASTS);
        let certificate = params.self_signed(&key).map_err(TlsError::Authority)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// What an authority of this domain is, but for its time. The same every time, so that the key is all that a leaf needs.
fn params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("SoulBox CA", domain);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        // A constraint on one kind of name leaves the other kinds open.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    params
}

fn name(what: &str, of: &str) -> DistinguishedName {
    let mut text = format!("{what} {of}");
    text.truncate(COMMON_NAME);
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn lasts(params: &mut CertificateParams, now: SystemTime, how_long: Duration) {
    let at = |time: SystemTime| {
        // Whole seconds: a certificate knows no others.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = at(now - BEFORE);
    params.not_after = at(now + how_long);
}

impl Authority {
    /// Takes up the authority of `domain` that was kept.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn of(domain: &str, texts: AuthorityTexts) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(&texts.key).map_err(TlsError::Authority)?;
        Ok(Self {
            domain: domain.to_owned(),
            certificate_pem: texts.certificate,
            issuer: Issuer::new(params(domain), key),
            leaf_key: KeyPair::generate().map_err(TlsError::Authority)?,
            leaves: Mutex::default(),
        })
    }

    /// The certificate that clients are to trust, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The certificate for the name a client asks for, if that is the domain or one label below it.
    pub(super) fn leaf(&self, name: &str, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        if !is_ours(&name, &self.domain) {
            return None;
        }
        if let Some(leaf) = self.leaves.lock().get(&name)
            && now
                .duration_since(leaf.made)
                .is_ok_and(|age| age < LEAF_IS_USED)
        {
            return Some(Arc::clone(&leaf.certified));
        }
        // Without the lock: two clients that ask at once cost two signatures.
        let certified = self
            .sign(&name, now)
            .inspect_err(|error| tracing::error!(%error, name, "no certificate can be made"))
            .ok()?;
        let mut leaves = self.leaves.lock();
        if leaves.len() >= LEAVES {
            leaves.clear();
        }
        let leaf = Leaf {
            made: now,
            certified: Arc::clone(&certified),
        };
        leaves.insert(name, leaf);
        Some(certified)
    }

    fn sign(&self, name: &str, now: SystemTime) -> Result<Arc<CertifiedKey>, TlsError> {
        let mut params =
            CertificateParams::new(vec![name.to_owned()]).map_err(TlsError::Authority)?;
        // Clients go by the alternative name. Nothing else has to be said, and a long name would not fit here.
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        lasts(&mut params, now, LEAF_LASTS);
        let certificate = params
            .signed_by(&self.leaf_key, &self.issuer)
            .map_err(TlsError::Authority)?;
        let key =
            PrivateKeyDer::try_from(self.leaf_key.serialize_der()).map_err(|_| TlsError::Key)?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(TlsError::Mismatch)?;
        let chain = vec![certificate.der().clone()];
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

/// Whether this name is the domain itself or has one label more.
fn is_ours(name: &str, domain: &str) -> bool {
    let Some(rest) = name.strip_suffix(domain) else {
        return false;
    };
    match rest.strip_suffix('.') {
        Some(label) => {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        }
        None => rest.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        Authority::of("box.test", AuthorityTexts::generate("box.test").unwrap()).unwrap()
    }

    #[test]
    fn leaves_are_for_names_of_the_domain_only() {
        let authority = authority();
        let now = SystemTime::now();
        for name in [
            "box.test",
            "api.box.test",
            "49983-iabc.box.test",
            "API.Box.Test",
        ] {
            assert!(authority.leaf(name, now).is_some(), "{name}");
        }
        for name in [
            "",
            "test",
            "notbox.test",
            ".box.test",
            "a.b.box.test",
            "*.box.test",
            "example.com",
            "box.test.example.com",
        ] {
            assert!(authority.leaf(name, now).is_none(), "{name}");
        }
    }

    /// What a client that trusts the authority says to a leaf for this name.
    fn judged(authority: &Authority, name: &'static str) -> Result<(), rustls::Error> {
        use rustls::client::WebPkiServerVerifier;
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

        let trusted = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.unwrap()).unwrap();
        let client = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let leaf = authority.sign(name, SystemTime::now()).unwrap();
        let name = ServerName::try_from(name).unwrap();
        client
            .build()
            .unwrap()
            .verify_server_cert(&leaf.cert[0], &[], &name, &[], UnixTime::now())
            .map(drop)
    }

    #[test]
    fn who_trusts_it_trusts_nothing_else() {
        let authority = authority();
        judged(&authority, "8080-iabc.box.test").unwrap();
        for name in ["example.com", "notbox.test", "10.0.0.1"] {
            judged(&authority, name).unwrap_err();
        }
    }

    #[test]
    fn the_key_is_all_that_a_leaf_needs() {
        let texts = AuthorityTexts::generate("box.test").unwrap();
        let again = AuthorityTexts {
            certificate: texts.certificate.clone(),
            key: texts.key.clone(),
        };
        Authority::of("box.test", texts).unwrap();
        let again = Authority::of("box.test", again).unwrap();
        judged(&again, "api.box.test").unwrap();
    }

    #[test]
    fn a_leaf_is_kept_until_it_is_old() {
        let authority = authority();
        let now = SystemTime::now();
        let first = authority.leaf("api.box.test", now).unwrap();
        let soon = authority.leaf("api.box.test", now + DAY).unwrap();
        assert!(Arc::ptr_eq(&first, &soon));
        let late = authority.leaf("api.box.test", now + LEAF_IS_USED).unwrap();
        assert!(!Arc::ptr_eq(&first, &late));
    }

    #[test]
    fn clients_cannot_fill_the_memory() {
        let authority = authority();
        let now = SystemTime::now();
        for number in 0..=LEAVES {
            authority.leaf(&format!("n{number}.box.test"), now).unwrap();
        }
        assert!(authority.leaves.lock().len() <= LEAVES);
    }
}

//! Java programs: their stores of trusted certificates, where there are any.

use std::collections::{BTreeMap, BTreeSet};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use soulbox_client::{ClientError, Envd};
use soulbox_keystore::with_certificates;

use super::{fetch, write};

/// Where distributions have theirs, and the most used images.
const STORES: [&str; 4] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/java/cacerts",
    "/opt/java/openjdk/lib/security/cacerts",
    "/usr/lib/jvm/default-java/lib/security/cacerts",
];
/// Where Java is, for images that have it elsewhere.
const HOME: &str = "JAVA_HOME";

/// Where stores may be, by the variables of a sandbox.
pub(super) fn stores(variables: &BTreeMap<String, String>) -> BTreeSet<String> {
    let home = variables.get(HOME).filter(|home| home.starts_with('/'));
    let own = home.map(|home| format!("{}/lib/security/cacerts", home.trim_end_matches('/')));
    STORES.map(str::to_owned).into_iter().chain(own).collect()
}

/// Puts the certificates into the stores that are there. A store of a kind that nobody can add to without its password stays
/// as it is.
pub(super) async fn install(
    envd: &Envd,
    certificates: &str,
    stores: &BTreeSet<String>,
) -> Result<(), ClientError> {
    let trusted: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(certificates.as_bytes())
        .flatten()
        .collect();
    let trusted: Vec<&[u8]> = trusted.iter().map(AsRef::as_ref).collect();
    for path in stores {
        let Some(store) = fetch(envd, path).await? else {
            continue;
        };
        match with_certificates(&store, &trusted) {
            Some(changed) if changed == store => {}
            Some(changed) => write(envd, path, changed).await?,
            None => tracing::info!(
                sandbox.id = envd.sandbox_id(),
                path,
                "Java programs do not trust the authority of this sandbox: their store has a password, or is damaged"
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_java_says_that_it_is() {
        let of = |home: &str| stores(&BTreeMap::from([(HOME.to_owned(), home.to_owned())]));
        assert!(
            of("/usr/local/openjdk-21/").contains("/usr/local/openjdk-21/lib/security/cacerts")
        );
        assert_eq!(of("/opt/java/openjdk").len(), STORES.len());
        assert_eq!(of("relative").len(), STORES.len());
    }
}

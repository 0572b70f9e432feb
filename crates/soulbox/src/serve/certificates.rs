//! Where the certificates of HTTPS come from: files of the operator, or an authority that the server makes and keeps.
//!
//! The operator's files may be readable by root only, so the helper reads them. The authority's files belong to the
//! server: `<data>/ca-<domain>.key` has certificate and key, `ca-<domain>.pem` the certificate for clients to trust.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use soulbox_edge::tls::{Authority, AuthorityTexts, Certificates, Given};
use soulbox_helper::{Certificate, RemoteDriver};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::credentials::{ensure_file, write_private};
use crate::config::TlsFiles;

/// How long a new certificate may lie there before it is used.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// No certificate chain and no key is as long.
const LONGEST_FILE: u64 = 1024 * 1024;
/// What the names of files of authorities begin with.
pub(crate) const PREFIX: &str = "ca-";
pub(super) const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// Reads the operator's files.
pub(super) fn read(files: &TlsFiles) -> anyhow::Result<Certificate> {
    Ok(Certificate {
        chain: read_file(&files.cert)?,
        key: read_file(&files.key)?,
    })
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes))
        .with_context(|| {
            format!(
                "cannot read {}\nFIX: name a PEM file that exists",
                path.display()
            )
        })?;
    Ok(bytes)
}

/// Uses the operator's certificate, and a newer one as soon as there is one.
pub(super) fn of_operator(
    first: Certificate,
    helper: Arc<RemoteDriver>,
    until: CancellationToken,
) -> anyhow::Result<Certificates> {
    let given = Arc::new(Given::new(&first.chain, &first.key)?);
    let following = follow(first, Arc::clone(&given), helper);
    tokio::spawn(async move { until.run_until_cancelled(following).await });
    Ok(Certificates::Given(given))
}

/// A certificate that cannot be read or used is said once, and the last good one stays: whoever renews it may be in the
/// middle of writing two files.
async fn follow(first: Certificate, given: Arc<Given>, helper: Arc<RemoteDriver>) {
    let mut seen = Ok(first);
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = helper.certificate().await;
        let now = now.map_err(|error| soulbox_telemetry::chain(&error));
        if now == seen {
            continue;
        }
        let used = match &now {
            Ok(certificate) => given
                .replace(&certificate.chain, &certificate.key)
                .map_err(|error| soulbox_telemetry::chain(&error)),
            Err(error) => Err(error.clone()),
        };
        match used {
            Ok(()) => tracing::info!("the new certificate is used from now on"),
            Err(error) => tracing::warn!(error, "the certificate in use stays"),
        }
        seen = now;
    }
}

/// Has the server's own authority make certificates.
pub(super) fn of_authority(data_dir: &Path, domain: &str) -> anyhow::Result<Certificates> {
    let authority = authority(data_dir, domain)?;
    Ok(Certificates::Private(Arc::new(authority)))
}

/// Takes up the server's own authority for `domain`; makes it when there is none.
pub(super) fn authority(data_dir: &Path, domain: &str) -> anyhow::Result<Authority> {
    let kept = data_dir.join(format!("{PREFIX}{domain}.key"));
    let made = if kept.exists() {
        String::new()
    } else {
        let texts = AuthorityTexts::generate(domain)?;
        texts.certificate + &texts.key
    };
    let text = ensure_file(&kept, || made)?;
    let (certificate, key) = match text.find(KEY_BEGINS) {
        Some(at) => text.split_at(at),
        None => ("", text.as_str()),
    };
    let texts = AuthorityTexts {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    let authority = Authority::of(domain, texts)?;
    let public = certificate_file(data_dir, domain);
    write_private(&public, authority.certificate_pem())
        .with_context(|| format!("cannot write {}", public.display()))?;
    Ok(authority)
}

/// Where the certificate lies that clients of a server with its own authority are to trust.
pub(super) fn certificate_file(data_dir: &Path, domain: &str) -> PathBuf {
    data_dir.join(format!("{PREFIX}{domain}.pem"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let public = certificate_file(dir.path(), "box.test");
        of_authority(dir.path(), "box.test").unwrap();
        let first = fs::read_to_string(&public).unwrap();
        assert!(!first.contains("PRIVATE"), "what is shown holds no key");
        of_authority(dir.path(), "box.test").unwrap();
        assert_eq!(fs::read_to_string(&public).unwrap(), first);
        let kept = fs::metadata(dir.path().join("ca-box.test.key")).unwrap();
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
        of_authority(dir.path(), "other.test").unwrap();
        assert_eq!(fs::read_to_string(&public).unwrap(), first);
    }

    #[test]
    fn a_damaged_authority_is_not_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        of_authority(dir.path(), "box.test").unwrap();
        fs::write(dir.path().join("ca-box.test.key"), "nonsense").unwrap();
        let error = of_authority(dir.path(), "box.test").unwrap_err();
        assert!(error.to_string().contains("FIX:"), "{error}");
    }
}

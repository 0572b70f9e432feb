//! What is kept of an authority's certificates, in the data directory, with mode 0600:
//!
//! - `acme-account.key`: the key of the account. Whoever has it is the account; its number is asked for anew each time.
//! - `acme-<domain>.pem`: the authority's directory, the chain and its key, in one file, so that there is never one without
//!   the other.
//! - `acme-<domain>.records`: values of the records that are being made, one a line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::super::certificates::KEY_BEGINS;
use super::super::credentials::{ensure_file, write_private};

/// What the names of these files begin with.
pub(crate) const PREFIX: &str = "acme-";
const DIRECTORY: &str = "Directory: ";
/// Records that are known to be left. A command that never removes one does not make the list grow for ever.
const MOST_RECORDS: usize = 20;

/// A certificate and where it comes from.
pub(crate) struct Certificate {
    /// URL of the authority's directory.
    pub(crate) directory: String,
    /// PEM, leaf first.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: String,
}

impl Certificate {
    fn text(&self) -> String {
        let Self {
            directory,
            chain,
            key,
        } = self;
        format!("{DIRECTORY}{directory}\n{}\n{key}", chain.trim_end())
    }

    fn parse(text: &str) -> Option<Self> {
        let (directory, rest) = text.strip_prefix(DIRECTORY)?.split_once('\n')?;
        let (chain, key) = rest.split_at(rest.find(KEY_BEGINS)?);
        Some(Self {
            directory: directory.to_owned(),
            chain: chain.to_owned(),
            key: key.to_owned(),
        })
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    account: PathBuf,
    certificate: PathBuf,
    records: PathBuf,
}

impl Kept {
    pub(crate) fn of(data_dir: &Path, domain: &str) -> Self {
        let named = |name: &str| data_dir.join(format!("{PREFIX}{name}"));
        Self {
            // No domain is called so: it has no slash, and this name no dot before its ending.
            account: named("account.key"),
            certificate: named(&format!("{domain}.pem")),
            records: named(&format!("{domain}.records")),
        }
    }

    /// The certificate, if there is one.
    pub(crate) fn certificate(&self) -> io::Result<Option<Certificate>> {
        let Some(text) = read(&self.certificate)? else {
            return Ok(None);
        };
        match Certificate::parse(&text) {
            Some(certificate) => Ok(Some(certificate)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged", self.certificate.display()),
            )),
        }
    }

    pub(super) fn write(&self, certificate: &Certificate) -> io::Result<()> {
        write_private(&self.certificate, &certificate.text())
    }

    /// The account's key. It is made, and kept, before anybody hears of it.
    pub(super) fn account_key(&self) -> anyhow::Result<String> {
        let made = match read(&self.account)? {
            Some(_) => String::new(),
            None => soulbox_acme::new_key()?,
        };
        ensure_file(&self.account, || made).context("cannot keep the key of the ACME account")
    }

    /// Values of records that may be there.
    pub(super) fn noted(&self) -> Vec<String> {
        match read(&self.records) {
            Ok(text) => text
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "records of challenges may be left: the list of them cannot be read");
                Vec::new()
            }
        }
    }

    pub(super) fn note(&self, value: &str) -> io::Result<()> {
        let mut values = self.noted();
        values.retain(|one| one != value);
        values.push(value.to_owned());
        let superfluous = values.len().saturating_sub(MOST_RECORDS);
        for value in values.drain(..superfluous) {
            tracing::warn!(value, "the record of a challenge is left for good");
        }
        self.write_records(&values)
    }

    pub(super) fn forget(&self, value: &str) -> io::Result<()> {
        let mut values = self.noted();
        values.retain(|one| one != value);
        self.write_records(&values)
    }

    fn write_records(&self, values: &[String]) -> io::Result<()> {
        if values.is_empty() {
            return match fs::remove_file(&self.records) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        write_private(&self.records, &values.join("\n"))
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_certificate_comes_back_with_its_key_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), "box.test");
        assert!(kept.certificate().unwrap().is_none());
        let certificate = Certificate {
            directory: "https://ca.test/d".to_owned(),
            chain: "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n".to_owned(),
            key: format!("{KEY_BEGINS}\nB\n-----END PRIVATE KEY-----\n"),
        };
        kept.write(&certificate).unwrap();
        let again = kept.certificate().unwrap().unwrap();
        assert_eq!(again.directory, certificate.directory);
        assert_eq!(again.chain, certificate.chain);
        assert_eq!(again.key, certificate.key);
        let path = dir.path().join("acme-box.test.pem");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "half").unwrap();
        assert!(kept.certificate().is_err());
    }

    #[test]
    fn an_account_has_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), "box.test");
        let first = kept.account_key().unwrap();
        assert!(first.starts_with(KEY_BEGINS));
        assert_eq!(kept.account_key().unwrap(), first.trim());
        let path = dir.path().join("acme-account.key");
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn records_are_known_until_they_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::of(dir.path(), "box.test");
        for value in ["a", "b", "a"] {
            kept.note(value).unwrap();
        }
        assert_eq!(kept.noted(), ["b", "a"]);
        kept.forget("b").unwrap();
        kept.forget("a").unwrap();
        kept.forget("never there").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        for number in 0..50 {
            kept.note(&number.to_string()).unwrap();
        }
        assert_eq!(kept.noted().len(), MOST_RECORDS);
        assert_eq!(kept.noted()[0], "30");
    }
}

//! The keys of secrets and of tokens at the start: the first is the one that an operator's command has printed, or the file
//! `secrets.key`; the second is in `identity.key`, sealed with the first.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use soulbox_secrets::{Identity, Key, Secrets};
use soulbox_store::Store;

use super::credentials::{ensure_file, random_hex};
use super::handover::SecretsKey;
use crate::failure::Damaged;

/// In the data directory, mode 0600.
const FILE: &str = "secrets.key";
const IDENTITY: &str = "identity.key";

/// Opens the secrets with the key that there is, or makes one.
pub(super) async fn open(
    data_dir: &Path,
    store: &Store,
    printed: Option<SecretsKey>,
) -> anyhow::Result<Secrets> {
    let path = data_dir.join(FILE);
    let text = match printed {
        Some(SecretsKey(text)) => text,
        None => {
            // A new key would open nothing that there is.
            if !path.exists() && is_needed(store).await? {
                Err(damaged(&path, "is missing"))?;
            }
            ensure_file(&path, || random_hex(32))?
        }
    };
    let key = Key::parse(&text).map_err(|_| damaged(&path, "is damaged"))?;
    let opened = Secrets::open(store.clone(), key).await;
    opened.context("cannot open the secrets")
}

/// Whether anything is sealed already.
async fn is_needed(store: &Store) -> anyhow::Result<bool> {
    Ok(store.any_secret().await?.is_some() || store.any_sealed_webhook().await?.is_some())
}

/// What signs tokens of sandboxes in the name of this server.
pub(super) fn identity(
    data_dir: &Path,
    secrets: &Secrets,
    issuer: &str,
) -> anyhow::Result<Arc<Identity>> {
    let path = data_dir.join(IDENTITY);
    let sealed = ensure_file(&path, || secrets.new_identity())?;
    let identity = secrets.identity(&sealed, issuer);
    Ok(Arc::new(identity.with_context(|| {
        format!("cannot use {}", path.display())
    })?))
}

fn damaged(path: &Path, how: &str) -> Damaged {
    Damaged {
        what: format!("{} {how}", path.display()),
        fix: "restore it, or set secrets_key_command; without the key the secrets in soulbox.db cannot be read"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use soulbox_secrets::{Metadata, Value};
    use soulbox_types::SecretName;

    use super::*;

    #[tokio::test]
    async fn a_key_is_made_once_and_never_in_place_of_a_lost_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let store = Store::open(&directory.path().join("soulbox.db"))
            .await
            .unwrap();
        let secrets = open(directory.path(), &store, None).await.unwrap();
        let key = std::fs::read_to_string(&path).unwrap();
        let team = store.default_team().await.unwrap().id;
        let name = SecretName::parse("a").unwrap();
        secrets
            .create(&team, name, &Value::new("v"), Metadata::new())
            .await
            .unwrap();
        let again = async |printed: Option<&str>| {
            let printed = printed.map(|text| SecretsKey(text.to_owned()));
            open(directory.path(), &store, printed).await
        };
        assert!(again(None).await.is_ok());
        assert!(again(Some(&"ab".repeat(32))).await.is_err());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(
            again(None)
                .await
                .unwrap_err()
                .to_string()
                .contains("is damaged")
        );
        std::fs::remove_file(&path).unwrap();
        assert!(
            again(None)
                .await
                .unwrap_err()
                .to_string()
                .contains("is missing")
        );
        assert!(!path.exists());
        assert!(again(Some(&key)).await.is_ok());
    }
}

//! Secrets of teams: given once, used for them, never shown again.
//!
//! The database holds sealed bytes only; the key stands elsewhere ([`Key`]). What must stay true: a [`Value`] leaves this
//! crate through [`Secrets::value`] and no other way, and nothing that is logged or shown holds one.
//!
//! What webhooks sign with is sealed with the same key. What sandboxes are shown in the place of the servers that values are sent to, [`Leaf`], and what sandboxes are
//! believed by, [`Identity`], are made here, too: their keys are sealed like values.

mod authority;
mod identity;
mod seal;
mod upstream;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use soulbox_store::{Page, PageRequest, SecretChange, SecretRow, Store, StoreError};
use soulbox_types::{
    ErrorKind, SecretId, SecretName, SecretSelector, TeamId, Timestamp, WebhookId,
};

pub use authority::{AuthorityError, Leaf};
pub use identity::{Identity, NoIdentity};
pub use seal::{Key, NotAKey, Value};
pub use upstream::NoPassword;

/// Secrets of one team.
pub const MOST_SECRETS: i64 = 1000;
/// Bytes of one value.
pub const MOST_VALUE_BYTES: usize = 64 * 1024;

/// The owner's own keys and values.
pub type Metadata = BTreeMap<String, String>;

/// What is shown of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: SecretId,
    /// Its name.
    pub name: SecretName,
    /// Counts up with each value, from 1.
    pub version: i64,
    /// The owner's own keys and values.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its value last changed.
    pub updated_at: Timestamp,
}

/// What cannot be done with a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The team has none such.
    #[error("there is no such secret")]
    Unknown,
    /// The team has one of this name.
    #[error("there is a secret of this name")]
    Taken,
    /// Somebody else has changed it in the same moment.
    #[error("the secret has changed in the meantime")]
    Changed,
    /// The team has as many as it may.
    #[error("the team has {MOST_SECRETS} secrets")]
    TooMany,
    /// The value is empty, too long, or holds a NUL.
    #[error("the value is empty, too long or no text")]
    Value,
    /// Values were sealed with another key, or are damaged.
    #[error(
        "secret {0} cannot be read with this key\nFIX: restore secrets.key, or what secrets_key_command prints; or delete the secret"
    )]
    Sealed(SecretId),
    /// The same of a webhook's.
    #[error(
        "what webhook {0} signs with cannot be read with this key\nFIX: restore secrets.key, or what secrets_key_command prints; or give the webhook another secret"
    )]
    SealedWebhook(WebhookId),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SecretsError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown => ErrorKind::NotFound,
            Self::Taken | Self::Changed | Self::TooMany => ErrorKind::Conflict,
            Self::Value => ErrorKind::InvalidArgument,
            Self::Sealed(_) | Self::SealedWebhook(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// See the module. A copy is another handle on the same.
#[derive(Debug, Clone)]
pub struct Secrets {
    store: Store,
    key: Arc<Key>,
}

impl Secrets {
    /// Secrets under a key, after a look whether it is the one that they were sealed with. What should be sealed and is not
    /// yet, is then.
    ///
    /// # Errors
    /// When it is another.
    pub async fn open(store: Store, key: Key) -> Result<Self, SecretsError> {
        let secrets = Self {
            store,
            key: Arc::new(key),
        };
        if let Some(row) = secrets.store.any_secret().await? {
            secrets.unseal(&row)?;
        }
        if let Some(webhook) = secrets.store.any_sealed_webhook().await? {
            secrets.of_webhook(&webhook)?;
        }
        secrets.seal_webhooks().await?;
        Ok(secrets)
    }

    /// Makes a secret.
    ///
    /// # Errors
    /// When the name is taken, the value is none, or the team has too many.
    pub async fn create(
        &self,
        team: &TeamId,
        name: SecretName,
        value: &Value,
        metadata: Metadata,
    ) -> Result<Secret, SecretsError> {
        check(value)?;
        // Counted before, not with it: who creates many at once may get a few more.
        if self.store.count_secrets(team).await? >= MOST_SECRETS {
            return Err(SecretsError::TooMany);
        }
        let (id, now) = (SecretId::random(), Timestamp::now());
        let row = SecretRow {
            sealed: self.key.seal(&place(&id, team, 1), value),
            id,
            team: team.clone(),
            name,
            version: 1,
            metadata,
            created_at: now,
            updated_at: now,
        };
        match self.store.add_secret(&row).await? {
            true => Ok(shown(row)),
            false => Err(SecretsError::Taken),
        }
    }

    /// Gives a secret another value. Without metadata, it keeps what it has.
    ///
    /// # Errors
    /// When there is none, the value is none, or somebody else changes it at the same time.
    pub async fn update(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
        value: &Value,
        metadata: Option<Metadata>,
    ) -> Result<Secret, SecretsError> {
        check(value)?;
        let row = self.row(team, selector).await?;
        let change = SecretChange {
            after: row.version,
            sealed: self.key.seal(&place(&row.id, team, row.version + 1), value),
            metadata,
            at: Timestamp::now(),
        };
        let changed = self.store.change_secret(&row.id, &change).await?;
        changed.map(shown).ok_or(SecretsError::Changed)
    }

    /// What is shown of a secret.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
    ) -> Result<Secret, SecretsError> {
        self.row(team, selector).await.map(shown)
    }

    /// A page of the team's secrets, oldest first.
    ///
    /// # Errors
    /// When the page's token is not one of this list.
    pub async fn list(
        &self,
        team: &TeamId,
        page: &PageRequest,
    ) -> Result<Page<Secret>, SecretsError> {
        let page = self.store.list_secrets(team, page).await?;
        Ok(Page {
            items: page.items.into_iter().map(shown).collect(),
            next_cursor: page.next_cursor,
        })
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
    ) -> Result<(), SecretsError> {
        match self.store.remove_secret(team, selector).await? {
            true => Ok(()),
            false => Err(SecretsError::Unknown),
        }
    }

    /// The value of a secret, for who sends it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn value(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
    ) -> Result<Value, SecretsError> {
        let row = self.row(team, selector).await?;
        self.unseal(&row)
    }

    async fn row(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
    ) -> Result<SecretRow, SecretsError> {
        let row = self.store.secret(team, selector).await?;
        row.ok_or(SecretsError::Unknown)
    }

    fn unseal(&self, row: &SecretRow) -> Result<Value, SecretsError> {
        let place = place(&row.id, &row.team, row.version);
        let opened = self.key.open(&place, &row.sealed);
        opened.map_err(|_| SecretsError::Sealed(row.id.clone()))
    }
}

/// What a value is sealed for.
fn place(id: &SecretId, team: &TeamId, version: i64) -> String {
    format!("{id} {team} {version}")
}

fn check(value: &Value) -> Result<(), SecretsError> {
    let text = value.expose();
    let fits = (1..=MOST_VALUE_BYTES).contains(&text.len()) && !text.contains('\0');
    if fits {
        Ok(())
    } else {
        Err(SecretsError::Value)
    }
}

fn shown(row: SecretRow) -> Secret {
    Secret {
        id: row.id,
        name: row.name,
        version: row.version,
        metadata: row.metadata,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: &str) -> Key {
        Key::parse(&digit.repeat(64)).unwrap()
    }

    async fn open(directory: &tempfile::TempDir, digit: &str) -> Result<Secrets, SecretsError> {
        let store = Store::open(&directory.path().join("soulbox.db")).await?;
        Secrets::open(store, key(digit)).await
    }

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).unwrap()
    }

    #[tokio::test]
    async fn values_are_kept_sealed_under_their_key() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = open(&directory, "a").await.unwrap();
        let team = secrets.store.default_team().await.unwrap().id;
        let value = Value::new("hidden-value");
        let made = secrets
            .create(&team, name("Key"), &value, Metadata::new())
            .await
            .unwrap();
        assert_eq!((made.version, made.name.as_str()), (1, "key"));
        let selector = SecretSelector::Id(made.id.clone());
        let next = Value::new("second-value");
        let changed = secrets.update(&team, &selector, &next, None).await.unwrap();
        assert_eq!(changed.version, 2);
        assert_eq!(secrets.value(&team, &selector).await.unwrap(), next);
        let row = secrets.row(&team, &selector).await.unwrap();
        assert!(!format!("{secrets:?} {changed:?} {row:?}").contains("second"));
        // A value that has been put in another's place.
        let moved = SecretRow {
            team: TeamId::random(),
            ..row
        };
        assert!(matches!(
            secrets.unseal(&moved),
            Err(SecretsError::Sealed(_))
        ));
        secrets.store.close().await;
        for file in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for value in [&b"hidden-value"[..], b"second-value"] {
                assert!(!bytes.windows(value.len()).any(|part| part == value));
            }
        }
        assert!(open(&directory, "a").await.is_ok());
        let refused = open(&directory, "b").await.unwrap_err();
        assert!(refused.to_string().contains("FIX: restore secrets.key"));
    }

    #[tokio::test]
    async fn what_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = open(&directory, "a").await.unwrap();
        let team = secrets.store.default_team().await.unwrap().id;
        let make = async |value: &str| {
            let value = Value::new(value);
            let made = secrets.create(&team, name("key"), &value, Metadata::new());
            made.await
        };
        for value in ["", "a\0b", &"x".repeat(MOST_VALUE_BYTES + 1)] {
            assert!(matches!(make(value).await, Err(SecretsError::Value)));
        }
        let made = make("v").await.unwrap();
        assert!(matches!(make("v").await, Err(SecretsError::Taken)));
        let selector = SecretSelector::Name(name("key"));
        let other = TeamId::random();
        let value = Value::new("w");
        let stolen = secrets.update(&other, &selector, &value, None).await;
        assert!(matches!(stolen, Err(SecretsError::Unknown)));
        assert!(secrets.get(&other, &selector).await.is_err());
        assert!(secrets.remove(&other, &selector).await.is_err());
        assert_eq!(secrets.get(&team, &selector).await.unwrap(), made);
        secrets.remove(&team, &selector).await.unwrap();
        let gone = secrets.get(&team, &selector).await;
        assert!(matches!(gone, Err(SecretsError::Unknown)));
    }
}

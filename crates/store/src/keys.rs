//! API keys: made, listed, checked, revoked. Only a hash of a key is kept.

use soulbox_types::{ApiKeyId, TeamId, Timestamp};

use crate::{Store, StoreError, Team};

/// A key's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which is no secret.
    pub id: ApiKeyId,
    /// Whom it authenticates.
    pub team: TeamId,
    /// What its owner calls it.
    pub name: String,
    /// What may be shown of it.
    pub mask: KeyMask,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last authenticated a request.
    pub last_used: Option<Timestamp>,
}

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMask {
    /// `e2b_`.
    pub prefix: String,
    /// Characters after the prefix.
    pub value_length: u32,
    /// The first characters after the prefix.
    pub masked_value_prefix: String,
    /// The last characters.
    pub masked_value_suffix: String,
}

/// Whether a text has the form of a key: `e2b_` and 40 lower-case hexadecimal digits. Clients check the same.
#[must_use]
pub fn is_well_formed(raw: &str) -> bool {
    todo!("{raw}")
}

impl Store {
    /// Makes a key; the text is shown this once and never again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_api_key(
        &self,
        team: &TeamId,
        name: &str,
    ) -> Result<(ApiKey, String), StoreError> {
        todo!("{team}{name}")
    }

    /// Registers a key whose text somebody already has; a key that is known stays as it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn import_api_key(
        &self,
        team: &TeamId,
        name: &str,
        raw: &str,
    ) -> Result<Option<ApiKey>, StoreError> {
        todo!("{team}{name}{raw}")
    }

    /// The team's keys, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_api_keys(&self, team: &TeamId) -> Result<Vec<ApiKey>, StoreError> {
        todo!("{team}")
    }

    /// Gives a key another name; false when the team has no such key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rename_api_key(
        &self,
        team: &TeamId,
        id: &ApiKeyId,
        name: &str,
    ) -> Result<bool, StoreError> {
        todo!("{team}{id}{name}")
    }

    /// Revokes a key at once; false when the team has no such key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_api_key(&self, team: &TeamId, id: &ApiKeyId) -> Result<bool, StoreError> {
        todo!("{team}{id}")
    }

    /// Whose key this is; none for a text that is no key or a key that is not known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn authenticate(&self, raw: &str) -> Result<Option<Team>, StoreError> {
        todo!("{raw}")
    }
}

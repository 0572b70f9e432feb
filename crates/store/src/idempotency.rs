//! Answers to requests that carry an idempotency key, so that a repeated request does not act twice.

use soulbox_types::TeamId;

use crate::{Store, StoreError};

/// What is known of a request with this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: go on, and report the answer with [`Store::finish_idempotent`].
    Started,
    /// It has been answered: answer the same.
    Replay {
        /// Status of that answer.
        status: u16,
        /// Its body.
        body: String,
    },
    /// It is being worked on.
    InProgress,
    /// The key was used for another request.
    Mismatch,
    /// It was being worked on when the server died.
    Lost,
}

impl Store {
    /// Claims a key for a request whose content has this fingerprint.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_idempotent(
        &self,
        team: &TeamId,
        key: &str,
        fingerprint: &str,
    ) -> Result<Begin, StoreError> {
        todo!("{team}{key}{fingerprint}")
    }

    /// Keeps the answer for later repetitions.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_idempotent(
        &self,
        team: &TeamId,
        key: &str,
        status: u16,
        body: &str,
    ) -> Result<(), StoreError> {
        todo!("{team}{key}{status}{body}")
    }

    /// Gives the key back: nothing was done, a repetition may try again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_idempotent(&self, team: &TeamId, key: &str) -> Result<(), StoreError> {
        todo!("{team}{key}")
    }
}

//! Teams, the owners of everything.

use soulbox_types::{TeamId, Timestamp};

use crate::{Store, StoreError};

/// An owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// Its name as people see it.
    pub name: String,
    /// Its name in references: the namespace of its templates.
    pub slug: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Store {
    /// The team that exists from the first start on (slug `default`).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn default_team(&self) -> Result<Team, StoreError> {
        todo!()
    }

    /// The team with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn team(&self, id: &TeamId) -> Result<Option<Team>, StoreError> {
        todo!("{id}")
    }
}

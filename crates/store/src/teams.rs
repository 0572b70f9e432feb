//! Teams, the owners of everything.

use soulbox_types::{TeamId, Timestamp};

use crate::database::{DbRow, column, parsed, time};
use crate::error::During;
use crate::{Store, StoreError};

/// Slug of the team that is always there.
const DEFAULT_SLUG: &str = "default";

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
        let row = sqlx::query("SELECT id, name, slug, created_at FROM teams WHERE slug = $1")
            .bind(DEFAULT_SLUG)
            .fetch_one(self.reader())
            .await
            .during("read the default team")?;
        team_of(&row)
    }

    /// The team with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn team(&self, id: &TeamId) -> Result<Option<Team>, StoreError> {
        let row = sqlx::query("SELECT id, name, slug, created_at FROM teams WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read a team")?;
        row.as_ref().map(team_of).transpose()
    }
}

/// Makes the default team at the first start.
pub(crate) async fn ensure_default(store: &Store) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO teams (id, name, slug, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (slug) DO NOTHING")
        .bind(TeamId::random().as_str())
        .bind("Default team")
        .bind(DEFAULT_SLUG)
        .bind(Timestamp::now().0)
        .execute(store.writer())
        .await
        .during("add the default team")?;
    Ok(())
}

/// Reads a team from the columns `id, name, slug, created_at`.
pub(crate) fn team_of(row: &DbRow) -> Result<Team, StoreError> {
    Ok(Team {
        id: parsed(row, "teams", "id")?,
        name: column(row, "teams", "name")?,
        slug: column(row, "teams", "slug")?,
        created_at: time(row, "teams", "created_at")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::database::tests::temp_store;

    /// Adds a team beside the default one.
    pub(crate) async fn add_team(store: &Store, slug: &str) -> Team {
        let team = Team {
            id: TeamId::random(),
            name: slug.into(),
            slug: slug.into(),
            created_at: Timestamp(1),
        };
        sqlx::query("INSERT INTO teams (id, name, slug, created_at) VALUES ($1, $2, $3, $4)")
            .bind(team.id.as_str())
            .bind(&team.name)
            .bind(&team.slug)
            .bind(team.created_at.0)
            .execute(store.writer())
            .await
            .unwrap();
        team
    }

    #[tokio::test]
    async fn default_team_is_made_once() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        assert_eq!(
            (team.slug.as_str(), team.name.as_str()),
            ("default", "Default team")
        );
        ensure_default(&store).await.unwrap();
        assert_eq!(store.default_team().await.unwrap(), team);
        assert_eq!(store.team(&team.id).await.unwrap(), Some(team));
        assert_eq!(store.team(&TeamId::random()).await.unwrap(), None);
    }
}

//! Secrets of teams: whose they are, what they are called, and their values, sealed.
//!
//! What a value is, and what it is sealed with, is for others to know: here it is bytes.

use std::collections::BTreeMap;

use soulbox_types::{SecretId, SecretName, SecretSelector, TeamId, Timestamp};

use crate::database::{DbRow, column, is_taken, json, parsed, time, to_json};
use crate::error::During;
use crate::page::{Keyset, cut, fetch_limit, keyset};
use crate::{Order, Page, PageRequest, Store, StoreError};

const TABLE: &str = "secrets";

/// A secret's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Its id.
    pub id: SecretId,
    /// Its owner.
    pub team: TeamId,
    /// Its name, unique in the team.
    pub name: SecretName,
    /// Counts up with each value, from 1.
    pub version: i64,
    /// The value, sealed.
    pub sealed: Vec<u8>,
    /// The owner's own keys and values.
    pub metadata: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its value last changed.
    pub updated_at: Timestamp,
}

/// Another value of a secret.
#[derive(Debug, Clone)]
pub struct SecretChange {
    /// The version that it follows.
    pub after: i64,
    /// The value, sealed.
    pub sealed: Vec<u8>,
    /// None: as before.
    pub metadata: Option<BTreeMap<String, String>>,
    /// When it was given.
    pub at: Timestamp,
}

impl Store {
    /// Adds a secret; false when the team has one of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_secret(&self, secret: &SecretRow) -> Result<bool, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO secrets (id, team_id, name, version, sealed, metadata, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(secret.id.as_str())
        .bind(secret.team.as_str())
        .bind(secret.name.as_str())
        .bind(secret.version)
        .bind(&secret.sealed)
        .bind(to_json(&secret.metadata))
        .bind(secret.created_at.0)
        .bind(secret.updated_at.0);
        match self.execute(insert, "add a secret").await {
            Err(StoreError::Query { source, .. }) if is_taken(&source) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// How many secrets a team has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_secrets(&self, team: &TeamId) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT COUNT(*) FROM secrets WHERE team_id = $1")
            .bind(team.as_str())
            .fetch_one(self.reader())
            .await
            .during("count secrets")
    }

    /// The secret that a team means.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn secret(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
    ) -> Result<Option<SecretRow>, StoreError> {
        let (sql, key) = match selector {
            SecretSelector::Id(id) => (
                "SELECT * FROM secrets WHERE team_id = $1 AND id = $2",
                id.as_str(),
            ),
            SecretSelector::Name(name) => (
                "SELECT * FROM secrets WHERE team_id = $1 AND name = $2",
                name.as_str(),
            ),
        };
        let row = sqlx::query(sql)
            .bind(team.as_str())
            .bind(key)
            .fetch_optional(self.reader())
            .await
            .during("read a secret")?;
        row.as_ref().map(secret_of).transpose()
    }

    /// Any secret of any team.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn any_secret(&self) -> Result<Option<SecretRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM secrets LIMIT 1")
            .fetch_optional(self.reader())
            .await
            .during("read a secret")?;
        row.as_ref().map(secret_of).transpose()
    }

    /// A page of the team's secrets, oldest first.
    ///
    /// # Errors
    /// When the token is not one of this list, or the database fails.
    pub async fn list_secrets(
        &self,
        team: &TeamId,
        page: &PageRequest,
    ) -> Result<Page<SecretRow>, StoreError> {
        let after = keyset(page.cursor.as_deref(), Order::Ascending)?;
        let (at, id) = after.map_or((i64::MIN, String::new()), |after| (after.at.0, after.id));
        let rows = sqlx::query(
            "SELECT * FROM secrets WHERE team_id = $1 AND (created_at, id) > ($2, $3) \
             ORDER BY created_at, id LIMIT $4",
        )
        .bind(team.as_str())
        .bind(at)
        .bind(id)
        .bind(fetch_limit(page.limit))
        .fetch_all(self.reader())
        .await
        .during("list secrets")?;
        let items: Result<Vec<_>, _> = rows.iter().map(secret_of).collect();
        let mut items = items?;
        let next_cursor = cut(&mut items, page.limit, Order::Ascending, |secret| Keyset {
            at: secret.created_at,
            id: secret.id.to_string(),
        });
        Ok(Page { items, next_cursor })
    }

    /// Gives a secret another value; none when it is gone or has another version by now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn change_secret(
        &self,
        id: &SecretId,
        change: &SecretChange,
    ) -> Result<Option<SecretRow>, StoreError> {
        let mut transaction = self.write().await?;
        let row = sqlx::query(
            "UPDATE secrets SET version = version + 1, sealed = $3, metadata = COALESCE($4, metadata), \
             updated_at = $5 WHERE id = $1 AND version = $2 RETURNING *",
        )
        .bind(id.as_str())
        .bind(change.after)
        .bind(&change.sealed)
        .bind(change.metadata.as_ref().map(to_json))
        .bind(change.at.0)
        .fetch_optional(&mut *transaction)
        .await
        .during("change a secret")?;
        transaction.commit().await.during("change a secret")?;
        row.as_ref().map(secret_of).transpose()
    }

    /// Removes a secret; false when the team has none such.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_secret(
        &self,
        team: &TeamId,
        selector: &SecretSelector,
    ) -> Result<bool, StoreError> {
        let (sql, key) = match selector {
            SecretSelector::Id(id) => (
                "DELETE FROM secrets WHERE team_id = $1 AND id = $2",
                id.as_str(),
            ),
            SecretSelector::Name(name) => (
                "DELETE FROM secrets WHERE team_id = $1 AND name = $2",
                name.as_str(),
            ),
        };
        let delete = sqlx::query(sql).bind(team.as_str()).bind(key);
        let done = self.execute(delete, "remove a secret").await?;
        Ok(done.rows_affected() > 0)
    }
}

fn secret_of(row: &DbRow) -> Result<SecretRow, StoreError> {
    let damaged = |column| StoreError::Damaged {
        table: TABLE,
        column,
    };
    Ok(SecretRow {
        id: parsed(row, TABLE, "id")?,
        team: parsed(row, TABLE, "team_id")?,
        name: SecretName::parse(column(row, TABLE, "name")?).ok_or_else(|| damaged("name"))?,
        version: column(row, TABLE, "version")?,
        sealed: column(row, TABLE, "sealed")?,
        metadata: json(row, TABLE, "metadata")?,
        created_at: time(row, TABLE, "created_at")?,
        updated_at: time(row, TABLE, "updated_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::{reopen, temp_store};

    fn row(team: &TeamId, name: &str, at: i64) -> SecretRow {
        SecretRow {
            id: SecretId::random(),
            team: team.clone(),
            name: SecretName::parse(name).unwrap(),
            version: 1,
            sealed: vec![0, 255, 7],
            metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            created_at: Timestamp(at),
            updated_at: Timestamp(at),
        }
    }

    #[tokio::test]
    async fn names_are_the_teams_own_and_rows_stay() {
        let temp = temp_store().await;
        let team = temp.default_team().await.unwrap().id;
        let made = row(&team, "key", 7);
        assert!(temp.add_secret(&made).await.unwrap());
        assert!(!temp.add_secret(&row(&team, "KEY", 8)).await.unwrap());
        let store = reopen(&temp).await;
        let by_id = SecretSelector::Id(made.id.clone());
        let by_name = SecretSelector::Name(made.name.clone());
        for selector in [&by_id, &by_name] {
            let found = store.secret(&team, selector).await.unwrap();
            assert_eq!(found.as_ref(), Some(&made));
            let other = TeamId::random();
            assert_eq!(store.secret(&other, selector).await.unwrap(), None);
            assert!(!store.remove_secret(&other, selector).await.unwrap());
        }
        assert!(store.remove_secret(&team, &by_id).await.unwrap());
        assert!(!store.remove_secret(&team, &by_name).await.unwrap());
        assert_eq!(store.any_secret().await.unwrap(), None);
        assert!(store.add_secret(&made).await.unwrap());
        assert!(store.remove_secret(&team, &by_name).await.unwrap());
    }

    #[tokio::test]
    async fn of_two_changes_at_once_one_counts() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let made = row(&team, "key", 7);
        store.add_secret(&made).await.unwrap();
        let mut change = SecretChange {
            after: 1,
            sealed: vec![1],
            metadata: None,
            at: Timestamp(9),
        };
        let changed = store.change_secret(&made.id, &change).await.unwrap();
        let wanted = SecretRow {
            version: 2,
            sealed: vec![1],
            updated_at: Timestamp(9),
            ..made.clone()
        };
        assert_eq!(changed, Some(wanted));
        assert_eq!(store.change_secret(&made.id, &change).await.unwrap(), None);
        change.after = 2;
        change.metadata = Some(BTreeMap::new());
        let changed = store.change_secret(&made.id, &change).await.unwrap();
        assert!(changed.is_some_and(|row| row.metadata.is_empty() && row.version == 3));
    }

    #[tokio::test]
    async fn pages_hold_every_secret_once() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        for number in 0..5 {
            let made = row(&team, &format!("s{number}"), number / 2);
            assert!(store.add_secret(&made).await.unwrap());
        }
        assert_eq!(store.count_secrets(&team).await.unwrap(), 5);
        let mut page = PageRequest::first(2);
        let mut seen = Vec::new();
        loop {
            let got = store.list_secrets(&team, &page).await.unwrap();
            seen.extend(got.items.into_iter().map(|row| row.name.to_string()));
            match got.next_cursor {
                Some(cursor) => page.cursor = Some(cursor),
                None => break,
            }
        }
        seen.sort();
        assert_eq!(seen, ["s0", "s1", "s2", "s3", "s4"]);
        page.cursor = Some("x".to_owned());
        assert!(store.list_secrets(&team, &page).await.is_err());
    }
}

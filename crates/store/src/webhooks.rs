//! Addresses that teams want to be told of events.

use std::fmt;

use soulbox_types::{EventKind, TeamId, Timestamp, WebhookId};

use crate::database::{DbRow, column, json, parsed, time, to_json};
use crate::error::During;
use crate::{Store, StoreError};

const TABLE: &str = "webhooks";

/// A team's wish to be told of events.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Whose events.
    pub team: TeamId,
    /// What its owner calls it.
    pub name: String,
    /// Where deliveries go.
    pub url: String,
    /// Whether there are any.
    pub enabled: bool,
    /// Which events.
    pub kinds: Vec<EventKind>,
    /// What deliveries are signed with, sealed.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
}

// Written by hand so that no log ever shows where a team sends what.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("id", &self.id)
            .field("team", &self.team)
            .field("enabled", &self.enabled)
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}

/// What is to be another about a webhook; what is absent stays.
#[derive(Clone, Default)]
pub struct WebhookChange {
    /// See [`Webhook::name`].
    pub name: Option<String>,
    /// See [`Webhook::url`].
    pub url: Option<String>,
    /// See [`Webhook::enabled`].
    pub enabled: Option<bool>,
    /// See [`Webhook::kinds`].
    pub kinds: Option<Vec<EventKind>>,
    /// See [`Webhook::sealed`].
    pub sealed: Option<Vec<u8>>,
}

// As above.
impl fmt::Debug for WebhookChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookChange")
            .field("enabled", &self.enabled)
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Adds a webhook; false when the team has `most` already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_webhook(&self, webhook: &Webhook, most: u32) -> Result<bool, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO webhooks (id, team_id, name, url, enabled, events, secret, sealed, created_at) \
             SELECT $1, $2, $3, $4, $5, $6, '', $7, $8 \
             WHERE (SELECT COUNT(*) FROM webhooks WHERE team_id = $2) < $9",
        )
        .bind(webhook.id.as_str())
        .bind(webhook.team.as_str())
        .bind(&webhook.name)
        .bind(&webhook.url)
        .bind(webhook.enabled)
        .bind(kinds_text(&webhook.kinds))
        .bind(&webhook.sealed)
        .bind(webhook.created_at.0)
        .bind(i64::from(most));
        let done = self.execute(insert, "add a webhook").await?;
        Ok(done.rows_affected() > 0)
    }

    /// The team's webhooks, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhooks(&self, team: &TeamId) -> Result<Vec<Webhook>, StoreError> {
        let rows = sqlx::query("SELECT * FROM webhooks WHERE team_id = $1 ORDER BY created_at, id")
            .bind(team.as_str())
            .fetch_all(self.reader())
            .await
            .during("list webhooks")?;
        rows.iter().map(webhook_of).collect()
    }

    /// The team's webhook with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhook(
        &self,
        team: &TeamId,
        id: &WebhookId,
    ) -> Result<Option<Webhook>, StoreError> {
        let row = sqlx::query("SELECT * FROM webhooks WHERE id = $1 AND team_id = $2")
            .bind(id.as_str())
            .bind(team.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read a webhook")?;
        row.as_ref().map(webhook_of).transpose()
    }

    /// Changes a webhook and gives it as it is then; none when the team has none with this id. Deliveries that wait go
    /// where it says from now on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn change_webhook(
        &self,
        team: &TeamId,
        id: &WebhookId,
        change: &WebhookChange,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut transaction = self.write().await?;
        let row = sqlx::query(
            "UPDATE webhooks SET name = COALESCE($3, name), url = COALESCE($4, url), \
             enabled = COALESCE($5, enabled), events = COALESCE($6, events), sealed = COALESCE($7, sealed) \
             WHERE id = $1 AND team_id = $2 RETURNING *",
        )
        .bind(id.as_str())
        .bind(team.as_str())
        .bind(&change.name)
        .bind(&change.url)
        .bind(change.enabled)
        .bind(change.kinds.as_deref().map(kinds_text))
        .bind(&change.sealed)
        .fetch_optional(&mut *transaction)
        .await
        .during("change a webhook")?;
        transaction.commit().await.during("change a webhook")?;
        // Deliveries may have waited for it to be enabled.
        self.events_recorded();
        row.as_ref().map(webhook_of).transpose()
    }

    /// Any webhook whose secret is sealed, of any team.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn any_sealed_webhook(&self) -> Result<Option<Webhook>, StoreError> {
        let row = sqlx::query("SELECT * FROM webhooks WHERE sealed IS NOT NULL LIMIT 1")
            .fetch_optional(self.reader())
            .await
            .during("read a webhook")?;
        row.as_ref().map(webhook_of).transpose()
    }

    /// Secrets of webhooks that stand in the clear, as they all did once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhooks_in_the_clear(
        &self,
    ) -> Result<Vec<(WebhookId, TeamId, String)>, StoreError> {
        let rows = sqlx::query("SELECT id, team_id, secret FROM webhooks WHERE sealed IS NULL")
            .fetch_all(self.reader())
            .await
            .during("list webhooks")?;
        let read = |row: &DbRow| {
            Ok((
                parsed(row, TABLE, "id")?,
                parsed(row, TABLE, "team_id")?,
                column(row, TABLE, "secret")?,
            ))
        };
        rows.iter().map(read).collect()
    }

    /// Puts sealed secrets in the place of those in the clear, of which nothing is left in the database's files.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn seal_webhooks(&self, sealed: &[(WebhookId, Vec<u8>)]) -> Result<(), StoreError> {
        const DURING: &str = "seal secrets of webhooks";
        let mut transaction = self.write().await?;
        // What is overwritten would stay in the page until something else needs its place.
        sqlx::query("PRAGMA secure_delete = ON")
            .execute(&mut *transaction)
            .await
            .during(DURING)?;
        for (id, sealed) in sealed {
            sqlx::query(
                "UPDATE webhooks SET sealed = $2, secret = '' WHERE id = $1 AND sealed IS NULL",
            )
            .bind(id.as_str())
            .bind(sealed)
            .execute(&mut *transaction)
            .await
            .during(DURING)?;
        }
        transaction.commit().await.during(DURING)?;
        self.empty_log(DURING).await
    }

    /// Removes a webhook with its deliveries; false when the team has none with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_webhook(&self, team: &TeamId, id: &WebhookId) -> Result<bool, StoreError> {
        let delete = sqlx::query("DELETE FROM webhooks WHERE id = $1 AND team_id = $2")
            .bind(id.as_str())
            .bind(team.as_str());
        let done = self.execute(delete, "remove a webhook").await?;
        Ok(done.rows_affected() > 0)
    }
}

fn kinds_text(kinds: &[EventKind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    to_json(&names)
}

/// Reads the kinds that a webhook wants. One that this program does not know (any more) is left out.
pub(crate) fn kinds_of(row: &DbRow) -> Result<Vec<EventKind>, StoreError> {
    let names: Vec<String> = json(row, TABLE, "events")?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Reads a row of `webhooks`.
pub(crate) fn webhook_of(row: &DbRow) -> Result<Webhook, StoreError> {
    Ok(Webhook {
        id: parsed(row, TABLE, "id")?,
        team: parsed(row, TABLE, "team_id")?,
        name: column(row, TABLE, "name")?,
        url: column(row, TABLE, "url")?,
        enabled: column(row, TABLE, "enabled")?,
        kinds: kinds_of(row)?,
        sealed: column(row, TABLE, "sealed")?,
        created_at: time(row, TABLE, "created_at")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::database::tests::temp_store;

    pub(crate) fn webhook(team: &TeamId, kinds: &[EventKind]) -> Webhook {
        Webhook {
            id: WebhookId::random(),
            team: team.clone(),
            name: "n".into(),
            url: "https://hooks.example/a".into(),
            enabled: true,
            kinds: kinds.to_vec(),
            sealed: vec![1, 2],
            created_at: Timestamp(7),
        }
    }

    #[tokio::test]
    async fn secrets_in_the_clear_leave_nothing_behind() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let old = webhook(&team, &[EventKind::Created]);
        assert!(store.add_webhook(&old, 16).await.unwrap());
        assert_eq!(store.webhooks_in_the_clear().await.unwrap(), []);
        // As before there were sealed ones.
        let text = "hidden-in-the-clear".repeat(20);
        let clear = sqlx::query("UPDATE webhooks SET sealed = NULL, secret = $1").bind(&text);
        store.execute(clear, "test").await.unwrap();
        assert_eq!(store.any_sealed_webhook().await.unwrap(), None);
        let found = store.webhooks_in_the_clear().await.unwrap();
        assert_eq!(found, [(old.id.clone(), team.clone(), text.clone())]);
        let sealed = [(old.id.clone(), vec![9, 9])];
        store.seal_webhooks(&sealed).await.unwrap();
        let kept = store.webhook(&team, &old.id).await.unwrap().unwrap();
        assert_eq!(kept.sealed, [9, 9]);
        for file in store.files() {
            let bytes = std::fs::read(file).unwrap();
            assert!(!bytes.windows(6).any(|part| part == b"hidden"));
        }
    }

    #[tokio::test]
    async fn made_changed_and_removed_by_their_team() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let other = TeamId::random();
        let made = webhook(&team, &[EventKind::Created, EventKind::Killed]);
        assert!(store.add_webhook(&made, 1).await.unwrap());
        assert!(!store.add_webhook(&webhook(&team, &[]), 1).await.unwrap());
        assert_eq!(
            store.webhooks(&team).await.unwrap(),
            std::slice::from_ref(&made)
        );
        assert_eq!(store.webhook(&other, &made.id).await.unwrap(), None);
        let change = WebhookChange {
            enabled: Some(false),
            kinds: Some(vec![EventKind::Paused]),
            sealed: Some(vec![3]),
            ..WebhookChange::default()
        };
        assert_eq!(
            store
                .change_webhook(&other, &made.id, &change)
                .await
                .unwrap(),
            None
        );
        let changed = store
            .change_webhook(&team, &made.id, &change)
            .await
            .unwrap()
            .unwrap();
        let wanted = Webhook {
            enabled: false,
            kinds: vec![EventKind::Paused],
            sealed: vec![3],
            ..made.clone()
        };
        assert_eq!(changed, wanted);
        assert!(!store.remove_webhook(&other, &made.id).await.unwrap());
        assert!(store.remove_webhook(&team, &made.id).await.unwrap());
        assert!(!store.remove_webhook(&team, &made.id).await.unwrap());
    }
}

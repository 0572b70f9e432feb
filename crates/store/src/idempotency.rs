//! Answers to requests that carry an idempotency key, so that a repeated request does not act twice.
//!
//! A key is claimed by a row, so that of two requests at the same moment one is the first. The row names the run of the
//! server that works on it: after a crash nobody can say what became of the request, and that is what is answered.

use std::time::Duration;

use soulbox_types::{TeamId, Timestamp};

use crate::database::{column, time};
use crate::error::During;
use crate::{Store, StoreError};

/// Name of the table in messages.
const TABLE: &str = "idempotency";
/// How long a request may be worked on before its outcome counts as lost: far above every deadline of a create.
const LOST_AFTER: Duration = Duration::from_mins(10);
/// How long an answer is kept; clients repeat a request within minutes.
pub(crate) const KEPT: Duration = Duration::from_hours(24);

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
        self.begin_idempotent_at(team, key, fingerprint, Timestamp::now())
            .await
    }

    async fn begin_idempotent_at(
        &self,
        team: &TeamId,
        key: &str,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Begin, StoreError> {
        let claimed = sqlx::query(
            "INSERT INTO idempotency (team_id, key, fingerprint, boot, created_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (team_id, key) DO NOTHING",
        )
        .bind(team.as_str())
        .bind(key)
        .bind(fingerprint)
        .bind(self.boot())
        .bind(now.0)
        .execute(self.writer())
        .await
        .during("claim an idempotency key")?;
        if claimed.rows_affected() > 0 {
            return Ok(Begin::Started);
        }
        let row = sqlx::query("SELECT fingerprint, boot, created_at, status, body FROM idempotency WHERE team_id = $1 AND key = $2")
            .bind(team.as_str())
            .bind(key)
            .fetch_optional(self.reader())
            .await
            .during("read an idempotency key")?;
        // Given back between the two statements: whoever repeats the request next will have it.
        let Some(row) = row else {
            return Ok(Begin::InProgress);
        };
        if column::<&str>(&row, TABLE, "fingerprint")? != fingerprint {
            return Ok(Begin::Mismatch);
        }
        if let Some(status) = column::<Option<i64>>(&row, TABLE, "status")? {
            let status = u16::try_from(status).map_err(|_| StoreError::Damaged {
                table: TABLE,
                column: "status",
            })?;
            return Ok(Begin::Replay {
                status,
                body: column(&row, TABLE, "body")?,
            });
        }
        let ours = column::<&str>(&row, TABLE, "boot")? == self.boot();
        let fresh = now.since(time(&row, TABLE, "created_at")?) < LOST_AFTER;
        Ok(if ours && fresh {
            Begin::InProgress
        } else {
            Begin::Lost
        })
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
        sqlx::query("UPDATE idempotency SET status = $3, body = $4 WHERE team_id = $1 AND key = $2 AND boot = $5")
            .bind(team.as_str())
            .bind(key)
            .bind(i64::from(status))
            .bind(body)
            .bind(self.boot())
            .execute(self.writer())
            .await
            .during("keep an answer")?;
        Ok(())
    }

    /// Gives the key back: nothing was done, a repetition may try again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_idempotent(&self, team: &TeamId, key: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM idempotency WHERE team_id = $1 AND key = $2 AND status IS NULL AND boot = $3")
            .bind(team.as_str())
            .bind(key)
            .bind(self.boot())
            .execute(self.writer())
            .await
            .during("release an idempotency key")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::{reopen, temp_store};

    #[tokio::test]
    async fn life_of_a_key() {
        let store = temp_store().await;
        let team = TeamId::random();
        let begin = async |fingerprint: &str| {
            store
                .begin_idempotent(&team, "k", fingerprint)
                .await
                .unwrap()
        };
        assert_eq!(begin("f").await, Begin::Started);
        assert_eq!(begin("f").await, Begin::InProgress);
        assert_eq!(begin("g").await, Begin::Mismatch);
        assert_eq!(
            store
                .begin_idempotent(&TeamId::random(), "k", "g")
                .await
                .unwrap(),
            Begin::Started
        );
        store.release_idempotent(&team, "k").await.unwrap();
        assert_eq!(begin("g").await, Begin::Started);
        store
            .finish_idempotent(&team, "k", 400, "{}")
            .await
            .unwrap();
        assert_eq!(
            begin("g").await,
            Begin::Replay {
                status: 400,
                body: "{}".into()
            }
        );
        assert_eq!(begin("f").await, Begin::Mismatch);
        store.release_idempotent(&team, "k").await.unwrap();
        assert_eq!(
            begin("g").await,
            Begin::Replay {
                status: 400,
                body: "{}".into()
            }
        );
    }

    #[tokio::test]
    async fn what_a_dead_server_left_is_lost() {
        let store = temp_store().await;
        let team = TeamId::random();
        store.begin_idempotent(&team, "open", "f").await.unwrap();
        store.begin_idempotent(&team, "done", "f").await.unwrap();
        store
            .finish_idempotent(&team, "done", 201, "x")
            .await
            .unwrap();
        let next = reopen(&store).await;
        assert_eq!(
            next.begin_idempotent(&team, "open", "f").await.unwrap(),
            Begin::Lost
        );
        assert_eq!(
            next.begin_idempotent(&team, "open", "g").await.unwrap(),
            Begin::Mismatch
        );
        let replay = next.begin_idempotent(&team, "done", "f").await.unwrap();
        assert_eq!(
            replay,
            Begin::Replay {
                status: 201,
                body: "x".into()
            }
        );
    }

    #[tokio::test]
    async fn what_takes_too_long_is_lost() {
        let store = temp_store().await;
        let team = TeamId::random();
        let begin = async |at: i64| {
            store
                .begin_idempotent_at(&team, "k", "f", Timestamp(at))
                .await
                .unwrap()
        };
        assert_eq!(begin(0).await, Begin::Started);
        assert_eq!(begin(599_999_999).await, Begin::InProgress);
        assert_eq!(begin(600_000_000).await, Begin::Lost);
    }

    #[tokio::test]
    async fn of_many_at_once_one_is_first() {
        let store = temp_store().await;
        let team = TeamId::random();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (store, team) = (store.store.clone(), team.clone());
            tasks.spawn(async move { store.begin_idempotent(&team, "k", "f").await.unwrap() });
        }
        let answers = tasks.join_all().await;
        assert_eq!(
            answers
                .iter()
                .filter(|begin| **begin == Begin::Started)
                .count(),
            1
        );
        assert_eq!(
            answers
                .iter()
                .filter(|begin| **begin == Begin::InProgress)
                .count(),
            19
        );
    }
}

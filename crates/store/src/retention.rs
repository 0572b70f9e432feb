//! What is deleted because it is old.
//!
//! In small transactions, because a create waits while another one writes.

use std::time::Duration;

use soulbox_types::Timestamp;

use crate::error::During;
use crate::{Store, StoreError, idempotency, metrics};

/// Rows deleted in one transaction: a few milliseconds of work.
const CHUNK: i64 = 2000;
/// How long log entries are kept. Clients ask for at most this.
const LOGS_KEPT: Duration = Duration::from_hours(24 * 7);
/// How long what a build has said is kept: a failure is looked at soon, a version may be wondered about later.
const BUILD_LOGS_KEPT: Duration = Duration::from_hours(24 * 30);

/// How long it is known what sandboxes have said to the network.
const CONTACTS_KEPT: Duration = Duration::from_hours(24 * 7);
/// How long the log of a webhook's deliveries is kept, those that have never ended (of a disabled webhook) included.
const DELIVERIES_KEPT: Duration = Duration::from_hours(24 * 7);
/// Deliveries that have ended which are kept of one webhook.
const MOST_DELIVERIES: i64 = 1000;

/// Rows that were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Readings.
    pub metrics: u64,
    /// Log entries.
    pub logs: u64,
    /// Lines that builds have said.
    pub build_logs: u64,
    /// What sandboxes have said to the network.
    pub contacts: u64,
    /// Answers to requests with an idempotency key.
    pub idempotency: u64,
    /// Deliveries to webhooks.
    pub deliveries: u64,
    /// Events, with what was left of their deliveries.
    pub events: u64,
}

impl Store {
    /// Deletes what has been kept long enough at this time; events when they have been kept for `events_kept`.
    ///
    /// # Errors
    /// When the database fails; what was deleted before stays deleted.
    pub async fn prune(&self, now: Timestamp, events_kept: Duration) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for (grade, kept) in (0..).zip(metrics::KEPT) {
            pruned.metrics += self
                .delete_old(
                    "DELETE FROM metrics WHERE (sandbox_id, at) IN \
                     (SELECT sandbox_id, at FROM metrics WHERE grade = $3 AND at < $1 LIMIT $2)",
                    before(now, kept),
                    Some(grade),
                )
                .await?;
        }
        pruned.logs = self
            .delete_old(
                "DELETE FROM logs WHERE seq IN (SELECT seq FROM logs WHERE at < $1 LIMIT $2)",
                before(now, LOGS_KEPT),
                None,
            )
            .await?;
        pruned.contacts = self
            .delete_old(
                "DELETE FROM contacts WHERE seq IN (SELECT seq FROM contacts WHERE at < $1 LIMIT $2)",
                before(now, CONTACTS_KEPT),
                None,
            )
            .await?;
        pruned.build_logs = self
            .delete_old(
                "DELETE FROM build_logs WHERE (build_id, position) IN \
                 (SELECT l.build_id, l.position FROM builds b JOIN build_logs l ON l.build_id = b.id \
                 WHERE b.created_at < $1 LIMIT $2)",
                before(now, BUILD_LOGS_KEPT),
                None,
            )
            .await?;
        pruned.idempotency = self
            .delete_old(
                "DELETE FROM idempotency WHERE (team_id, key) IN \
                 (SELECT team_id, key FROM idempotency WHERE created_at < $1 LIMIT $2)",
                before(now, idempotency::KEPT),
                None,
            )
            .await?;
        pruned.deliveries = self.prune_deliveries(now).await?;
        pruned.events = self
            .delete_old(
                "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE at < $1 LIMIT $2)",
                before(now, events_kept),
                None,
            )
            .await?;
        Ok(pruned)
    }

    async fn prune_deliveries(&self, now: Timestamp) -> Result<u64, StoreError> {
        let old = self
            .delete_old(
                "DELETE FROM webhook_deliveries WHERE seq IN \
                 (SELECT seq FROM webhook_deliveries WHERE created_at < $1 LIMIT $2)",
                before(now, DELIVERIES_KEPT),
                None,
            )
            .await?;
        let webhooks: Vec<String> = sqlx::query_scalar("SELECT id FROM webhooks")
            .fetch_all(self.reader())
            .await
            .during("list webhooks")?;
        let mut deleted = old;
        for webhook in webhooks {
            deleted += sqlx::query(
                "DELETE FROM webhook_deliveries WHERE webhook_id = $1 AND state <> 'waiting' AND seq <= \
                 (SELECT seq FROM webhook_deliveries WHERE webhook_id = $1 AND state <> 'waiting' \
                 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
            )
            .bind(webhook)
            .bind(MOST_DELIVERIES)
            .execute(self.writer())
            .await
            .during("delete old deliveries")?
            .rows_affected();
        }
        Ok(deleted)
    }

    async fn delete_old(
        &self,
        sql: &'static str,
        before: i64,
        grade: Option<i64>,
    ) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let mut query = sqlx::query(sql).bind(before).bind(CHUNK);
            if let Some(grade) = grade {
                query = query.bind(grade);
            }
            let deleted = query
                .execute(self.writer())
                .await
                .during("delete old rows")?
                .rows_affected();
            total += deleted;
            if deleted < CHUNK.unsigned_abs() {
                return Ok(total);
            }
        }
    }
}

fn before(now: Timestamp, kept: Duration) -> i64 {
    now.0
        .saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use soulbox_types::{EventKind, SandboxId, TeamId};

    use super::*;
    use crate::database::tests::temp_store;
    use crate::logs::tests::entry;
    use crate::metrics::tests::sample;
    use crate::sandboxes::tests::record;
    use crate::templates::tests::add_template;
    use crate::webhooks::tests::webhook;
    use crate::{Begin, BuildLogLine, BuildStatus, LogLevel};

    const MONTH: Duration = Duration::from_hours(24 * 30);

    #[tokio::test]
    async fn old_readings_are_thinned() {
        let store = temp_store().await;
        let (team, sandbox) = (TeamId::random(), SandboxId::random());
        let samples: Vec<_> = (0..720)
            .map(|n| sample(&team, &sandbox, n * 5, 1.0))
            .collect();
        store.append_metrics(&samples).await.unwrap();
        let hours = |n: i64| Timestamp(n * 3_600_000_000 + 1);
        let left = async || {
            let range = (Timestamp(0), Timestamp(i64::MAX));
            store
                .metrics(&team, &sandbox, range, Duration::from_secs(5))
                .await
                .unwrap()
                .len()
        };
        let check = async |now: Timestamp, deleted: u64, remain: usize| {
            assert_eq!(
                (store.prune(now, MONTH).await.unwrap().metrics, left().await),
                (deleted, remain),
                "{now}"
            );
        };
        check(hours(1), 0, 720).await;
        check(hours(2), 600, 120).await;
        check(hours(2), 0, 120).await;
        check(hours(25), 108, 12).await;
        check(hours(24 * 7 + 1), 12, 0).await;
    }

    #[tokio::test]
    async fn what_builds_have_said_expires() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (_, build) = add_template(&store, &team, "t", BuildStatus::Ready, 1).await;
        let line = BuildLogLine {
            at: build.created_at,
            level: LogLevel::Info,
            step: None,
            message: "x".into(),
        };
        let lines = vec![line; 4500];
        store.append_build_log(&build.id, &lines).await.unwrap();
        for (days, deleted) in [(30, 0), (31, 4500), (32, 0)] {
            let now = build.created_at.plus(Duration::from_hours(24 * days));
            assert_eq!(
                store.prune(now, MONTH).await.unwrap().build_logs,
                deleted,
                "{days}"
            );
        }
    }

    #[tokio::test]
    async fn logs_and_answers_expire() {
        let store = temp_store().await;
        let (team, sandbox) = (TeamId::random(), SandboxId::random());
        let entries: Vec<_> = (0..5000)
            .map(|n| entry(&team, &sandbox, n, LogLevel::Info, "x"))
            .collect();
        store.append_logs(&entries).await.unwrap();
        store.begin_idempotent(&team, "k", "f").await.unwrap();
        let week = Timestamp(7 * 24 * 3_600_000_000);
        assert_eq!(store.prune(week, MONTH).await.unwrap(), Pruned::default());
        let later = week.plus(Duration::from_micros(4500));
        assert_eq!(
            store.prune(later, MONTH).await.unwrap(),
            Pruned {
                logs: 4500,
                ..Pruned::default()
            }
        );
        let tomorrow = Timestamp::now().plus(Duration::from_hours(25));
        assert_eq!(
            store.prune(tomorrow, MONTH).await.unwrap(),
            Pruned {
                logs: 500,
                idempotency: 1,
                ..Pruned::default()
            }
        );
        assert_eq!(
            store.begin_idempotent(&team, "k", "f").await.unwrap(),
            Begin::Started
        );
    }

    #[tokio::test]
    async fn events_and_deliveries_expire() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let wants = webhook(&team, &[EventKind::Created]);
        assert!(store.add_webhook(&wants, 16).await.unwrap());
        for _ in 0..2 {
            store.insert_sandbox(&record(&team, 1, None)).await.unwrap();
        }
        let days = |days: u64| Timestamp(2).plus(Duration::from_hours(24 * days));
        for (day, deliveries, events) in [(6, 0, 0), (7, 2, 0), (29, 0, 0), (30, 0, 2)] {
            let pruned = store.prune(days(day), MONTH).await.unwrap();
            assert_eq!(
                (pruned.deliveries, pruned.events),
                (deliveries, events),
                "{day}"
            );
        }
        // By number: the newest that have ended stay, and all that wait.
        store.insert_sandbox(&record(&team, 1, None)).await.unwrap();
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100) \
             INSERT INTO webhook_deliveries (id, webhook_id, event_seq, state, tries, created_at) \
             SELECT 'x' || i, $1, (SELECT MAX(seq) FROM events), 'failed', 0, 1 FROM n",
        )
        .bind(wants.id.as_str())
        .execute(store.writer())
        .await
        .unwrap();
        assert_eq!(store.prune(days(1), MONTH).await.unwrap().deliveries, 100);
        assert_eq!(store.webhooks_with_due(days(1)).await.unwrap(), [wants.id]);
    }
}

//! Events on their way to webhooks: a row for each event and each webhook that wants it, made with the event, and kept for
//! a while after its end so that its owner sees what became of it.

use std::collections::BTreeSet;

use soulbox_types::{DeliveryId, EventId, EventKind, SandboxId, TeamId, Timestamp, WebhookId};
use sqlx::Transaction;

use crate::database::{Db, DbRow, column, maybe_time, parsed, time, unsigned};
use crate::error::During;
use crate::events::{SandboxEvent, event_of};
use crate::webhooks::{Webhook, kinds_of, webhook_of};
use crate::{Order, Store, StoreError};

const TABLE: &str = "webhook_deliveries";
/// Deliveries of one webhook that may wait at the same time. Of a receiver that is behind by more, later events are lost,
/// and its log says so.
const MOST_WAITING: i64 = 10_000;
const TOO_MANY: &str = "not sent: too many deliveries of this webhook wait";

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It will be tried (again).
    Waiting,
    /// The receiver has it.
    Delivered,
    /// It was tried as often as ever.
    Failed,
}

impl DeliveryState {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// A delivery as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The same over all tries.
    pub id: DeliveryId,
    /// Where to.
    pub webhook: WebhookId,
    /// Of what.
    pub event: EventId,
    /// Of what kind that is.
    pub kind: EventKind,
    /// Which sandbox it is about.
    pub sandbox: SandboxId,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub tries: u32,
    /// When the event was.
    pub created_at: Timestamp,
    /// When it is tried next; absent when it is not.
    pub next_try_at: Option<Timestamp>,
    /// When it was tried last.
    pub last_try_at: Option<Timestamp>,
    /// What the receiver answered then.
    pub last_status: Option<u16>,
    /// Why that was not good enough, or why there was no answer.
    pub last_error: Option<String>,
}

/// A delivery that is due, with all that sending it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// Which.
    pub id: DeliveryId,
    /// How often it was tried before.
    pub tries: u32,
    /// Where to.
    pub webhook: Webhook,
    /// What.
    pub event: SandboxEvent,
}

/// How a try went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// When it ended.
    pub at: Timestamp,
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why it was no success; a success when absent.
    pub error: Option<String>,
    /// When it is tried again after a failure, if it is.
    pub next_try_at: Option<Timestamp>,
}

/// Makes a delivery of an event for each webhook that wants it.
pub(crate) async fn make(
    transaction: &mut Transaction<'static, Db>,
    team: &str,
    kind: EventKind,
    event: i64,
    at: Timestamp,
) -> Result<(), StoreError> {
    let rows = sqlx::query("SELECT id, events FROM webhooks WHERE team_id = $1 AND enabled")
        .bind(team)
        .fetch_all(&mut **transaction)
        .await
        .during("read webhooks")?;
    for row in &rows {
        if !kinds_of(row)?.contains(&kind) {
            continue;
        }
        // One statement, so that the count is that of this moment.
        sqlx::query(
            "INSERT INTO webhook_deliveries (id, webhook_id, event_seq, state, tries, created_at, next_try_at, last_error) \
             SELECT $1, $2, $3, CASE WHEN w.full THEN 'failed' ELSE 'waiting' END, 0, $4, \
             CASE WHEN w.full THEN NULL ELSE $4 END, CASE WHEN w.full THEN $6 END \
             FROM (SELECT EXISTS (SELECT 1 FROM webhook_deliveries WHERE webhook_id = $2 AND state = 'waiting' \
             LIMIT 1 OFFSET $5) AS full) AS w",
        )
        .bind(DeliveryId::random().as_str())
        .bind(column::<&str>(row, "webhooks", "id")?)
        .bind(event)
        .bind(at.0)
        .bind(MOST_WAITING - 1)
        .bind(TOO_MANY)
        .execute(&mut **transaction)
        .await
        .during("make a delivery")?;
    }
    Ok(())
}

impl Store {
    /// Webhooks that have something due, whoever they belong to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhooks_with_due(&self, now: Timestamp) -> Result<Vec<WebhookId>, StoreError> {
        let rows = sqlx::query(
            "SELECT w.id FROM webhooks w WHERE w.enabled AND EXISTS (SELECT 1 FROM webhook_deliveries d \
             WHERE d.webhook_id = w.id AND d.state = 'waiting' AND d.next_try_at <= $1)",
        )
        .bind(now.0)
        .fetch_all(self.reader())
        .await
        .during("look for due deliveries")?;
        rows.iter()
            .map(|row| parsed(row, "webhooks", "id"))
            .collect()
    }

    /// When the next delivery is due, of whatever webhook.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_delivery_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let next: Option<i64> = sqlx::query_scalar(
            "SELECT MIN((SELECT MIN(d.next_try_at) FROM webhook_deliveries d \
             WHERE d.webhook_id = w.id AND d.state = 'waiting')) FROM webhooks w WHERE w.enabled",
        )
        .fetch_one(self.reader())
        .await
        .during("look for the next delivery")?;
        Ok(next.map(Timestamp))
    }

    /// The deliveries of a webhook that are due, longest first, without those that are under way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn due_deliveries(
        &self,
        webhook: &WebhookId,
        now: Timestamp,
        under_way: &BTreeSet<DeliveryId>,
        limit: usize,
    ) -> Result<Vec<Due>, StoreError> {
        let Some(row) = sqlx::query("SELECT * FROM webhooks WHERE id = $1 AND enabled")
            .bind(webhook.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read a webhook")?
        else {
            return Ok(Vec::new());
        };
        let to = webhook_of(&row)?;
        let rows = sqlx::query(
            "SELECT e.*, d.id AS delivery_id, d.tries FROM webhook_deliveries d JOIN events e ON e.seq = d.event_seq \
             WHERE d.webhook_id = $1 AND d.state = 'waiting' AND d.next_try_at <= $2 \
             ORDER BY d.next_try_at, d.seq LIMIT $3",
        )
        .bind(webhook.as_str())
        .bind(now.0)
        .bind(i64::try_from(limit + under_way.len()).unwrap_or(i64::MAX))
        .fetch_all(self.reader())
        .await
        .during("read due deliveries")?;
        let mut due = Vec::new();
        for row in &rows {
            let id = parsed(row, TABLE, "delivery_id")?;
            if !under_way.contains(&id) && due.len() < limit {
                due.push(Due {
                    id,
                    tries: unsigned(row, TABLE, "tries")?,
                    webhook: to.clone(),
                    event: event_of(row)?,
                });
            }
        }
        Ok(due)
    }

    /// Writes down how a try went.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_try(&self, id: &DeliveryId, tried: &Tried) -> Result<(), StoreError> {
        let state = match (&tried.error, tried.next_try_at) {
            (None, _) => DeliveryState::Delivered,
            (Some(_), Some(_)) => DeliveryState::Waiting,
            (Some(_), None) => DeliveryState::Failed,
        };
        let next = tried
            .next_try_at
            .filter(|_| state == DeliveryState::Waiting);
        sqlx::query(
            "UPDATE webhook_deliveries SET state = $2, tries = tries + 1, last_try_at = $3, next_try_at = $4, \
             last_status = $5, last_error = $6 WHERE id = $1 AND state = 'waiting'",
        )
        .bind(id.as_str())
        .bind(state.as_str())
        .bind(tried.at.0)
        .bind(next.map(|at| at.0))
        .bind(tried.status.map(i64::from))
        .bind(&tried.error)
        .execute(self.writer())
        .await
        .during("note a delivery")
        .map(drop)
    }

    /// Some deliveries of the team's webhook, by when their events were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deliveries(
        &self,
        team: &TeamId,
        webhook: &WebhookId,
        order: Order,
        (offset, limit): (u32, u32),
    ) -> Result<Vec<Delivery>, StoreError> {
        const NEWEST: &str = "SELECT d.*, e.id AS event_id, e.kind, e.sandbox_id FROM webhook_deliveries d \
                              JOIN webhooks w ON w.id = d.webhook_id JOIN events e ON e.seq = d.event_seq \
                              WHERE d.webhook_id = $1 AND w.team_id = $2 ORDER BY d.seq DESC LIMIT $3 OFFSET $4";
        const OLDEST: &str = "SELECT d.*, e.id AS event_id, e.kind, e.sandbox_id FROM webhook_deliveries d \
                              JOIN webhooks w ON w.id = d.webhook_id JOIN events e ON e.seq = d.event_seq \
                              WHERE d.webhook_id = $1 AND w.team_id = $2 ORDER BY d.seq ASC LIMIT $3 OFFSET $4";
        let rows = sqlx::query(match order {
            Order::Descending => NEWEST,
            Order::Ascending => OLDEST,
        })
        .bind(webhook.as_str())
        .bind(team.as_str())
        .bind(i64::from(limit))
        .bind(i64::from(offset))
        .fetch_all(self.reader())
        .await
        .during("list deliveries")?;
        rows.iter().map(delivery_of).collect()
    }
}

fn delivery_of(row: &DbRow) -> Result<Delivery, StoreError> {
    let damaged = |column| StoreError::Damaged {
        table: TABLE,
        column,
    };
    let state: &str = column(row, TABLE, "state")?;
    let states = [
        DeliveryState::Waiting,
        DeliveryState::Delivered,
        DeliveryState::Failed,
    ];
    let state = states.into_iter().find(|known| known.as_str() == state);
    let status: Option<i64> = column(row, TABLE, "last_status")?;
    let status = status.map(u16::try_from).transpose();
    Ok(Delivery {
        id: parsed(row, TABLE, "id")?,
        webhook: parsed(row, TABLE, "webhook_id")?,
        event: parsed(row, TABLE, "event_id")?,
        kind: parsed(row, "events", "kind")?,
        sandbox: parsed(row, "events", "sandbox_id")?,
        state: state.ok_or(damaged("state"))?,
        tries: unsigned(row, TABLE, "tries")?,
        created_at: time(row, TABLE, "created_at")?,
        next_try_at: maybe_time(row, TABLE, "next_try_at")?,
        last_try_at: maybe_time(row, TABLE, "last_try_at")?,
        last_status: status.map_err(|_| damaged("last_status"))?,
        last_error: column(row, TABLE, "last_error")?,
    })
}

#[cfg(test)]
mod tests {
    use soulbox_types::EndReason;

    use super::*;
    use crate::database::tests::{reopen, temp_store};
    use crate::sandboxes::tests::record;
    use crate::webhooks::tests::webhook;
    use crate::{EventQuery, WebhookChange};

    const NOBODY: BTreeSet<DeliveryId> = BTreeSet::new();

    #[tokio::test]
    #[expect(clippy::too_many_lines, reason = "one life in order")]
    async fn made_with_the_event_for_those_who_want_it() {
        let temp = temp_store().await;
        let team = temp.default_team().await.unwrap().id;
        let births = webhook(&team, &[EventKind::Created]);
        let ends = webhook(&team, &[EventKind::Killed, EventKind::Paused]);
        let off = Webhook {
            enabled: false,
            ..webhook(&team, &[EventKind::Created])
        };
        for one in [&births, &ends, &off] {
            assert!(temp.add_webhook(one, 16).await.unwrap());
        }
        let sandbox = record(&team, 10, None);
        temp.insert_sandbox(&sandbox).await.unwrap();
        // It outlives the server.
        let store = reopen(&temp).await;
        let now = Timestamp(10);
        assert_eq!(
            store.webhooks_with_due(now).await.unwrap(),
            std::slice::from_ref(&births.id)
        );
        assert_eq!(store.webhooks_with_due(Timestamp(9)).await.unwrap(), []);
        assert_eq!(store.next_delivery_at().await.unwrap(), Some(now));
        let due = store
            .due_deliveries(&births.id, now, &NOBODY, 5)
            .await
            .unwrap();
        assert_eq!(
            (due.len(), due[0].tries, due[0].event.kind),
            (1, 0, EventKind::Created)
        );
        assert_eq!(due[0].webhook, births);
        let under_way = BTreeSet::from([due[0].id.clone()]);
        assert_eq!(
            store
                .due_deliveries(&births.id, now, &under_way, 5)
                .await
                .unwrap(),
            []
        );

        let mut tried = Tried {
            at: Timestamp(20),
            status: Some(503),
            error: Some("answered 503".into()),
            next_try_at: Some(Timestamp(30)),
        };
        store.note_try(&due[0].id, &tried).await.unwrap();
        assert_eq!(store.webhooks_with_due(Timestamp(29)).await.unwrap(), []);
        let again = store
            .due_deliveries(&births.id, Timestamp(30), &NOBODY, 5)
            .await
            .unwrap();
        assert_eq!((&again[0].id, again[0].tries), (&due[0].id, 1));
        (tried.status, tried.error) = (Some(204), None);
        store.note_try(&due[0].id, &tried).await.unwrap();
        assert_eq!(store.webhooks_with_due(Timestamp(99)).await.unwrap(), []);
        let log = async |team| {
            let page = (0, 10);
            store
                .deliveries(team, &births.id, Order::Descending, page)
                .await
                .unwrap()
        };
        let stranger = TeamId::random();
        let logged = log(&team).await;
        assert_eq!(logged.len(), 1);
        assert_eq!(
            (logged[0].state, logged[0].tries),
            (DeliveryState::Delivered, 2)
        );
        assert_eq!(
            (logged[0].last_status, &logged[0].next_try_at),
            (Some(204), &None)
        );
        assert_eq!(log(&stranger).await, []);

        let end = store.end_sandbox(&sandbox.id, EndReason::Request, now);
        assert!(end.await.unwrap());
        assert_eq!(
            store.webhooks_with_due(now).await.unwrap(),
            std::slice::from_ref(&ends.id)
        );
        let disable = WebhookChange {
            enabled: Some(false),
            ..WebhookChange::default()
        };
        store
            .change_webhook(&team, &ends.id, &disable)
            .await
            .unwrap();
        assert_eq!(store.webhooks_with_due(now).await.unwrap(), []);
        assert_eq!(
            store
                .due_deliveries(&ends.id, now, &NOBODY, 5)
                .await
                .unwrap(),
            []
        );
        assert!(store.remove_webhook(&team, &births.id).await.unwrap());
        assert_eq!(log(&team).await, []);
        assert_eq!(store.events(&EventQuery::all(team)).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_receiver_that_is_far_behind_loses_events_and_is_told() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let wants = webhook(&team, &[EventKind::Created]);
        assert!(store.add_webhook(&wants, 16).await.unwrap());
        store.insert_sandbox(&record(&team, 1, None)).await.unwrap();
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
             INSERT INTO webhook_deliveries (id, webhook_id, event_seq, state, tries, created_at, next_try_at) \
             SELECT 'x' || i, $2, 1, 'waiting', 0, 1, 1 FROM n",
        )
        .bind(MOST_WAITING)
        .bind(wants.id.as_str())
        .execute(store.writer())
        .await
        .unwrap();
        store.insert_sandbox(&record(&team, 2, None)).await.unwrap();
        let newest = store
            .deliveries(&team, &wants.id, Order::Descending, (0, 1))
            .await
            .unwrap();
        assert_eq!(
            (newest[0].state, newest[0].next_try_at),
            (DeliveryState::Failed, None)
        );
        assert_eq!(newest[0].last_error.as_deref(), Some(TOO_MANY));
    }
}

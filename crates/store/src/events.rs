//! What has happened to sandboxes.
//!
//! An event is written in the transaction of the change that it tells of, together with a delivery for each webhook that
//! wants it: there is never one without the other, whenever the server dies. Readers are woken after the commit and read
//! from the table, so that nothing is kept in memory for those who are slow.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use soulbox_types::{
    BuildId, EndReason, EventId, EventKind, ExecutionId, SandboxId, TeamId, TemplateId, Timestamp,
};
use sqlx::{QueryBuilder, Transaction};
use tokio::sync::watch;

use crate::database::{Db, DbRow, column, maybe_json, parsed, time, to_json};
use crate::error::During;
use crate::{Order, SandboxRecord, Store, StoreError, deliveries};

const TABLE: &str = "events";
/// Metadata of more bytes than this is not repeated in every event of a sandbox.
const MOST_METADATA_BYTES: usize = 16 * 1024;

/// An event of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxEvent {
    /// Its place in the order of all events; grows.
    pub seq: i64,
    /// Its id.
    pub id: EventId,
    /// What has happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// Whose sandbox it was.
    pub team: TeamId,
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Which of its runs.
    pub execution: ExecutionId,
    /// The template that it was created from.
    pub template: TemplateId,
    /// The build that it was created from.
    pub build: BuildId,
    /// What else is to be said: an object.
    pub data: Option<Value>,
}

/// Which events are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Whose.
    pub team: TeamId,
    /// Of which sandbox; of all when absent.
    pub sandbox: Option<SandboxId>,
    /// Of which kinds; of all when empty.
    pub kinds: Vec<EventKind>,
    /// Only those after this place.
    pub after: Option<i64>,
    /// By their place.
    pub order: Order,
    /// So many of them are left out at the beginning.
    pub offset: u32,
    /// At most this many.
    pub limit: u32,
}

impl EventQuery {
    /// All events of a team, newest first.
    #[must_use]
    pub fn all(team: TeamId) -> Self {
        Self {
            team,
            sandbox: None,
            kinds: Vec::new(),
            after: None,
            order: Order::Descending,
            offset: 0,
            limit: 100,
        }
    }
}

/// What an event needs to know of its sandbox, as the columns of its record have it.
pub(crate) struct Subject {
    id: String,
    team: String,
    template: String,
    build: String,
    execution: String,
    metadata: Option<String>,
    started_at: Timestamp,
    vcpu_count: i64,
    memory_mib: i64,
}

/// The columns of a [`Subject`], for `RETURNING`.
pub(crate) const SUBJECT: &str = "id, team_id, template_id, build_id, execution_id, metadata, started_at, vcpu_count, \
                                  memory_mib";

impl Subject {
    /// Reads the columns of [`SUBJECT`].
    pub(crate) fn of_row(row: &DbRow) -> Result<Self, StoreError> {
        const TABLE: &str = "sandboxes";
        Ok(Self {
            id: column(row, TABLE, "id")?,
            team: column(row, TABLE, "team_id")?,
            template: column(row, TABLE, "template_id")?,
            build: column(row, TABLE, "build_id")?,
            execution: column(row, TABLE, "execution_id")?,
            metadata: column(row, TABLE, "metadata")?,
            started_at: time(row, TABLE, "started_at")?,
            vcpu_count: column(row, TABLE, "vcpu_count")?,
            memory_mib: column(row, TABLE, "memory_mib")?,
        })
    }

    /// The sandbox of a record.
    pub(crate) fn of_record(record: &SandboxRecord) -> Self {
        Self {
            id: record.id.to_string(),
            team: record.team.to_string(),
            template: record.template_id.to_string(),
            build: record.build_id.to_string(),
            execution: record.execution_id.to_string(),
            metadata: record.metadata.as_ref().map(to_json),
            started_at: record.started_at,
            vcpu_count: i64::from(record.limits.vcpu_count),
            memory_mib: i64::from(record.limits.memory_mib),
        }
    }

    /// What every event says, and the run that this one ends.
    fn data(&self, kind: EventKind, at: Timestamp, mut said: Map<String, Value>) -> Option<Value> {
        let metadata = self
            .metadata
            .as_deref()
            .filter(|text| text.len() <= MOST_METADATA_BYTES);
        let pairs: Option<BTreeMap<String, String>> =
            metadata.and_then(|text| serde_json::from_str(text).ok());
        if let Some(pairs) = pairs.filter(|pairs| !pairs.is_empty()) {
            said.insert("sandbox_metadata".into(), serde_json::json!(pairs));
        }
        if kind.ends_a_run() {
            let execution = serde_json::json!({
                "started_at": self.started_at.to_string(),
                "vcpu_count": self.vcpu_count,
                "memory_mb": self.memory_mib,
                "execution_time": u64::try_from(at.since(self.started_at).as_millis()).unwrap_or(u64::MAX),
            });
            said.insert("execution".into(), execution);
        }
        (!said.is_empty()).then_some(Value::Object(said))
    }
}

/// What an event says besides: why a sandbox is gone.
pub(crate) fn ended(reason: EndReason) -> Map<String, Value> {
    one("reason", reason.as_str())
}

/// What an event says besides: one text.
pub(crate) fn one(name: &str, text: &str) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), Value::from(text))])
}

/// Records an event in the transaction of what it tells of. After the commit, [`Store::events_recorded`] is to be called.
pub(crate) async fn record(
    transaction: &mut Transaction<'static, Db>,
    subject: &Subject,
    kind: EventKind,
    at: Timestamp,
    said: Map<String, Value>,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "INSERT INTO events (id, team_id, kind, at, sandbox_id, execution_id, template_id, build_id, data) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(EventId::random().as_str())
    .bind(&subject.team)
    .bind(kind.as_str())
    .bind(at.0)
    .bind(&subject.id)
    .bind(&subject.execution)
    .bind(&subject.template)
    .bind(&subject.build)
    .bind(subject.data(kind, at, said).as_ref().map(to_json))
    .execute(&mut **transaction)
    .await
    .during("record an event")?;
    let seq = done.last_insert_rowid();
    deliveries::make(transaction, &subject.team, kind, seq, at).await
}

impl Store {
    /// Records that sandboxes were made of this one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record_fork(
        &self,
        source: &SandboxRecord,
        forks: &[SandboxId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let ids: Vec<&str> = forks.iter().map(SandboxId::as_str).collect();
        let said = Map::from_iter([("forks".to_owned(), Value::from(ids))]);
        let mut transaction = self.write_quickly().await?;
        let subject = Subject::of_record(source);
        record(&mut transaction, &subject, EventKind::Forked, at, said).await?;
        transaction.commit().await.during("record a fork")?;
        self.events_recorded();
        Ok(())
    }

    /// Some of a team's events.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<SandboxEvent>, StoreError> {
        let mut sql = QueryBuilder::<Db>::new("SELECT * FROM events WHERE team_id = ");
        sql.push_bind(query.team.to_string());
        if let Some(sandbox) = &query.sandbox {
            sql.push(" AND sandbox_id = ")
                .push_bind(sandbox.to_string());
        }
        if let Some(after) = query.after {
            sql.push(" AND seq > ").push_bind(after);
        }
        if !query.kinds.is_empty() {
            sql.push(" AND kind IN (");
            let mut list = sql.separated(", ");
            for kind in &query.kinds {
                list.push_bind(kind.as_str());
            }
            sql.push(")");
        }
        sql.push(match query.order {
            Order::Ascending => " ORDER BY seq ASC LIMIT ",
            Order::Descending => " ORDER BY seq DESC LIMIT ",
        });
        sql.push_bind(i64::from(query.limit));
        sql.push(" OFFSET ").push_bind(i64::from(query.offset));
        let rows = sql
            .build()
            .fetch_all(self.reader())
            .await
            .during("read events")?;
        rows.iter().map(event_of).collect()
    }

    /// The team's event with this id, if it is still kept.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event(
        &self,
        team: &TeamId,
        id: &EventId,
    ) -> Result<Option<SandboxEvent>, StoreError> {
        let row = sqlx::query("SELECT * FROM events WHERE id = $1 AND team_id = $2")
            .bind(id.as_str())
            .bind(team.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read an event")?;
        row.as_ref().map(event_of).transpose()
    }

    /// Wakes whoever waits for events. Which there are, the table says.
    #[must_use]
    pub fn event_news(&self) -> watch::Receiver<()> {
        self.news().subscribe()
    }

    /// To be called when a transaction with an event has been committed.
    pub(crate) fn events_recorded(&self) {
        self.news().send_replace(());
    }
}

/// Reads a row of `events`.
pub(crate) fn event_of(row: &DbRow) -> Result<SandboxEvent, StoreError> {
    Ok(SandboxEvent {
        seq: column(row, TABLE, "seq")?,
        id: parsed(row, TABLE, "id")?,
        kind: parsed(row, TABLE, "kind")?,
        at: time(row, TABLE, "at")?,
        team: parsed(row, TABLE, "team_id")?,
        sandbox: parsed(row, TABLE, "sandbox_id")?,
        execution: parsed(row, TABLE, "execution_id")?,
        template: parsed(row, TABLE, "template_id")?,
        build: parsed(row, TABLE, "build_id")?,
        data: maybe_json(row, TABLE, "data")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use soulbox_types::OnTimeout;

    use super::*;
    use crate::database::tests::{reopen, temp_store};
    use crate::sandboxes::tests::{pause, record};
    use crate::{NewRun, PauseMode};

    fn kinds(events: &[SandboxEvent]) -> Vec<&'static str> {
        let name = |event: &SandboxEvent| event.kind.label();
        events.iter().map(name).collect()
    }

    #[tokio::test]
    #[expect(clippy::too_many_lines, reason = "one life in order")]
    async fn a_life_is_told_once_and_in_order() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let sandbox = record(&team, 1_000_000, Some(&[("a", "1")]));
        let mut news = store.event_news();
        store.insert_sandbox(&sandbox).await.unwrap();
        assert!(news.has_changed().unwrap());
        news.mark_unchanged();
        let end = Timestamp(50_000_000);
        assert!(
            store
                .set_end_at(&sandbox.id, end, Timestamp(2_000_000))
                .await
                .unwrap()
        );
        let mut kept = pause(&team);
        assert!(
            store
                .pause_sandbox(&sandbox.id, Timestamp(4_000_000), &kept)
                .await
                .unwrap()
        );
        // What becomes of a pause is no event.
        news.mark_unchanged();
        kept.mode = PauseMode::Filesystem;
        assert!(
            store
                .pause_sandbox(&sandbox.id, Timestamp(4_000_000), &kept)
                .await
                .unwrap()
        );
        let run = NewRun {
            execution_id: ExecutionId::random(),
            started_at: Timestamp(5_000_000),
            end_at: Timestamp(9_000_000),
            on_timeout: OnTimeout::Kill,
        };
        assert!(store.resume_sandbox(&sandbox.id, &run).await.unwrap());
        assert!(!store.resume_sandbox(&sandbox.id, &run).await.unwrap());
        // Its time is over.
        assert!(
            store
                .pause_sandbox(&sandbox.id, Timestamp(9_000_000), &kept)
                .await
                .unwrap()
        );
        for gone in [true, false] {
            let end = store.end_sandbox(&sandbox.id, EndReason::Request, Timestamp(10_000_000));
            assert_eq!(end.await.unwrap(), gone);
        }
        assert!(
            !store
                .set_end_at(&sandbox.id, end, Timestamp(2))
                .await
                .unwrap()
        );

        let store = reopen(&store).await;
        let mut query = EventQuery {
            sandbox: Some(sandbox.id.clone()),
            order: Order::Ascending,
            ..EventQuery::all(team.clone())
        };
        let told = store.events(&query).await.unwrap();
        assert_eq!(
            kinds(&told),
            ["create", "update", "pause", "resume", "pause", "kill"]
        );
        assert_eq!(told[0].execution, sandbox.execution_id);
        assert_eq!(told[3].execution, run.execution_id);
        assert!(told.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        let data = |n: usize| told[n].data.clone().unwrap();
        assert_eq!(data(0), json!({"sandbox_metadata": {"a": "1"}}));
        assert_eq!(data(1)["set_timeout"], json!("1970-01-01T00:00:50.000000Z"));
        assert_eq!(
            (&data(2)["reason"], &data(4)["reason"]),
            (&json!("request"), &json!("timeout"))
        );
        assert_eq!(data(5)["reason"], json!("request"));
        assert_eq!(data(2)["execution"]["execution_time"], json!(3000));

        query.kinds = vec![EventKind::Paused, EventKind::Killed];
        (query.order, query.limit, query.offset) = (Order::Descending, 2, 1);
        assert_eq!(
            kinds(&store.events(&query).await.unwrap()),
            ["pause", "pause"]
        );
        (query.after, query.offset) = (Some(told[4].seq), 0);
        assert_eq!(kinds(&store.events(&query).await.unwrap()), ["kill"]);
        query.team = TeamId::random();
        assert_eq!(store.events(&query).await.unwrap(), []);
        assert_eq!(
            store.event(&team, &told[1].id).await.unwrap().as_ref(),
            Some(&told[1])
        );
        assert_eq!(store.event(&query.team, &told[1].id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_change_that_fails_tells_nothing() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let sandbox = record(&team, 1, None);
        store.insert_sandbox(&sandbox).await.unwrap();
        store.insert_sandbox(&sandbox).await.unwrap_err();
        assert_eq!(store.events(&EventQuery::all(team)).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn large_metadata_is_not_repeated() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let large = "x".repeat(MOST_METADATA_BYTES);
        let sandbox = record(&team, 1, Some(&[("a", &large)]));
        store.insert_sandbox(&sandbox).await.unwrap();
        assert_eq!(
            store.events(&EventQuery::all(team)).await.unwrap()[0].data,
            None
        );
    }
}

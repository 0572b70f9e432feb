//! The record of each sandbox that exists: running or paused. A killed one has no row.
//!
//! Lists are walks over an index that already has the wanted order, from the keyset of the page on, so that a page costs
//! the same in a team of ten and of a million. A filter by metadata walks the index of its rarest pair.

use std::collections::BTreeMap;

use serde_json::Map;
use soulbox_types::{
    BuildId, EndReason, ErrorKind, EventKind, ExecutionId, Limits, MemoryId, OnTimeout, SandboxId,
    TeamId, TemplateId, Timestamp,
};
use sqlx::{QueryBuilder, Transaction};

use crate::builds::limits_of;
use crate::database::{Db, DbRow, column, json, maybe_json, maybe_parsed, parsed, time, to_json};
use crate::error::During;
use crate::events::{self, SUBJECT, Subject};
use crate::page::{Keyset, cut, fetch_limit, keyset};
use crate::pauses::{Pause, pause_of};
use crate::{Order, Store, StoreError};

/// Name of the table in messages.
const TABLE: &str = "sandboxes";
/// Up to how many sandboxes with a pair are counted to find the rarest pair of a filter.
const RARITY_SAMPLE: i64 = 1000;

/// What is remembered of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxRecord {
    /// Its id, kept over pause and resume.
    pub id: SandboxId,
    /// Its owner.
    pub team: TeamId,
    /// The template it was first created from.
    pub template_id: TemplateId,
    /// The build it started from.
    pub build_id: BuildId,
    /// Its current run; its last run when paused.
    pub execution_id: ExecutionId,
    /// First alias of the template at that time.
    pub alias: Option<String>,
    /// What its creator has written on it; absent is not the same as empty.
    pub metadata: Option<BTreeMap<String, String>>,
    /// When the current run became usable (of the last run when paused).
    pub started_at: Timestamp,
    /// When its policy ends it; when it was paused, for a paused one.
    pub end_at: Timestamp,
    /// What happens then.
    pub on_timeout: OnTimeout,
    /// Whether a pause at the end time keeps the memory.
    pub auto_pause_memory: bool,
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// For how long it then runs.
    pub auto_resume_timeout_seconds: i64,
    /// What it may use.
    pub limits: Limits,
    /// Version of the envd in it.
    pub envd_version: String,
    /// As the creator gave it: absent, allowed, denied.
    pub allow_internet_access: Option<bool>,
    /// The network policy as the creator gave it.
    pub network: Option<serde_json::Value>,
    /// Whether anybody may reach its ports.
    pub allow_public_traffic: bool,
    /// `Host` header to show to servers inside.
    pub mask_request_host: Option<String>,
    /// Ports inside that speak TLS.
    pub https_ports: Vec<u16>,
    /// Volumes mounted, as the creator gave them; an array.
    pub volume_mounts: serde_json::Value,
    /// Running or paused.
    pub state: RecordState,
    /// What there is of a paused one; absent exactly when it runs.
    pub pause: Option<Pause>,
    /// The sandbox that it is a fork of; that one may be gone.
    pub forked_from: Option<SandboxId>,
}

/// The state as the wire shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordState {
    /// It has a guest.
    Running,
    /// It is saved.
    Paused,
}

/// What a list of sandboxes should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Whose.
    pub team: TeamId,
    /// Pairs that must all be present and equal; none of them means all sandboxes.
    pub metadata: BTreeMap<String, String>,
    /// Which states; an empty list means both.
    pub states: Vec<RecordState>,
    /// By start of the last run.
    pub order: Order,
    /// Started then or later.
    pub started_after: Option<Timestamp>,
    /// Created from this template.
    pub template_id: Option<TemplateId>,
    /// At most this many.
    pub limit: u32,
    /// Token of the page before.
    pub cursor: Option<String>,
}

/// Some sandboxes of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxPage<T> {
    /// The sandboxes, in order.
    pub items: Vec<T>,
    /// Present exactly when there are more.
    pub next_cursor: Option<String>,
    /// Running sandboxes that pass every filter, on whatever page.
    pub total_running: i64,
}

impl ListQuery {
    /// All of a team's sandboxes, newest first.
    #[must_use]
    pub fn all(team: TeamId) -> Self {
        Self {
            team,
            metadata: BTreeMap::new(),
            states: Vec::new(),
            order: Order::Descending,
            started_after: None,
            template_id: None,
            limit: 100,
            cursor: None,
        }
    }
}

impl RecordState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

impl Store {
    /// Adds a sandbox.
    ///
    /// # Errors
    /// When the database fails or the id is taken.
    pub async fn insert_sandbox(&self, record: &SandboxRecord) -> Result<(), StoreError> {
        let mut transaction = self.write_quickly().await?;
        insert_record(&mut *transaction, record).await?;
        if let Some(pairs) = &record.metadata {
            insert_pairs(&mut transaction, record, pairs).await?;
        }
        let subject = Subject::of_record(record);
        let said = (record.forked_from.as_ref()).map_or_else(Map::new, |source| {
            events::one("forked_from", source.as_str())
        });
        let at = record.started_at;
        events::record(&mut transaction, &subject, EventKind::Created, at, said).await?;
        transaction.commit().await.during("add a sandbox")?;
        self.events_recorded();
        self.defer_spawn(&record.template_id, record.started_at);
        Ok(())
    }

    /// Forgets a sandbox that is gone since `at`; false when there is none. On a full disk it is forgotten without an event:
    /// what is gone must not be shown because there is no room to tell of it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_sandbox(
        &self,
        id: &SandboxId,
        reason: EndReason,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        match self.end_and_tell(id, reason, at).await {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                tracing::error!(sandbox.id = %id, "the disk is full: the end of a sandbox is not among the events");
                let done = sqlx::query("DELETE FROM sandboxes WHERE id = $1")
                    .bind(id.as_str())
                    .execute(self.writer())
                    .await
                    .during("delete a sandbox")?;
                Ok(done.rows_affected() > 0)
            }
            other => other,
        }
    }

    async fn end_and_tell(
        &self,
        id: &SandboxId,
        reason: EndReason,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.write_quickly().await?;
        let sql = format!("DELETE FROM sandboxes WHERE id = $1 RETURNING {SUBJECT}");
        let gone = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .during("delete a sandbox")?;
        let Some(gone) = gone else { return Ok(false) };
        let (subject, said) = (Subject::of_row(&gone)?, events::ended(reason));
        events::record(&mut transaction, &subject, EventKind::Killed, at, said).await?;
        transaction.commit().await.during("delete a sandbox")?;
        self.events_recorded();
        Ok(true)
    }

    /// Moves a sandbox's end time, at `at`; false when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_end_at(
        &self,
        id: &SandboxId,
        end_at: Timestamp,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.write_quickly().await?;
        let sql = format!("UPDATE sandboxes SET end_at = $2 WHERE id = $1 RETURNING {SUBJECT}");
        let changed = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.as_str())
            .bind(end_at.0)
            .fetch_optional(&mut *transaction)
            .await
            .during("set the end time of a sandbox")?;
        let Some(changed) = changed else {
            return Ok(false);
        };
        let said = events::one("set_timeout", &end_at.to_string());
        let subject = Subject::of_row(&changed)?;
        events::record(&mut transaction, &subject, EventKind::Updated, at, said).await?;
        let committed = transaction.commit().await;
        committed.during("set the end time of a sandbox")?;
        self.events_recorded();
        Ok(true)
    }

    /// Records what a sandbox may reach; false when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_network(&self, record: &SandboxRecord) -> Result<bool, StoreError> {
        let mut transaction = self.write_quickly().await?;
        let sql = "UPDATE sandboxes SET network = $2, allow_internet_access = $3 WHERE id = $1";
        let changed = sqlx::query(sql)
            .bind(record.id.as_str())
            .bind(record.network.as_ref().map(to_json))
            .bind(record.allow_internet_access)
            .execute(&mut *transaction)
            .await
            .during("record the network of a sandbox")?;
        let committed = transaction.commit().await;
        committed.during("record the network of a sandbox")?;
        Ok(changed.rows_affected() > 0)
    }

    /// The team's sandbox with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_sandbox(
        &self,
        team: &TeamId,
        id: &SandboxId,
    ) -> Result<Option<SandboxRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1 AND team_id = $2")
            .bind(id.as_str())
            .bind(team.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read a sandbox")?;
        row.as_ref().map(record_of).transpose()
    }

    /// Every sandbox that should have a guest on this node.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_running(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM sandboxes WHERE state = 'running'")
            .fetch_all(self.reader())
            .await
            .during("read the running sandboxes")?;
        rows.iter().map(record_of).collect()
    }

    /// Ids and owners of every sandbox that should have a guest on this node.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn running_ids(&self) -> Result<Vec<(SandboxId, TeamId)>, StoreError> {
        let rows = sqlx::query("SELECT id, team_id FROM sandboxes WHERE state = 'running'")
            .fetch_all(self.reader())
            .await
            .during("read the running sandboxes")?;
        rows.iter()
            .map(|row| Ok((parsed(row, TABLE, "id")?, parsed(row, TABLE, "team_id")?)))
            .collect()
    }

    /// Some of a team's sandboxes.
    ///
    /// # Errors
    /// When the token is not valid for this order or the database fails.
    pub async fn list_sandboxes(
        &self,
        query: &ListQuery,
    ) -> Result<SandboxPage<SandboxRecord>, StoreError> {
        let after = keyset(query.cursor.as_deref(), query.order)?;
        let pairs = self.rarest_first(query).await?;
        let rows = page_query(query, &pairs, after)
            .build()
            .fetch_all(self.reader())
            .await
            .during("list sandboxes")?;
        let mut items = rows.iter().map(record_of).collect::<Result<Vec<_>, _>>()?;
        let next_cursor = cut(&mut items, query.limit, query.order, |record| Keyset {
            at: record.started_at,
            id: record.id.to_string(),
        });
        let total_running = self.count_running(query, &pairs).await?;
        Ok(SandboxPage {
            items,
            next_cursor,
            total_running,
        })
    }

    async fn count_running(
        &self,
        query: &ListQuery,
        pairs: &[(&str, &str)],
    ) -> Result<i64, StoreError> {
        if !query.wants(RecordState::Running) {
            return Ok(0);
        }
        let mut sql = QueryBuilder::new("SELECT COUNT(*)");
        push_filter(&mut sql, query, pairs, Some(RecordState::Running));
        sql.build_query_scalar()
            .fetch_one(self.reader())
            .await
            .during("count sandboxes")
    }

    /// The pairs of a metadata filter, the one that fewest sandboxes have first.
    async fn rarest_first<'q>(
        &self,
        query: &'q ListQuery,
    ) -> Result<Vec<(&'q str, &'q str)>, StoreError> {
        let mut pairs = Vec::with_capacity(query.metadata.len());
        for (key, value) in &query.metadata {
            let count: i64 = if query.metadata.len() == 1 {
                0
            } else {
                sqlx::query_scalar(
                    "SELECT COUNT(*) FROM (SELECT 1 FROM sandbox_metadata \
                     WHERE team_id = $1 AND key = $2 AND value = $3 LIMIT $4) AS some",
                )
                .bind(query.team.as_str())
                .bind(key)
                .bind(value)
                .bind(RARITY_SAMPLE)
                .fetch_one(self.reader())
                .await
                .during("count sandboxes")?
            };
            pairs.push((count, (key.as_str(), value.as_str())));
        }
        pairs.sort_by_key(|(count, _)| *count);
        Ok(pairs.into_iter().map(|(_, pair)| pair).collect())
    }
}

impl ListQuery {
    /// Whether sandboxes in this state are wanted.
    #[must_use]
    pub fn wants(&self, state: RecordState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// The one state that is wanted, when it is one.
    fn only_state(&self) -> Option<RecordState> {
        match (
            self.wants(RecordState::Running),
            self.wants(RecordState::Paused),
        ) {
            (true, false) => Some(RecordState::Running),
            (false, true) => Some(RecordState::Paused),
            _ => None,
        }
    }
}

fn page_query(
    query: &ListQuery,
    pairs: &[(&str, &str)],
    after: Option<Keyset>,
) -> QueryBuilder<Db> {
    // The columns of the order come from the table whose index is walked.
    let (at, id) = if pairs.is_empty() {
        ("s.started_at", "s.id")
    } else {
        ("m.started_at", "m.sandbox_id")
    };
    let mut sql = QueryBuilder::new("SELECT s.*");
    push_filter(&mut sql, query, pairs, query.only_state());
    let (later, tie, order) = match query.order {
        Order::Descending => ("<", ">", format!("{at} DESC, {id} ASC")),
        // The exact reverse, so that the same index serves both.
        Order::Ascending => (">", "<", format!("{at} ASC, {id} DESC")),
    };
    if let Some(Keyset {
        at: last_at,
        id: last_id,
    }) = after
    {
        // The first comparison says nothing new; it is what the index can seek to.
        sql.push(format_args!(" AND {at} {later}= "))
            .push_bind(last_at.0);
        sql.push(format_args!(" AND ({at} {later} "))
            .push_bind(last_at.0);
        sql.push(format_args!(" OR {id} {tie} "))
            .push_bind(last_id)
            .push(")");
    }
    sql.push(format_args!(" ORDER BY {order} LIMIT "))
        .push_bind(fetch_limit(query.limit));
    sql
}

/// Adds `FROM` and `WHERE`: everything that decides whether a sandbox is in the list, on whatever page.
fn push_filter(
    sql: &mut QueryBuilder<Db>,
    query: &ListQuery,
    pairs: &[(&str, &str)],
    state: Option<RecordState>,
) {
    let team = query.team.as_str();
    match pairs.split_first() {
        None => {
            sql.push(" FROM sandboxes s WHERE s.team_id = ")
                .push_bind(team.to_owned());
        }
        Some(((key, value), others)) => {
            sql.push(" FROM sandbox_metadata m JOIN sandboxes s ON s.id = m.sandbox_id WHERE m.team_id = ");
            sql.push_bind(team.to_owned());
            sql.push(" AND m.key = ").push_bind((*key).to_owned());
            sql.push(" AND m.value = ").push_bind((*value).to_owned());
            for (key, value) in others {
                sql.push(" AND EXISTS (SELECT 1 FROM sandbox_metadata o WHERE o.sandbox_id = m.sandbox_id AND o.key = ");
                sql.push_bind((*key).to_owned());
                sql.push(" AND o.value = ")
                    .push_bind((*value).to_owned())
                    .push(")");
            }
        }
    }
    if let Some(state) = state {
        sql.push(" AND s.state = ").push_bind(state.as_str());
    }
    if let Some(started_after) = query.started_after {
        let at = if pairs.is_empty() { "s" } else { "m" };
        sql.push(format_args!(" AND {at}.started_at >= "))
            .push_bind(started_after.0);
    }
    if let Some(template) = &query.template_id {
        sql.push(" AND s.template_id = ")
            .push_bind(template.to_string());
    }
}

async fn insert_record<'c>(
    executor: impl sqlx::Executor<'c, Database = Db>,
    record: &SandboxRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sandboxes (id, team_id, template_id, build_id, execution_id, alias, metadata, started_at, end_at, \
         on_timeout, auto_pause_memory, auto_resume, auto_resume_timeout_seconds, vcpu_count, memory_mib, pids, disk_mib, \
         envd_version, allow_internet_access, network, allow_public_traffic, mask_request_host, https_ports, \
         volume_mounts, state, pause_mode, guest_unresponsive, files_saved, spec, \
         forked_from, memory) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
         $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)",
    )
    .bind(record.id.as_str())
    .bind(record.team.as_str())
    .bind(record.template_id.as_str())
    .bind(record.build_id.as_str())
    .bind(record.execution_id.as_str())
    .bind(&record.alias)
    .bind(record.metadata.as_ref().map(to_json))
    .bind(record.started_at.0)
    .bind(record.end_at.0)
    .bind(on_timeout_text(record.on_timeout))
    .bind(record.auto_pause_memory)
    .bind(record.auto_resume)
    .bind(record.auto_resume_timeout_seconds)
    .bind(i64::from(record.limits.vcpu_count))
    .bind(i64::from(record.limits.memory_mib))
    .bind(i64::from(record.limits.pids))
    .bind(i64::from(record.limits.disk_mib))
    .bind(&record.envd_version)
    .bind(record.allow_internet_access)
    .bind(record.network.as_ref().map(to_json))
    .bind(record.allow_public_traffic)
    .bind(&record.mask_request_host)
    .bind(to_json(&record.https_ports))
    .bind(to_json(&record.volume_mounts))
    .bind(record.state.as_str())
    .bind(record.pause.as_ref().map(|pause| pause.mode.as_str()))
    .bind(record.pause.as_ref().map(|pause| pause.guest_unresponsive))
    .bind(record.pause.as_ref().map(|pause| pause.files_saved))
    .bind(record.pause.as_ref().map(|pause| to_json(&pause.spec)))
    .bind(record.forked_from.as_ref().map(SandboxId::as_str))
    .bind(record.pause.as_ref().and_then(|pause| pause.memory.as_ref()).map(MemoryId::as_str))
    .execute(executor)
    .await
    .during("add a sandbox")?;
    Ok(())
}

async fn insert_pairs(
    transaction: &mut Transaction<'static, Db>,
    record: &SandboxRecord,
    pairs: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    // One statement for each pair: its text is always the same, so it is prepared once.
    for (key, value) in pairs {
        sqlx::query(
            "INSERT INTO sandbox_metadata (sandbox_id, key, value, team_id, started_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(record.id.as_str())
        .bind(key)
        .bind(value)
        .bind(record.team.as_str())
        .bind(record.started_at.0)
        .execute(&mut **transaction)
        .await
        .during("add metadata of a sandbox")?;
    }
    Ok(())
}

pub(crate) fn on_timeout_text(on_timeout: OnTimeout) -> &'static str {
    match on_timeout {
        OnTimeout::Kill => "kill",
        OnTimeout::Pause => "pause",
    }
}

fn on_timeout_of(row: &DbRow) -> Result<OnTimeout, StoreError> {
    let text: &str = column(row, TABLE, "on_timeout")?;
    [OnTimeout::Kill, OnTimeout::Pause]
        .into_iter()
        .find(|on_timeout| on_timeout_text(*on_timeout) == text)
        .ok_or(StoreError::Damaged {
            table: TABLE,
            column: "on_timeout",
        })
}

pub(crate) fn state_of(row: &DbRow) -> Result<RecordState, StoreError> {
    let text: &str = column(row, TABLE, "state")?;
    [RecordState::Running, RecordState::Paused]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or(StoreError::Damaged {
            table: TABLE,
            column: "state",
        })
}

pub(crate) fn record_of(row: &DbRow) -> Result<SandboxRecord, StoreError> {
    Ok(SandboxRecord {
        id: parsed(row, TABLE, "id")?,
        team: parsed(row, TABLE, "team_id")?,
        template_id: parsed(row, TABLE, "template_id")?,
        build_id: parsed(row, TABLE, "build_id")?,
        execution_id: parsed(row, TABLE, "execution_id")?,
        alias: column(row, TABLE, "alias")?,
        metadata: maybe_json(row, TABLE, "metadata")?,
        started_at: time(row, TABLE, "started_at")?,
        end_at: time(row, TABLE, "end_at")?,
        on_timeout: on_timeout_of(row)?,
        auto_pause_memory: column(row, TABLE, "auto_pause_memory")?,
        auto_resume: column(row, TABLE, "auto_resume")?,
        auto_resume_timeout_seconds: column(row, TABLE, "auto_resume_timeout_seconds")?,
        limits: limits_of(row, TABLE)?,
        envd_version: column(row, TABLE, "envd_version")?,
        allow_internet_access: column(row, TABLE, "allow_internet_access")?,
        network: maybe_json(row, TABLE, "network")?,
        allow_public_traffic: column(row, TABLE, "allow_public_traffic")?,
        mask_request_host: column(row, TABLE, "mask_request_host")?,
        pause: pause_of(row)?,
        https_ports: json(row, TABLE, "https_ports")?,
        volume_mounts: json(row, TABLE, "volume_mounts")?,
        state: state_of(row)?,
        forked_from: maybe_parsed(row, TABLE, "forked_from")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use soulbox_types::{LayerDigest, NetworkMode, SandboxSpec, TemplateImage};
    use sqlx::Row;

    use super::*;
    use crate::Team;
    use crate::database::tests::{TempStore, temp_store};
    use crate::teams::tests::add_team;

    pub(crate) fn record(
        team: &TeamId,
        started_at: i64,
        metadata: Option<&[(&str, &str)]>,
    ) -> SandboxRecord {
        SandboxRecord {
            id: SandboxId::random(),
            team: team.clone(),
            template_id: TemplateId::random(),
            build_id: BuildId::random(),
            execution_id: ExecutionId::random(),
            alias: Some("base".into()),
            metadata: metadata.map(|pairs| {
                pairs
                    .iter()
                    .map(|(k, v)| ((*k).into(), (*v).into()))
                    .collect()
            }),
            started_at: Timestamp(started_at),
            end_at: Timestamp(started_at + 300_000_000),
            on_timeout: OnTimeout::Pause,
            auto_pause_memory: true,
            auto_resume: false,
            auto_resume_timeout_seconds: 300,
            limits: Limits::STANDARD,
            envd_version: "0.6.0".into(),
            allow_internet_access: Some(false),
            network: Some(
                serde_json::json!({"allowOut": ["1.1.1.1"], "allowPublicTraffic": false}),
            ),
            allow_public_traffic: false,
            mask_request_host: Some("x:${PORT}".into()),
            https_ports: vec![443, 8443],
            volume_mounts: serde_json::json!([{"name": "v", "path": "/v"}]),
            state: RecordState::Running,
            pause: None,
            forked_from: None,
        }
    }

    pub(crate) fn pause(team: &TeamId) -> Pause {
        Pause {
            mode: crate::PauseMode::Full,
            guest_unresponsive: false,
            files_saved: false,
            memory: None,
            spec: SandboxSpec {
                id: record(team, 0, None).id,
                image: TemplateImage {
                    template_id: TemplateId::random(),
                    layers: vec![LayerDigest::from_bytes([7; 32])],
                    default_user: "user".into(),
                    default_workdir: None,
                },
                limits: Limits::STANDARD,
                network: NetworkMode::Internet,
                env_vars: BTreeMap::from([("A".into(), "b".into())]),
                volumes: Vec::new(),
                team: None,
                envd_access_token: String::new(),
            },
        }
    }

    async fn fixture() -> (TempStore, Team, Team) {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        (store, team, other)
    }

    async fn all_pages(store: &Store, mut query: ListQuery) -> Vec<SandboxRecord> {
        let mut got = Vec::new();
        loop {
            let page = store.list_sandboxes(&query).await.unwrap();
            assert!(page.items.len() <= usize::try_from(query.limit).unwrap());
            got.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return got,
            }
        }
    }

    #[tokio::test]
    #[expect(clippy::too_many_lines, reason = "one life in order")]
    async fn a_record_comes_back_as_it_was() {
        let (store, team, other) = fixture().await;
        let full = record(&team.id, 1, Some(&[("a", "1"), ("b", "2")]));
        let bare = SandboxRecord {
            alias: None,
            metadata: None,
            on_timeout: OnTimeout::Kill,
            allow_internet_access: None,
            network: None,
            mask_request_host: None,
            https_ports: vec![],
            volume_mounts: serde_json::json!([]),
            state: RecordState::Paused,
            pause: Some(pause(&team.id)),
            ..record(&team.id, 2, Some(&[]))
        };
        let empty = record(&team.id, 3, Some(&[]));
        for wanted in [&full, &bare, &empty] {
            store.insert_sandbox(wanted).await.unwrap();
            assert_eq!(
                store
                    .get_sandbox(&team.id, &wanted.id)
                    .await
                    .unwrap()
                    .as_ref(),
                Some(wanted)
            );
            assert_eq!(
                store.get_sandbox(&other.id, &wanted.id).await.unwrap(),
                None
            );
        }
        assert_eq!(
            store.insert_sandbox(&full).await.unwrap_err().kind(),
            ErrorKind::Internal
        );
        let running: Vec<_> = store
            .all_running()
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.id)
            .collect();
        assert_eq!(running.len(), 2);
        assert!(!running.contains(&bare.id));

        assert!(
            store
                .set_end_at(&full.id, Timestamp(77), Timestamp(5))
                .await
                .unwrap()
        );
        assert_eq!(
            store
                .get_sandbox(&team.id, &full.id)
                .await
                .unwrap()
                .unwrap()
                .end_at,
            Timestamp(77)
        );
        assert!(
            store
                .end_sandbox(&full.id, soulbox_types::EndReason::Request, Timestamp(9))
                .await
                .unwrap()
        );
        assert!(
            !store
                .end_sandbox(&full.id, soulbox_types::EndReason::Request, Timestamp(9))
                .await
                .unwrap()
        );
        assert!(
            !store
                .set_end_at(&full.id, Timestamp(78), Timestamp(5))
                .await
                .unwrap()
        );
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sandbox_metadata")
            .fetch_one(store.reader())
            .await
            .unwrap();
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn pages_neither_repeat_nor_skip() {
        let (store, team, other) = fixture().await;
        let mut want = Vec::new();
        for n in 0..23 {
            // Many at the same moment, so that pages end within ties.
            let one = record(&team.id, n / 6, Some(&[("k", "v")]));
            store.insert_sandbox(&one).await.unwrap();
            store
                .insert_sandbox(&record(&other.id, n / 6, Some(&[("k", "v")])))
                .await
                .unwrap();
            want.push(one);
        }
        want.sort_by(|a, b| b.started_at.cmp(&a.started_at).then(a.id.cmp(&b.id)));
        for limit in [1, 2, 5, 22, 23, 24, u32::MAX] {
            for metadata in [
                BTreeMap::new(),
                BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            ] {
                let query = ListQuery {
                    limit,
                    metadata,
                    ..ListQuery::all(team.id.clone())
                };
                assert_eq!(
                    all_pages(&store, query.clone()).await,
                    want,
                    "limit {limit}"
                );
                let mut reverse = all_pages(
                    &store,
                    ListQuery {
                        order: Order::Ascending,
                        ..query
                    },
                )
                .await;
                reverse.reverse();
                assert_eq!(reverse, want, "limit {limit}, ascending");
            }
        }
    }

    #[tokio::test]
    async fn a_page_goes_on_after_a_row_that_has_gone() {
        let (store, team, _) = fixture().await;
        let records: Vec<_> = (0..4).map(|n| record(&team.id, n, None)).collect();
        for one in &records {
            store.insert_sandbox(one).await.unwrap();
        }
        let query = ListQuery {
            limit: 2,
            ..ListQuery::all(team.id.clone())
        };
        let first = store.list_sandboxes(&query).await.unwrap();
        store
            .end_sandbox(
                &records[2].id,
                soulbox_types::EndReason::Request,
                Timestamp(9),
            )
            .await
            .unwrap();
        let second = store
            .list_sandboxes(&ListQuery {
                cursor: first.next_cursor,
                ..query
            })
            .await
            .unwrap();
        assert_eq!(second.items, [records[1].clone(), records[0].clone()]);
        assert_eq!((second.next_cursor, second.total_running), (None, 3));
    }

    #[tokio::test]
    async fn tokens_belong_to_their_order() {
        let (store, team, _) = fixture().await;
        for n in 0..3 {
            store
                .insert_sandbox(&record(&team.id, n, None))
                .await
                .unwrap();
        }
        let query = ListQuery {
            limit: 1,
            ..ListQuery::all(team.id.clone())
        };
        let cursor = store.list_sandboxes(&query).await.unwrap().next_cursor;
        let wrong = [
            ListQuery {
                cursor,
                order: Order::Ascending,
                ..query.clone()
            },
            ListQuery {
                cursor: Some("nonsense!".into()),
                ..query.clone()
            },
        ];
        for query in wrong {
            let error = store.list_sandboxes(&query).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.user_message()),
                (ErrorKind::InvalidArgument, Some("Invalid next token"))
            );
        }
    }

    #[tokio::test]
    async fn filters() {
        let (store, team, other) = fixture().await;
        let mut rows = [
            record(&team.id, 10, Some(&[("env", "prod"), ("user", "1")])),
            record(&team.id, 20, Some(&[("env", "prod"), ("user", "2")])),
            record(&team.id, 30, Some(&[("env", "dev")])),
            record(&team.id, 40, None),
            record(&team.id, 50, Some(&[])),
        ];
        rows[2].state = RecordState::Paused;
        rows[2].pause = Some(pause(&team.id));
        rows[3].template_id = rows[0].template_id.clone();
        for row in &rows {
            store.insert_sandbox(row).await.unwrap();
        }
        store
            .insert_sandbox(&record(&other.id, 60, Some(&[("env", "prod")])))
            .await
            .unwrap();
        let template = Some(rows[0].template_id.clone());
        let pairs = |query: &mut ListQuery, pairs: &[(&str, &str)]| {
            query.metadata = pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect();
        };
        let check = async |adjust: &dyn Fn(&mut ListQuery), want: &[usize], running: i64| {
            let mut query = ListQuery::all(team.id.clone());
            adjust(&mut query);
            let page = store.list_sandboxes(&query).await.unwrap();
            let want: Vec<_> = want.iter().map(|index| rows[*index].clone()).collect();
            assert_eq!(
                (page.items, page.total_running),
                (want, running),
                "{query:?}"
            );
        };
        let (live, paused) = (RecordState::Running, RecordState::Paused);
        check(&|_| {}, &[4, 3, 2, 1, 0], 4).await;
        check(&|q| q.limit = 1, &[4], 4).await;
        check(&|q| pairs(q, &[("env", "prod")]), &[1, 0], 2).await;
        check(&|q| pairs(q, &[("env", "prod"), ("user", "1")]), &[0], 1).await;
        check(&|q| pairs(q, &[("env", "dev"), ("user", "1")]), &[], 0).await;
        check(&|q| pairs(q, &[("env", "PROD")]), &[], 0).await;
        check(&|q| q.states = vec![paused], &[2], 0).await;
        check(&|q| q.states = vec![live], &[4, 3, 1, 0], 4).await;
        check(&|q| q.states = vec![live, paused], &[4, 3, 2, 1, 0], 4).await;
        check(&|q| q.started_after = Some(Timestamp(40)), &[4, 3], 2).await;
        check(&|q| q.template_id.clone_from(&template), &[3, 0], 2).await;
        let all_at_once = |q: &mut ListQuery| {
            pairs(q, &[("user", "1")]);
            q.started_after = Some(Timestamp(10));
            q.template_id.clone_from(&template);
            q.states = vec![live];
        };
        check(&all_at_once, &[0], 1).await;
    }

    #[tokio::test]
    async fn spawns_are_counted() {
        let store = temp_store().await;
        let wanted = crate::BootstrapTemplate {
            alias: "base".into(),
            description: None,
            limits: Limits::STANDARD,
            layers: vec![],
            envd_version: "0.6.0".into(),
            default_user: "user".into(),
            default_workdir: None,
        };
        let base = store
            .upsert_bootstrap_template(&wanted)
            .await
            .unwrap()
            .template;
        for n in 1..=3 {
            let one = SandboxRecord {
                template_id: base.id.clone(),
                ..record(&base.team, n, None)
            };
            store.insert_sandbox(&one).await.unwrap();
        }
        let template = store
            .get_template(&base.id)
            .await
            .unwrap()
            .unwrap()
            .template;
        assert_eq!(
            (template.spawn_count, template.last_spawned_at),
            (3, Some(Timestamp(3)))
        );
    }

    /// A list must be a walk over an index in the wanted order: no scan, no sorting.
    #[tokio::test]
    async fn lists_walk_an_index() {
        let (store, team, _) = fixture().await;
        let all = ListQuery::all(team.id.clone());
        let check = async |query: &ListQuery, index: &str| {
            let pairs: Vec<_> = query
                .metadata
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            for order in [Order::Ascending, Order::Descending] {
                let query = ListQuery {
                    order,
                    ..query.clone()
                };
                let after = Some(Keyset {
                    at: Timestamp(5),
                    id: "x".into(),
                });
                let sql = format!(
                    "EXPLAIN QUERY PLAN {}",
                    page_query(&query, &pairs, after).into_string()
                );
                let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                    .fetch_all(store.reader())
                    .await
                    .unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
                let plan = plan.join("\n");
                assert!(
                    plan.contains(index) && plan.contains("started_at"),
                    "{plan}"
                );
                assert!(
                    !plan.contains("TEMP B-TREE") && !plan.contains("SCAN"),
                    "{plan}"
                );
            }
        };
        check(&all, "sandboxes_by_start").await;
        check(
            &ListQuery {
                states: vec![RecordState::Running],
                ..all.clone()
            },
            "sandboxes_by_state",
        )
        .await;
        check(
            &ListQuery {
                template_id: Some(TemplateId::random()),
                ..all.clone()
            },
            "sandboxes_by_template",
        )
        .await;
        let pairs = BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        check(
            &ListQuery {
                metadata: pairs,
                ..all
            },
            "sandbox_metadata_by_pair",
        )
        .await;
    }
}

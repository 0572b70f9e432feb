//! Builds: attempts to make a version of a template, from the request to their end.
//!
//! A build waits for its start, is in progress, and ends once: ready or failed. Each of these steps is one statement that
//! names the state before it, so that of two who want different ends one is told that the other was first.

use std::collections::BTreeMap;
use std::time::Duration;

use soulbox_types::{
    BuildContext, BuildId, LayerDigest, Limits, MemoryId, SandboxId, StartCommand, TeamId,
    TemplateId, Timestamp,
};
use sqlx::{QueryBuilder, Transaction};

use crate::database::{
    Db, DbRow, column, json, maybe_json, maybe_parsed, maybe_time, parsed, time, to_json, unsigned,
};
use crate::error::During;
use crate::page::{Keyset, cut};
use crate::templates::push_page;
use crate::versions::ready_of_version;
use crate::{Order, Page, PageRequest, Store, StoreError};

/// Name of the table in messages.
const TABLE: &str = "builds";
/// How long a build may wait for its start: a client that has not started it by then has gone away.
const MAX_WAIT: Duration = Duration::from_mins(40);
/// What such a build ends with, as the wire says it.
const WAITED_TOO_LONG: &str = "build is in waiting state for too long";

/// How far a build has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildStatus {
    /// Not begun.
    Waiting,
    /// In progress.
    Building,
    /// Usable.
    Ready,
    /// Failed.
    Error,
}

/// One attempt to make a version of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// What it is a build of.
    pub template: TemplateId,
    /// How far it has come.
    pub status: BuildStatus,
    /// Limits of the sandboxes made from it.
    pub limits: Limits,
    /// Digests of its layers, topmost first.
    pub layers: Vec<String>,
    /// Version of envd that its sandboxes run.
    pub envd_version: String,
    /// User that commands run as when the caller names none.
    pub default_user: String,
    /// Working directory of commands; the user's home when absent.
    pub default_workdir: Option<String>,
    /// Environment of the steps of builds that go on from it.
    pub env: BTreeMap<String, String>,
    /// What runs in its sandboxes from their beginning.
    pub start: Option<StartCommand>,
    /// Memory that its sandboxes go on from.
    pub memory: Option<SavedMemory>,
    /// Why it failed.
    pub reason: Option<BuildReason>,
    /// Which build of its template it is, counted from 1.
    pub version: i64,
    /// Its semantic version, for example `1.2.0`; no other build of the template has the same.
    pub semver: Option<String>,
    /// Content of its own layers in bytes, without those that it goes on from.
    pub size_bytes: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended, well or not.
    pub finished_at: Option<Timestamp>,
}

/// Memory of a sandbox at the moment in which it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedMemory {
    /// Where it is.
    pub id: MemoryId,
    /// The sandbox; its envd's token is still in force in the memory.
    pub of: SandboxId,
    /// The start command makes the same, only later: so it is with templates, and not with snapshots.
    pub replaceable: bool,
}

/// Why a build has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildReason {
    /// What happened, as the caller is told.
    pub message: String,
    /// Where: `base`, `finalize`, or a step counted from 1; absent when it was nowhere in particular.
    pub step: Option<String>,
}

/// What a build that succeeds has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedBuild {
    /// Its layers, topmost first, with those that it goes on from.
    pub layers: Vec<LayerDigest>,
    /// As whom, where and with what the next build goes on.
    pub context: BuildContext,
    /// What runs in its sandboxes from their beginning.
    pub start: Option<StartCommand>,
    /// Memory that its sandboxes go on from.
    pub memory: Option<SavedMemory>,
    /// Version of envd that its sandboxes run.
    pub envd_version: String,
    /// Content of its own layers in bytes.
    pub size_bytes: i64,
    /// Size of the root file system of its sandboxes in MiB.
    pub disk_mib: u32,
}

impl BuildStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Error => "error",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Building, Self::Ready, Self::Error]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl Store {
    /// The usable build under a tag, or with a version or a build id in place of the tag. A tag comes before a version
    /// of the same text.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ready_build(
        &self,
        template: &TemplateId,
        tag: &str,
    ) -> Result<Option<Build>, StoreError> {
        let Ok(build) = tag.parse::<BuildId>() else {
            return match newest_ready(self.reader(), template, tag).await? {
                Some(build) => Ok(Some(build)),
                None => ready_of_version(self.reader(), template, tag).await,
            };
        };
        let row = sqlx::query(
            "SELECT * FROM builds WHERE id = $1 AND template_id = $2 AND status = 'ready'",
        )
        .bind(build.as_str())
        .bind(template.as_str())
        .fetch_optional(self.reader())
        .await
        .during("look up a build")?;
        row.as_ref().map(build_of).transpose()
    }

    /// A build of this template, however far it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_build(
        &self,
        template: &TemplateId,
        build: &BuildId,
    ) -> Result<Option<Build>, StoreError> {
        let found = self.read_build(template, build).await?;
        let overdue = |build: &Build| {
            build.status == BuildStatus::Waiting && build.created_at < oldest_waiting()
        };
        if !found.as_ref().is_some_and(overdue) {
            return Ok(found);
        }
        let mut transaction = self.write().await?;
        fail_overdue(&mut transaction).await?;
        transaction.commit().await.during("end builds")?;
        self.read_build(template, build).await
    }

    async fn read_build(
        &self,
        template: &TemplateId,
        build: &BuildId,
    ) -> Result<Option<Build>, StoreError> {
        let row = sqlx::query("SELECT * FROM builds WHERE id = $1 AND template_id = $2")
            .bind(build.as_str())
            .bind(template.as_str())
            .fetch_optional(self.reader())
            .await
            .during("look up a build")?;
        row.as_ref().map(build_of).transpose()
    }

    /// Notes that a waiting build is in progress. `None` when it was not waiting; otherwise the builds of the same
    /// template that are in progress and share a tag with it, which the caller cancels.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start_build(&self, build: &BuildId) -> Result<Option<Vec<BuildId>>, StoreError> {
        let mut transaction = self.write_quickly().await?;
        fail_overdue(&mut transaction).await?;
        let started = sqlx::query(
            "UPDATE builds SET status = 'building', updated_at = $2 WHERE id = $1 AND status = 'waiting'",
        )
        .bind(build.as_str())
        .bind(Timestamp::now().0)
        .execute(&mut *transaction)
        .await
        .during("start a build")?
        .rows_affected();
        let rivals = if started == 0 {
            None
        } else {
            Some(rivals(&mut transaction, build).await?)
        };
        transaction.commit().await.during("start a build")?;
        Ok(rivals)
    }

    /// Notes that a build in progress has succeeded. False when it was not in progress any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_build(
        &self,
        build: &BuildId,
        finished: &FinishedBuild,
    ) -> Result<bool, StoreError> {
        let now = Timestamp::now().0;
        let mut transaction = self.write().await?;
        let done = sqlx::query(
            "UPDATE builds SET status = 'ready', layers = $2, envd_version = $3, default_user = $4, \
             default_workdir = $5, env = $6, start_command = $7, size_bytes = $8, disk_mib = $9, memory = $10, \
             memory_of = $11, updated_at = $12, finished_at = $12 WHERE id = $1 AND status = 'building'",
        )
        .bind(build.as_str())
        .bind(to_json(&finished.layers))
        .bind(&finished.envd_version)
        .bind(&finished.context.user)
        .bind(&finished.context.workdir)
        .bind(to_json(&finished.context.env))
        .bind(finished.start.as_ref().map(to_json))
        .bind(finished.size_bytes)
        .bind(i64::from(finished.disk_mib))
        .bind(finished.memory.as_ref().map(|memory| memory.id.as_str()))
        .bind(finished.memory.as_ref().map(|memory| memory.of.as_str()))
        .bind(now)
        .execute(&mut *transaction)
        .await
        .during("finish a build")?
        .rows_affected();
        if done > 0 {
            sqlx::query(
                "UPDATE templates SET updated_at = $2 WHERE id = (SELECT template_id FROM builds WHERE id = $1)",
            )
            .bind(build.as_str())
            .bind(now)
            .execute(&mut *transaction)
            .await
            .during("update a template")?;
        }
        transaction.commit().await.during("finish a build")?;
        Ok(done > 0)
    }

    /// Notes that a build has failed. False when it had ended already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fail_build(
        &self,
        build: &BuildId,
        reason: &BuildReason,
    ) -> Result<bool, StoreError> {
        let failed = sqlx::query(
            "UPDATE builds SET status = 'error', reason = $2, reason_step = $3, updated_at = $4, finished_at = $4 \
             WHERE id = $1 AND status IN ('waiting', 'building')",
        )
        .bind(build.as_str())
        .bind(&reason.message)
        .bind(&reason.step)
        .bind(Timestamp::now().0)
        .execute(self.writer())
        .await
        .during("end a build")?;
        Ok(failed.rows_affected() > 0)
    }

    /// Ends every build that is in progress: at the start of a server nobody works on them. Says how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fail_interrupted_builds(&self, reason: &BuildReason) -> Result<u64, StoreError> {
        let failed = sqlx::query(
            "UPDATE builds SET status = 'error', reason = $1, reason_step = $2, updated_at = $3, finished_at = $3 \
             WHERE status = 'building'",
        )
        .bind(&reason.message)
        .bind(&reason.step)
        .bind(Timestamp::now().0)
        .execute(self.writer())
        .await
        .during("end builds")?;
        Ok(failed.rows_affected())
    }

    /// The team's builds that wait or are in progress, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn active_builds(&self, team: &TeamId) -> Result<Vec<BuildId>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.id FROM builds b JOIN templates t ON t.id = b.template_id \
             WHERE t.team_id = $1 AND b.status IN ('waiting', 'building') ORDER BY b.created_at, b.id",
        )
        .bind(team.as_str())
        .fetch_all(self.reader())
        .await
        .during("list builds")?;
        rows.iter().map(|row| parsed(row, TABLE, "id")).collect()
    }

    /// A template's builds, newest first.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list_builds(
        &self,
        template: &TemplateId,
        page: &PageRequest,
    ) -> Result<Page<Build>, StoreError> {
        let order = Order::Descending;
        let mut query = QueryBuilder::new("SELECT * FROM builds b WHERE b.template_id = ");
        query.push_bind(template.as_str());
        push_page(&mut query, ("b.created_at", "b.id"), order, page)?;
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("list builds")?;
        let mut items = rows.iter().map(build_of).collect::<Result<Vec<_>, _>>()?;
        let next_cursor = cut(&mut items, page.limit, order, |build| Keyset {
            at: build.created_at,
            id: build.id.to_string(),
        });
        Ok(Page { items, next_cursor })
    }
}

/// The earliest moment at which a build that still waits may have been asked for.
fn oldest_waiting() -> Timestamp {
    let wait = i64::try_from(MAX_WAIT.as_micros()).unwrap_or(i64::MAX);
    Timestamp(Timestamp::now().0.saturating_sub(wait))
}

/// Ends the builds that nobody has started in time.
pub(crate) async fn fail_overdue(
    transaction: &mut Transaction<'static, Db>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE builds SET status = 'error', reason = $1, updated_at = $2, finished_at = $2 \
         WHERE status = 'waiting' AND created_at < $3",
    )
    .bind(WAITED_TOO_LONG)
    .bind(Timestamp::now().0)
    .bind(oldest_waiting().0)
    .execute(&mut **transaction)
    .await
    .during("end builds")?;
    Ok(())
}

/// The builds in progress of the same template that share a tag with this one.
async fn rivals(
    transaction: &mut Transaction<'static, Db>,
    build: &BuildId,
) -> Result<Vec<BuildId>, StoreError> {
    let rows = sqlx::query(
        "SELECT DISTINCT o.id FROM builds b JOIN builds o ON o.template_id = b.template_id AND o.id <> b.id \
         JOIN template_tags theirs ON theirs.build_id = o.id \
         JOIN template_tags ours ON ours.build_id = b.id AND ours.tag = theirs.tag \
         WHERE b.id = $1 AND o.status = 'building'",
    )
    .bind(build.as_str())
    .fetch_all(&mut **transaction)
    .await
    .during("look for builds in progress")?;
    rows.iter().map(|row| parsed(row, TABLE, "id")).collect()
}

/// Writes a build down under the next version of its template, and returns it with that version.
pub(crate) async fn insert_build(
    transaction: &mut Transaction<'static, Db>,
    build: Build,
) -> Result<Build, StoreError> {
    let version = sqlx::query_scalar(
        "INSERT INTO builds (id, template_id, status, vcpu_count, memory_mib, pids, disk_mib, layers, envd_version, \
         default_user, default_workdir, created_at, updated_at, finished_at, env, start_command, size_bytes, semantic_version, memory, \
         memory_of, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
         (SELECT COALESCE(MAX(version), 0) + 1 FROM builds WHERE template_id = $2)) RETURNING version",
    )
    .bind(build.id.as_str())
    .bind(build.template.as_str())
    .bind(build.status.as_str())
    .bind(i64::from(build.limits.vcpu_count))
    .bind(i64::from(build.limits.memory_mib))
    .bind(i64::from(build.limits.pids))
    .bind(i64::from(build.limits.disk_mib))
    .bind(to_json(&build.layers))
    .bind(&build.envd_version)
    .bind(&build.default_user)
    .bind(&build.default_workdir)
    .bind(build.created_at.0)
    .bind(build.updated_at.0)
    .bind(build.finished_at.map(|at| at.0))
    .bind(to_json(&build.env))
    .bind(build.start.as_ref().map(to_json))
    .bind(build.size_bytes)
    .bind(&build.semver)
    .bind(build.memory.as_ref().map(|memory| memory.id.as_str()))
    .bind(build.memory.as_ref().map(|memory| memory.of.as_str()))
    .fetch_one(&mut **transaction)
    .await
    .during("add a build")?;
    Ok(Build { version, ..build })
}

pub(crate) async fn newest_ready<'c>(
    executor: impl sqlx::Executor<'c, Database = Db>,
    template: &TemplateId,
    tag: &str,
) -> Result<Option<Build>, StoreError> {
    let row = sqlx::query(
        "SELECT b.* FROM template_tags a JOIN builds b ON b.id = a.build_id \
         WHERE a.template_id = $1 AND a.tag = $2 AND b.status = 'ready' \
         ORDER BY a.created_at DESC, a.id DESC LIMIT 1",
    )
    .bind(template.as_str())
    .bind(tag)
    .fetch_optional(executor)
    .await
    .during("look up a build")?;
    row.as_ref().map(build_of).transpose()
}

pub(crate) fn build_of(row: &DbRow) -> Result<Build, StoreError> {
    let status = BuildStatus::parse(column(row, TABLE, "status")?);
    Ok(Build {
        id: parsed(row, TABLE, "id")?,
        template: parsed(row, TABLE, "template_id")?,
        status: status.ok_or(StoreError::Damaged {
            table: TABLE,
            column: "status",
        })?,
        limits: limits_of(row, TABLE)?,
        layers: json(row, TABLE, "layers")?,
        envd_version: column(row, TABLE, "envd_version")?,
        default_user: column(row, TABLE, "default_user")?,
        default_workdir: column(row, TABLE, "default_workdir")?,
        env: json(row, TABLE, "env")?,
        start: maybe_json(row, TABLE, "start_command")?,
        memory: memory_of(row)?,
        reason: reason_of(row)?,
        version: column(row, TABLE, "version")?,
        semver: column(row, TABLE, "semantic_version")?,
        size_bytes: column(row, TABLE, "size_bytes")?,
        created_at: time(row, TABLE, "created_at")?,
        updated_at: time(row, TABLE, "updated_at")?,
        finished_at: maybe_time(row, TABLE, "finished_at")?,
    })
}

fn memory_of(row: &DbRow) -> Result<Option<SavedMemory>, StoreError> {
    let Some(id) = maybe_parsed(row, TABLE, "memory")? else {
        return Ok(None);
    };
    let saved_from: Option<String> = column(row, TABLE, "saved_from")?;
    Ok(Some(SavedMemory {
        id,
        of: parsed(row, TABLE, "memory_of")?,
        replaceable: saved_from.is_none(),
    }))
}

fn reason_of(row: &DbRow) -> Result<Option<BuildReason>, StoreError> {
    let message: Option<String> = column(row, TABLE, "reason")?;
    let step = column(row, TABLE, "reason_step")?;
    Ok(message.map(|message| BuildReason { message, step }))
}

/// Reads the four columns of limits.
pub(crate) fn limits_of(row: &DbRow, table: &'static str) -> Result<Limits, StoreError> {
    Ok(Limits {
        vcpu_count: unsigned(row, table, "vcpu_count")?,
        memory_mib: unsigned(row, table, "memory_mib")?,
        pids: unsigned(row, table, "pids")?,
        disk_mib: unsigned(row, table, "disk_mib")?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::database::tests::temp_store;
    use crate::sandboxes::tests::record;
    use crate::templates::tests::{add_build, add_template, base};
    use crate::{CachedStep, SandboxRecord};

    fn reason(message: &str, step: Option<&str>) -> BuildReason {
        BuildReason {
            message: message.into(),
            step: step.map(Into::into),
        }
    }

    fn finished() -> FinishedBuild {
        let context = BuildContext {
            user: "user".into(),
            workdir: Some("/app".into()),
            env: BTreeMap::from([("A".into(), "b".into())]),
        };
        FinishedBuild {
            layers: vec![layer(2), layer(1)],
            start: Some(StartCommand {
                command: "server".into(),
                ready: "sleep 1".into(),
                context: context.clone(),
            }),
            context,
            memory: Some(SavedMemory {
                id: MemoryId::random(),
                of: SandboxId::random(),
                replaceable: true,
            }),
            envd_version: "0.6.9".into(),
            size_bytes: 77,
            disk_mib: 4096,
        }
    }

    fn layer(n: u8) -> LayerDigest {
        LayerDigest::from_bytes([n; 32])
    }

    #[tokio::test]
    async fn a_build_ends_once() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (id, build) = add_template(&store, &team, "t", BuildStatus::Waiting, now()).await;
        assert!(!store.finish_build(&build.id, &finished()).await.unwrap());
        assert_eq!(store.start_build(&build.id).await.unwrap(), Some(vec![]));
        assert_eq!(store.start_build(&build.id).await.unwrap(), None);
        assert_eq!(
            store.active_builds(&team.id).await.unwrap(),
            std::slice::from_ref(&build.id)
        );
        let want = finished();
        assert!(store.finish_build(&build.id, &want).await.unwrap());
        assert!(
            !store
                .fail_build(&build.id, &reason("late", None))
                .await
                .unwrap()
        );

        let got = store.find_build(&id, &build.id).await.unwrap().unwrap();
        assert_eq!((got.status, got.version), (BuildStatus::Ready, 1));
        assert_eq!(got.layers, [layer(2).to_string(), layer(1).to_string()]);
        assert_eq!((got.start, got.env), (want.start, want.context.env));
        let in_use = store.memory_in_use().await.unwrap();
        assert_eq!(in_use, HashSet::from([got.memory.clone().unwrap().id]));
        assert_eq!(got.memory, want.memory);
        assert_eq!((got.size_bytes, got.limits.disk_mib), (77, 4096));
        assert_eq!(got.default_workdir.as_deref(), Some("/app"));
        assert!(store.active_builds(&team.id).await.unwrap().is_empty());
        assert_eq!(
            store
                .find_build(&TemplateId::random(), &build.id)
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn a_failure_has_a_reason() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (id, first) = add_template(&store, &team, "t", BuildStatus::Building, now()).await;
        let why = reason("failed to run command 'x': exit status 1", Some("2"));
        assert!(store.fail_build(&first.id, &why).await.unwrap());
        assert!(!store.finish_build(&first.id, &finished()).await.unwrap());
        let got = store.find_build(&id, &first.id).await.unwrap().unwrap();
        assert_eq!((got.status, got.reason), (BuildStatus::Error, Some(why)));
        assert!(got.finished_at.is_some());

        let second = add_build(&store, &id, BuildStatus::Building, "x", now()).await;
        let waits = add_build(&store, &id, BuildStatus::Waiting, "y", now()).await;
        assert_eq!((second.version, waits.version), (2, 3));
        let lost = reason("the server was restarted", None);
        assert_eq!(store.fail_interrupted_builds(&lost).await.unwrap(), 1);
        let got = store.find_build(&id, &second.id).await.unwrap().unwrap();
        assert_eq!(got.reason, Some(lost));
        assert_eq!(
            store
                .find_build(&id, &waits.id)
                .await
                .unwrap()
                .unwrap()
                .status,
            BuildStatus::Waiting
        );
    }

    #[tokio::test]
    async fn only_builds_that_share_a_tag_are_rivals() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (id, shares) = add_template(&store, &team, "t", BuildStatus::Building, now()).await;
        add_build(&store, &id, BuildStatus::Building, "other", now()).await;
        add_build(&store, &id, BuildStatus::Ready, "default", now()).await;
        add_template(&store, &team, "u", BuildStatus::Building, now()).await;
        let new = add_build(&store, &id, BuildStatus::Waiting, "default", now()).await;
        assert_eq!(
            store.start_build(&new.id).await.unwrap(),
            Some(vec![shares.id])
        );
    }

    #[tokio::test]
    async fn a_build_that_nobody_starts_fails() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (id, old) = add_template(&store, &team, "t", BuildStatus::Waiting, 1).await;
        let fresh = add_build(&store, &id, BuildStatus::Waiting, "x", now()).await;
        let got = store.find_build(&id, &old.id).await.unwrap().unwrap();
        assert_eq!(got.reason, Some(reason(WAITED_TOO_LONG, None)));
        let got = store.find_build(&id, &fresh.id).await.unwrap().unwrap();
        assert_eq!(got.status, BuildStatus::Waiting);
        let late = add_build(&store, &id, BuildStatus::Waiting, "y", 2).await;
        assert_eq!(store.start_build(&late.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn layers_that_somebody_needs() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        store.upsert_bootstrap_template(&base()).await.unwrap();
        let (id, build) = add_template(&store, &team, "t", BuildStatus::Building, now()).await;
        store.finish_build(&build.id, &finished()).await.unwrap();
        let step = CachedStep {
            layer: Some(layer(9)),
            context: BuildContext::default(),
            size_bytes: 1,
        };
        store.put_cached_step(&team.id, "k", &step).await.unwrap();
        let of_base = HashSet::from([layer(0xaa), layer(0xbb)]);
        let with = |more: &[u8]| -> HashSet<LayerDigest> {
            more.iter()
                .map(|n| layer(*n))
                .chain(of_base.clone())
                .collect()
        };
        assert_eq!(
            store.layers_in_use(Timestamp(0)).await.unwrap(),
            with(&[1, 2, 9])
        );

        let template = store.get_template(&id).await.unwrap().unwrap().template;
        store.delete_template(&template, "t").await.unwrap();
        assert_eq!(store.layers_in_use(Timestamp(0)).await.unwrap(), with(&[9]));
        // As it is when a sandbox was being made while its template was deleted.
        let sandbox = SandboxRecord {
            template_id: id,
            build_id: build.id,
            ..record(&team.id, 1, None)
        };
        store.insert_sandbox(&sandbox).await.unwrap();
        assert_eq!(
            store.layers_in_use(Timestamp(0)).await.unwrap(),
            with(&[1, 2, 9])
        );
    }

    fn now() -> i64 {
        Timestamp::now().0
    }
}

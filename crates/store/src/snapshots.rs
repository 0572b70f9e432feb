//! Snapshots: builds that were saved from a sandbox, under a template of the team.

use std::collections::HashMap;

use soulbox_types::{
    BuildId, EventKind, Limits, SandboxId, TeamId, TemplateId, TemplateRef, Timestamp,
};
use sqlx::{QueryBuilder, Transaction};

use crate::builds::{Build, BuildStatus, FinishedBuild, insert_build};
use crate::database::{Db, DbRow, column, parsed, time};
use crate::error::During;
use crate::events::{self, SUBJECT, Subject};
use crate::page::{Keyset, cut};
use crate::request_build::{self, RequestBuildError};
use crate::tags::insert_tag;
use crate::templates::push_page;
use crate::versions::next_version;
use crate::{Order, Page, PageRequest, Store, StoreError, Team};

/// Name of the table in messages.
const TABLE: &str = "builds";
/// The tag that a name without one means.
pub const DEFAULT_TAG: &str = "default";

/// What a sandbox was saved as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name and tag; without one it is reached by the id of a new template. A namespace must be the team's own.
    pub reference: Option<TemplateRef>,
    /// The sandbox.
    pub saved_from: SandboxId,
    /// Limits of the sandboxes made from it.
    pub limits: Limits,
    /// What was saved.
    pub finished: FinishedBuild,
}

/// A snapshot that sandboxes can be created from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The template it belongs to.
    pub template: TemplateId,
    /// The template's name in the team's namespace.
    pub alias: Option<String>,
    /// Its tag.
    pub tag: String,
    /// The build.
    pub build: BuildId,
    /// The sandbox it was saved from.
    pub saved_from: SandboxId,
    /// Content of its own layers in bytes, without those of what its sandbox was created from.
    pub size_bytes: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Which snapshots are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Saved from this sandbox.
    pub saved_from: Option<SandboxId>,
    /// Of this template.
    pub template: Option<TemplateId>,
    /// With this tag.
    pub tag: Option<String>,
}

impl Store {
    /// Writes down a snapshot, usable from then on: a build of the team's template with this name, or of a new one.
    ///
    /// # Errors
    /// See [`RequestBuildError`]; nothing has changed then.
    pub async fn add_snapshot(
        &self,
        team: &Team,
        new: &NewSnapshot,
    ) -> Result<Snapshot, RequestBuildError> {
        let now = Timestamp::now();
        let mut transaction = self.write().await?;
        let template = match &new.reference {
            Some(reference) => {
                request_build::own_template(&mut transaction, team, reference, now).await?
            }
            None => None,
        };
        let template = match template {
            Some(template) => template,
            None => add_template(&mut transaction, &team.id, now).await?,
        };
        if let Some(reference) = &new.reference {
            request_build::claim_alias(&mut transaction, team, &template, reference, now).await?;
        }
        let tag = (new.reference.as_ref())
            .and_then(|reference| reference.tag.clone())
            .unwrap_or_else(|| DEFAULT_TAG.to_owned());
        let semver = next_version(&mut transaction, &template, std::slice::from_ref(&tag)).await?;
        let build = insert_build(&mut transaction, ready(&template, new, semver, now)).await?;
        insert_tag(&mut transaction, &build, &tag, now).await?;
        sqlx::query("UPDATE builds SET saved_from = $2 WHERE id = $1")
            .bind(build.id.as_str())
            .bind(new.saved_from.as_str())
            .execute(&mut *transaction)
            .await
            .during("add a snapshot")?;
        record_checkpoint(&mut transaction, new, &template, &build.id, now).await?;
        transaction.commit().await.during("add a snapshot")?;
        self.events_recorded();
        Ok(Snapshot {
            template,
            alias: (new.reference.as_ref()).map(|reference| reference.alias_or_id.clone()),
            tag,
            build: build.id,
            saved_from: new.saved_from.clone(),
            size_bytes: build.size_bytes,
            created_at: now,
        })
    }

    /// A team's snapshots, the newest template first: of each template its newest one that passes the filter.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list_snapshots(
        &self,
        team: &Team,
        filter: &SnapshotFilter,
        page: &PageRequest,
    ) -> Result<Page<Snapshot>, StoreError> {
        let order = Order::Descending;
        let mut query = question(team, filter);
        push_page(&mut query, ("t.created_at", "t.id"), order, page)?;
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("list snapshots")?;
        let mut items = rows
            .iter()
            .map(|row| {
                Ok((
                    time(row, "templates", "template_created_at")?,
                    snapshot_of(row)?,
                ))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let next_cursor = cut(&mut items, page.limit, order, |(at, item)| Keyset {
            at: *at,
            id: item.template.to_string(),
        });
        let mut items: Vec<Snapshot> = items.into_iter().map(|(_, item)| item).collect();
        self.add_snapshot_tags(&mut items, filter.tag.as_deref())
            .await?;
        Ok(Page { items, next_cursor })
    }

    /// The tag that each of them is shown with: the one that was asked for, or else its newest.
    async fn add_snapshot_tags(
        &self,
        items: &mut [Snapshot],
        asked: Option<&str>,
    ) -> Result<(), StoreError> {
        if let Some(asked) = asked {
            for item in items {
                asked.clone_into(&mut item.tag);
            }
            return Ok(());
        }
        if items.is_empty() {
            return Ok(());
        }
        let mut query =
            QueryBuilder::<Db>::new("SELECT build_id, tag FROM template_tags WHERE build_id IN (");
        let mut ids = query.separated(", ");
        for item in items.iter() {
            ids.push_bind(item.build.to_string());
        }
        query.push(") ORDER BY created_at, id");
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("read tags")?;
        let mut newest = HashMap::new();
        for row in &rows {
            let build: BuildId = parsed(row, "template_tags", "build_id")?;
            let tag: String = column(row, "template_tags", "tag")?;
            newest.insert(build, tag);
        }
        for item in items {
            if let Some(tag) = newest.remove(&item.build) {
                item.tag = tag;
            }
        }
        Ok(())
    }
}

/// Records the event, unless the sandbox is gone by now.
async fn record_checkpoint(
    transaction: &mut Transaction<'static, Db>,
    new: &NewSnapshot,
    template: &TemplateId,
    build: &BuildId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = format!("SELECT {SUBJECT} FROM sandboxes WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(new.saved_from.as_str())
        .fetch_optional(&mut **transaction)
        .await
        .during("record a snapshot")?;
    let Some(row) = row else { return Ok(()) };
    let subject = Subject::of_row(&row)?;
    let mut said = events::one("snapshot_template_id", template.as_str());
    said.extend(events::one("snapshot_build_id", build.as_str()));
    events::record(transaction, &subject, EventKind::Checkpointed, now, said).await
}

/// Without the order and the end of the page.
fn question(team: &Team, filter: &SnapshotFilter) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(
        "SELECT b.id, b.template_id, b.saved_from, b.size_bytes, b.created_at, t.created_at AS template_created_at, \
         (SELECT a.alias FROM template_aliases a WHERE a.template_id = t.id AND a.namespace = ",
    );
    query
        .push_bind(team.slug.clone())
        .push(
            " ORDER BY a.created_at, a.alias LIMIT 1) AS alias FROM templates t JOIN builds b ON b.id = \
             (SELECT x.id FROM builds x WHERE x.template_id = t.id AND x.status = 'ready' AND x.saved_from IS NOT NULL",
        );
    if let Some(sandbox) = &filter.saved_from {
        query
            .push(" AND x.saved_from = ")
            .push_bind(sandbox.to_string());
    }
    if let Some(tag) = &filter.tag {
        query
            .push(" AND EXISTS (SELECT 1 FROM template_tags a WHERE a.build_id = x.id AND a.tag = ")
            .push_bind(tag.clone())
            .push(")");
    }
    query
        .push(" ORDER BY x.version DESC LIMIT 1) WHERE t.deleted_at IS NULL AND t.team_id = ")
        .push_bind(team.id.to_string());
    if let Some(template) = &filter.template {
        query.push(" AND t.id = ").push_bind(template.to_string());
    }
    query
}

fn snapshot_of(row: &DbRow) -> Result<Snapshot, StoreError> {
    Ok(Snapshot {
        template: parsed(row, TABLE, "template_id")?,
        alias: column(row, "template_aliases", "alias")?,
        tag: DEFAULT_TAG.to_owned(),
        build: parsed(row, TABLE, "id")?,
        saved_from: parsed(row, TABLE, "saved_from")?,
        size_bytes: column(row, TABLE, "size_bytes")?,
        created_at: time(row, TABLE, "created_at")?,
    })
}

async fn add_template(
    transaction: &mut Transaction<'static, Db>,
    team: &TeamId,
    now: Timestamp,
) -> Result<TemplateId, StoreError> {
    let id = request_build::add_template(transaction, team, now).await?;
    sqlx::query("UPDATE templates SET is_snapshot = TRUE WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut **transaction)
        .await
        .during("add a template")?;
    Ok(id)
}

fn ready(template: &TemplateId, new: &NewSnapshot, semver: String, now: Timestamp) -> Build {
    let finished = new.finished.clone();
    Build {
        id: BuildId::random(),
        template: template.clone(),
        status: BuildStatus::Ready,
        limits: Limits {
            disk_mib: finished.disk_mib,
            ..new.limits
        },
        layers: finished.layers.iter().map(ToString::to_string).collect(),
        envd_version: finished.envd_version,
        default_user: finished.context.user,
        default_workdir: finished.context.workdir,
        env: finished.context.env,
        start: finished.start,
        memory: finished.memory,
        reason: None,
        version: 0,
        semver: Some(semver),
        size_bytes: finished.size_bytes,
        created_at: now,
        updated_at: now,
        finished_at: Some(now),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use soulbox_types::{BuildContext, LayerDigest};

    use super::*;
    use crate::database::tests::temp_store;
    use crate::teams::tests::add_team;

    pub(crate) fn saved(name: Option<&str>, from: &SandboxId, layer: u8) -> NewSnapshot {
        NewSnapshot {
            reference: name.map(|name| name.parse().unwrap()),
            saved_from: from.clone(),
            limits: Limits::STANDARD,
            finished: FinishedBuild {
                layers: vec![LayerDigest::from_bytes([layer; 32])],
                context: BuildContext {
                    user: "user".into(),
                    ..BuildContext::default()
                },
                start: None,
                memory: None,
                envd_version: "0.6.4".into(),
                size_bytes: 10,
                disk_mib: 777,
            },
        }
    }

    async fn listed(store: &Store, team: &Team, filter: SnapshotFilter) -> Vec<Snapshot> {
        let page = store
            .list_snapshots(team, &filter, &PageRequest::first(100))
            .await
            .unwrap();
        assert_eq!(page.next_cursor, None);
        page.items
    }

    #[tokio::test]
    async fn a_snapshot_is_a_template_that_sandboxes_start_from() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let sandbox = SandboxId::random();
        let bare = store
            .add_snapshot(&team, &saved(None, &sandbox, 1))
            .await
            .unwrap();
        let reference = format!("{}:default", bare.template).parse().unwrap();
        let resolved = store.resolve_template(&team, &reference).await.unwrap();
        assert_eq!(resolved.build.id, bare.build);
        assert_eq!(resolved.build.limits.disk_mib, 777);
        assert_eq!(
            resolved.build.layers,
            [LayerDigest::from_bytes([1; 32]).to_string()]
        );
        let templates = store
            .list_templates(&team.id, Order::Descending, &PageRequest::first(9))
            .await
            .unwrap();
        assert!(templates.items.is_empty());

        let other = add_team(&store, "other").await;
        assert!(store.resolve_template(&other, &reference).await.is_err());
        assert!(
            listed(&store, &other, SnapshotFilter::default())
                .await
                .is_empty()
        );
    }

    #[tokio::test]
    async fn of_each_name_the_newest_is_listed() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (one, two) = (SandboxId::random(), SandboxId::random());
        let add = async |name, from, layer| {
            store
                .add_snapshot(&team, &saved(name, from, layer))
                .await
                .unwrap()
        };
        let first = add(Some("work"), &one, 1).await;
        let tagged = add(Some("default/work:v2"), &two, 2).await;
        assert_eq!(first.template, tagged.template);
        assert_eq!(
            (tagged.alias.as_deref(), tagged.tag.as_str()),
            (Some("work"), "v2")
        );
        let bare = add(None, &one, 3).await;

        let all = listed(&store, &team, SnapshotFilter::default()).await;
        assert_eq!(all, [bare.clone(), tagged.clone()]);
        let of_one = SnapshotFilter {
            saved_from: Some(one),
            ..SnapshotFilter::default()
        };
        assert_eq!(
            listed(&store, &team, of_one).await,
            [bare.clone(), first.clone()]
        );
        let default = SnapshotFilter {
            template: Some(first.template.clone()),
            tag: Some("default".into()),
            ..SnapshotFilter::default()
        };
        assert_eq!(listed(&store, &team, default).await, [first]);

        let page = |cursor| PageRequest { limit: 1, cursor };
        let filter = SnapshotFilter::default();
        let begin = store
            .list_snapshots(&team, &filter, &page(None))
            .await
            .unwrap();
        assert_eq!(begin.items, [bare]);
        let rest = store
            .list_snapshots(&team, &filter, &page(begin.next_cursor))
            .await
            .unwrap();
        assert_eq!((rest.items, rest.next_cursor), (vec![tagged], None));
    }
}

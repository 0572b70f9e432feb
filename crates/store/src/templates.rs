//! Templates, and how a reference becomes a build.

use std::collections::HashMap;

use soulbox_types::{ErrorKind, TeamId, TemplateId, TemplateRef, Timestamp};
use sqlx::{QueryBuilder, Transaction};

use crate::builds::{Build, BuildStatus};
use crate::database::{Db, DbRow, Spawns, column, maybe_time, parsed, time};
use crate::error::During;
use crate::page::{Keyset, cut, fetch_limit, keyset};
use crate::{Order, Page, PageRequest, Store, StoreError, Team};

/// Something that sandboxes are created from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// Its owner.
    pub team: TeamId,
    /// Whether every team may use it.
    pub public: bool,
    /// Whether the platform offers it to everybody.
    pub is_default: bool,
    /// Its aliases without namespace.
    pub aliases: Vec<String>,
    /// Its aliases with namespace, where they have one.
    pub names: Vec<String>,
    /// What its owner says about it.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When a sandbox was last created from it.
    pub last_spawned_at: Option<Timestamp>,
    /// How many sandboxes have been created from it.
    pub spawn_count: i64,
}

/// A template with what lists show of its builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSummary {
    /// The template.
    pub template: Template,
    /// Its newest usable build under the tag `default`.
    pub build: Option<Build>,
    /// Status of its newest build under the tag `default`.
    pub status: Option<BuildStatus>,
    /// How many builds it has.
    pub build_count: i64,
}

/// What a reference means at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTemplate {
    /// The template.
    pub template: Template,
    /// Its usable build.
    pub build: Build,
}

/// Why a reference leads to no usable build. The texts are the wire's.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing has this name.
    #[error("template '{name}' not found")]
    NotFound {
        /// The name as the caller gave it, without tag.
        name: String,
    },
    /// It belongs to another team and is not public. The text does not tell it from one that does not exist.
    #[error("template '{name}' not found")]
    Foreign {
        /// The name as the caller gave it, without tag.
        name: String,
    },
    /// The template has no usable build under this tag.
    #[error("tag '{tag}' does not exist for template '{name}'")]
    TagNotFound {
        /// The name as the caller gave it, without tag.
        name: String,
        /// The tag, version or build id.
        tag: String,
    },
    /// The database failed.
    #[error("cannot resolve template")]
    Store(#[from] StoreError),
}

impl ResolveError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::Foreign { .. } | Self::TagNotFound { .. } => {
                ErrorKind::NotFound
            }
            Self::Store(error) => error.kind(),
        }
    }
}

/// A template's columns and what its summary adds, for use after `FROM templates t`.
const SUMMARY: &str = "SELECT t.*, \
    (SELECT COUNT(*) FROM builds b WHERE b.template_id = t.id) AS build_count, \
    (SELECT b.id FROM template_tags a JOIN builds b ON b.id = a.build_id \
     WHERE a.template_id = t.id AND a.tag = 'default' AND b.status = 'ready' \
     ORDER BY a.created_at DESC, a.id DESC LIMIT 1) AS ready_build, \
    (SELECT b.status FROM template_tags a JOIN builds b ON b.id = a.build_id \
     WHERE a.template_id = t.id AND a.tag = 'default' \
     ORDER BY a.created_at DESC, a.id DESC LIMIT 1) AS default_status \
    FROM templates t WHERE t.deleted_at IS NULL";

impl Store {
    /// Finds the build that a reference means for this team.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve_template(
        &self,
        team: &Team,
        reference: &TemplateRef,
    ) -> Result<ResolvedTemplate, ResolveError> {
        let name = || reference.identifier();
        let Some(template) = self.find_template(team, reference).await? else {
            return Err(ResolveError::NotFound { name: name() });
        };
        if !template.public && template.team != team.id {
            return Err(ResolveError::Foreign { name: name() });
        }
        let tag = reference.tag_or_default();
        match self.ready_build(&template.id, tag).await? {
            Some(build) => Ok(ResolvedTemplate { template, build }),
            None => Err(ResolveError::TagNotFound {
                name: name(),
                tag: tag.to_owned(),
            }),
        }
    }

    /// Finds the template that a name means for this team, whoever owns it. The tag is not looked at.
    ///
    /// A name with a namespace means exactly that; a bare one means the team's own alias, then the one that everybody
    /// may use, then an id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_template(
        &self,
        team: &Team,
        reference: &TemplateRef,
    ) -> Result<Option<Template>, StoreError> {
        let query = match &reference.namespace {
            Some(namespace) => sqlx::query(
                "SELECT * FROM templates WHERE deleted_at IS NULL \
                 AND id = (SELECT template_id FROM template_aliases WHERE namespace = $1 AND alias = $2)",
            )
            .bind(namespace),
            None => sqlx::query(
                "SELECT * FROM templates WHERE deleted_at IS NULL AND id = COALESCE(\
                 (SELECT template_id FROM template_aliases WHERE namespace = $1 AND alias = $2), \
                 (SELECT template_id FROM template_aliases WHERE namespace = '' AND alias = $2), $2)",
            )
            .bind(&team.slug),
        };
        let row = query
            .bind(&reference.alias_or_id)
            .fetch_optional(self.reader())
            .await
            .during("look up a template")?;
        let Some(row) = row else { return Ok(None) };
        let mut template = template_of(&row)?;
        self.add_aliases([&mut template]).await?;
        Ok(Some(template))
    }

    /// The template with this id, whoever owns it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_template(
        &self,
        id: &TemplateId,
    ) -> Result<Option<TemplateSummary>, StoreError> {
        let mut query = QueryBuilder::new(SUMMARY);
        query.push(" AND t.id = ").push_bind(id.as_str());
        Ok(self.summaries(query).await?.pop())
    }

    /// The team's templates by time of creation.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list_templates(
        &self,
        team: &TeamId,
        order: Order,
        page: &PageRequest,
    ) -> Result<Page<TemplateSummary>, StoreError> {
        let mut query = QueryBuilder::new(SUMMARY);
        query
            .push(" AND NOT t.is_snapshot AND t.team_id = ")
            .push_bind(team.as_str());
        push_page(&mut query, ("t.created_at", "t.id"), order, page)?;
        let mut items = self.summaries(query).await?;
        let next_cursor = cut(&mut items, page.limit, order, |item| Keyset {
            at: item.template.created_at,
            id: item.template.id.to_string(),
        });
        Ok(Page { items, next_cursor })
    }

    /// The templates that the platform offers to everybody, by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn default_templates(&self) -> Result<Vec<TemplateSummary>, StoreError> {
        let mut query = QueryBuilder::new(SUMMARY);
        query.push(" AND t.is_default AND t.public ORDER BY t.id");
        self.summaries(query).await
    }

    async fn summaries(
        &self,
        mut query: QueryBuilder<Db>,
    ) -> Result<Vec<TemplateSummary>, StoreError> {
        self.settle().await?;
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("read templates")?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            items.push(self.summary_of(row).await?);
        }
        self.add_aliases(items.iter_mut().map(|item| &mut item.template))
            .await?;
        Ok(items)
    }

    async fn summary_of(&self, row: &DbRow) -> Result<TemplateSummary, StoreError> {
        let template = template_of(row)?;
        let build = match column::<Option<&str>>(row, "templates", "ready_build")? {
            Some(id) => self.ready_build(&template.id, id).await?,
            None => None,
        };
        let status = column::<Option<&str>>(row, "templates", "default_status")?
            .and_then(BuildStatus::parse);
        Ok(TemplateSummary {
            template,
            build,
            status,
            build_count: column(row, "templates", "build_count")?,
        })
    }

    /// Fills in the aliases, oldest first.
    pub(crate) async fn add_aliases<'t>(
        &self,
        templates: impl IntoIterator<Item = &'t mut Template>,
    ) -> Result<(), StoreError> {
        let mut by_id: HashMap<String, &mut Template> = templates
            .into_iter()
            .map(|template| (template.id.to_string(), template))
            .collect();
        if by_id.is_empty() {
            return Ok(());
        }
        let mut query = QueryBuilder::new(
            "SELECT template_id, namespace, alias FROM template_aliases WHERE template_id IN (",
        );
        let mut ids = query.separated(", ");
        by_id.keys().for_each(|id| {
            ids.push_bind(id.clone());
        });
        query.push(") ORDER BY created_at, alias");
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("read template aliases")?;
        for row in &rows {
            let Some(template) =
                by_id.get_mut(column::<&str>(row, "template_aliases", "template_id")?)
            else {
                continue;
            };
            let (namespace, alias): (&str, &str) = (
                column(row, "template_aliases", "namespace")?,
                column(row, "template_aliases", "alias")?,
            );
            template.aliases.push(alias.to_owned());
            template.names.push(if namespace.is_empty() {
                alias.to_owned()
            } else {
                format!("{namespace}/{alias}")
            });
        }
        Ok(())
    }
}

/// Adds the keyset, the order and the limit of a page to a query that has a `WHERE`.
pub(crate) fn push_page(
    query: &mut QueryBuilder<Db>,
    (at, id): (&'static str, &'static str),
    order: Order,
    page: &PageRequest,
) -> Result<(), StoreError> {
    let (compare, direction) = match order {
        Order::Ascending => (" > ", " ASC"),
        Order::Descending => (" < ", " DESC"),
    };
    if let Some(keyset) = keyset(page.cursor.as_deref(), order)? {
        query
            .push(format_args!(" AND ({at}, {id}){compare}("))
            .push_bind(keyset.at.0)
            .push(", ")
            .push_bind(keyset.id)
            .push(")");
    }
    query
        .push(format_args!(
            " ORDER BY {at}{direction}, {id}{direction} LIMIT "
        ))
        .push_bind(fetch_limit(page.limit));
    Ok(())
}

/// Writes the deferred counts of sandboxes created.
pub(crate) async fn add_spawns(
    transaction: &mut Transaction<'static, Db>,
    spawns: &HashMap<TemplateId, Spawns>,
) -> Result<(), StoreError> {
    for (template, spawns) in spawns {
        sqlx::query("UPDATE templates SET spawn_count = spawn_count + $2, last_spawned_at = $3 WHERE id = $1")
            .bind(template.as_str())
            .bind(spawns.count)
            .bind(spawns.last.0)
            .execute(&mut **transaction)
            .await
            .during("count sandboxes of a template")?;
    }
    Ok(())
}

/// Reads a template; its aliases stay empty.
pub(crate) fn template_of(row: &DbRow) -> Result<Template, StoreError> {
    const TABLE: &str = "templates";
    Ok(Template {
        id: parsed(row, TABLE, "id")?,
        team: parsed(row, TABLE, "team_id")?,
        public: column(row, TABLE, "public")?,
        is_default: column(row, TABLE, "is_default")?,
        aliases: Vec::new(),
        names: Vec::new(),
        description: column(row, TABLE, "description")?,
        created_at: time(row, TABLE, "created_at")?,
        updated_at: time(row, TABLE, "updated_at")?,
        last_spawned_at: maybe_time(row, TABLE, "last_spawned_at")?,
        spawn_count: column(row, TABLE, "spawn_count")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use soulbox_types::name::DEFAULT_TAG;
    use soulbox_types::{BuildId, Limits};

    use super::*;
    use crate::BootstrapTemplate;
    use crate::builds::insert_build;
    use crate::database::tests::temp_store;
    use crate::tags::insert_tag;
    use crate::teams::tests::add_team;

    pub(crate) fn base() -> BootstrapTemplate {
        BootstrapTemplate {
            alias: "base".into(),
            description: Some("Debian with Python and Node".into()),
            limits: Limits::STANDARD,
            layers: vec!["aa".repeat(32), "bb".repeat(32)],
            envd_version: "0.6.0".into(),
            default_user: "user".into(),
            default_workdir: None,
        }
    }

    /// Adds a template of a team, with an alias in its namespace and a build tagged `default`.
    pub(crate) async fn add_template(
        store: &Store,
        team: &Team,
        alias: &str,
        status: BuildStatus,
        at: i64,
    ) -> (TemplateId, Build) {
        let id = TemplateId::random();
        let mut transaction = store.write().await.unwrap();
        sqlx::query(
            "INSERT INTO templates (id, team_id, public, is_default, created_at, updated_at, spawn_count) \
             VALUES ($1, $2, $3, $3, $4, $4, 0)",
        )
        .bind(id.as_str())
        .bind(team.id.as_str())
        .bind(false)
        .bind(at)
        .execute(&mut *transaction)
        .await
        .unwrap();
        sqlx::query("INSERT INTO template_aliases (namespace, alias, template_id, created_at) VALUES ($1, $2, $3, $4)")
            .bind(&team.slug)
            .bind(alias)
            .bind(id.as_str())
            .bind(at)
            .execute(&mut *transaction)
            .await
            .unwrap();
        let build = build_like(&id, status, at);
        let build = insert_build(&mut transaction, build).await.unwrap();
        insert_tag(&mut transaction, &build, DEFAULT_TAG, Timestamp(at))
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        (id, build)
    }

    fn build_like(template: &TemplateId, status: BuildStatus, at: i64) -> Build {
        Build {
            id: BuildId::random(),
            template: template.clone(),
            status,
            limits: Limits::STANDARD,
            layers: vec![],
            envd_version: "0.6.0".into(),
            default_user: "user".into(),
            default_workdir: Some("/code".into()),
            env: BTreeMap::new(),
            start: None,
            memory: None,
            reason: None,
            version: 0,
            semver: None,
            size_bytes: 0,
            created_at: Timestamp(at),
            updated_at: Timestamp(at),
            finished_at: None,
        }
    }

    pub(crate) async fn add_build(
        store: &Store,
        template: &TemplateId,
        status: BuildStatus,
        tag: &str,
        at: i64,
    ) -> Build {
        let build = build_like(template, status, at);
        let mut transaction = store.write().await.unwrap();
        let build = insert_build(&mut transaction, build).await.unwrap();
        insert_tag(&mut transaction, &build, tag, Timestamp(at))
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        build
    }

    pub(crate) async fn resolve(
        store: &Store,
        team: &Team,
        reference: &str,
    ) -> Result<ResolvedTemplate, String> {
        store
            .resolve_template(team, &reference.parse().unwrap())
            .await
            .map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn bootstrap_is_idempotent() {
        let store = temp_store().await;
        let first = store.upsert_bootstrap_template(&base()).await.unwrap();
        assert_eq!(
            store.upsert_bootstrap_template(&base()).await.unwrap(),
            first
        );
        assert!(first.template.public && first.template.is_default);
        assert_eq!(
            (&first.template.aliases, &first.template.names),
            (&vec!["base".into()], &vec!["base".into()])
        );

        let changed = BootstrapTemplate {
            layers: vec!["cc".repeat(32)],
            ..base()
        };
        let second = store.upsert_bootstrap_template(&changed).await.unwrap();
        assert_eq!(second.template.id, first.template.id);
        assert_ne!(second.build.id, first.build.id);
        let summary = store
            .get_template(&first.template.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (summary.build_count, summary.status),
            (2, Some(BuildStatus::Ready))
        );
        assert_eq!(summary.build, Some(second.build));
        assert_eq!(store.default_templates().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn names_resolve_in_order() {
        let store = temp_store().await;
        let shared = store.upsert_bootstrap_template(&base()).await.unwrap();
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let (own, _) = add_template(&store, &other, "base", BuildStatus::Ready, 5).await;

        assert_eq!(resolve(&store, &team, "base").await.unwrap(), shared);
        assert_eq!(
            resolve(&store, &other, "base").await.unwrap().template.id,
            own
        );
        assert_eq!(
            resolve(&store, &other, "other/base")
                .await
                .unwrap()
                .template
                .names,
            ["other/base"]
        );
        assert_eq!(
            resolve(&store, &other, shared.template.id.as_str())
                .await
                .unwrap()
                .template
                .id,
            shared.template.id
        );
        // Another team's private template is as good as none; who asks for its alias learns that the name is taken.
        assert_eq!(
            resolve(&store, &team, "other/base").await.unwrap_err(),
            "template 'other/base' not found"
        );
        assert_eq!(
            resolve(&store, &team, own.as_str()).await.unwrap_err(),
            format!("template '{own}' not found")
        );
        let reference: TemplateRef = "other/base".parse().unwrap();
        assert!(matches!(
            store.resolve_template(&team, &reference).await,
            Err(ResolveError::Foreign { .. })
        ));
        assert!(
            store
                .find_template(&team, &reference)
                .await
                .unwrap()
                .is_some()
        );
        assert_eq!(
            resolve(&store, &team, "nope:v1").await.unwrap_err(),
            "template 'nope' not found"
        );
        // An alias without namespace is not the default team's.
        assert_eq!(
            resolve(&store, &team, "default/base").await.unwrap_err(),
            "template 'default/base' not found"
        );
    }

    #[tokio::test]
    async fn newest_ready_build_wins() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (id, first) = add_template(&store, &team, "t", BuildStatus::Ready, 10).await;
        assert_eq!(resolve(&store, &team, "t").await.unwrap().build, first);
        add_build(&store, &id, BuildStatus::Error, "default", 20).await;
        let building = add_build(&store, &id, BuildStatus::Building, "default", 30).await;
        assert_eq!(resolve(&store, &team, "t").await.unwrap().build, first);
        let summary = store.get_template(&id).await.unwrap().unwrap();
        assert_eq!(
            (summary.status, summary.build.as_ref()),
            (Some(BuildStatus::Building), Some(&first))
        );
        // Made "before" the others by a clock that went back: assigned last all the same.
        let newest = add_build(&store, &id, BuildStatus::Ready, "default", 5).await;
        assert_eq!(
            resolve(&store, &team, "t:default").await.unwrap().build,
            newest
        );

        let v1 = add_build(&store, &id, BuildStatus::Ready, "v1", 40).await;
        assert_eq!(resolve(&store, &team, "t:v1").await.unwrap().build, v1);
        assert_eq!(
            resolve(&store, &team, &format!("t:{}", first.id))
                .await
                .unwrap()
                .build,
            first
        );
        let unusable = format!("t:{}", building.id);
        let message = format!("tag '{}' does not exist for template 't'", building.id);
        assert_eq!(
            resolve(&store, &team, &unusable).await.unwrap_err(),
            message
        );
        assert_eq!(
            resolve(&store, &team, "t:v2").await.unwrap_err(),
            "tag 'v2' does not exist for template 't'"
        );

        let tags = store.list_tags(&id).await.unwrap();
        let tags: Vec<_> = tags
            .iter()
            .map(|tag| (tag.tag.as_str(), &tag.build))
            .collect();
        assert_eq!(tags, [("default", &newest.id), ("v1", &v1.id)]);
    }

    #[tokio::test]
    async fn pages_of_templates_and_builds() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let mut ids = Vec::new();
        for n in 0..7 {
            // Three of them at the same moment.
            let at = if n < 3 { 1 } else { n };
            ids.push((
                at,
                add_template(&store, &team, &format!("t{n}"), BuildStatus::Ready, at)
                    .await
                    .0,
            ));
            add_template(&store, &other, &format!("t{n}"), BuildStatus::Ready, at).await;
        }
        ids.sort();
        for order in [Order::Ascending, Order::Descending] {
            let mut want: Vec<TemplateId> = ids.iter().map(|(_, id)| id.clone()).collect();
            if order == Order::Descending {
                want.reverse();
            }
            let (mut got, mut page) = (Vec::new(), PageRequest::first(2));
            loop {
                let answer = store.list_templates(&team.id, order, &page).await.unwrap();
                got.extend(answer.items.into_iter().map(|item| item.template.id));
                match answer.next_cursor {
                    Some(cursor) => page.cursor = Some(cursor),
                    None => break,
                }
            }
            assert_eq!(got, want, "{order:?}");
        }
        let (id, _) = add_template(&store, &team, "many", BuildStatus::Ready, 100).await;
        for n in 0..3 {
            add_build(&store, &id, BuildStatus::Ready, "x", 101 + n).await;
        }
        let first = store
            .list_builds(&id, &PageRequest::first(3))
            .await
            .unwrap();
        let times: Vec<i64> = first.items.iter().map(|build| build.created_at.0).collect();
        assert_eq!(times, [103, 102, 101]);
        let rest = PageRequest {
            limit: 3,
            cursor: first.next_cursor,
        };
        let second = store.list_builds(&id, &rest).await.unwrap();
        assert_eq!((second.items.len(), second.next_cursor), (1, None));
        let wrong = PageRequest {
            limit: 3,
            cursor: Some("x".into()),
        };
        assert!(matches!(
            store.list_builds(&id, &wrong).await,
            Err(StoreError::InvalidToken)
        ));
    }
}

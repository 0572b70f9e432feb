//! A build is asked for: which template it is of, what it takes the place of, and whether there is room for it.

use std::collections::BTreeMap;
use std::time::Duration;

use soulbox_types::{BuildId, ErrorKind, Limits, TeamId, TemplateId, TemplateRef, Timestamp};
use sqlx::{QueryBuilder, Transaction};

use crate::builds::{Build, BuildStatus, fail_overdue, insert_build};
use crate::database::{Db, parsed};
use crate::error::During;
use crate::tags::{insert_tag, push_tags};
use crate::templates::{Template, template_of};
use crate::versions::next_version;
use crate::{Store, StoreError, Team};

/// How far back builds in progress are counted; what is older is nobody's work any more.
const COUNTED: Duration = Duration::from_hours(24);
/// What a build ends with when another takes its place before it was started. The wire's text.
const SUPERSEDED: &str = "The build was canceled because it was superseded by a newer one.";

/// A build that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBuild {
    /// The template's name. The tag is not looked at; a namespace must be the team's own.
    pub reference: TemplateRef,
    /// Tags that it gets: at least one, each once.
    pub tags: Vec<String>,
    /// Limits of the sandboxes made from it.
    pub limits: Limits,
    /// Builds that the team may have waiting or in progress at the same time.
    pub max_concurrent: usize,
}

/// A build that waits for its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedBuild {
    /// What it is a build of.
    pub template: Template,
    /// The build.
    pub build: Build,
    /// Its tags. They mean it from the moment it is ready.
    pub tags: Vec<String>,
}

/// Why no build can be asked for. The texts are the wire's.
#[derive(Debug, thiserror::Error)]
pub enum RequestBuildError {
    /// The name is the id of a template that has been deleted.
    #[error("Template '{id}' has been deleted and cannot be rebuilt")]
    Deleted {
        /// The id.
        id: String,
    },
    /// The name is the id of a template.
    #[error("Alias '{alias}' is already used")]
    AliasIsTemplateId {
        /// The name.
        alias: String,
    },
    /// The name belongs to a template of somebody else.
    #[error("Alias '{alias}' already used")]
    AliasTaken {
        /// The name.
        alias: String,
    },
    /// The team has as many builds as it may.
    #[error(
        "you have reached the maximum number of concurrent template builds ({max}). Please wait for existing builds to complete or contact support if you need more concurrent builds."
    )]
    TooMany {
        /// How many it may have.
        max: usize,
    },
    /// The database failed.
    #[error("cannot request a build")]
    Store(#[from] StoreError),
}

impl RequestBuildError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Deleted { .. } => ErrorKind::NotFound,
            Self::AliasIsTemplateId { .. } => ErrorKind::Conflict,
            Self::AliasTaken { .. } => ErrorKind::PermissionDenied,
            Self::TooMany { .. } => ErrorKind::LimitExceeded,
            Self::Store(error) => error.kind(),
        }
    }
}

impl Store {
    /// Writes down a build that waits for its start, with its tags: of the team's template with this name, or of a new
    /// one. Builds of the same template that wait and share a tag with it fail.
    ///
    /// # Errors
    /// See [`RequestBuildError`].
    pub async fn request_build(
        &self,
        team: &Team,
        new: &NewBuild,
    ) -> Result<RequestedBuild, RequestBuildError> {
        let now = Timestamp::now();
        let mut transaction = self.write_quickly().await?;
        fail_overdue(&mut transaction).await?;
        let own = own_template(&mut transaction, team, &new.reference, now).await?;
        check_room(&mut transaction, team, own.as_ref(), new, now).await?;
        let template = match own {
            Some(id) => {
                supersede(&mut transaction, &id, &new.tags, now).await?;
                list_among_templates(&mut transaction, &id).await?;
                id
            }
            None => add_template(&mut transaction, &team.id, now).await?,
        };
        claim_alias(&mut transaction, team, &template, &new.reference, now).await?;
        let semver = next_version(&mut transaction, &template, &new.tags).await?;
        let build = waiting(&template, new.limits, semver, now);
        let build = insert_build(&mut transaction, build).await?;
        for tag in &new.tags {
            insert_tag(&mut transaction, &build, tag, now).await?;
        }
        transaction.commit().await.during("request a build")?;
        let template = self.get_template(&template).await?;
        Ok(RequestedBuild {
            template: template.ok_or(DAMAGED)?.template,
            build,
            tags: new.tags.clone(),
        })
    }
}

/// A template is gone in the moment after it was written.
const DAMAGED: StoreError = StoreError::Damaged {
    table: "templates",
    column: "id",
};

fn waiting(template: &TemplateId, limits: Limits, semver: String, now: Timestamp) -> Build {
    Build {
        id: BuildId::random(),
        template: template.clone(),
        status: BuildStatus::Waiting,
        limits,
        layers: Vec::new(),
        envd_version: String::new(),
        default_user: String::new(),
        default_workdir: None,
        env: BTreeMap::new(),
        start: None,
        memory: None,
        reason: None,
        version: 0,
        semver: Some(semver),
        size_bytes: 0,
        created_at: now,
        updated_at: now,
        finished_at: None,
    }
}

/// The template of the team's own that gets a build under this name, now; `None` when there is to be a new one.
pub(crate) async fn own_template(
    transaction: &mut Transaction<'static, Db>,
    team: &Team,
    reference: &TemplateRef,
    now: Timestamp,
) -> Result<Option<TemplateId>, RequestBuildError> {
    let found = find(transaction, team, reference).await?;
    // What the server brings with it is nobody's to rebuild: the name then means a template of the team's own.
    let own = found.filter(|template| template.team == team.id && !template.is_default);
    let own = own.map(|template| template.id);
    check_name(transaction, team, own.as_ref(), reference).await?;
    if let Some(id) = &own {
        touch(transaction, id, now).await?;
    }
    Ok(own)
}

/// The template that the name means for this team. Its aliases stay empty.
async fn find(
    transaction: &mut Transaction<'static, Db>,
    team: &Team,
    reference: &TemplateRef,
) -> Result<Option<Template>, StoreError> {
    let sql = match &reference.namespace {
        Some(_) => {
            "SELECT * FROM templates WHERE deleted_at IS NULL \
             AND id = (SELECT template_id FROM template_aliases WHERE namespace = $1 AND alias = $2)"
        }
        None => {
            "SELECT * FROM templates WHERE deleted_at IS NULL AND id = COALESCE(\
             (SELECT template_id FROM template_aliases WHERE namespace = $1 AND alias = $2), \
             (SELECT template_id FROM template_aliases WHERE namespace = '' AND alias = $2))"
        }
    };
    let row = sqlx::query(sql)
        .bind(&team.slug)
        .bind(&reference.alias_or_id)
        .fetch_optional(&mut **transaction)
        .await
        .during("look up a template")?;
    row.as_ref().map(template_of).transpose()
}

/// Builds that the new one takes the place of do not count.
async fn check_room(
    transaction: &mut Transaction<'static, Db>,
    team: &Team,
    own: Option<&TemplateId>,
    new: &NewBuild,
    now: Timestamp,
) -> Result<(), RequestBuildError> {
    let day = i64::try_from(COUNTED.as_micros()).unwrap_or(i64::MAX);
    let mut query = QueryBuilder::new(
        "SELECT COUNT(*) FROM builds b JOIN templates t ON t.id = b.template_id \
         WHERE b.status IN ('waiting', 'building') AND b.created_at > ",
    );
    query
        .push_bind(now.0.saturating_sub(day))
        .push(" AND t.team_id = ")
        .push_bind(team.id.as_str());
    if let Some(own) = own {
        query
            .push(" AND NOT (b.template_id = ")
            .push_bind(own.as_str())
            .push(" AND EXISTS (SELECT 1 FROM template_tags a WHERE a.build_id = b.id AND a.tag");
        push_tags(&mut query, &new.tags);
        query.push("))");
    }
    let active: i64 = query
        .build_query_scalar()
        .fetch_one(&mut **transaction)
        .await
        .during("count builds")?;
    if usize::try_from(active).unwrap_or(usize::MAX) < new.max_concurrent {
        Ok(())
    } else {
        Err(RequestBuildError::TooMany {
            max: new.max_concurrent,
        })
    }
}

/// An alias may not look like a template's id, and not be somebody else's.
async fn check_name(
    transaction: &mut Transaction<'static, Db>,
    team: &Team,
    own: Option<&TemplateId>,
    reference: &TemplateRef,
) -> Result<(), RequestBuildError> {
    let alias = &reference.alias_or_id;
    let deleted: Option<bool> =
        sqlx::query_scalar("SELECT deleted_at IS NOT NULL FROM templates WHERE id = $1")
            .bind(alias)
            .fetch_optional(&mut **transaction)
            .await
            .during("look up a template")?;
    match deleted {
        Some(true) => return Err(RequestBuildError::Deleted { id: alias.clone() }),
        Some(false) => {
            return Err(RequestBuildError::AliasIsTemplateId {
                alias: alias.clone(),
            });
        }
        None => {}
    }
    match alias_owner(transaction, &team.slug, alias).await? {
        Some(owner) if Some(&owner) != own => Err(RequestBuildError::AliasTaken {
            alias: alias.clone(),
        }),
        _ => Ok(()),
    }
}

/// The template that has an alias in a namespace.
pub(crate) async fn alias_owner(
    transaction: &mut Transaction<'static, Db>,
    namespace: &str,
    alias: &str,
) -> Result<Option<TemplateId>, StoreError> {
    let row =
        sqlx::query("SELECT template_id FROM template_aliases WHERE namespace = $1 AND alias = $2")
            .bind(namespace)
            .bind(alias)
            .fetch_optional(&mut **transaction)
            .await
            .during("look up a template alias")?;
    row.map(|row| parsed(&row, "template_aliases", "template_id"))
        .transpose()
}

/// Ends the builds that wait and share a tag.
async fn supersede(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
    tags: &[String],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::new("UPDATE builds SET status = 'error', reason = ");
    query
        .push_bind(SUPERSEDED)
        .push(", updated_at = ")
        .push_bind(now.0)
        .push(", finished_at = ")
        .push_bind(now.0)
        .push(" WHERE status = 'waiting' AND template_id = ")
        .push_bind(template.as_str())
        .push(" AND EXISTS (SELECT 1 FROM template_tags a WHERE a.build_id = builds.id AND a.tag");
    push_tags(&mut query, tags);
    query
        .push(")")
        .build()
        .execute(&mut **transaction)
        .await
        .during("end builds")
        .map(drop)
}

/// What was a snapshot only is built like a template from now on.
async fn list_among_templates(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE templates SET is_snapshot = FALSE WHERE id = $1 AND is_snapshot")
        .bind(template.as_str())
        .execute(&mut **transaction)
        .await
        .during("update a template")
        .map(drop)
}

async fn touch(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE templates SET updated_at = $2 WHERE id = $1")
        .bind(template.as_str())
        .bind(now.0)
        .execute(&mut **transaction)
        .await
        .during("update a template")
        .map(drop)
}

pub(crate) async fn add_template(
    transaction: &mut Transaction<'static, Db>,
    team: &TeamId,
    now: Timestamp,
) -> Result<TemplateId, StoreError> {
    let id = TemplateId::random();
    sqlx::query(
        "INSERT INTO templates (id, team_id, public, is_default, created_at, updated_at, spawn_count) \
         VALUES ($1, $2, $3, $3, $4, $4, 0)",
    )
    .bind(id.as_str())
    .bind(team.as_str())
    .bind(false)
    .bind(now.0)
    .execute(&mut **transaction)
    .await
    .during("add a template")?;
    Ok(id)
}

/// Gives the template this alias in the team's namespace, in place of the one it has there.
pub(crate) async fn claim_alias(
    transaction: &mut Transaction<'static, Db>,
    team: &Team,
    template: &TemplateId,
    reference: &TemplateRef,
    now: Timestamp,
) -> Result<(), StoreError> {
    let alias = &reference.alias_or_id;
    if alias_owner(transaction, &team.slug, alias).await?.is_some() {
        return Ok(());
    }
    sqlx::query("DELETE FROM template_aliases WHERE template_id = $1 AND namespace = $2")
        .bind(template.as_str())
        .bind(&team.slug)
        .execute(&mut **transaction)
        .await
        .during("remove a template alias")?;
    sqlx::query("INSERT INTO template_aliases (namespace, alias, template_id, created_at) VALUES ($1, $2, $3, $4)")
        .bind(&team.slug)
        .bind(alias)
        .bind(template.as_str())
        .bind(now.0)
        .execute(&mut **transaction)
        .await
        .during("add a template alias")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::temp_store;
    use crate::teams::tests::add_team;
    use crate::templates::tests::{add_build, add_template, base};

    fn named(name: &str, tags: &[&str]) -> NewBuild {
        NewBuild {
            reference: name.parse().unwrap(),
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            limits: Limits::STANDARD,
            max_concurrent: 3,
        }
    }

    async fn request(
        store: &Store,
        team: &Team,
        name: &str,
        tags: &[&str],
    ) -> Result<RequestedBuild, String> {
        let requested = store.request_build(team, &named(name, tags)).await;
        requested.map_err(|error| error.to_string())
    }

    async fn status(store: &Store, build: &Build) -> (BuildStatus, Option<String>) {
        let found = store
            .find_build(&build.template, &build.id)
            .await
            .unwrap()
            .unwrap();
        (found.status, found.reason.map(|reason| reason.message))
    }

    #[tokio::test]
    async fn a_name_becomes_a_template_and_then_means_it() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let first = request(&store, &team, "mine", &["default", "v1"])
            .await
            .unwrap();
        assert_eq!(first.template.names, ["default/mine"]);
        assert_eq!(
            (first.build.status, first.build.version),
            (BuildStatus::Waiting, 1)
        );
        let tags = store.list_tags(&first.template.id).await.unwrap();
        let tags: Vec<_> = tags
            .iter()
            .map(|tag| (tag.tag.as_str(), &tag.build))
            .collect();
        assert_eq!(
            tags,
            [("default", &first.build.id), ("v1", &first.build.id)]
        );

        let apart = request(&store, &team, "default/mine", &["v2"])
            .await
            .unwrap();
        assert_eq!(apart.template.id, first.template.id);
        assert_eq!(apart.build.version, 2);
        assert_eq!(status(&store, &first.build).await.0, BuildStatus::Waiting);
        let same = request(&store, &team, "mine", &["v1"]).await.unwrap();
        assert_eq!(
            status(&store, &first.build).await,
            (BuildStatus::Error, Some(SUPERSEDED.into()))
        );
        assert_eq!(status(&store, &same.build).await.0, BuildStatus::Waiting);
    }

    #[tokio::test]
    async fn what_is_not_the_teams_own_is_not_rebuilt() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let base = store.upsert_bootstrap_template(&base()).await.unwrap();
        for team in [&team, &other] {
            let own = request(&store, team, "base", &["default"]).await.unwrap();
            assert_ne!(own.template.id, base.template.id);
            assert_eq!(own.template.names, [format!("{}/base", team.slug)]);
            assert!(!own.template.public && !own.template.is_default);
        }
    }

    #[tokio::test]
    async fn names_that_cannot_be() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let (foreign, _) = add_template(&store, &other, "t", BuildStatus::Ready, 1).await;
        assert_eq!(
            request(&store, &team, foreign.as_str(), &["x"])
                .await
                .unwrap_err(),
            format!("Alias '{foreign}' is already used")
        );
        let gone = request(&store, &team, "gone", &["x"])
            .await
            .unwrap()
            .template;
        store.delete_template(&gone, "gone").await.unwrap();
        assert_eq!(
            request(&store, &team, gone.id.as_str(), &["x"])
                .await
                .unwrap_err(),
            format!(
                "Template '{}' has been deleted and cannot be rebuilt",
                gone.id
            )
        );
        // The alias is free again, the id is not.
        let again = request(&store, &team, "gone", &["x"]).await.unwrap();
        assert_ne!(again.template.id, gone.id);
        // An alias in the team's namespace that is another team's template.
        sqlx::query("UPDATE template_aliases SET template_id = $1 WHERE alias = 'gone'")
            .bind(foreign.as_str())
            .execute(store.writer())
            .await
            .unwrap();
        assert_eq!(
            request(&store, &team, "gone", &["x"]).await.unwrap_err(),
            "Alias 'gone' already used"
        );
    }

    #[tokio::test]
    async fn builds_at_the_same_time_are_counted() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        request(&store, &other, "theirs", &["x"]).await.unwrap();
        let first = request(&store, &team, "a", &["x"]).await.unwrap();
        request(&store, &team, "a", &["y"]).await.unwrap();
        request(&store, &team, "b", &["x"]).await.unwrap();
        let error = store
            .request_build(&team, &named("c", &["x"]))
            .await
            .unwrap_err();
        assert!(matches!(error, RequestBuildError::TooMany { max: 3 }));
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        // It takes the place of one of the three.
        request(&store, &team, "a", &["x", "z"]).await.unwrap();
        assert_eq!(status(&store, &first.build).await.0, BuildStatus::Error);
        // What is older than a day is not counted.
        sqlx::query("UPDATE builds SET status = 'building', created_at = 1 WHERE template_id = $1")
            .bind(first.template.id.as_str())
            .execute(store.writer())
            .await
            .unwrap();
        add_build(&store, &first.template.id, BuildStatus::Building, "q", 2).await;
        request(&store, &team, "c", &["x"]).await.unwrap();
    }
}

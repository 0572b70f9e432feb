//! Templates that the server brings with it.

use std::collections::BTreeMap;

use soulbox_types::name::DEFAULT_TAG;
use soulbox_types::{BuildId, Limits, TemplateId, Timestamp};
use sqlx::Transaction;

use crate::builds::{Build, BuildStatus, insert_build, newest_ready};
use crate::database::{Db, parsed};
use crate::error::During;
use crate::tags::insert_tag;
use crate::templates::ResolvedTemplate;
use crate::versions::next_version;
use crate::{Store, StoreError, Team};

/// A template that the server brings with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapTemplate {
    /// Its alias, without namespace.
    pub alias: String,
    /// What it is.
    pub description: Option<String>,
    /// Limits of its sandboxes.
    pub limits: Limits,
    /// Digests of its layers, topmost first.
    pub layers: Vec<String>,
    /// Version of envd that its sandboxes run.
    pub envd_version: String,
    /// User that commands run as.
    pub default_user: String,
    /// Working directory of commands.
    pub default_workdir: Option<String>,
}

impl Store {
    /// Registers a template of the server itself: public, owned by the default team, known by its bare alias, tagged
    /// `default`. What has not changed since the last start stays; what has changed becomes a new build.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn upsert_bootstrap_template(
        &self,
        wanted: &BootstrapTemplate,
    ) -> Result<ResolvedTemplate, StoreError> {
        let team = self.default_team().await?;
        let now = Timestamp::now();
        let mut transaction = self.write().await?;
        let id = ensure_bootstrap_template(&mut transaction, &team, wanted, now).await?;
        let current = newest_ready(&mut *transaction, &id, DEFAULT_TAG).await?;
        let build = match current.filter(|build| wanted.is_built_by(build)) {
            Some(build) => build,
            None => add_bootstrap_build(&mut transaction, &id, wanted, now).await?,
        };
        soulbox_fault::point!("start.template-uncommitted");
        transaction.commit().await.during("register a template")?;
        let template = self.get_template(&id).await?.ok_or(StoreError::Damaged {
            table: "templates",
            column: "id",
        })?;
        Ok(ResolvedTemplate {
            template: template.template,
            build,
        })
    }
}

impl BootstrapTemplate {
    fn is_built_by(&self, build: &Build) -> bool {
        self.limits == build.limits
            && self.layers == build.layers
            && self.envd_version == build.envd_version
            && self.default_user == build.default_user
            && self.default_workdir == build.default_workdir
    }
}

/// Finds the template by its bare alias or makes it.
async fn ensure_bootstrap_template(
    transaction: &mut Transaction<'static, Db>,
    team: &Team,
    wanted: &BootstrapTemplate,
    now: Timestamp,
) -> Result<TemplateId, StoreError> {
    let row =
        sqlx::query("SELECT template_id FROM template_aliases WHERE namespace = '' AND alias = $1")
            .bind(&wanted.alias)
            .fetch_optional(&mut **transaction)
            .await
            .during("look up a template")?;
    if let Some(row) = row {
        return parsed(&row, "template_aliases", "template_id");
    }
    let id = TemplateId::random();
    sqlx::query(
        "INSERT INTO templates (id, team_id, public, is_default, description, created_at, updated_at, spawn_count) \
         VALUES ($1, $2, $3, $3, $4, $5, $5, 0)",
    )
    .bind(id.as_str())
    .bind(team.id.as_str())
    .bind(true)
    .bind(&wanted.description)
    .bind(now.0)
    .execute(&mut **transaction)
    .await
    .during("add a template")?;
    sqlx::query("INSERT INTO template_aliases (namespace, alias, template_id, created_at) VALUES ('', $1, $2, $3)")
        .bind(&wanted.alias)
        .bind(id.as_str())
        .bind(now.0)
        .execute(&mut **transaction)
        .await
        .during("add a template alias")?;
    Ok(id)
}

/// Adds a ready build and tags it `default`.
async fn add_bootstrap_build(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
    wanted: &BootstrapTemplate,
    now: Timestamp,
) -> Result<Build, StoreError> {
    let semver = next_version(transaction, template, &[]).await?;
    let build = Build {
        id: BuildId::random(),
        template: template.clone(),
        status: BuildStatus::Ready,
        limits: wanted.limits,
        layers: wanted.layers.clone(),
        envd_version: wanted.envd_version.clone(),
        default_user: wanted.default_user.clone(),
        default_workdir: wanted.default_workdir.clone(),
        env: BTreeMap::new(),
        start: None,
        memory: None,
        reason: None,
        version: 0,
        semver: Some(semver),
        size_bytes: 0,
        created_at: now,
        updated_at: now,
        finished_at: Some(now),
    };
    let build = insert_build(transaction, build).await?;
    insert_tag(transaction, &build, DEFAULT_TAG, now).await?;
    sqlx::query("UPDATE templates SET updated_at = $2, description = $3 WHERE id = $1")
        .bind(template.as_str())
        .bind(now.0)
        .bind(&wanted.description)
        .execute(&mut **transaction)
        .await
        .during("update a template")?;
    Ok(build)
}

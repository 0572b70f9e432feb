//! What an owner does to a template: makes it public, deletes it.

use soulbox_types::{BuildId, ErrorKind, TemplateId, Timestamp};
use sqlx::Transaction;

use crate::database::{Db, column, parsed};
use crate::error::During;
use crate::request_build::alias_owner;
use crate::templates::Template;
use crate::{Store, StoreError};

/// What builds of a deleted template end with, as the wire says it.
const CANCELLED: &str = "build was cancelled";

/// Why a template cannot be made public under its bare name.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another template has it.
    #[error(
        "Public template name '{alias}' is already taken. Your template is available at '{name}'. Please update your CLI to remove this error message."
    )]
    Taken {
        /// The bare name.
        alias: String,
        /// The name with namespace.
        name: String,
    },
    /// The database failed.
    #[error("cannot change a template")]
    Store(#[from] StoreError),
}

/// Why a template cannot be deleted. The texts are the wire's, where it has one.
#[derive(Debug, thiserror::Error)]
pub enum DeleteTemplateError {
    /// Sandboxes run that were made from it.
    #[error("cannot delete template '{name}' because there are running sandboxes using it")]
    Running {
        /// The name as the caller gave it.
        name: String,
    },
    /// Sandboxes that were made from it wait to go on.
    #[error("cannot delete template '{name}' because there are paused sandboxes using it")]
    Paused {
        /// The name as the caller gave it.
        name: String,
    },
    /// The server brings it with it.
    #[error("cannot delete template '{name}' because it is one of the server's own")]
    Default {
        /// The name as the caller gave it.
        name: String,
    },
    /// The database failed.
    #[error("cannot delete a template")]
    Store(#[from] StoreError),
}

impl PublishError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken { .. } => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }
}

impl DeleteTemplateError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Running { .. } | Self::Paused { .. } | Self::Default { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Store(error) => error.kind(),
        }
    }
}

impl Store {
    /// Says what a template is. Nothing but spaces takes away what was said.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_template_description(
        &self,
        template: &Template,
        description: &str,
    ) -> Result<(), StoreError> {
        let description = Some(description.trim()).filter(|text| !text.is_empty());
        sqlx::query("UPDATE templates SET description = $2, updated_at = $3 WHERE id = $1")
            .bind(template.id.as_str())
            .bind(description)
            .bind(Timestamp::now().0)
            .execute(self.writer())
            .await
            .during("change a template")
            .map(drop)
    }

    /// Says whether other teams may use a template. With `claim`, a template that becomes public takes its aliases for
    /// everybody, without namespace.
    ///
    /// # Errors
    /// See [`PublishError`]; nothing has changed then.
    pub async fn set_template_public(
        &self,
        template: &Template,
        public: bool,
        claim: bool,
    ) -> Result<(), PublishError> {
        let now = Timestamp::now();
        let mut transaction = self.write().await?;
        if public && claim {
            for (alias, name) in template.aliases.iter().zip(&template.names) {
                claim_bare(&mut transaction, &template.id, (alias, name), now).await?;
            }
        }
        sqlx::query("UPDATE templates SET public = $2, updated_at = $3 WHERE id = $1")
            .bind(template.id.as_str())
            .bind(public)
            .bind(now.0)
            .execute(&mut *transaction)
            .await
            .during("change a template")?;
        transaction.commit().await.during("change a template")?;
        Ok(())
    }

    /// Deletes a template. Its aliases are free from now on, its id stays taken, and its builds that have not ended fail.
    /// Returns those of them that were in progress, which the caller cancels.
    ///
    /// # Errors
    /// See [`DeleteTemplateError`]; nothing has changed then. `name` is what its texts call the template.
    pub async fn delete_template(
        &self,
        template: &Template,
        name: &str,
    ) -> Result<Vec<BuildId>, DeleteTemplateError> {
        let name = || name.to_owned();
        if template.is_default {
            return Err(DeleteTemplateError::Default { name: name() });
        }
        let mut transaction = self.write().await?;
        match sandboxes_of(&mut transaction, &template.id).await? {
            (0, 0) => {}
            (0, _) => return Err(DeleteTemplateError::Paused { name: name() }),
            _ => return Err(DeleteTemplateError::Running { name: name() }),
        }
        let now = Timestamp::now();
        let building = end_builds(&mut transaction, &template.id, now).await?;
        sqlx::query("DELETE FROM template_aliases WHERE template_id = $1")
            .bind(template.id.as_str())
            .execute(&mut *transaction)
            .await
            .during("remove template aliases")?;
        sqlx::query("UPDATE templates SET deleted_at = $2, updated_at = $2 WHERE id = $1")
            .bind(template.id.as_str())
            .bind(now.0)
            .execute(&mut *transaction)
            .await
            .during("delete a template")?;
        transaction.commit().await.during("delete a template")?;
        Ok(building)
    }
}

/// Gives a template a name without namespace.
async fn claim_bare(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
    (alias, name): (&str, &str),
    now: Timestamp,
) -> Result<(), PublishError> {
    match alias_owner(transaction, "", alias).await? {
        Some(owner) if owner == *template => return Ok(()),
        Some(_) => {
            return Err(PublishError::Taken {
                alias: alias.to_owned(),
                name: name.to_owned(),
            });
        }
        None => {}
    }
    sqlx::query("INSERT INTO template_aliases (namespace, alias, template_id, created_at) VALUES ('', $1, $2, $3)")
        .bind(alias)
        .bind(template.as_str())
        .bind(now.0)
        .execute(&mut **transaction)
        .await
        .during("add a template alias")?;
    Ok(())
}

/// How many sandboxes of a template run, and how many are paused.
async fn sandboxes_of(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query(
        "SELECT COALESCE(SUM(state = 'running'), 0) AS running, COALESCE(SUM(state <> 'running'), 0) AS paused \
         FROM sandboxes WHERE template_id = $1",
    )
    .bind(template.as_str())
    .fetch_one(&mut **transaction)
    .await
    .during("count a template's sandboxes")?;
    Ok((
        column(&row, "sandboxes", "running")?,
        column(&row, "sandboxes", "paused")?,
    ))
}

/// Ends what has not ended; returns what was in progress.
async fn end_builds(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
    now: Timestamp,
) -> Result<Vec<BuildId>, StoreError> {
    let rows = sqlx::query("SELECT id FROM builds WHERE template_id = $1 AND status = 'building'")
        .bind(template.as_str())
        .fetch_all(&mut **transaction)
        .await
        .during("look for builds in progress")?;
    sqlx::query(
        "UPDATE builds SET status = 'error', reason = $2, updated_at = $3, finished_at = $3 \
         WHERE template_id = $1 AND status IN ('waiting', 'building')",
    )
    .bind(template.as_str())
    .bind(CANCELLED)
    .bind(now.0)
    .execute(&mut **transaction)
    .await
    .during("end builds")?;
    rows.iter().map(|row| parsed(row, "builds", "id")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::temp_store;
    use crate::sandboxes::tests::{pause, record};
    use crate::teams::tests::add_team;
    use crate::templates::tests::{add_build, add_template, base, resolve};
    use crate::{BuildStatus, RecordState, SandboxRecord};

    async fn template(store: &Store, id: &TemplateId) -> Template {
        store.get_template(id).await.unwrap().unwrap().template
    }

    #[tokio::test]
    async fn a_public_template_may_take_the_bare_name() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let (first, _) = add_template(&store, &team, "t", BuildStatus::Ready, 1).await;
        let (second, _) = add_template(&store, &other, "t", BuildStatus::Ready, 1).await;
        let publish = async |id: &TemplateId, public, claim| {
            let template = template(&store, id).await;
            store.set_template_public(&template, public, claim).await
        };
        publish(&first, true, false).await.unwrap();
        assert!(template(&store, &first).await.public);
        assert_eq!(template(&store, &first).await.names, ["default/t"]);
        publish(&first, true, true).await.unwrap();
        publish(&first, true, true).await.unwrap();
        let error = publish(&second, true, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(
            error.to_string(),
            "Public template name 't' is already taken. Your template is available at 'other/t'. Please update your CLI to remove this error message."
        );
        assert!(!template(&store, &second).await.public);
        let third = add_team(&store, "third").await;
        assert_eq!(
            resolve(&store, &third, "t").await.unwrap().template.id,
            first
        );
        publish(&first, false, true).await.unwrap();
        assert!(resolve(&store, &third, "t").await.is_err());
    }

    #[tokio::test]
    async fn deleting() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let now = Timestamp::now().0;
        let (id, _) = add_template(&store, &team, "t", BuildStatus::Ready, now).await;
        let building = add_build(&store, &id, BuildStatus::Building, "x", now).await;
        let waiting = add_build(&store, &id, BuildStatus::Waiting, "y", now).await;
        let found = template(&store, &id).await;
        let delete = async || {
            store
                .delete_template(&found, "T")
                .await
                .map_err(|e| e.to_string())
        };
        for (state, word) in [
            (RecordState::Running, "running"),
            (RecordState::Paused, "paused"),
        ] {
            let sandbox = SandboxRecord {
                template_id: id.clone(),
                state,
                pause: (state == RecordState::Paused).then(|| pause(&team.id)),
                ..record(&team.id, 1, None)
            };
            store.insert_sandbox(&sandbox).await.unwrap();
            let text =
                format!("cannot delete template 'T' because there are {word} sandboxes using it");
            assert_eq!(delete().await.unwrap_err(), text);
            store
                .end_sandbox(&sandbox.id, soulbox_types::EndReason::Request, Timestamp(9))
                .await
                .unwrap();
        }
        assert!(resolve(&store, &team, "t").await.is_ok());

        assert_eq!(delete().await.unwrap(), std::slice::from_ref(&building.id));
        assert!(resolve(&store, &team, "t").await.is_err());
        assert!(resolve(&store, &team, id.as_str()).await.is_err());
        for build in [building, waiting] {
            let build = store.find_build(&id, &build.id).await.unwrap().unwrap();
            assert_eq!(build.reason.unwrap().message, CANCELLED);
        }
        let base = store
            .upsert_bootstrap_template(&base())
            .await
            .unwrap()
            .template;
        assert!(store.delete_template(&base, "base").await.is_err());
    }

    #[tokio::test]
    async fn tags_come_and_go() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (id, first) = add_template(&store, &team, "t", BuildStatus::Ready, 1).await;
        let second = add_build(&store, &id, BuildStatus::Ready, "default", 2).await;
        let tags: Vec<String> = ["v1", "v2"].map(Into::into).into();
        store.assign_tags(&first, &tags).await.unwrap();
        assert_eq!(
            resolve(&store, &team, "t:v1").await.unwrap().build.id,
            first.id
        );
        store.assign_tags(&second, &tags[..1]).await.unwrap();
        assert_eq!(
            resolve(&store, &team, "t:v1").await.unwrap().build.id,
            second.id
        );
        store
            .remove_tags(&id, &["v1".into(), "never".into()])
            .await
            .unwrap();
        assert!(resolve(&store, &team, "t:v1").await.is_err());
        assert!(resolve(&store, &team, "t:v2").await.is_ok());
    }
}

//! Tags of templates.
//!
//! A tag is never moved: each assignment is a row of its own, and the newest one whose build is ready is what the tag
//! means. So a build that is in progress or has failed does not hide the usable one before it.

use soulbox_types::id::random_label;
use soulbox_types::{BuildId, TemplateId, Timestamp};
use sqlx::{QueryBuilder, Transaction};

use crate::builds::{Build, build_of};
use crate::database::{Db, DbRow, column, parsed, time};
use crate::error::During;
use crate::{Store, StoreError};

/// A tag put on a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagAssignment {
    /// The tag.
    pub tag: String,
    /// What it stands for.
    pub build: BuildId,
    /// Since when.
    pub created_at: Timestamp,
}

/// That a tag was put on a build at some time, with the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedBuild {
    /// Names this assignment.
    pub id: String,
    /// The tag.
    pub tag: String,
    /// When.
    pub assigned_at: Timestamp,
    /// What it was put on.
    pub build: Build,
}

impl Store {
    /// The newest assignment of each of a template's tags, sorted by tag.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_tags(&self, template: &TemplateId) -> Result<Vec<TagAssignment>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.tag, a.build_id, a.created_at FROM template_tags a WHERE a.template_id = $1 AND a.created_at = \
             (SELECT MAX(n.created_at) FROM template_tags n WHERE n.template_id = a.template_id AND n.tag = a.tag) \
             ORDER BY a.tag",
        )
        .bind(template.as_str())
        .fetch_all(self.reader())
        .await
        .during("list tags")?;
        let assignment = |row: &DbRow| {
            Ok(TagAssignment {
                tag: column(row, "template_tags", "tag")?,
                build: parsed(row, "template_tags", "build_id")?,
                created_at: time(row, "template_tags", "created_at")?,
            })
        };
        rows.iter().map(assignment).collect()
    }

    /// Every assignment of a template's tags with its build, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tagged_builds(
        &self,
        template: &TemplateId,
    ) -> Result<Vec<TaggedBuild>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.*, a.id AS assignment_id, a.tag, a.created_at AS assigned_at \
             FROM template_tags a JOIN builds b ON b.id = a.build_id WHERE a.template_id = $1 \
             ORDER BY a.created_at DESC, a.id DESC",
        )
        .bind(template.as_str())
        .fetch_all(self.reader())
        .await
        .during("list tags")?;
        let tagged = |row: &DbRow| {
            Ok(TaggedBuild {
                id: column(row, "template_tags", "assignment_id")?,
                tag: column(row, "template_tags", "tag")?,
                assigned_at: time(row, "template_tags", "assigned_at")?,
                build: build_of(row)?,
            })
        };
        rows.iter().map(tagged).collect()
    }

    /// Puts tags on a build, in one step.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn assign_tags(&self, build: &Build, tags: &[String]) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let mut transaction = self.write().await?;
        for tag in tags {
            insert_tag(&mut transaction, build, tag, now).await?;
        }
        transaction.commit().await.during("add tags")
    }

    /// Takes tags off every build of a template. Those that it has not are left out.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_tags(
        &self,
        template: &TemplateId,
        tags: &[String],
    ) -> Result<(), StoreError> {
        let mut query = QueryBuilder::new("DELETE FROM template_tags WHERE template_id = ");
        query.push_bind(template.as_str());
        push_tags(query.push(" AND tag"), tags);
        self.execute(query.build(), "remove tags").await.map(drop)
    }
}

/// Puts a tag on a build, later than any assignment the template has, whatever the clock says.
pub(crate) async fn insert_tag(
    transaction: &mut Transaction<'static, Db>,
    build: &Build,
    tag: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT MAX(created_at) FROM template_tags WHERE template_id = $1")
            .bind(build.template.as_str())
            .fetch_one(&mut **transaction)
            .await
            .during("read tags")?;
    let created_at = newest.map_or(now.0, |newest| now.0.max(newest.saturating_add(1)));
    sqlx::query("INSERT INTO template_tags (id, template_id, tag, build_id, created_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(random_label(20))
        .bind(build.template.as_str())
        .bind(tag)
        .bind(build.id.as_str())
        .bind(created_at)
        .execute(&mut **transaction)
        .await
        .during("add a tag")?;
    Ok(())
}

/// Adds ` IN (tags)` to a query.
pub(crate) fn push_tags(query: &mut QueryBuilder<Db>, tags: &[String]) {
    query.push(" IN (");
    let mut list = query.separated(", ");
    for tag in tags {
        list.push_bind(tag.clone());
    }
    query.push(")");
}

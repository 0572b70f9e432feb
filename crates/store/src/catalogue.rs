//! The catalogue: every template that a team may use, found by words.
//!
//! Every word must be in a name, the description or a tag. A name that is the word counts most, then one that begins
//! with it; among equals, what is used more comes first. The order changes while others use templates, so pages are
//! cut by position.

use std::collections::HashMap;

use soulbox_types::Timestamp;
use sqlx::QueryBuilder;

use crate::database::{Db, DbRow, column};
use crate::error::During;
use crate::page::{Keyset, fetch_limit, keyset};
use crate::templates::template_of;
use crate::{Order, Page, PageRequest, Store, StoreError, Team, Template};

/// Stands in the tokens of this list in place of an id, so that those of other lists are refused.
const LIST: &str = "catalogue";
/// More words than this narrow nothing down.
const MOST_WORDS: usize = 8;

/// A template as somebody who looks for one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The template.
    pub template: Template,
    /// The slug of the team that owns it.
    pub author: String,
    /// Its tags that have a usable build, sorted.
    pub tags: Vec<String>,
    /// Version of its usable build under the tag `default`.
    pub version: Option<String>,
    /// Content of that build's own layers in bytes; 0 without one.
    pub size_bytes: i64,
}

impl Store {
    /// The team's own templates and the public ones that have all these words, best match first. Without words: all of
    /// them. Words after the eighth are not looked at.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn search_templates(
        &self,
        team: &Team,
        words: &str,
        page: &PageRequest,
    ) -> Result<Page<CatalogueEntry>, StoreError> {
        let skip = position(page)?;
        let words: Vec<String> = words
            .split_whitespace()
            .take(MOST_WORDS)
            .map(str::to_lowercase)
            .collect();
        self.settle().await?;
        let rows = question(team, &words, skip, page.limit)
            .build()
            .fetch_all(self.reader())
            .await
            .during("search templates")?;
        let mut items = rows.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let next_cursor = (items.len() > limit).then(|| token(skip + i64::from(page.limit)));
        items.truncate(limit);
        self.add_aliases(items.iter_mut().map(|item| &mut item.template))
            .await?;
        self.add_tags(&mut items).await?;
        Ok(Page { items, next_cursor })
    }

    async fn add_tags(&self, items: &mut [CatalogueEntry]) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        let mut query = QueryBuilder::<Db>::new(
            "SELECT DISTINCT a.template_id, a.tag FROM template_tags a JOIN builds b ON b.id = a.build_id \
             WHERE b.status = 'ready' AND a.template_id IN (",
        );
        let mut ids = query.separated(", ");
        for item in items.iter() {
            ids.push_bind(item.template.id.to_string());
        }
        query.push(") ORDER BY a.tag");
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("read tags")?;
        let mut by_id: HashMap<String, &mut CatalogueEntry> = items
            .iter_mut()
            .map(|item| (item.template.id.to_string(), item))
            .collect();
        for row in &rows {
            let id: &str = column(row, "template_tags", "template_id")?;
            if let Some(item) = by_id.get_mut(id) {
                item.tags.push(column(row, "template_tags", "tag")?);
            }
        }
        Ok(())
    }
}

/// How many items the pages before have shown.
fn position(page: &PageRequest) -> Result<i64, StoreError> {
    match keyset(page.cursor.as_deref(), Order::Descending)? {
        None => Ok(0),
        Some(key) if key.id == LIST && key.at.0 >= 0 => Ok(key.at.0),
        Some(_) => Err(StoreError::InvalidToken),
    }
}

fn token(position: i64) -> String {
    let key = Keyset {
        at: Timestamp(position),
        id: LIST.to_owned(),
    };
    key.token(Order::Descending)
}

fn question(team: &Team, words: &[String], skip: i64, limit: u32) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new("SELECT * FROM (SELECT t.*, m.slug AS author");
    for column in ["semantic_version", "size_bytes"] {
        query.push(format_args!(
            ", (SELECT b.{column} FROM template_tags a JOIN builds b ON b.id = a.build_id \
             WHERE a.template_id = t.id AND a.tag = 'default' AND b.status = 'ready' \
             ORDER BY a.created_at DESC, a.id DESC LIMIT 1) AS default_{column}"
        ));
    }
    for (number, word) in words.iter().enumerate() {
        push_score(&mut query, number, word);
    }
    query
        .push(" FROM templates t JOIN teams m ON m.id = t.team_id WHERE t.deleted_at IS NULL AND (t.public OR NOT t.is_snapshot AND t.team_id = ")
        .push_bind(team.id.to_string())
        .push(")) WHERE TRUE");
    for number in 0..words.len() {
        query.push(format_args!(" AND score{number} > 0"));
    }
    // Not a bare 0, which would be the number of a column.
    query.push(" ORDER BY 0 + 0");
    for number in 0..words.len() {
        query.push(format_args!(" + score{number}"));
    }
    query
        .push(" DESC, spawn_count DESC, updated_at DESC, id LIMIT ")
        .push_bind(fetch_limit(limit))
        .push(" OFFSET ")
        .push_bind(skip);
    query
}

/// Adds the column that says how well one word fits. `LIKE` does not tell capital letters from others.
fn push_score(query: &mut QueryBuilder<Db>, number: usize, word: &str) {
    let literal = word
        .replace('\\', r"\\")
        .replace('%', r"\%")
        .replace('_', r"\_");
    let (begins, within) = (format!("{literal}%"), format!("%{literal}%"));
    query
        .push(", COALESCE((SELECT MAX(CASE WHEN n.alias = ")
        .push_bind(word.to_owned())
        .push(" THEN 100 WHEN n.alias LIKE ")
        .push_bind(begins)
        .push(r" ESCAPE '\' THEN 60 WHEN n.namespace || '/' || n.alias LIKE ")
        .push_bind(within.clone())
        .push(r" ESCAPE '\' THEN 40 ELSE 0 END) FROM template_aliases n WHERE n.template_id = t.id), 0)")
        .push(" + (CASE WHEN t.description LIKE ")
        .push_bind(within.clone())
        .push(r" ESCAPE '\' THEN 10 ELSE 0 END)")
        .push(
            " + (CASE WHEN EXISTS (SELECT 1 FROM template_tags a JOIN builds b ON b.id = a.build_id \
             WHERE a.template_id = t.id AND b.status = 'ready' AND a.tag LIKE ",
        )
        .push_bind(within)
        .push(format_args!(r" ESCAPE '\') THEN 20 ELSE 0 END) AS score{number}"));
}

/// Reads a row; aliases and tags stay empty.
fn entry(row: &DbRow) -> Result<CatalogueEntry, StoreError> {
    Ok(CatalogueEntry {
        template: template_of(row)?,
        author: column(row, "teams", "author")?,
        tags: Vec::new(),
        version: column(row, "builds", "default_semantic_version")?,
        size_bytes: column::<Option<i64>>(row, "builds", "default_size_bytes")?.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BuildStatus;
    use crate::database::tests::temp_store;
    use crate::teams::tests::add_team;
    use crate::templates::tests::{add_build, add_template, base};

    async fn names(store: &Store, team: &Team, words: &str) -> Vec<String> {
        let all = PageRequest::first(100);
        let items = store
            .search_templates(team, words, &all)
            .await
            .unwrap()
            .items;
        items
            .iter()
            .map(|item| item.template.aliases.join(" "))
            .collect()
    }

    #[tokio::test]
    async fn words_find_templates() {
        let store = temp_store().await;
        let (team, other) = (
            store.default_team().await.unwrap(),
            add_team(&store, "other").await,
        );
        store.upsert_bootstrap_template(&base()).await.unwrap();
        let mut ids = Vec::new();
        for (alias, description) in [
            ("python", "An interpreter"),
            ("python-data", "pandas, 100% numpy"),
            ("science", "For PYTHON people"),
        ] {
            let (id, _) = add_template(&store, &team, alias, BuildStatus::Ready, 1).await;
            let template = store.get_template(&id).await.unwrap().unwrap().template;
            store
                .set_template_description(&template, description)
                .await
                .unwrap();
            ids.push(id);
        }
        add_build(&store, &ids[2], BuildStatus::Ready, "gpu", 2).await;
        add_build(&store, &ids[2], BuildStatus::Error, "broken", 3).await;

        assert_eq!(
            names(&store, &team, "python").await,
            ["python", "python-data", "science", "base"]
        );
        assert_eq!(names(&store, &team, "Python people").await, ["science"]);
        assert_eq!(names(&store, &team, "data").await, ["python-data"]);
        assert_eq!(names(&store, &team, "0% num").await, ["python-data"]);
        assert_eq!(names(&store, &team, "default/sc").await, ["science"]);
        assert_eq!(names(&store, &team, "gpu").await, ["science"]);
        assert!(names(&store, &team, "broken").await.is_empty());
        assert!(names(&store, &team, "_ython").await.is_empty());
        assert_eq!(names(&store, &team, "debian python").await, ["base"]);
        assert_eq!(names(&store, &team, " ").await.len(), 4);
        // Of others only what is public.
        assert_eq!(names(&store, &other, "").await, ["base"]);
        let template = store.get_template(&ids[0]).await.unwrap().unwrap().template;
        store
            .set_template_public(&template, true, false)
            .await
            .unwrap();
        let all = PageRequest::first(9);
        let found = store.search_templates(&other, "interpreter", &all).await;
        let found = found.unwrap().items;
        assert_eq!((found.len(), found[0].author.as_str()), (1, "default"));
        assert_eq!(
            (&found[0].tags[..], found[0].size_bytes),
            (&["default".to_owned()][..], 0)
        );
    }

    #[tokio::test]
    async fn pages_are_cut_by_position() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        for alias in ["a", "b", "c"] {
            add_template(&store, &team, alias, BuildStatus::Ready, 1).await;
        }
        let mut page = PageRequest::first(2);
        let first = store.search_templates(&team, "", &page).await.unwrap();
        page.cursor.clone_from(&first.next_cursor);
        let second = store.search_templates(&team, "", &page).await.unwrap();
        assert_eq!((first.items.len(), second.items.len()), (2, 1));
        assert!(!first.items.contains(&second.items[0]) && second.next_cursor.is_none());
        let one = PageRequest::first(1);
        let list = store
            .list_templates(&team.id, Order::Descending, &one)
            .await;
        page.cursor = list.unwrap().next_cursor;
        assert!(store.search_templates(&team, "", &page).await.is_err());
    }
}

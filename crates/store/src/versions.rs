//! Semantic versions of builds: which one a new build gets, and which build one means.
//!
//! A version is given once, when the build is asked for, and never changes hands: what failed keeps it too. So a build
//! that wants a version which another has gets it with a number after a plus, which does not count when versions are
//! compared.

use semver::Version;
use soulbox_types::TemplateId;
use sqlx::Transaction;

use crate::StoreError;
use crate::builds::{Build, build_of};
use crate::database::Db;
use crate::error::During;

/// The version of a template's next build with these tags.
pub(crate) async fn next_version(
    transaction: &mut Transaction<'static, Db>,
    template: &TemplateId,
    tags: &[String],
) -> Result<String, StoreError> {
    let taken: Vec<String> = sqlx::query_scalar(
        "SELECT semantic_version FROM builds WHERE template_id = $1 AND semantic_version IS NOT NULL",
    )
    .bind(template.as_str())
    .fetch_all(&mut **transaction)
    .await
    .during("read the versions of a template")?;
    Ok(choose(&taken, tags))
}

/// The usable build of a version. Where the build that had it first cannot be used, the newest one that wanted it.
pub(crate) async fn ready_of_version<'c>(
    executor: impl sqlx::Executor<'c, Database = Db>,
    template: &TemplateId,
    text: &str,
) -> Result<Option<Build>, StoreError> {
    let Some(version) = parse(text) else {
        return Ok(None);
    };
    let row = sqlx::query(
        "SELECT * FROM builds WHERE template_id = $1 AND status = 'ready' \
         AND (semantic_version = $2 OR substr(semantic_version, 1, length($2) + 1) = $2 || '+') \
         ORDER BY semantic_version = $2 DESC, version DESC LIMIT 1",
    )
    .bind(template.as_str())
    .bind(version.to_string())
    .fetch_optional(executor)
    .await
    .during("look up a version")?;
    row.as_ref().map(build_of).transpose()
}

/// Reads a semantic version, with or without a `v` before it.
fn parse(text: &str) -> Option<Version> {
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

/// The one that a tag names; otherwise the next minor one after the highest.
fn choose(taken: &[String], tags: &[String]) -> String {
    let mut named = tags.iter().filter_map(|tag| parse(tag));
    let wanted = match (named.next(), named.next()) {
        (Some(version), None) => version,
        _ => after(taken.iter().filter_map(|text| parse(text)).max()),
    };
    let wanted = wanted.to_string();
    let free = |candidate: &String| !taken.contains(candidate);
    let numbered = (2..).map(|number: u64| format!("{wanted}+{number}"));
    std::iter::once(wanted.clone())
        .chain(numbered)
        .find(free)
        .unwrap_or(wanted)
}

fn after(highest: Option<Version>) -> Version {
    highest.map_or(Version::new(1, 0, 0), |highest| {
        Version::new(highest.major, highest.minor.saturating_add(1), 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::temp_store;
    use crate::templates::tests::resolve;
    use crate::{FinishedBuild, NewBuild, Store, Team};
    use soulbox_types::{BuildContext, Limits};

    fn chosen(taken: &[&str], tags: &[&str]) -> String {
        let owned = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        choose(&owned(taken), &owned(tags))
    }

    #[test]
    fn versions_are_counted_or_named() {
        assert_eq!(chosen(&[], &["default"]), "1.0.0");
        assert_eq!(chosen(&["1.0.0", "1.10.3", "1.9.0"], &[]), "1.11.0");
        assert_eq!(chosen(&["2.0.0-rc.1"], &["default"]), "2.1.0");
        assert_eq!(chosen(&[], &["default", "v1.2.0"]), "1.2.0");
        assert_eq!(chosen(&["1.0.0"], &["0.3.0-beta.1"]), "0.3.0-beta.1");
        assert_eq!(chosen(&[], &["1.2.0", "v1.3.0"]), "1.0.0");
        assert_eq!(chosen(&[], &["v1", "1.2"]), "1.0.0");
        assert_eq!(chosen(&["1.2.0"], &["1.2.0"]), "1.2.0+2");
        assert_eq!(chosen(&["1.2.0", "1.2.0+2"], &["v1.2.0"]), "1.2.0+3");
        let last = format!("1.{}.0", u64::MAX);
        assert_eq!(chosen(&[&last], &[]), format!("{last}+2"));
    }

    async fn build(store: &Store, team: &Team, tags: &[&str], works: bool) -> Build {
        let new = NewBuild {
            reference: "mine".parse().unwrap(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            limits: Limits::STANDARD,
            max_concurrent: 9,
        };
        let build = store.request_build(team, &new).await.unwrap().build;
        if works {
            store.start_build(&build.id).await.unwrap();
            let finished = FinishedBuild {
                layers: vec![],
                context: BuildContext::default(),
                start: None,
                memory: None,
                envd_version: String::new(),
                size_bytes: 1,
                disk_mib: 1,
            };
            store.finish_build(&build.id, &finished).await.unwrap();
        }
        build
    }

    #[tokio::test]
    async fn a_version_means_a_build_where_no_tag_does() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let first = build(&store, &team, &["default"], true).await;
        let second = build(&store, &team, &["default"], true).await;
        let failed = build(&store, &team, &["v2.0.0"], false).await;
        let third = build(&store, &team, &["v2.0.0"], true).await;
        let versions = [&first, &second, &failed, &third].map(|build| build.semver.clone());
        let versions: Vec<_> = versions.iter().flatten().map(String::as_str).collect();
        assert_eq!(versions, ["1.0.0", "1.1.0", "2.0.0", "2.0.0+2"]);

        let meant = async |text: &str| resolve(&store, &team, text).await.map(|r| r.build.id);
        assert_eq!(meant("mine:1.0.0").await.unwrap(), first.id);
        assert_eq!(meant("mine:v1.0.0").await.unwrap(), first.id);
        assert_eq!(meant("mine").await.unwrap(), second.id);
        // That of the failed one, and of nobody's tag.
        assert_eq!(meant("mine:2.0.0").await.unwrap(), third.id);
        assert!(meant("mine:3.0.0").await.is_err());
        let exact = store.ready_build(&third.template, "2.0.0+2").await.unwrap();
        assert_eq!(exact.unwrap().id, third.id);

        store
            .assign_tags(&second, &["1.0.0".to_owned()])
            .await
            .unwrap();
        assert_eq!(meant("mine:1.0.0").await.unwrap(), second.id);
        assert_eq!(meant("mine:v1.0.0").await.unwrap(), first.id);
    }

    #[tokio::test]
    async fn what_was_there_before_is_counted() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let first = build(&store, &team, &["default"], true).await;
        let second = build(&store, &team, &["v7.0.0"], true).await;
        let mut transaction = store.write().await.unwrap();
        sqlx::query("DROP INDEX builds_by_semantic_version")
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::query("ALTER TABLE builds DROP COLUMN semantic_version")
            .execute(&mut *transaction)
            .await
            .unwrap();
        let migration = include_str!("../migrations/0004_versions.sql");
        sqlx::raw_sql(migration)
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        let versions = [first, second].map(|build| build.id);
        for (id, version) in versions.iter().zip(["1.0.0", "1.1.0"]) {
            let found: String =
                sqlx::query_scalar("SELECT semantic_version FROM builds WHERE id = $1")
                    .bind(id.as_str())
                    .fetch_one(store.reader())
                    .await
                    .unwrap();
            assert_eq!(found, version);
        }
    }
}

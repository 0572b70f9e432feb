//! Grouping, sorting and paging of tag assignments: pure functions over what the store has.
//!
//! A template has few tags, so the pages are cut here and the cursor is only the last thing shown.

use std::collections::{BTreeMap, BTreeSet};

use soulbox_api_types::tag::{TagAssignment, TagAssignments, TagGroup, TagGroups};
use soulbox_store::{BuildStatus, TaggedBuild};

/// Order of the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    LatestDescending,
    LatestAscending,
    NameAscending,
    NameDescending,
}

/// Which groups are wanted.
#[derive(Debug, Clone)]
pub(crate) struct GroupQuery {
    pub(crate) sort: Sort,
    pub(crate) search: String,
    pub(crate) tags_limit: usize,
    pub(crate) assignment_limit: usize,
    pub(crate) cursor: Option<String>,
}

/// Different tags that have a ready build.
pub(crate) fn count_ready(rows: &[TaggedBuild]) -> i64 {
    let ready = rows
        .iter()
        .filter(|row| row.build.status == BuildStatus::Ready);
    let tags: BTreeSet<&str> = ready.map(|row| row.tag.as_str()).collect();
    i64::try_from(tags.len()).unwrap_or(i64::MAX)
}

/// A page of tags, each with its newest assignments. None when the cursor is not of this list.
/// `rows` are newest first.
pub(crate) fn group(rows: &[TaggedBuild], query: &GroupQuery) -> Option<TagGroups> {
    let mut by_tag: BTreeMap<&str, Vec<&TaggedBuild>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.tag.contains(&query.search)) {
        by_tag.entry(&row.tag).or_default().push(row);
    }
    let mut groups: Vec<_> = by_tag.into_iter().collect();
    let latest = |group: &[&TaggedBuild]| group.first().map(|row| row.assigned_at);
    match query.sort {
        Sort::NameAscending => {}
        Sort::NameDescending => groups.reverse(),
        Sort::LatestAscending => groups.sort_by_key(|(_, group)| latest(group)),
        Sort::LatestDescending => groups.sort_by_key(|(_, group)| std::cmp::Reverse(latest(group))),
    }
    let (page, next) = cut(
        groups,
        query.tags_limit,
        query.cursor.as_deref(),
        |(tag, _)| (*tag).to_owned(),
    )?;
    let tags = page.into_iter().map(|(tag, group)| TagGroup {
        tag: tag.to_owned(),
        assignments: group
            .iter()
            .take(query.assignment_limit)
            .map(|row| assignment(row))
            .collect(),
        has_more: group.len() > query.assignment_limit,
    });
    Some(TagGroups {
        tags: tags.collect(),
        next_cursor: next,
    })
}

/// A page of one tag's assignments, newest first. None when the cursor is not of this list.
pub(crate) fn page(
    rows: &[TaggedBuild],
    tag: &str,
    limit: usize,
    cursor: Option<&str>,
) -> Option<TagAssignments> {
    let of_tag: Vec<_> = rows.iter().filter(|row| row.tag == tag).collect();
    let (page, next) = cut(of_tag, limit, cursor, |row| row.id.clone())?;
    Some(TagAssignments {
        data: page.into_iter().map(assignment).collect(),
        next_cursor: next,
    })
}

/// The items after the one that the cursor names, and the cursor of the next page when there is one.
fn cut<T>(
    items: Vec<T>,
    limit: usize,
    cursor: Option<&str>,
    name: impl Fn(&T) -> String,
) -> Option<(Vec<T>, Option<String>)> {
    let start = match cursor.filter(|text| !text.is_empty()) {
        Some(cursor) => items.iter().position(|item| name(item) == cursor)? + 1,
        None => 0,
    };
    let more = items.len() > start.saturating_add(limit);
    let page: Vec<T> = items.into_iter().skip(start).take(limit).collect();
    let next = page.last().filter(|_| more).map(name);
    Some((page, next))
}

fn assignment(row: &TaggedBuild) -> TagAssignment {
    TagAssignment {
        assignment_id: row.id.clone(),
        build_id: row.build.id.to_string(),
        assigned_at: row.assigned_at.to_string(),
        build_created_at: row.build.created_at.to_string(),
        build_finished_at: row.build.finished_at.map(|at| at.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use soulbox_store::Build;
    use soulbox_types::{BuildId, Limits, TemplateId, Timestamp};

    use super::*;

    /// Newest first, as the store gives them.
    fn rows(assignments: &[(&str, i64, BuildStatus)]) -> Vec<TaggedBuild> {
        let row = |(tag, at, status): &(&str, i64, BuildStatus)| TaggedBuild {
            id: format!("{tag}-{at}"),
            tag: (*tag).to_owned(),
            assigned_at: Timestamp(*at),
            build: Build {
                id: BuildId::random(),
                template: TemplateId::random(),
                status: *status,
                limits: Limits::STANDARD,
                layers: vec![],
                envd_version: String::new(),
                default_user: String::new(),
                default_workdir: None,
                env: BTreeMap::new(),
                start: None,
                memory: None,
                reason: None,
                version: 1,
                semver: None,
                size_bytes: 0,
                created_at: Timestamp(*at),
                updated_at: Timestamp(*at),
                finished_at: None,
            },
        };
        assignments.iter().map(row).collect()
    }

    fn sample() -> Vec<TaggedBuild> {
        rows(&[
            ("b", 5, BuildStatus::Ready),
            ("a", 4, BuildStatus::Error),
            ("b", 3, BuildStatus::Ready),
            ("c", 2, BuildStatus::Ready),
        ])
    }

    fn names(
        sort: Sort,
        search: &str,
        cursor: Option<&str>,
    ) -> Option<(Vec<String>, Option<String>)> {
        let query = GroupQuery {
            sort,
            search: search.into(),
            tags_limit: 2,
            assignment_limit: 1,
            cursor: cursor.map(Into::into),
        };
        let groups = group(&sample(), &query)?;
        Some((
            groups.tags.iter().map(|g| g.tag.clone()).collect(),
            groups.next_cursor,
        ))
    }

    #[test]
    fn groups_are_sorted_and_paged() {
        let check = |sort, cursor, want: &[&str], next: Option<&str>| {
            let (got, got_next) = names(sort, "", cursor).unwrap();
            assert_eq!(
                (got, got_next.as_deref()),
                (want.iter().map(|s| (*s).to_owned()).collect(), next),
                "{sort:?}"
            );
        };
        check(Sort::LatestDescending, None, &["b", "a"], Some("a"));
        check(Sort::LatestDescending, Some("a"), &["c"], None);
        check(Sort::LatestAscending, None, &["c", "a"], Some("a"));
        check(Sort::NameAscending, None, &["a", "b"], Some("b"));
        check(Sort::NameDescending, Some("b"), &["a"], None);
        assert_eq!(names(Sort::NameAscending, "c", None).unwrap().0, ["c"]);
        assert!(names(Sort::NameAscending, "", Some("zzz")).is_none());
    }

    #[test]
    fn only_ready_builds_count() {
        assert_eq!(count_ready(&sample()), 2);
    }

    #[test]
    fn pages_of_one_tag() {
        let first = page(&sample(), "b", 1, None).unwrap();
        assert_eq!(
            (first.data.len(), first.next_cursor.as_deref()),
            (1, Some("b-5"))
        );
        let second = page(&sample(), "b", 1, first.next_cursor.as_deref()).unwrap();
        assert_eq!(
            (second.data[0].assignment_id.as_str(), second.next_cursor),
            ("b-3", None)
        );
        assert!(page(&sample(), "b", 1, Some("x")).is_none());
    }
}

//! `soulbox template …`: which versions there are and which is in use, going back, finding templates of others.

use jiff::Timestamp;
use serde_json::json;
use soulbox_api_types::build::BuildStatus;
use soulbox_api_types::tag::TemplateTag;
use soulbox_api_types::template::{TemplateBuild, TemplateWithBuilds};
use soulbox_client::Api;

use crate::args::versions::{DescribeArgs, RollbackArgs, SearchArgs};
use crate::commands::template::{found, refused};
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::text::{ago, size};

/// `template versions`.
pub(crate) async fn versions(api: &Api, name: &str, output: Output) -> Result<(), Failure> {
    let template = found(api, name).await?.template;
    let builds = api.template_builds(&template.template_id).await;
    let builds = builds.map_err(refused)?;
    let tags = api.template_tags(name).await.map_err(refused)?;
    let document = json!({ "inUse": template.build_id, "builds": builds, "tags": tags });
    output.show(&document, |_| list(&builds, &tags, &template.build_id))
}

/// The builds as a table, with their tags and a mark at the one that sandboxes are made from.
pub(crate) fn list(builds: &[TemplateBuild], tags: &[TemplateTag], in_use: &str) -> String {
    let now = Timestamp::now();
    let rows = builds.iter().map(|build| {
        let tags = tags.iter().filter(|tag| tag.build_id == build.build_id);
        [
            build.version.clone().unwrap_or_default(),
            if build.build_id == in_use {
                "in use"
            } else {
                ""
            }
            .to_owned(),
            format!("{:?}", build.status).to_lowercase(),
            tags.map(|tag| tag.tag.as_str())
                .collect::<Vec<_>>()
                .join(" "),
            build.size_bytes.map(size).unwrap_or_default(),
            ago(now, &build.created_at),
            build.build_id.clone(),
        ]
    });
    table(
        [
            "VERSION",
            "",
            "STATUS",
            "TAGS",
            "SIZE",
            "ASKED FOR",
            "BUILD",
        ],
        rows,
    )
}

/// `template rollback`: one assignment, so sandboxes get the one build or the other and nothing between.
pub(crate) async fn rollback(
    api: &Api,
    args: &RollbackArgs,
    output: Output,
) -> Result<(), Failure> {
    let name = &args.name;
    let template = found(api, name).await?;
    let wanted = match &args.to {
        // No tag has a plus, and so no reference.
        Some(version) if version.contains('+') => build_of(&template, version),
        Some(wanted) => Some(wanted.clone()),
        None => before(&template),
    };
    let wanted = wanted.ok_or_else(|| {
        let what = match &args.to {
            Some(version) => format!("template {name} has no version {version} that is ready"),
            None => format!("template {name} has no earlier build that is ready"),
        };
        Failure::user(what).fix(format!("soulbox template versions {name}"))
    })?;
    let target = format!("{name}:{wanted}");
    let tags = ["default".to_owned()];
    let assigned = api.assign_tags(&target, &tags).await.map_err(refused)?;
    output.show(&assigned, |assigned| {
        let mut builds = template.builds.iter();
        let build = builds.find(|build| build.build_id == assigned.build_id);
        let version = build.and_then(|build| build.version.as_deref());
        match version {
            Some(version) => format!(
                "{name} is version {version} from now on (build {})",
                assigned.build_id
            ),
            None => format!("{name} is build {} from now on", assigned.build_id),
        }
    })
}

/// The usable build that has exactly this version.
fn build_of(template: &TemplateWithBuilds, version: &str) -> Option<String> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let mut builds = template.builds.iter();
    let build = builds.find(|build| {
        build.status == BuildStatus::Ready && build.version.as_deref() == Some(version)
    });
    build.map(|build| build.build_id.clone())
}

/// The newest usable build that is older than the one in use.
fn before(template: &TemplateWithBuilds) -> Option<String> {
    let mut builds = template.builds.iter();
    builds.find(|build| build.build_id == template.template.build_id)?;
    builds
        .find(|build| build.status == BuildStatus::Ready)
        .map(|build| build.build_id.clone())
}

/// `template search`.
pub(crate) async fn search(api: &Api, args: &SearchArgs, output: Output) -> Result<(), Failure> {
    let words = args.words.join(" ");
    let page = api
        .search_templates(&words, args.limit)
        .await
        .map_err(refused)?;
    if output == Output::Text && page.items.is_empty() {
        note("no template has these words in its names, its description or its tags");
        return Ok(());
    }
    output.show(&page.items, |items| {
        let now = Timestamp::now();
        let rows = items.iter().map(|item| {
            [
                item.names.first().unwrap_or(&item.template_id).clone(),
                item.version.clone().unwrap_or_default(),
                item.author.clone(),
                if item.public { "public" } else { "team" }.to_owned(),
                item.downloads.to_string(),
                size(item.size_bytes),
                ago(now, &item.updated_at),
                first_line(item.description.as_deref().unwrap_or_default()),
            ]
        });
        table(
            [
                "NAME",
                "VERSION",
                "BY",
                "FOR",
                "USED",
                "SIZE",
                "CHANGED",
                "DESCRIPTION",
            ],
            rows,
        )
    })?;
    if output == Output::Text && page.next_token.is_some() {
        note("there are more; name more words, or raise --limit");
    }
    Ok(())
}

/// As much of a description as has room in a table. Control characters of others do not reach the terminal.
fn first_line(text: &str) -> String {
    const ROOM: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    let mut shown: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(ROOM)
        .collect();
    if shown.chars().count() < text.chars().count() {
        shown.push('…');
    }
    shown
}

/// `template describe`.
pub(crate) async fn describe(
    api: &Api,
    args: &DescribeArgs,
    output: Output,
) -> Result<(), Failure> {
    let updated = api.describe_template(&args.name, &args.text).await;
    let updated = updated.map_err(refused)?;
    output.show(&updated, |updated| {
        format!("{} is described", updated.names.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_one_line() {
        assert_eq!(first_line("short"), "short");
        assert_eq!(first_line("one\ntwo"), "one…");
        assert_eq!(first_line("a\u{1b}[31m"), "a[31m…");
        assert_eq!(first_line(&"é".repeat(61)).chars().count(), 61);
    }

    #[test]
    fn versions_are_a_table() {
        let build = |id: &str, version: &str| TemplateBuild {
            build_id: id.to_owned(),
            status: BuildStatus::Ready,
            created_at: "when".to_owned(),
            updated_at: String::new(),
            finished_at: None,
            cpu_count: 1,
            memory_mb: 1,
            disk_size_mb: None,
            envd_version: None,
            version: Some(version.to_owned()),
            size_bytes: Some(1 << 20),
        };
        let tag = |tag: &str| TemplateTag {
            tag: tag.to_owned(),
            build_id: "b1".to_owned(),
            created_at: String::new(),
        };
        let builds = [build("b2", "1.1.0"), build("b1", "1.0.0")];
        let text = list(&builds, &[tag("default"), tag("old")], "b1");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["1.1.0", "ready", "1.0", "MiB", "when", "b2"]);
        assert_eq!(
            rows[1],
            [
                "1.0.0", "in", "use", "ready", "default", "old", "1.0", "MiB", "when", "b1"
            ]
        );
    }
}

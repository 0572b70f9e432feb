//! What is in the builds of a template: the difference of two, and one as a file to carry away.
//!
//! Whoever may make sandboxes of a template may look into it.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use http::{HeaderValue, header};
use soulbox_api_types::difference as wire;
use soulbox_builder::LookError;
use soulbox_builder::difference::{
    Difference, Ecosystem, FileChange, FileFacts, FileKind, PackageChange,
};
use soulbox_store::{Build, Team, Template};
use soulbox_types::ErrorKind;
use soulbox_types::name::DEFAULT_TAG;
use tokio_util::io::ReaderStream;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{PathArg, Query, violation};
use crate::state::{Api, Shared};
use crate::templates::access::{named, not_found, reference};

/// The routes, which take longer than others: every file of a template is read.
pub(crate) const DIFF_ROUTE: &str = "/templates/{templateID}/diff";
/// See [`DIFF_ROUTE`].
pub(crate) const EXPORT_ROUTE: &str = "/templates/{templateID}/export";
/// How long such a request may take until its answer begins.
pub(crate) const DEADLINE: Duration = Duration::from_mins(30);
/// Files that an answer lists, where nothing else is asked for, and at most.
const FILES: u32 = 1000;
pub(crate) const MOST_FILES: u32 = 10_000;
/// Pieces in which an export is read from the disk.
const PIECE_BYTES: usize = 256 << 10;

/// `GET /templates/{templateID}/diff`.
pub(crate) async fn diff(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    query: Query,
) -> Result<Json<wire::TemplateDifference>, ApiError> {
    let limit = query.number("limit", 0..=MOST_FILES)?.unwrap_or(FILES);
    let from = query.required("from")?;
    let to = query.text("to").unwrap_or(DEFAULT_TAG);
    let template = usable(&api, &team, &text).await?;
    let from = build(&api, &template, "from", from).await?;
    let to = build(&api, &template, "to", to).await?;
    let found = api.looks.difference(&from, &to).await?;
    Ok(Json(difference(&template, (&from, &to), found, limit)))
}

/// `GET /templates/{templateID}/export`: the file as it is. It is whole on the disk when the answer begins.
pub(crate) async fn export(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(text): PathArg,
    query: Query,
) -> Result<Response, ApiError> {
    let wanted = query.required("build")?;
    let template = usable(&api, &team, &text).await?;
    let build = build(&api, &template, "build", wanted).await?;
    let archive = api.looks.export(&template, &build).await?;
    let length = HeaderValue::from(archive.size_bytes());
    let stream = ReaderStream::with_capacity(archive.into_reader(), PIECE_BYTES);
    let kind = HeaderValue::from_static("application/x-tar");
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_LENGTH, length),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// The template of a name or an id, if the team may make sandboxes of it. Another one is like none.
async fn usable(api: &Api, team: &Team, text: &str) -> Result<Template, ApiError> {
    let wanted = reference(text, "Invalid template reference")?;
    if wanted.tag.is_some() {
        return Err(ApiError::invalid(
            "the template's name must stand without a tag or version",
        ));
    }
    let template = named(api, team, &wanted).await?;
    if template.team == team.id || template.public {
        Ok(template)
    } else {
        Err(not_found(&wanted.identifier()))
    }
}

/// The usable build that a version, a tag or a build id means.
async fn build(api: &Api, template: &Template, name: &str, text: &str) -> Result<Build, ApiError> {
    let wanted = text.trim().to_lowercase();
    if wanted.is_empty() {
        return Err(violation(
            name,
            "must be a version, a tag or the id of a build",
        ));
    }
    let found = api.store.ready_build(&template.id, &wanted).await?;
    found.ok_or_else(|| {
        let template = template
            .names
            .first()
            .map_or(template.id.as_str(), String::as_str);
        ApiError::not_found(format!(
            "template '{template}' has no ready build '{wanted}'"
        ))
    })
}

fn difference(
    template: &Template,
    (from, to): (&Build, &Build),
    found: Option<Difference>,
    limit: u32,
) -> wire::TemplateDifference {
    let same_layers = found.is_none();
    let sizes = found
        .as_ref()
        .map(|found| (found.bytes_before, found.bytes_after));
    let found = found.unwrap_or_default();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let [added, removed, changed] = counts(&found.files);
    wire::TemplateDifference {
        template_id: template.id.to_string(),
        from: side(from, sizes.map(|sizes| sizes.0)),
        to: side(to, sizes.map(|sizes| sizes.1)),
        same_layers,
        added,
        removed,
        changed,
        truncated: found.files.len() > limit,
        packages: found.packages.into_iter().map(package).collect(),
        files: found.files.into_iter().take(limit).map(file).collect(),
    }
}

/// What is new, gone and other.
fn counts(files: &[FileChange]) -> [wire::FileCount; 3] {
    let mut counts = [wire::FileCount::default(); 3];
    for change in files {
        let (kind, facts) = match (&change.before, &change.after) {
            (None, facts) => (0, facts),
            (facts, None) => (1, facts),
            (Some(_), facts) => (2, facts),
        };
        counts[kind].count += 1;
        counts[kind].size_bytes += facts.as_ref().map_or(0, |facts| facts.size_bytes);
    }
    counts
}

fn side(build: &Build, size_bytes: Option<u64>) -> wire::ComparedBuild {
    wire::ComparedBuild {
        build_id: build.id.to_string(),
        version: build.semver.clone(),
        size_bytes,
    }
}

fn package(change: PackageChange) -> wire::PackageChange {
    wire::PackageChange {
        ecosystem: match change.ecosystem {
            Ecosystem::Debian => wire::Ecosystem::Debian,
            Ecosystem::Python => wire::Ecosystem::Python,
            Ecosystem::Npm => wire::Ecosystem::Npm,
        },
        name: change.name,
        from: change.before,
        to: change.after,
    }
}

fn file(change: FileChange) -> wire::FileChange {
    wire::FileChange {
        path: change.path,
        from: change.before.map(facts),
        to: change.after.map(facts),
    }
}

fn facts(facts: FileFacts) -> wire::ComparedFile {
    wire::ComparedFile {
        r#type: match facts.kind {
            FileKind::File => wire::ComparedFileType::File,
            FileKind::Directory => wire::ComparedFileType::Directory,
            FileKind::Link => wire::ComparedFileType::Link,
            FileKind::Other => wire::ComparedFileType::Other,
        },
        size_bytes: facts.size_bytes,
        mode: format!("{:04o}", facts.mode),
        uid: facts.uid,
        gid: facts.gid,
        target: facts.target,
        sha256: facts.sha256.map(|hash| HEXLOWER.encode(&hash)),
    }
}

impl From<LookError> for ApiError {
    fn from(error: LookError) -> Self {
        match (error.kind(), &error) {
            (ErrorKind::Internal, _) => Self::internal(error),
            // Its way out is in its own words.
            (kind, LookError::Driver(why)) => Self::new(kind, format!("{error}: {why}")),
            (kind, _) => Self::new(kind, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use soulbox_builder::Contents;
    use soulbox_builder::difference::diff;

    use super::*;

    fn contents(sizes: &[(&str, u64)]) -> Contents {
        let facts = |size_bytes| FileFacts {
            kind: FileKind::File,
            size_bytes,
            mode: 0o4755,
            uid: 0,
            gid: 0,
            target: None,
            sha256: Some([0xab; 32]),
        };
        Contents {
            files: sizes
                .iter()
                .map(|(path, size)| ((*path).to_owned(), facts(*size)))
                .collect(),
            packages: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_new_gone_and_other_is_counted() {
        let before = contents(&[("/a", 10), ("/b", 20), ("/gone", 5)]);
        let after = contents(&[("/a", 11), ("/b", 20), ("/n1", 100), ("/n2", 1)]);
        let found = diff(&before, &after);
        let counts = counts(&found.files).map(|count| (count.count, count.size_bytes));
        assert_eq!(counts, [(2, 101), (1, 5), (1, 11)]);
        let first = file(found.files[0].clone());
        let new = first.to.unwrap();
        assert_eq!((first.path.as_str(), first.from), ("/n1", None));
        assert_eq!((new.mode.as_str(), new.size_bytes), ("4755", 100));
        assert_eq!(new.sha256, Some("ab".repeat(32)));
    }
}

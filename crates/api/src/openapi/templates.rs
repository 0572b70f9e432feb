//! Templates, their builds and tags in the document.

use http::StatusCode;
use soulbox_api_types::build::{
    NewTemplateBuild, StartTemplateBuild, TemplateBuildInfo, TemplateBuildLogs,
    TemplateBuildRequested, TemplateFileUpload,
};
use soulbox_api_types::catalogue::CatalogueTemplate;
use soulbox_api_types::difference::TemplateDifference;
use soulbox_api_types::tag::{
    AssignTags, AssignedTags, DeleteTags, TagAssignments, TagExists, TagGroups, TagsCount,
    TemplateTag,
};
use soulbox_api_types::template::{
    Template, TemplateAlias, TemplateUpdate, TemplateUpdated, TemplateWithBuilds,
};

use super::operation::{Caller, Content, Operation, operation};
use super::schema::{number, number_from, of, text, words};
use super::{NEXT_TOKEN, with_page};
use crate::sandboxes::logs::{DIRECTIONS, LEVELS};
use crate::templates::builds::SOURCES;
use crate::templates::look;
use crate::templates::tags::SORTS;
use crate::templates::uploads;

pub(super) fn operations() -> Vec<Operation> {
    [read(), builds(), looks(), tags(), changes(), removed()]
        .into_iter()
        .flatten()
        .collect()
}

fn read() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/templates",
            "listTemplates",
            "The team's templates, oldest first, all at once.",
        )
        .query("teamID", text())
        .answers::<Vec<Template>>(),
        with_page(
            operation(
                "GET",
                "/v2/templates",
                "listTemplatesV2",
                "The team's templates, newest first, in pages.",
            )
            .query("teamID", text()),
        )
        .answers::<Vec<Template>>()
        .answer_headers(&[NEXT_TOKEN]),
        operation(
            "GET",
            "/default-templates",
            "listDefaultTemplates",
            "What the platform offers to everybody.",
        )
        .answers::<Vec<Template>>(),
        with_page(
            operation(
                "GET",
                "/template-catalogue",
                "searchTemplates",
                "The team's own templates and all public ones that have these words, best match first.",
            )
            .query("query", text()),
        )
        .answers::<Vec<CatalogueTemplate>>()
        .answer_headers(&[NEXT_TOKEN]),
        with_page(operation(
            "GET",
            "/templates/{templateID}",
            "getTemplate",
            "One template, by id, with a page of its builds.",
        ))
        .answers::<TemplateWithBuilds>()
        .answer_headers(&[NEXT_TOKEN]),
        operation(
            "GET",
            "/templates/aliases/{alias}",
            "getTemplateAlias",
            "Whom an alias names.",
        )
        .answers::<TemplateAlias>(),
    ]
}

fn builds() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/templates/{templateID}/builds/{buildID}/status",
            "getBuildStatus",
            "How far a build is.",
        )
        .query("logsOffset", number(0, i64::from(i32::MAX)))
        .query("limit", number(0, 100))
        .query("level", words(&LEVELS))
        .answers::<TemplateBuildInfo>(),
        operation(
            "GET",
            "/templates/{templateID}/builds/{buildID}/logs",
            "getBuildLogs",
            "What a build has said. Builds of the server itself have no log.",
        )
        .query("cursor", number_from(0))
        .query("limit", number(0, 100))
        .query("direction", words(&DIRECTIONS))
        .query("level", words(&LEVELS))
        .query("source", words(&SOURCES))
        .answers::<TemplateBuildLogs>(),
        operation(
            "POST",
            "/v3/templates",
            "requestBuild",
            "Asks for a build, of the template with this name or of a new one.",
        )
        .takes::<NewTemplateBuild>()
        .answer(
            StatusCode::ACCEPTED,
            Content::Json(of::<TemplateBuildRequested>),
        )
        .refuses(&[409, 429]),
        operation(
            "POST",
            "/v2/templates/{templateID}/builds/{buildID}",
            "startBuild",
            "Starts a build that was asked for.",
        )
        .takes::<StartTemplateBuild>()
        .answer(StatusCode::ACCEPTED, Content::Nothing),
        operation(
            "GET",
            "/templates/{templateID}/files/{hash}",
            "getUploadLink",
            "Where to put the files of a COPY step, and whether they are there.",
        )
        .creates::<TemplateFileUpload>(),
        operation(
            "PUT",
            uploads::ROUTE,
            "uploadFiles",
            "Takes files, as a tar archive with or without gzip. The address comes from `getUploadLink`.",
        )
        .of(Caller::Anybody)
        .needs_query("expires", number_from(0))
        .needs_query("team", text())
        .needs_query("signature", text())
        .takes_archive()
        .answer(StatusCode::OK, Content::Nothing)
        .refuses(&[400, 403, 405, 408, 411, 413, 500, 507]),
    ]
}

fn looks() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            look::DIFF_ROUTE,
            "compareBuilds",
            "What differs between two ready builds, each named by version, tag or id.",
        )
        .needs_query("from", text())
        .query("to", text())
        .query("limit", number(0, i64::from(look::MOST_FILES)))
        .answers::<TemplateDifference>(),
        operation(
            "GET",
            look::EXPORT_ROUTE,
            "exportBuild",
            "A ready build as an OCI image layout in one tar file.",
        )
        .needs_query("build", text())
        .answer(StatusCode::OK, Content::Archive),
    ]
}

fn tags() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/templates/{templateID}/tags",
            "listTags",
            "The tags of a template.",
        )
        .answers::<Vec<TemplateTag>>(),
        operation(
            "GET",
            "/templates/{templateID}/tags/count",
            "countTags",
            "How many tags have a ready build.",
        )
        .answers::<TagsCount>(),
        operation(
            "GET",
            "/templates/{templateID}/tags/exists",
            "tagExists",
            "Whether a ready build has a tag.",
        )
        .needs_query("tag", text())
        .answers::<TagExists>(),
        operation(
            "GET",
            "/templates/{templateID}/tags/groups",
            "listTagGroups",
            "Tags, each with its newest assignments, in pages.",
        )
        .query("sort", words(&SORTS))
        .query("search", text())
        .query("tagsLimit", number(1, 100))
        .query("assignmentLimit", number(1, 100))
        .query("tagsCursor", text())
        .answers::<TagGroups>(),
        operation(
            "GET",
            "/templates/{templateID}/tags/{tag}/assignments",
            "listTagAssignments",
            "Which builds had a tag, newest first, in pages.",
        )
        .query("limit", number(1, 100))
        .query("cursor", text())
        .answers::<TagAssignments>(),
        operation(
            "POST",
            "/templates/tags",
            "assignTags",
            "Puts tags on a ready build.",
        )
        .takes::<AssignTags>()
        .creates::<AssignedTags>(),
        operation(
            "DELETE",
            "/templates/tags",
            "removeTags",
            "Takes tags off a template.",
        )
        .takes::<DeleteTags>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing),
    ]
}

fn changes() -> Vec<Operation> {
    vec![
        operation(
            "PATCH",
            "/templates/{templateID}",
            "updateTemplate",
            "Says whether other teams may use a template; a public one gets its bare name too.",
        )
        .takes::<TemplateUpdate>()
        .answers::<()>()
        .refuses(&[409])
        .deprecated(),
        operation(
            "PATCH",
            "/v2/templates/{templateID}",
            "updateTemplateV2",
            "Says whether other teams may use a template, and what it is.",
        )
        .takes::<TemplateUpdate>()
        .answers::<TemplateUpdated>(),
        operation(
            "DELETE",
            "/templates/{templateID}",
            "deleteTemplate",
            "Deletes a template that no sandbox uses.",
        )
        .answer(StatusCode::NO_CONTENT, Content::Nothing),
    ]
}

/// Build requests of old command lines.
fn removed() -> Vec<Operation> {
    let gone = |path, id| {
        operation("POST", path, id, "Removed: always 404.")
            .of(Caller::Anybody)
            .refuses(&[404])
            .deprecated()
    };
    vec![
        gone("/templates", "removedRequestBuild"),
        gone("/v2/templates", "removedRequestBuildV2"),
        gone("/templates/{templateID}", "removedRebuild"),
        gone(
            "/templates/{templateID}/builds/{buildID}",
            "removedStartBuild",
        ),
    ]
}

//! Teams, keys, volumes, secrets and the operator's part in the document.

use http::StatusCode;
use serde_json::json;
use soulbox_api_types::admin::{
    BuildCancelResult, CollectGarbage, GarbageCollected, NewTeamRetention, Node, NodeStatusChange,
    RunningCounts, SandboxKillResult, TeamRetention,
};
use soulbox_api_types::metrics::{MaxTeamMetric, TeamMetric};
use soulbox_api_types::secret::{NewSecret, Secret, SecretUpdate};
use soulbox_api_types::team::{ApiKeyName, CreatedTeamApiKey, Team, TeamApiKey};
use soulbox_api_types::volume::{
    ChangeVolumeEntry, NewVolume, Volume, VolumeAndToken, VolumeEntryStat,
};

use super::operation::{Caller, Content, Operation, operation};
use super::schema::{number, number_from, text};
use super::with_page;
use crate::volumes::content;

pub(super) fn operations() -> Vec<Operation> {
    [
        teams(),
        keys(),
        volumes(),
        volume_content(),
        secrets(),
        nodes(),
        keeping(),
        mass_actions(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn teams() -> Vec<Operation> {
    let metrics = json!({"type": "string", "enum": ["concurrent_sandboxes", "sandbox_start_rate"]});
    vec![
        operation(
            "GET",
            "/teams",
            "listTeams",
            "The key's team; for the operator all teams, each with a new key.",
        )
        .of(Caller::Lister)
        .answers::<Vec<Team>>(),
        operation(
            "GET",
            "/teams/{teamID}/metrics",
            "getTeamMetrics",
            "Samples of a team between two Unix times in seconds.",
        )
        .query("start", number_from(0))
        .query("end", number_from(0))
        .answers::<Vec<TeamMetric>>(),
        operation(
            "GET",
            "/teams/{teamID}/metrics/max",
            "getTeamMetricsMax",
            "The largest value of one measurement.",
        )
        .needs_query("metric", metrics)
        .query("start", number_from(0))
        .query("end", number_from(0))
        .answers::<MaxTeamMetric>(),
    ]
}

fn keys() -> Vec<Operation> {
    let gone = |method, path, id| {
        operation(method, path, id, "Removed: always 410.")
            .of(Caller::Anybody)
            .refuses(&[410])
            .deprecated()
    };
    vec![
        operation(
            "GET",
            "/api-keys",
            "listApiKeys",
            "The team's keys, without the keys themselves.",
        )
        .of(Caller::TeamAdmin)
        .answers::<Vec<TeamApiKey>>(),
        operation(
            "POST",
            "/api-keys",
            "createApiKey",
            "Makes a key; it is shown this once.",
        )
        .of(Caller::TeamAdmin)
        .takes::<ApiKeyName>()
        .creates::<CreatedTeamApiKey>(),
        operation(
            "PATCH",
            "/api-keys/{apiKeyID}",
            "renameApiKey",
            "Renames a key.",
        )
        .of(Caller::TeamAdmin)
        .takes::<ApiKeyName>()
        .answer(StatusCode::ACCEPTED, Content::Nothing),
        operation(
            "DELETE",
            "/api-keys/{apiKeyID}",
            "deleteApiKey",
            "Ends a key at once.",
        )
        .of(Caller::TeamAdmin)
        .answer(StatusCode::NO_CONTENT, Content::Nothing),
        gone("POST", "/access-tokens", "removedCreateAccessToken"),
        gone(
            "DELETE",
            "/access-tokens/{accessTokenID}",
            "removedDeleteAccessToken",
        ),
    ]
}

fn volumes() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/volumes",
            "listVolumes",
            "The team's volumes, by name.",
        )
        .answers::<Vec<Volume>>(),
        operation(
            "POST",
            "/volumes",
            "createVolume",
            "Makes a volume, empty, and a token for its content.",
        )
        .takes::<NewVolume>()
        .creates::<VolumeAndToken>()
        .refuses(&[429, 501]),
        operation(
            "GET",
            "/volumes/{volumeID}",
            "getVolume",
            "A volume and a new token for its content.",
        )
        .answers::<VolumeAndToken>(),
        operation(
            "DELETE",
            "/volumes/{volumeID}",
            "deleteVolume",
            "Removes a volume. Sandboxes that have it keep it until they end.",
        )
        .answer(StatusCode::NO_CONTENT, Content::Nothing),
    ]
}

fn volume_content() -> Vec<Operation> {
    let content = |method, path, id, summary| {
        operation(method, path, id, summary)
            .of(Caller::Volume)
            .needs_query("path", text())
            .refuses(&[500, 501, 503])
    };
    let id = || number(0, i64::from(u32::MAX));
    let made = |operation: Operation| {
        operation
            .query("uid", id())
            .query("gid", id())
            .query("mode", id())
            .query("force", json!({"type": "boolean"}))
            .creates::<VolumeEntryStat>()
            .refuses(&[409, 507])
    };
    vec![
        content(
            "GET",
            content::PATH_ROUTE,
            "statVolumeEntry",
            "How an entry looks.",
        )
        .answers::<VolumeEntryStat>(),
        content(
            "PATCH",
            content::PATH_ROUTE,
            "changeVolumeEntry",
            "Changes owner or mode of an entry.",
        )
        .takes::<ChangeVolumeEntry>()
        .answers::<VolumeEntryStat>(),
        content(
            "DELETE",
            content::PATH_ROUTE,
            "removeVolumeEntry",
            "Removes an entry, with all that is below.",
        )
        .answer(StatusCode::NO_CONTENT, Content::Nothing),
        content(
            "GET",
            content::DIRECTORY_ROUTE,
            "listVolumeDirectory",
            "What is below a directory, so many levels deep.",
        )
        .query("depth", id())
        .answers::<Vec<VolumeEntryStat>>(),
        made(content(
            "POST",
            content::DIRECTORY_ROUTE,
            "makeVolumeDirectory",
            "Makes a directory; with `force` also those above it, and it may be there already.",
        )),
        content(
            "GET",
            content::FILE_ROUTE,
            "readVolumeFile",
            "What a file holds.",
        )
        .answer(StatusCode::OK, Content::Bytes),
        made(
            content(
                "PUT",
                content::FILE_ROUTE,
                "writeVolumeFile",
                "Writes a file, whole or not at all; with `force` in the place of another.",
            )
            .takes_archive(),
        )
        .refuses(&[408]),
    ]
}

fn secrets() -> Vec<Operation> {
    vec![
        with_page(operation(
            "GET",
            "/secrets",
            "listSecrets",
            "The team's secrets, oldest first, without their values.",
        ))
        .answers::<Vec<Secret>>(),
        operation(
            "POST",
            "/secrets",
            "createSecret",
            "Makes a secret. Its value is never shown again.",
        )
        .takes::<NewSecret>()
        .creates::<Secret>()
        .refuses(&[409]),
        operation(
            "GET",
            "/secrets/{secretID}",
            "getSecret",
            "A secret by its id or its name, without its value.",
        )
        .answers::<Secret>(),
        operation(
            "POST",
            "/secrets/{secretID}",
            "updateSecret",
            "Gives a secret another value. Requests out use it from the next one on.",
        )
        .takes::<SecretUpdate>()
        .answers::<Secret>()
        .refuses(&[409]),
        operation(
            "DELETE",
            "/secrets/{secretID}",
            "deleteSecret",
            "Removes a secret.",
        )
        .answer(StatusCode::NO_CONTENT, Content::Nothing),
    ]
}

fn nodes() -> Vec<Operation> {
    vec![
        operation("GET", "/nodes", "listNodes", "This server.")
            .of(Caller::Operator)
            .answers::<Vec<Node>>(),
        operation(
            "GET",
            "/nodes/{nodeID}",
            "getNode",
            "This server, by its id.",
        )
        .of(Caller::Operator)
        .answers::<Node>()
        .refuses(&[404]),
        operation(
            "POST",
            "/nodes/{nodeID}",
            "setNodeStatus",
            "Accepts the status that the node has; any other is not available in this version.",
        )
        .of(Caller::Operator)
        .takes::<NodeStatusChange>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[404, 501]),
    ]
}

/// What is kept, and for how long.
fn keeping() -> Vec<Operation> {
    vec![
        operation(
            "POST",
            "/admin/gc",
            "collectGarbage",
            "Removes layers of files that nothing needs, or tells which they are. 409 while a template is being built.",
        )
        .of(Caller::Operator)
        .may_take::<CollectGarbage>()
        .answers::<GarbageCollected>()
        .refuses(&[409]),
        operation(
            "GET",
            "/admin/teams/{teamID}/retention",
            "getRetention",
            "For how long a team's paused sandboxes and snapshots are kept.",
        )
        .of(Caller::Operator)
        .answers::<TeamRetention>()
        .refuses(&[404]),
        operation(
            "PUT",
            "/admin/teams/{teamID}/retention",
            "setRetention",
            "Sets for how long a team's paused sandboxes and snapshots are kept.",
        )
        .of(Caller::Operator)
        .takes::<NewTeamRetention>()
        .answers::<TeamRetention>()
        .refuses(&[404]),
    ]
}

fn mass_actions() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/admin/sandboxes/running-counts",
            "countRunningSandboxes",
            "Running sandboxes by team.",
        )
        .of(Caller::Operator)
        .answers::<RunningCounts>(),
        operation(
            "POST",
            "/admin/teams/{teamID}/sandboxes/kill",
            "killSandboxesOfTeam",
            "Kills every sandbox of a team.",
        )
        .of(Caller::Operator)
        .answers::<SandboxKillResult>()
        .refuses(&[404]),
        operation(
            "POST",
            "/admin/teams/{teamID}/builds/cancel",
            "cancelBuildsOfTeam",
            "Cancels every build of a team.",
        )
        .of(Caller::Operator)
        .answers::<BuildCancelResult>()
        .refuses(&[404]),
        operation(
            "POST",
            "/admin/teams/{teamID}/api-keys",
            "createApiKeyOfTeam",
            "Makes a key for a team; it is shown this once.",
        )
        .of(Caller::Operator)
        .takes::<ApiKeyName>()
        .creates::<CreatedTeamApiKey>()
        .refuses(&[404]),
        operation(
            "DELETE",
            "/admin/teams/{teamID}/api-keys/{apiKeyID}",
            "deleteApiKeyOfTeam",
            "Ends a key of a team at once.",
        )
        .of(Caller::Operator)
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[404]),
        operation(
            "GET",
            "/health",
            "getHealth",
            "Whether the server takes work, as text.",
        )
        .of(Caller::Anybody)
        .answer(StatusCode::OK, Content::Text),
        operation("GET", "/openapi.json", "getDocument", "This document.")
            .of(Caller::Anybody)
            .answer(StatusCode::OK, Content::Object),
    ]
}

//! Teams, keys, volumes, secrets and the operator's part in the document.

use http::StatusCode;
use serde_json::json;
use soulbox_api_types::admin::{
    BuildCancelResult, Node, NodeStatusChange, RunningCounts, SandboxKillResult,
};
use soulbox_api_types::metrics::{MaxTeamMetric, TeamMetric};
use soulbox_api_types::secret::{NewSecret, Secret, SecretUpdate};
use soulbox_api_types::team::{ApiKeyName, CreatedTeamApiKey, Team, TeamApiKey};
use soulbox_api_types::volume::{NewVolume, Volume};

use super::operation::{Caller, Content, Operation, operation};
use super::schema::number_from;
use super::with_page;

pub(super) fn operations() -> Vec<Operation> {
    [
        teams(),
        keys(),
        volumes(),
        secrets(),
        nodes(),
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
            "Always empty: nothing can make a volume yet.",
        )
        .answers::<Vec<Volume>>(),
        operation(
            "POST",
            "/volumes",
            "createVolume",
            "Not available in this version: 403.",
        )
        .takes::<NewVolume>(),
        operation(
            "GET",
            "/volumes/{volumeID}",
            "getVolume",
            "There is none: 404.",
        ),
        operation(
            "DELETE",
            "/volumes/{volumeID}",
            "deleteVolume",
            "There is none: 404.",
        ),
    ]
}

fn secrets() -> Vec<Operation> {
    vec![
        with_page(operation(
            "GET",
            "/secrets",
            "listSecrets",
            "Always empty: nothing can make a secret yet.",
        ))
        .answers::<Vec<Secret>>(),
        operation(
            "POST",
            "/secrets",
            "createSecret",
            "Not available in this version: 403.",
        )
        .takes::<NewSecret>(),
        operation(
            "GET",
            "/secrets/{secretID}",
            "getSecret",
            "There is none: 404.",
        ),
        operation(
            "POST",
            "/secrets/{secretID}",
            "updateSecret",
            "There is none: 404.",
        )
        .takes::<SecretUpdate>(),
        operation(
            "DELETE",
            "/secrets/{secretID}",
            "deleteSecret",
            "There is none: 404.",
        ),
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
            "No build is ever in progress, so both counts are 0.",
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

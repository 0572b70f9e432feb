//! Sandboxes in the document.

use http::StatusCode;
use serde_json::json;
use soulbox_api_types::contact::SandboxContacts;
use soulbox_api_types::logs::{SandboxLogs, SandboxLogsV2};
use soulbox_api_types::metrics::{SandboxMetric, SandboxesWithMetrics};
use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_api_types::sandbox::{
    ConnectSandbox, ForkResult, ForkSandbox, ListedSandbox, NewSandbox, NewSnapshot, PauseSandbox,
    ResumeSandbox, Sandbox, SandboxDetail, SandboxRefresh, SandboxTimeout, SnapshotInfo,
};
use soulbox_api_types::url::{NewPortUrl, PortUrl};

use super::operation::{Content, Operation, operation};
use super::schema::{number, number_from, text, text_like, text_up_to, words};
use super::{NEXT_TOKEN, with_page};
use crate::sandboxes::contacts;
use crate::sandboxes::list::{ORDERS, STATES};
use crate::sandboxes::logs::{DIRECTIONS, LEVELS};
use crate::sandboxes::urls::LONGEST_SECONDS;

const KEY: &str = "^[a-z0-9-]{1,255}$";

pub(super) fn operations() -> Vec<Operation> {
    [lives(), lifetimes(), observed(), branches(), networks()]
        .into_iter()
        .flatten()
        .collect()
}

fn lives() -> Vec<Operation> {
    let states = json!({"type": "array", "items": words(&STATES)});
    let create = |path, id, summary| {
        operation("POST", path, id, summary)
            .takes::<NewSandbox>()
            .example(json!({"templateID": "base", "timeout": 60}))
            .creates::<Sandbox>()
            .refuses(&[409, 429])
    };
    vec![
        operation(
            "GET",
            "/sandboxes",
            "listSandboxes",
            "Running sandboxes, newest first, all at once.",
        )
        .query("metadata", text())
        .answers::<Vec<ListedSandbox>>(),
        create(
            "/sandboxes",
            "createSandbox",
            "Creates a sandbox. It lives 15 seconds when no timeout is given.",
        ),
        with_page(
            operation(
                "GET",
                "/v2/sandboxes",
                "listSandboxesV2",
                "Sandboxes that pass the filters, in pages.",
            )
            .query("metadata", text())
            .query("state", states)
            .query("order", words(&ORDERS))
            .query(
                "startedAfter",
                json!({"type": "string", "format": "date-time"}),
            )
            .query("template", text()),
        )
        .answers::<Vec<ListedSandbox>>()
        .answer_headers(&[NEXT_TOKEN, "X-Total-Running"]),
        create(
            "/v2/sandboxes",
            "createSandboxV2",
            "Creates a sandbox, once per idempotency key. It lives 300 seconds when no timeout is given.",
        )
        .header("Idempotency-Key", text_like(KEY))
        .header("Soulbox-Timing", text())
        .answer_headers(&["Server-Timing"])
        .narrowed(json!({"properties": {"timeout": {"minimum": 1}}}))
        .refuses(&[422]),
        operation(
            "GET",
            "/sandboxes/{sandboxID}",
            "getSandbox",
            "One sandbox.",
        )
        .answers::<SandboxDetail>(),
        operation(
            "DELETE",
            "/sandboxes/{sandboxID}",
            "killSandbox",
            "Kills a sandbox; everything in it is gone.",
        )
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[409]),
    ]
}

fn lifetimes() -> Vec<Operation> {
    vec![
        operation(
            "POST",
            "/sandboxes/{sandboxID}/timeout",
            "setSandboxTimeout",
            "Sets the end time from now on, also to an earlier one.",
        )
        .takes::<SandboxTimeout>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[409]),
        operation(
            "POST",
            "/sandboxes/{sandboxID}/refreshes",
            "refreshSandbox",
            "Makes the end time later, never earlier.",
        )
        .may_take::<SandboxRefresh>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[409]),
        operation(
            "POST",
            "/sandboxes/{sandboxID}/connect",
            "connectSandbox",
            "What a client needs to use a sandbox; makes the end time later. A timeout of 0 changes nothing. \
             A paused one is brought back: 201.",
        )
        .takes::<ConnectSandbox>()
        .narrowed(json!({"required": ["timeout"]}))
        .answers::<Sandbox>()
        .creates::<Sandbox>()
        .refuses(&[409, 429, 507]),
        operation(
            "POST",
            "/v2/sandboxes/{sandboxID}/connect",
            "connectSandboxV2",
            "The same; 300 seconds when no timeout is given.",
        )
        .may_take::<ConnectSandbox>()
        .narrowed(json!({"properties": {"timeout": {"minimum": 1}}}))
        .answers::<Sandbox>()
        .creates::<Sandbox>()
        .refuses(&[409, 429, 507]),
        operation(
            "POST",
            "/sandboxes/{sandboxID}/pause",
            "pauseSandbox",
            "Keeps the sandbox as it is and stops it; without memory, only its files.",
        )
        .may_take::<PauseSandbox>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[409, 503, 507]),
        operation(
            "POST",
            "/sandboxes/{sandboxID}/resume",
            "resumeSandbox",
            "Brings a paused sandbox back. Clients of today connect instead.",
        )
        .may_take::<ResumeSandbox>()
        .creates::<Sandbox>()
        .refuses(&[409, 429, 507]),
    ]
}

fn observed() -> Vec<Operation> {
    vec![
        operation(
            "GET",
            "/sandboxes/metrics",
            "getMetricsOfSandboxes",
            "The latest sample of each of several sandboxes.",
        )
        .needs_query(
            "sandbox_ids",
            json!({"type": "array", "items": text(), "maxItems": 100}),
        )
        .answers::<SandboxesWithMetrics>(),
        operation(
            "GET",
            "/sandboxes/{sandboxID}/metrics",
            "getMetricsOfSandbox",
            "Samples of one sandbox between two Unix times in seconds.",
        )
        .query("start", number_from(0))
        .query("end", number_from(0))
        .answers::<Vec<SandboxMetric>>(),
        operation(
            "GET",
            "/sandboxes/{sandboxID}/logs",
            "getLogsOfSandbox",
            "What has happened to a sandbox, oldest first, from a Unix time in milliseconds.",
        )
        .query("start", number_from(0))
        .query("limit", number(0, i64::from(i32::MAX)))
        .answers::<SandboxLogs>(),
        operation(
            "GET",
            "/v2/sandboxes/{sandboxID}/logs",
            "getLogsOfSandboxV2",
            "The same in either direction, from a cursor in milliseconds, filtered.",
        )
        .query("cursor", number_from(0))
        .query("limit", number(0, 1000))
        .query("direction", words(&DIRECTIONS))
        .query("level", words(&LEVELS))
        .query("search", text_up_to(256))
        .answers::<SandboxLogsV2>(),
    ]
}

/// Snapshots and forks.
fn branches() -> Vec<Operation> {
    vec![
        operation(
            "POST",
            "/sandboxes/{sandboxID}/fork",
            "forkSandbox",
            "Makes sandboxes from what a running one has at this moment. Files and memory, or files alone with `memory: false`; 501 where this host cannot keep memory on disk.",
        )
        .may_take::<ForkSandbox>()
        .creates::<Vec<ForkResult>>()
        .refuses(&[409, 501]),
        operation(
            "POST",
            "/sandboxes/{sandboxID}/snapshots",
            "createSnapshot",
            "Saves a running sandbox, which goes on. Files and memory, or files alone with `memory: false`; 501 where this host cannot keep memory on disk.",
        )
        .takes::<NewSnapshot>()
        .creates::<SnapshotInfo>()
        .refuses(&[409, 501]),
        with_page(
            operation(
                "GET",
                "/snapshots",
                "listSnapshots",
                "Of each snapshot template its newest snapshot, the newest template first.",
            )
            .query("sandboxID", text())
            .query("name", text()),
        )
        .answers::<Vec<SnapshotInfo>>(),
    ]
}

/// What sandboxes may reach.
fn networks() -> Vec<Operation> {
    vec![
        operation(
            "PUT",
            "/sandboxes/{sandboxID}/network",
            "updateSandboxNetwork",
            "Replaces what the running sandbox may reach: what is left out is cleared. In force before the answer, for \
             connections that begin from then on; those that are open go on. Traffic in stays as it is.",
        )
        .takes::<SandboxNetworkUpdate>()
        .answer(StatusCode::NO_CONTENT, Content::Nothing)
        .refuses(&[409, 501]),
        operation(
            "GET",
            "/sandboxes/{sandboxID}/network/contacts",
            "listSandboxContacts",
            "What the sandbox has asked DNS, and the connections and requests that a name in its policy decided, oldest \
             first; the newest of them without `after`. With `wait`, an answer comes as soon as there is something.",
        )
        .query("after", number_from(0))
        .query("limit", number(1, i64::from(contacts::MOST)))
        .query("refused", words(&[("true", true), ("false", false)]))
        .query("wait", number(0, 30))
        .answers::<SandboxContacts>()
        .refuses(&[429]),
        operation(
            "POST",
            "/sandboxes/{sandboxID}/urls",
            "createPortURL",
            "An address that leads to a port of the sandbox. Where traffic is not public, it is signed and has an end date.",
        )
        .takes::<NewPortUrl>()
        .narrowed(json!({"properties": {
            "port": {"minimum": 1, "maximum": 65535, "not": {"const": 49983}},
            "expiresIn": {"minimum": 1, "maximum": LONGEST_SECONDS},
        }}))
        .creates::<PortUrl>(),
    ]
}

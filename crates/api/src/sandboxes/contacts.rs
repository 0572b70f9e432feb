//! What a sandbox has said to the network: in pages, and as it comes.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use soulbox_api_types::contact::{ContactVerdict, SandboxContact, SandboxContacts};
use soulbox_store::{Contact, ContactQuery};
use tokio::time::Instant;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Query, SandboxArg};
use crate::state::{Api, Shared};

const PAGE: u32 = 100;
pub(crate) const MOST: u32 = 1000;
/// How long a request may wait for something to happen.
pub(crate) const LONGEST_WAIT: u64 = 30;
const BOOLEANS: [(&str, bool); 2] = [("true", true), ("false", false)];

/// Of a sandbox that has ended, what is left. With `wait`, an empty answer comes only when that time is over.
pub(crate) async fn list(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    sandbox: SandboxArg,
    query: Query,
) -> Result<Json<SandboxContacts>, ApiError> {
    let wanted = ContactQuery {
        team: team.id.clone(),
        sandbox: sandbox.id.clone(),
        after: query.number("after", 0..)?,
        refused_only: query.word("refused", &BOOLEANS)?.unwrap_or(false),
        limit: query.number("limit", 1..=MOST)?.unwrap_or(PAGE),
    };
    let wait = query.number("wait", 0..=LONGEST_WAIT)?.unwrap_or(0);
    let found = found(&api, &wanted, Duration::from_secs(wait)).await?;
    if found.is_empty() {
        api.sandboxes.get(&team.id, &sandbox.id).await?;
    }
    let next = found.last().map(|contact| contact.seq);
    Ok(Json(SandboxContacts {
        next: next.or(wanted.after).unwrap_or(0),
        contacts: found.into_iter().map(to_wire).collect(),
    }))
}

async fn found(api: &Api, wanted: &ContactQuery, wait: Duration) -> Result<Vec<Contact>, ApiError> {
    let end = Instant::now() + wait;
    let mut news = api.store.contact_news();
    // Whoever waits counts like whoever follows events.
    let _waiting = if wait.is_zero() {
        None
    } else {
        Some(api.streams.open(&wanted.team)?)
    };
    loop {
        news.mark_unchanged();
        let found = api.store.contacts(wanted).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        tokio::select! {
            () = tokio::time::sleep_until(end) => return Ok(found),
            () = api.shutdown.cancelled() => return Ok(found),
            changed = news.changed() => if changed.is_err() { return Ok(found) },
        }
    }
}

fn to_wire(contact: Contact) -> SandboxContact {
    SandboxContact {
        seq: contact.seq,
        timestamp: contact.at.to_string(),
        kind: contact.kind,
        target: contact.target,
        address: contact.address,
        verdict: if contact.allowed {
            ContactVerdict::Allowed
        } else {
            ContactVerdict::Refused
        },
        rule: contact.rule,
        detail: contact.detail,
        sent_bytes: contact.sent,
        received_bytes: contact.received,
        skipped_before: contact.skipped,
    }
}

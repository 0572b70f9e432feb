//! Writes down what sandboxes say to the network, and into their logs what they were not let do.

use std::time::Duration;

use soulbox_egress::Contact;
use soulbox_orchestrator::Sandboxes;
use soulbox_store::Store;
use tokio::sync::mpsc;

/// What comes together is written together.
const GATHERING: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 500;

/// Ends when nothing can be said any more.
pub(super) async fn write_down(
    mut contacts: mpsc::Receiver<Contact>,
    sandboxes: Sandboxes,
    store: Store,
) {
    let mut heard = Vec::new();
    while contacts.recv_many(&mut heard, AT_ONCE).await > 0 {
        tokio::time::sleep(GATHERING).await;
        while heard.len() < AT_ONCE {
            match contacts.try_recv() {
                Ok(contact) => heard.push(contact),
                Err(_) => break,
            }
        }
        for contact in heard.iter().filter(|contact| contact.is_news) {
            sandboxes.note_refusal(
                &contact.sandbox,
                contact.kind,
                &contact.target,
                &contact.rule,
            );
        }
        let rows = heard.drain(..).filter_map(|it| row(it, &sandboxes));
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            continue;
        }
        if let Err(error) = store.append_contacts(&rows).await {
            let error = soulbox_telemetry::chain(&error);
            tracing::warn!(
                error,
                "what sandboxes say to the network is not written down"
            );
        }
    }
}

/// None of a sandbox that has ended meanwhile, or is still being made: nobody could ask for it.
fn row(contact: Contact, sandboxes: &Sandboxes) -> Option<soulbox_store::Contact> {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    Some(soulbox_store::Contact {
        seq: 0,
        team: sandboxes.team_of(&contact.sandbox)?,
        sandbox: contact.sandbox,
        at: contact.at,
        kind: contact.kind.to_owned(),
        target: contact.target,
        address: contact.address.map(|address| address.to_string()),
        allowed: contact.allowed,
        rule: contact.rule,
        detail: contact.detail,
        sent: contact.bytes.map(|(sent, _)| number(sent)),
        received: contact.bytes.map(|(_, received)| number(received)),
        skipped: contact.skipped.into(),
    })
}

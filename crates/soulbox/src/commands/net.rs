//! `soulbox sandbox net` and `allow`: what a sandbox says to the network, why it was blocked, and opening it.

use std::time::Duration;

use soulbox_api_types::contact::{ContactVerdict, SandboxContact};
use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_client::Api;
use soulbox_client::network::ContactsQuery;
use soulbox_types::ErrorKind;

use crate::args::{AllowArgs, NetArgs};
use crate::failure::Failure;
use crate::output::{Output, line, note};
use crate::session::failure;
use crate::text::{moment, size};

/// How long the server is to wait for something to happen.
const WAIT_SECONDS: u32 = 10;
/// Before it is asked again after a failure: it may be starting.
const PAUSE: Duration = Duration::from_secs(1);
const EVERYTHING: &str = "0.0.0.0/0";

/// `sandbox net`.
pub(crate) async fn net(api: &Api, args: &NetArgs, output: Output) -> Result<(), Failure> {
    let id = &args.id;
    let mut query = ContactsQuery {
        refused_only: args.refused,
        ..ContactsQuery::default()
    };
    let page = api.contacts(id, &query).await;
    let mut page = page.map_err(|error| failure(&error, Some(id)))?;
    if !args.follow {
        if page.contacts.is_empty() && output == Output::Text {
            note(
                "nothing is known: only DNS, and connections that a name in the policy may decide, are seen",
            );
        }
        return output.show(&page.contacts, |contacts| {
            contacts
                .iter()
                .map(contact_line)
                .collect::<Vec<_>>()
                .join("\n")
        });
    }
    query.wait_seconds = Some(WAIT_SECONDS);
    loop {
        for contact in &page.contacts {
            match output {
                Output::Json => output.json_line(contact)?,
                Output::Text => line(&contact_line(contact))?,
            }
        }
        query.after = Some(page.next);
        page = match api.contacts(id, &query).await {
            Ok(page) if page.contacts.is_empty() && has_ended(api, id).await => {
                note(&format!("sandbox {id} has ended"));
                return Ok(());
            }
            Ok(page) => page,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                note(&format!("sandbox {id} has ended"));
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tokio::time::sleep(PAUSE).await;
                page.contacts.clear();
                page
            }
            Err(error) => return Err(failure(&error, Some(id))),
        };
    }
}

async fn has_ended(api: &Api, id: &str) -> bool {
    let asked = api.get_sandbox(id).await;
    asked.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn contact_line(contact: &SandboxContact) -> String {
    let verdict = match contact.verdict {
        ContactVerdict::Allowed => "allowed",
        ContactVerdict::Refused => "REFUSED",
    };
    let mut text = format!(
        "{} {verdict} {:4} {}",
        moment(&contact.timestamp),
        contact.kind,
        contact.target
    );
    for more in [
        contact.detail.as_str(),
        contact.address.as_deref().unwrap_or_default(),
    ] {
        if !more.is_empty() {
            text.push(' ');
            text.push_str(more);
        }
    }
    if let (Some(sent), Some(received)) = (contact.sent_bytes, contact.received_bytes) {
        text.push_str(&format!(" {} out, {} in", amount(sent), amount(received)));
    }
    if !contact.rule.is_empty() {
        text.push_str(&format!(" ({})", contact.rule));
    }
    if contact.skipped_before > 0 {
        text.push_str(&format!(
            " [{} before it not shown]",
            contact.skipped_before
        ));
    }
    text
}

fn amount(bytes: i64) -> String {
    if bytes < 100_000 {
        format!("{bytes} B")
    } else {
        size(bytes)
    }
}

/// `sandbox allow`: the policy as it is, with one entry more.
pub(crate) async fn allow(api: &Api, args: &AllowArgs, output: Output) -> Result<(), Failure> {
    let id = &args.id;
    let fail = |error| failure(&error, Some(id));
    let sandbox = api.get_sandbox(id).await.map_err(fail)?;
    let network = sandbox.network.unwrap_or_default();
    if let Some(proxy) = &network.egress_proxy
        && (proxy.username.is_some() || proxy.tls.is_some())
    {
        // Its password and its certificates are not shown, so this would set a proxy without them.
        let message = format!("what sandbox {id} goes through has secrets, which are not shown");
        return Err(Failure::user(message).fix(
            "replace the whole policy with PUT /sandboxes/{id}/network, egressProxy included",
        ));
    }
    let mut policy = SandboxNetworkUpdate {
        allow_out: network.allow_out,
        deny_out: network.deny_out,
        egress_proxy: network.egress_proxy,
        rules: network.rules,
        dns_servers: network.dns_servers,
        allow_internet_access: None,
    };
    if sandbox.allow_internet_access == Some(false) {
        policy.deny_out = Some(vec![EVERYTHING.to_owned()]);
    }
    if policy.deny_out.as_ref().is_none_or(Vec::is_empty) {
        return Err(
            Failure::user(format!("the policy of sandbox {id} closes nothing"))
                .fix(format!("soulbox sandbox net {id} --refused")),
        );
    }
    let allowed = policy.allow_out.get_or_insert_default();
    if !allowed.contains(&args.host) {
        allowed.push(args.host.clone());
        api.set_network(id, &policy).await.map_err(fail)?;
    }
    match output {
        Output::Json => output.json(&policy),
        Output::Text => line(&format!("{} is open to sandbox {id}", args.host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut contact = SandboxContact {
            seq: 1,
            timestamp: "2026-01-02T03:04:05Z".into(),
            kind: "tls".into(),
            target: "a.example".into(),
            address: Some("11.0.0.1:443".into()),
            verdict: ContactVerdict::Allowed,
            rule: "allowOut *.example".into(),
            detail: String::new(),
            sent_bytes: Some(10),
            received_bytes: Some(20),
            skipped_before: 0,
        };
        assert_eq!(
            contact_line(&contact),
            "2026-01-02 03:04:05 allowed tls  a.example 11.0.0.1:443 10 B out, 20 B in (allowOut *.example)"
        );
        contact = SandboxContact {
            kind: "http".into(),
            address: None,
            verdict: ContactVerdict::Refused,
            rule: "denyOut 0.0.0.0/0".into(),
            detail: "GET /x".into(),
            sent_bytes: None,
            skipped_before: 7,
            ..contact
        };
        assert_eq!(
            contact_line(&contact),
            "2026-01-02 03:04:05 REFUSED http a.example GET /x (denyOut 0.0.0.0/0) [7 before it not shown]"
        );
    }
}

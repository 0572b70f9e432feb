//! `soulbox webhook create|list|show|update|rm|deliveries`.

use std::io::Read as _;
use std::path::Path;

use serde_json::json;
use soulbox_api_types::event::{
    DeliveryState, NewWebhook, Webhook, WebhookDelivery, WebhookUpdate,
};
use soulbox_client::{Api, ClientError};
use soulbox_types::EventKind;

use crate::args::{CreateWebhookArgs, UpdateWebhookArgs, WebhookCommand};
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::session::failure;
use crate::text::moment;

/// What all types begin with.
const PREFIX: &str = "sandbox.lifecycle.";

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: ClientError) -> Failure {
    failure(&error, None)
}

/// Runs one of them.
pub(crate) async fn run(api: &Api, command: WebhookCommand, output: Output) -> Result<(), Failure> {
    match command {
        WebhookCommand::Create(args) => create(api, args, output).await,
        WebhookCommand::List => list(api, output).await,
        WebhookCommand::Show { webhook } => {
            let found = find(api, &webhook).await?;
            output.show(&found, one)
        }
        WebhookCommand::Update(args) => update(api, args, output).await,
        WebhookCommand::Rm { webhooks } => {
            let mut removed = Vec::new();
            for webhook in webhooks {
                let found = find(api, &webhook).await?;
                api.remove_webhook(&found.id).await.map_err(refused)?;
                removed.push(found.id);
            }
            output.show(&json!({ "removed": removed }), |_| String::new())
        }
        WebhookCommand::Deliveries {
            webhook,
            limit,
            offset,
        } => {
            let found = find(api, &webhook).await?;
            let log = api.webhook_deliveries(&found.id, offset, limit).await;
            output.show(&log.map_err(refused)?, |log| deliveries(log))
        }
    }
}

async fn create(api: &Api, args: CreateWebhookArgs, output: Output) -> Result<(), Failure> {
    let all = || EventKind::ALL.map(|kind| kind.to_string()).to_vec();
    let events = match args.events.is_empty() {
        true => all(),
        false => types(args.events),
    };
    let new = NewWebhook {
        name: args.name.unwrap_or_else(|| host(&args.url)),
        url: args.url,
        enabled: Some(!args.disabled),
        events,
        signature_secret: secret(&args.secret_file)?,
    };
    let made = api.create_webhook(&new).await.map_err(refused)?;
    output.show(&made, |made| made.id.clone())
}

async fn list(api: &Api, output: Output) -> Result<(), Failure> {
    let webhooks = api.webhooks().await.map_err(refused)?;
    if output == Output::Text && webhooks.is_empty() {
        note("no webhooks; `soulbox webhook create` makes one");
        return Ok(());
    }
    output.show(&webhooks, |webhooks| {
        let rows = webhooks.iter().map(|webhook| {
            [
                webhook.name.clone(),
                webhook.id.clone(),
                sends(webhook).to_owned(),
                short(&webhook.events),
                webhook.url.clone(),
            ]
        });
        table(["NAME", "ID", "SENDS", "EVENTS", "URL"], rows)
    })
}

async fn update(api: &Api, args: UpdateWebhookArgs, output: Output) -> Result<(), Failure> {
    let found = find(api, &args.webhook).await?;
    let change = WebhookUpdate {
        name: args.name,
        url: args.url,
        enabled: match (args.enable, args.disable) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        events: args.events.map(types),
        signature_secret: args.secret_file.as_deref().map(secret).transpose()?,
    };
    let changed = api.update_webhook(&found.id, &change).await;
    output.show(&changed.map_err(refused)?, one)
}

/// A webhook by its ID, or by its name when no other has it.
async fn find(api: &Api, wanted: &str) -> Result<Webhook, Failure> {
    let mut webhooks = api.webhooks().await.map_err(refused)?;
    webhooks.retain(|webhook| webhook.id == wanted || webhook.name == wanted);
    match (webhooks.pop(), webhooks.len()) {
        (Some(webhook), 0) => Ok(webhook),
        (None, _) => {
            Err(Failure::user(format!("there is no webhook {wanted}")).fix("soulbox webhook list"))
        }
        (Some(_), _) => {
            Err(Failure::user(format!("several webhooks are called {wanted}")).fix("name its ID"))
        }
    }
}

/// The first line of a file. On the command line, everybody on the machine could read it.
fn secret(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|error| {
        Failure::user(format!("cannot read {}: {error}", file.display()))
            .fix("name a file that can be read")
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// `killed` means `sandbox.lifecycle.killed`.
fn types(given: Vec<String>) -> Vec<String> {
    let full = |name: String| match name.contains('.') {
        true => name,
        false => format!("{PREFIX}{name}"),
    };
    given.into_iter().map(full).collect()
}

fn short(events: &[String]) -> String {
    let names: Vec<&str> = events
        .iter()
        .map(|name| name.strip_prefix(PREFIX).unwrap_or(name))
        .collect();
    names.join(",")
}

fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.chars().take(255).collect()
}

fn sends(webhook: &Webhook) -> &'static str {
    if webhook.enabled { "yes" } else { "no" }
}

fn one(webhook: &Webhook) -> String {
    let rows = [
        ["name".to_owned(), webhook.name.clone()],
        ["id".to_owned(), webhook.id.clone()],
        ["url".to_owned(), webhook.url.clone()],
        ["sends".to_owned(), sends(webhook).to_owned()],
        ["events".to_owned(), short(&webhook.events)],
        ["created".to_owned(), moment(&webhook.created_at)],
    ];
    let lines = rows.map(|[name, value]| format!("{name:<9}{value}"));
    lines.join("\n")
}

fn deliveries(log: &[WebhookDelivery]) -> String {
    let rows = log.iter().map(|delivery| {
        let state = match delivery.state {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Failed => "failed",
        };
        let error = delivery
            .last_error
            .as_deref()
            .and_then(|text| text.lines().next());
        let status = delivery.last_status.map(|status| status.to_string());
        [
            moment(&delivery.created_at),
            short(std::slice::from_ref(&delivery.event_type)),
            delivery.sandbox_id.clone(),
            state.to_owned(),
            delivery.tries.to_string(),
            error.map(str::to_owned).or(status).unwrap_or_default(),
            delivery
                .next_try_at
                .as_deref()
                .map(moment)
                .unwrap_or_default(),
        ]
    });
    let header = [
        "TIME", "EVENT", "SANDBOX", "STATE", "TRIES", "ANSWER", "NEXT TRY",
    ];
    table(header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_may_be_short() {
        let full = types(vec!["killed".into(), "sandbox.lifecycle.created".into()]);
        assert_eq!(
            full,
            ["sandbox.lifecycle.killed", "sandbox.lifecycle.created"]
        );
        assert_eq!(short(&full), "killed,created");
    }

    #[test]
    fn hosts_are_names() {
        assert_eq!(host("https://hooks.example:8443/a?b"), "hooks.example:8443");
        assert_eq!(host("nonsense"), "nonsense");
    }
}

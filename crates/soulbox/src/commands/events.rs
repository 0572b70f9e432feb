//! `soulbox sandbox events`: what has happened to a sandbox, once or as it comes.

use std::time::Duration;

use soulbox_api_types::event::SandboxEvent;
use soulbox_client::Api;
use soulbox_types::EventKind;

use crate::args::EventsArgs;
use crate::failure::Failure;
use crate::output::{Output, line, note};
use crate::session::failure;
use crate::text::moment;

/// Before a stream that has ended is opened again: the server may be starting.
const PAUSE: Duration = Duration::from_secs(1);

/// `sandbox events`.
pub(crate) async fn events(api: &Api, args: &EventsArgs, output: Output) -> Result<(), Failure> {
    if args.follow {
        return follow(api, &args.id, output).await;
    }
    let id = &args.id;
    let events = api.sandbox_events(id).await;
    let events = events.map_err(|error| failure(&error, Some(id)))?;
    if events.is_empty() {
        return Err(
            Failure::user(format!("nothing is recorded about sandbox {id}"))
                .fix("soulbox sandbox list"),
        );
    }
    output.show(&events, |events| {
        events.iter().map(event_line).collect::<Vec<_>>().join("\n")
    })
}

async fn follow(api: &Api, id: &str, output: Output) -> Result<(), Failure> {
    let mut seen = None;
    loop {
        let opened = api.follow_events(id, seen.as_deref()).await;
        let mut stream = opened.map_err(|error| failure(&error, Some(id)))?;
        // A stream that breaks is no failure: what was missed comes again.
        while let Ok(Some(event)) = stream.next().await {
            match output {
                Output::Json => output.json_line(&event)?,
                Output::Text => line(&event_line(&event))?,
            }
            if event.kind == EventKind::Killed.as_str() {
                note(&format!("sandbox {id} has ended"));
                return Ok(());
            }
            seen = Some(event.id);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn event_line(event: &SandboxEvent) -> String {
    let kind = event.kind.rsplit('.').next().unwrap_or_default();
    let data = event.event_data.iter().flatten();
    // The rest is there for programs.
    let said: String = data
        .filter_map(|(name, value)| Some(format!(" {name}={}", value.as_str()?)))
        .collect();
    format!("{} {kind}{said}", moment(&event.timestamp))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines() {
        let event: SandboxEvent = serde_json::from_value(json!({
            "id": "1", "version": "v2", "type": "sandbox.lifecycle.killed", "eventCategory": "lifecycle",
            "eventLabel": "kill", "eventData": {"reason": "request", "execution": {}},
            "timestamp": "2026-01-02T03:04:05Z", "sandboxId": "i1", "sandboxExecutionId": "2",
            "sandboxTemplateId": "t", "sandboxBuildId": "3", "sandboxTeamId": "4",
        }))
        .unwrap();
        assert_eq!(
            event_line(&event),
            "2026-01-02 03:04:05 killed reason=request"
        );
    }
}

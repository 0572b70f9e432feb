//! `soulbox gc`, with the operator's token from the data directory.

use soulbox_api_types::admin::{CollectGarbage, GarbageCollected};
use soulbox_client::Api;

use crate::args::GcArgs;
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::session::{failure, must_be_operator};
use crate::text::size;

/// Characters of a layer's name that tell it from others.
const SHORT: usize = 16;

/// Shows each layer that is gone, or would be, and what they hold together.
pub(crate) async fn run(api: &Api, args: GcArgs, output: Output) -> Result<(), Failure> {
    must_be_operator(api)?;
    let wanted = CollectGarbage {
        dry_run: args.dry_run.then_some(true),
    };
    let collected = api
        .collect_garbage(wanted)
        .await
        .map_err(|error| failure(&error, None))?;
    if output == Output::Text {
        note(&summary(&collected, args.dry_run));
        if collected.layers.is_empty() {
            return Ok(());
        }
    }
    output.show(&collected, |collected| {
        let rows = collected.layers.iter().map(|layer| {
            [
                layer.digest.chars().take(SHORT).collect(),
                layer.entries.to_string(),
                size(i64::try_from(layer.size_bytes).unwrap_or(i64::MAX)),
            ]
        });
        table(["LAYER", "FILES", "SIZE"], rows)
    })
}

fn summary(collected: &GarbageCollected, only_told: bool) -> String {
    let bytes: u64 = collected.layers.iter().map(|layer| layer.size_bytes).sum();
    let what = if only_told {
        "would be removed"
    } else {
        "removed"
    };
    let mut text = format!(
        "{} layers {what}, {}",
        collected.layers.len(),
        size(i64::try_from(bytes).unwrap_or(i64::MAX))
    );
    if collected.memories > 0 {
        text.push_str(&format!(
            "; memory of {} sandboxes {what}",
            collected.memories
        ));
    }
    if collected.in_use > 0 {
        let more = collected.in_use;
        text.push_str(&format!("; {more} stay while sandboxes stand on them"));
    }
    text
}

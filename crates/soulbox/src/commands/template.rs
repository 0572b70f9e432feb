//! `soulbox template list`, and what is done to templates on this machine's disk.

use jiff::Timestamp;
use soulbox_client::Api;

use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::session::failure;
use crate::text::ago;

/// `template list`.
pub(crate) async fn list(api: &Api, output: Output) -> Result<(), Failure> {
    let templates = api
        .templates()
        .await
        .map_err(|error| failure(error, None))?;
    if output == Output::Text && templates.is_empty() {
        note("no templates; `soulbox template bootstrap base` makes one");
        return Ok(());
    }
    output.show(&templates, |templates| {
        let now = Timestamp::now();
        let rows = templates.iter().map(|template| {
            [
                template.template_id.clone(),
                template.names.join(" "),
                template.cpu_count.to_string(),
                format!("{} MiB", template.memory_mb),
                if template.public { "public" } else { "team" }.to_owned(),
                template.spawn_count.to_string(),
                ago(now, &template.updated_at),
            ]
        });
        table(
            ["ID", "NAMES", "CPU", "MEMORY", "FOR", "USED", "CHANGED"],
            rows,
        )
    })
}

//! `soulbox key create|list|revoke`, with the operator's token from the data directory.

use jiff::Timestamp;
use serde_json::json;
use soulbox_api_types::team::KeyMask;
use soulbox_client::Api;

use crate::args::KeyCommand;
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::session::{failure, must_be_operator};
use crate::text::ago;

/// Runs one of them.
pub(crate) async fn run(api: &Api, command: KeyCommand, output: Output) -> Result<(), Failure> {
    must_be_operator(api)?;
    match command {
        KeyCommand::Create { name } => create(api, &name, output).await,
        KeyCommand::List => list(api, output).await,
        KeyCommand::Revoke { id } => revoke(api, &id, output).await,
    }
}

async fn create(api: &Api, name: &str, output: Output) -> Result<(), Failure> {
    let created = api
        .create_key(name)
        .await
        .map_err(|error| failure(&error, None))?;
    output.show(&created, |created| created.key.clone())?;
    if output == Output::Text {
        note("keep it: it is not shown again");
    }
    Ok(())
}

async fn list(api: &Api, output: Output) -> Result<(), Failure> {
    let keys = api.keys().await.map_err(|error| failure(&error, None))?;
    output.show(&keys, |keys| {
        let now = Timestamp::now();
        let used =
            |last: Option<&String>| last.map_or_else(|| "never".to_owned(), |last| ago(now, last));
        let rows = keys.iter().map(|key| {
            [
                key.id.clone(),
                key.name.clone(),
                masked(&key.mask),
                ago(now, &key.created_at),
                used(key.last_used.as_ref()),
            ]
        });
        table(["ID", "NAME", "KEY", "MADE", "USED"], rows)
    })
}

async fn revoke(api: &Api, id: &str, output: Output) -> Result<(), Failure> {
    api.revoke_key(id)
        .await
        .map_err(|error| failure(&error, None).fix("soulbox key list"))?;
    output.show(&json!({ "revoked": id }), |_| String::new())
}

fn masked(mask: &KeyMask) -> String {
    format!(
        "{}{}…{}",
        mask.prefix, mask.masked_value_prefix, mask.masked_value_suffix
    )
}

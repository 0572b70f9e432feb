//! `soulbox sandbox fork|snapshot` and `soulbox snapshot …`.

use jiff::Timestamp;
use serde_json::json;
use soulbox_api_types::sandbox::{ForkSandbox, NewSnapshot, SnapshotInfo};
use soulbox_client::Api;

use crate::args::{ForkArgs, SnapshotArgs, SnapshotCommand};
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::session::failure;
use crate::text::{ago, size};

/// `sandbox fork`: prints the ids alone. What could not be made is told, and fails the command.
pub(crate) async fn fork(api: &Api, args: &ForkArgs, output: Output) -> Result<(), Failure> {
    let wanted = ForkSandbox {
        timeout: Some(args.timeout),
        count: Some(args.count),
        memory: args.files_only.then_some(false),
    };
    let forks = api
        .fork(&args.id, &wanted)
        .await
        .map_err(|error| failure(&error, Some(&args.id)))?;
    output.show(&forks, |forks| {
        let ids = forks.iter().filter_map(|fork| fork.sandbox.as_ref());
        let ids: Vec<&str> = ids.map(|sandbox| sandbox.sandbox_id.as_str()).collect();
        ids.join("\n")
    })?;
    let errors: Vec<&str> = forks
        .iter()
        .filter_map(|fork| fork.error.as_ref())
        .map(|error| error.message.as_str())
        .collect();
    match errors.first() {
        None => Ok(()),
        Some(first) => Err(Failure::user(format!(
            "{} of {} forks were not made: {first}",
            errors.len(),
            forks.len()
        ))),
    }
}

/// `sandbox snapshot`: prints the snapshot's id alone.
pub(crate) async fn take(api: &Api, args: &SnapshotArgs, output: Output) -> Result<(), Failure> {
    let wanted = NewSnapshot {
        name: args.name.clone(),
        memory: args.files_only.then_some(false),
    };
    let snapshot = api
        .snapshot(&args.id, &wanted)
        .await
        .map_err(|error| failure(&error, Some(&args.id)))?;
    output.show(&snapshot, |snapshot| snapshot.snapshot_id.clone())
}

/// `soulbox snapshot …`
pub(crate) async fn run(
    api: &Api,
    command: SnapshotCommand,
    output: Output,
) -> Result<(), Failure> {
    match command {
        SnapshotCommand::List { sandbox } => list(api, sandbox.as_deref(), output).await,
        SnapshotCommand::Rm { ids } => {
            for id in &ids {
                api.delete_template(id)
                    .await
                    .map_err(|error| failure(&error, None))?;
            }
            output.show(&json!({ "removed": ids }), |_| String::new())
        }
    }
}

async fn list(api: &Api, sandbox: Option<&str>, output: Output) -> Result<(), Failure> {
    let snapshots = api
        .snapshots(sandbox)
        .await
        .map_err(|error| failure(&error, None))?;
    if output == Output::Text && snapshots.is_empty() {
        note("no snapshots; `soulbox sandbox snapshot` takes one");
        return Ok(());
    }
    output.show(&snapshots, |snapshots| {
        let now = Timestamp::now();
        let rows = snapshots.iter().map(|snapshot| row(now, snapshot));
        table(["ID", "SANDBOX", "TAKEN", "SIZE"], rows)
    })
}

fn row(now: Timestamp, snapshot: &SnapshotInfo) -> [String; 4] {
    let unknown = || "-".to_owned();
    [
        snapshot.snapshot_id.clone(),
        snapshot.sandbox_id.clone().unwrap_or_else(unknown),
        (snapshot.created_at.as_deref()).map_or_else(unknown, |at| ago(now, at)),
        snapshot.size_bytes.map_or_else(unknown, size),
    ]
}

//! `soulbox volume create|list|show|get|put|rm`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use soulbox_api_types::volume::{VolumeAndToken, VolumeEntryStat, VolumeEntryType};
use soulbox_client::{Api, ClientError};

use crate::args::VolumeCommand;
use crate::commands::file_body::FileBody;
use crate::failure::Failure;
use crate::output::{self, Output, note, table};
use crate::session::failure;
use crate::text::ago;

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: ClientError) -> Failure {
    failure(&error, None)
}

/// Runs one of them.
pub(crate) async fn run(api: &Api, command: VolumeCommand, output: Output) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create { name } => {
            let made = api.create_volume(&name).await.map_err(refused)?;
            // Without the token, which a terminal would keep.
            let shown = json!({ "volumeID": made.volume_id, "name": made.name });
            output.show(&shown, |_| made.volume_id.clone())
        }
        VolumeCommand::List => list(api, output).await,
        VolumeCommand::Show { name, path } => {
            let volume = find(api, &name).await?;
            let entries = api.list_volume(&volume, &path).await.map_err(refused)?;
            output.show(&entries, |entries| entries_table(entries))
        }
        VolumeCommand::Get { name, path, file } => {
            let volume = find(api, &name).await?;
            get(api, &volume, &path, &file, output).await
        }
        VolumeCommand::Put { name, file, path } => {
            let volume = find(api, &name).await?;
            put(api, &volume, &file, &path, output).await
        }
        VolumeCommand::Rm { name } => {
            let volume = find(api, &name).await?;
            api.remove_volume(&volume.volume_id)
                .await
                .map_err(refused)?;
            output.show(&json!({ "removed": volume.volume_id }), |_| String::new())
        }
    }
}

async fn list(api: &Api, output: Output) -> Result<(), Failure> {
    let volumes = api.volumes().await.map_err(refused)?;
    if output == Output::Text && volumes.is_empty() {
        note("no volumes; `soulbox volume create` makes one");
        return Ok(());
    }
    output.show(&volumes, |volumes| {
        let rows = volumes
            .iter()
            .map(|volume| [volume.name.clone(), volume.volume_id.clone()]);
        table(["NAME", "ID"], rows)
    })
}

/// A volume by its name or its id.
async fn find(api: &Api, wanted: &str) -> Result<VolumeAndToken, Failure> {
    let volumes = api.volumes().await.map_err(refused)?;
    let found = volumes
        .iter()
        .find(|volume| volume.name == wanted || volume.volume_id == wanted);
    match found {
        Some(volume) => api.volume(&volume.volume_id).await.map_err(refused),
        None => {
            Err(Failure::user(format!("there is no volume {wanted}")).fix("soulbox volume list"))
        }
    }
}

fn entries_table(entries: &[VolumeEntryStat]) -> String {
    let now = Timestamp::now();
    let rows = entries.iter().map(|entry| {
        let name = match (&entry.kind, &entry.target) {
            (VolumeEntryType::Directory, _) => format!("{}/", entry.name),
            (_, Some(target)) => format!("{} -> {target}", entry.name),
            _ => entry.name.clone(),
        };
        [
            format!("{:04o}", entry.mode),
            format!("{}:{}", entry.uid, entry.gid),
            entry.size.to_string(),
            ago(now, &entry.mtime),
            name,
        ]
    });
    table(["MODE", "OWNER", "SIZE", "CHANGED", "NAME"], rows)
}

async fn get(
    api: &Api,
    volume: &VolumeAndToken,
    path: &str,
    file: &Path,
    output: Output,
) -> Result<(), Failure> {
    let mut content = api.read_volume(volume, path).await.map_err(refused)?;
    let to_stdout = file == Path::new("-");
    let written = |error: std::io::Error| {
        Failure::user(format!("cannot write {}: {error}", file.display()))
            .fix("name a file that can be written")
    };
    let mut target = match to_stdout {
        true => None,
        false => Some(File::create(file).map_err(written)?),
    };
    let bytes = content.size_bytes;
    while let Some(piece) = content.next().await.map_err(refused)? {
        match &mut target {
            Some(target) => target.write_all(&piece).map_err(written)?,
            None => output::bytes(&piece)?,
        }
    }
    if to_stdout {
        return Ok(());
    }
    output.show(&json!({ "file": file, "sizeBytes": bytes }), |_| {
        String::new()
    })
}

async fn put(
    api: &Api,
    volume: &VolumeAndToken,
    file: &Path,
    path: &str,
    output: Output,
) -> Result<(), Failure> {
    let opened = tokio::fs::File::open(file).await.map_err(|error| {
        Failure::user(format!("cannot read {}: {error}", file.display()))
            .fix("name a file that can be read")
    })?;
    let written = api
        .write_volume(volume, path, FileBody::of(opened))
        .await
        .map_err(refused)?;
    output.show(&written, |_| String::new())
}

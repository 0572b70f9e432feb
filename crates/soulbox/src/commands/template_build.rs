//! `soulbox template build`: what is to be built is read and packed here, built by the server, and followed to its end.

mod context;
mod follow;
mod recipe;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soulbox_api_types::build::NewTemplateBuild;
use soulbox_client::{Api, ClientError};
use soulbox_types::ErrorKind;
use tokio::task::spawn_blocking;

use self::context::{Packed, Packing, archive, pack};
use self::follow::follow;
use self::recipe::{Files, Recipe, name_files};
use crate::args::BuildArgs;
use crate::commands::file_body::FileBody;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::progress::Display;
use crate::session;
use crate::text::size;

/// How often a display is brought up to date.
const TICK: Duration = Duration::from_millis(200);

/// Builds a template and returns when sandboxes can be made of it.
pub(crate) async fn build(api: &Api, args: BuildArgs, output: Output) -> Result<(), Failure> {
    let recipe = spawn_blocking({
        let args = args.clone();
        move || Recipe::read(&args)
    });
    let Recipe { mut start, files } = recipe.await.map_err(|error| panicked(&error))??;
    // Programs get one document and nothing before it.
    let mut display = (output == Output::Text).then(Display::new);
    let requested = async {
        let packed = match files {
            Some(files) => Some(packed(files, &mut display).await?),
            None => None,
        };
        if let Some(packed) = &packed {
            name_files(&mut start, &packed.hash);
        }
        let wanted = wanted(&args);
        let requested = api.request_build(&wanted).await.map_err(refused)?;
        if let Some(packed) = packed {
            send(api, &requested.template_id, packed, &mut display).await?;
        }
        Ok((wanted, requested))
    }
    .await;
    if let Some(display) = display {
        display.finish();
    }
    let (wanted, requested) = requested?;
    api.start_build(&requested.template_id, &requested.build_id, &start)
        .await
        .map_err(refused)?;
    follow(api, &wanted, &requested, output).await
}

fn wanted(args: &BuildArgs) -> NewTemplateBuild {
    NewTemplateBuild {
        name: Some(args.name.clone()),
        tags: (!args.tag.is_empty()).then(|| args.tag.clone()),
        cpu_count: args.cpu,
        memory_mb: args.memory,
        ..NewTemplateBuild::default()
    }
}

/// Packs on a thread of its own, and shows how far it is.
async fn packed(files: Files, display: &mut Option<Display>) -> Result<Packed, Failure> {
    let packing = Arc::new(Packing::default());
    let work = spawn_blocking({
        let packing = Arc::clone(&packing);
        move || match files {
            Files::Context(root, ignore) => pack(&root, &ignore, &packing),
            Files::Archive(path) => archive(&path, &packing),
        }
    });
    let packed = watched(work, || {
        let entries = packing.entries.load(Ordering::Relaxed);
        let bytes = packing.bytes.load(Ordering::Relaxed);
        let line = format!("{entries} entries, {}", mib(bytes));
        if let Some(display) = display {
            display.step("packing", None, &line);
        }
    })
    .await
    .map_err(|error| panicked(&error))??;
    for skipped in packed.skipped.iter().filter(|_| display.is_some()) {
        let path = skipped.display();
        note(&format!(
            "{path} is left out: it is no file, directory or link"
        ));
    }
    Ok(packed)
}

/// Sends the files where the server does not have them, and shows how far it is.
async fn send(
    api: &Api,
    template_id: &str,
    packed: Packed,
    display: &mut Option<Display>,
) -> Result<(), Failure> {
    let place = api
        .build_files(template_id, &packed.hash)
        .await
        .map_err(refused)?;
    if place.present {
        return Ok(());
    }
    let length = packed.length;
    let body = FileBody::of(tokio::fs::File::from_std(packed.file));
    let sent = body.sent();
    watched(api.put_build_files(&place, length, body), || {
        let sent = sent.load(Ordering::Relaxed);
        let percent = (sent * 100).checked_div(length).unwrap_or(100);
        let line = format!("{} of {}", mib(sent), mib(length));
        if let Some(display) = display {
            display.step("sending", u8::try_from(percent).ok(), &line);
        }
    })
    .await
    .map_err(refused)
}

/// Waits for work, and looks at it now and then.
async fn watched<T>(work: impl Future<Output = T>, mut look: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    // What is done at once need not be shown.
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => look(),
        }
    }
}

fn mib(bytes: u64) -> String {
    size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn panicked(error: &tokio::task::JoinError) -> Failure {
    Failure::internal(format!("the files were not packed: {error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: ClientError) -> Failure {
    match error.kind() {
        ErrorKind::LimitExceeded => Failure::user(error.to_string())
            .fix("wait for another build to end, or allow more with --max-builds-per-team"),
        _ => session::failure(&error, None),
    }
}

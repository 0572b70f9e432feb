//! `soulbox template …`: what a server has, and what is done to templates on this machine's disk (bootstrap, verify).

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;
use soulbox_api_types::template::TemplateWithBuilds;
use soulbox_artifacts::{ArtifactError, Artifacts, BootstrapOptions, Suite, TemplateManifest};
use soulbox_client::{Api, ClientError};
use soulbox_types::ErrorKind;

use crate::args::BootstrapArgs;
use crate::commands::versions;
use crate::failure::Failure;
use crate::output::{Output, note, table};
use crate::progress::Display;
use crate::session::failure;
use crate::text::{ago, size};

/// `template list`.
pub(crate) async fn list(api: &Api, output: Output) -> Result<(), Failure> {
    let templates = api
        .templates()
        .await
        .map_err(|error| failure(&error, None))?;
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

/// `template show`.
pub(crate) async fn show(api: &Api, name: &str, output: Output) -> Result<(), Failure> {
    let found = found(api, name).await?;
    let tags = api.template_tags(name).await.map_err(refused)?;
    let document = json!({ "template": found, "tags": tags });
    output.show(&document, |_| {
        let template = &found.template;
        let mut builds = found.builds.iter();
        let in_use = builds.find(|build| build.build_id == template.build_id);
        let bytes = in_use.and_then(|build| build.size_bytes);
        let head = format!(
            "{} ({})\n{}, {} CPU, {} MiB, {} on disk, used {} times\n",
            template.names.join(" "),
            template.template_id,
            if template.public {
                "public"
            } else {
                "of its team"
            },
            template.cpu_count,
            template.memory_mb,
            size(bytes.unwrap_or(0)),
            template.spawn_count,
        );
        let about = template.description.as_deref().unwrap_or_default();
        let about = if about.is_empty() {
            String::new()
        } else {
            format!("{about}\n")
        };
        let builds = versions::list(&found.builds, &tags, &template.build_id);
        format!("{head}{about}\n{builds}")
    })
}

/// `template publish` and `unpublish`.
pub(crate) async fn publish(
    api: &Api,
    name: &str,
    public: bool,
    output: Output,
) -> Result<(), Failure> {
    let updated = api.publish_template(name, public).await.map_err(refused)?;
    output.show(&updated, |updated| {
        let names = updated.names.join(" ");
        if public {
            format!("every team can use {names}")
        } else {
            format!("only its team can use {names}")
        }
    })
}

/// `template rm`.
pub(crate) async fn remove(api: &Api, name: &str, output: Output) -> Result<(), Failure> {
    api.delete_template(name).await.map_err(refused)?;
    output.show(&json!({ "deleted": name }), |_| {
        format!("{name} is deleted")
    })
}

pub(crate) async fn found(api: &Api, name: &str) -> Result<TemplateWithBuilds, Failure> {
    let id = api
        .template_of_name(name)
        .await
        .map_err(refused)?
        .template_id;
    api.template(&id).await.map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn refused(error: ClientError) -> Failure {
    failure(&error, None)
}

/// `template bootstrap base`. Blocking: called outside the runtime.
pub(crate) fn bootstrap(
    data_dir: &Path,
    args: &BootstrapArgs,
    output: Output,
) -> Result<(), Failure> {
    let options = BootstrapOptions {
        mirror: args.mirror.clone(),
        suite: args.suite.as_deref().map(suite).transpose()?,
        from: args.from.clone(),
        rebuild: args.rebuild,
    };
    let artifacts = Artifacts::open(data_dir).map_err(|error| artifact(&error))?;
    let mut display = Display::new();
    let made = artifacts.bootstrap_base(&options, &mut |progress| {
        display.step(progress.phase.name(), progress.percent, &progress.line);
    });
    display.finish();
    let manifest = made.map_err(|error| artifact(&error))?;
    output.show(&manifest, |manifest| {
        let bytes = i64::try_from(manifest.size_bytes).unwrap_or(i64::MAX);
        format!(
            "{} is ready: {}, {} files, {}",
            manifest.name,
            manifest.distribution,
            manifest.entries,
            size(bytes)
        )
    })
}

fn suite(name: &str) -> Result<Suite, Failure> {
    Suite::ALL
        .into_iter()
        .find(|suite| suite.codename() == name)
        .ok_or_else(|| {
            let known = Suite::ALL.map(Suite::codename).join(" or ");
            Failure::usage(format!("there is no recipe for Debian {name}"))
                .fix(format!("--suite {known}"))
        })
}

/// `template verify`. Blocking: called outside the runtime.
pub(crate) fn verify(data_dir: &Path, name: &str, output: Output) -> Result<(), Failure> {
    let (artifacts, manifest) = find(data_dir, name)?;
    let mut display = Display::new();
    let verified = artifacts.verify(&manifest, &mut |progress| {
        display.step(progress.phase.name(), progress.percent, &progress.line);
    });
    display.finish();
    verified.map_err(|error| artifact(&error))?;
    let answer = json!({ "template": name, "intact": true, "layers": manifest.layers });
    output.show(&answer, |_| format!("{name} is intact"))
}

/// The directory of a template that has one layer, for programs that know no layers.
pub(crate) fn rootfs(data_dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let (artifacts, manifest) = find(data_dir, name)?;
    let layers = artifacts
        .layers(&manifest)
        .map_err(|error| artifact(&error))?;
    match <[PathBuf; 1]>::try_from(layers) {
        Ok([layer]) => Ok(layer),
        Err(layers) => Err(Failure::user(format!(
            "template {name} has {} layers; peers need a single one",
            layers.len()
        ))
        .fix("name a root file system with --rootfs")),
    }
}

fn find(data_dir: &Path, name: &str) -> Result<(Artifacts, TemplateManifest), Failure> {
    let artifacts = Artifacts::open(data_dir).map_err(|error| artifact(&error))?;
    let manifest = artifacts
        .manifest(name)
        .map_err(|error| artifact(&error))?
        .ok_or_else(|| {
            Failure::user(format!(
                "there is no template {name} in {}",
                data_dir.display()
            ))
            .fix(format!(
                "soulbox template bootstrap base --data-dir {}",
                data_dir.display()
            ))
        })?;
    Ok((artifacts, manifest))
}

pub(crate) fn artifact(error: &ArtifactError) -> Failure {
    let fix = error.fix();
    let what = error.to_string();
    let failure = match error.kind() {
        ErrorKind::Internal => Failure::internal(what),
        ErrorKind::InvalidArgument => Failure::usage(what),
        ErrorKind::Unavailable => Failure::unavailable(what),
        ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::LimitExceeded
        | ErrorKind::StorageFull
        | ErrorKind::Timeout
        | ErrorKind::Unimplemented => Failure::user(what),
    };
    let failure = match std::error::Error::source(error) {
        Some(source) => failure.because(anyhow::anyhow!("{}", soulbox_telemetry::chain(source))),
        None => failure,
    };
    match fix {
        Some(fix) => failure.fix(fix),
        None => failure,
    }
}

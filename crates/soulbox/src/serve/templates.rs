//! Keeps the database's list of templates equal to what is on the disk.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use soulbox_artifacts::{ArtifactError, Artifacts, TemplateManifest};
use soulbox_store::{BootstrapTemplate, Store};
use soulbox_types::Limits;
use tokio_util::sync::CancellationToken;

/// A template that is bootstrapped while the server runs can be used after this long.
const RESCAN: Duration = Duration::from_secs(5);

/// Registers every template that has a manifest. Bootstrapped templates ask for nothing: they get the limits of the
/// configuration.
/// One that is damaged is named and left as it was registered before: it must not keep the server from its sandboxes.
pub(crate) async fn register(
    store: &Store,
    artifacts: &Arc<Artifacts>,
    limits: Limits,
) -> anyhow::Result<()> {
    let reader = Arc::clone(artifacts);
    let found = tokio::task::spawn_blocking(move || look(&reader))
        .await?
        .context("cannot read the templates' manifests")?;
    for (template, error) in &found.damage {
        tracing::error!(
            template,
            error,
            "TEMPLATE IS DAMAGED. FIX: remove templates/{template}.json, then soulbox template bootstrap {template}"
        );
    }
    if found.manifests.is_empty() {
        tracing::warn!("no template yet. FIX: soulbox template bootstrap base");
    }
    for manifest in found.manifests {
        let wanted = BootstrapTemplate {
            alias: manifest.name,
            description: Some(manifest.distribution),
            limits,
            layers: manifest.layers.iter().map(ToString::to_string).collect(),
            envd_version: soulbox_envd_proto::ENVD_VERSION.to_owned(),
            default_user: manifest.default_user,
            default_workdir: manifest.default_workdir,
        };
        store
            .upsert_bootstrap_template(&wanted)
            .await
            .context("cannot register a template")?;
        soulbox_fault::point!("start.template-registered");
    }
    Ok(())
}

/// What is on the disk: the manifests that can be believed, and what is wrong with the templates that cannot.
#[derive(Debug, Default, PartialEq)]
struct OnDisk {
    manifests: Vec<TemplateManifest>,
    damage: Vec<(String, String)>,
}

fn look(artifacts: &Artifacts) -> Result<OnDisk, ArtifactError> {
    let mut found = OnDisk::default();
    for name in artifacts.names()? {
        // Layers are looked at by whoever launches from them: this process cannot see them.
        match artifacts.manifest(&name) {
            Ok(manifest) => found.manifests.extend(manifest),
            Err(error) => found.damage.push((name, soulbox_telemetry::chain(&error))),
        }
    }
    Ok(found)
}

/// Looks again from time to time, until the server stops.
pub(crate) async fn keep_registered(
    store: Store,
    artifacts: Arc<Artifacts>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut seen = look(&artifacts).unwrap_or_default();
    while stop
        .run_until_cancelled(tokio::time::sleep(RESCAN))
        .await
        .is_some()
    {
        let reader = Arc::clone(&artifacts);
        let Ok(Ok(found)) = tokio::task::spawn_blocking(move || look(&reader)).await else {
            continue;
        };
        if found == seen {
            continue;
        }
        match register(&store, &artifacts, limits).await {
            Ok(()) => seen = found,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot register templates"),
        }
    }
}

//! Makes the ground that a build stands on out of an image: of a registry, of an uploaded layout, or a bare file system.
//!
//! Archives are unpacked in a sandbox that has nothing in it but `soulbox-tar`; what that has written is the layer.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use soulbox_client::process::Start;
use soulbox_driver::{BareLayers, TAR};
use soulbox_fault as fault;
use soulbox_registry::document::{Descriptor, architecture};
use soulbox_registry::{Blob, Credentials, Digest, Found, Reference};
use soulbox_store::{CachedStep, LogLevel};
use soulbox_types::{BuildContext, LayerDigest};
use tokio::fs::File;
use tokio::io::AsyncRead;

use crate::archive::Layout;
use crate::cache::kept;
use crate::failure::Failure;
use crate::hash;
use crate::journal::{Journal, Output};
use crate::key::Key;
use crate::request::Runtime;
use crate::script;
use crate::stage::{Stage, StepFailure};
use crate::state::State;
use crate::work::Work;

pub(crate) const STEP: &str = "base";
/// Layers of one image that are fetched at the same time.
const AT_A_TIME: usize = 4;
/// Where an archive lies inside until it is read. Nothing below `/run/e2b` becomes part of a layer.
pub(crate) const ARCHIVE: &str = "/run/e2b/archive";
/// Entries that one layer may have.
pub(crate) const MOST_ENTRIES: u64 = 4_000_000;
/// The user that sandboxes start as when a template says nothing else.
pub(crate) const DEFAULT_USER: &str = "user";
const ROOT: &str = "root";

/// A file system that is known by a digest and consists of archives, lowest first.
struct Content<'a> {
    digest: String,
    env: std::collections::BTreeMap<String, String>,
    layers: Layers<'a>,
}

enum Layers<'a> {
    Registry(&'a Found<'a>),
    Layout(&'a Layout),
    /// One archive of everything.
    Rootfs(&'a str),
}

impl Work {
    /// The ground of an image's name.
    pub(crate) async fn image(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let told = |error: &soulbox_registry::PullError| Failure::new(STEP, error.told(reference));
        let name = Reference::parse(reference).map_err(|e| told(&e.into()))?;
        let found = self.registries.find(&name, credentials).await;
        let found = found.map_err(|error| told(&error))?;
        let content = Content {
            digest: found.image.digest.to_string(),
            env: found.image.env(),
            layers: Layers::Registry(&found),
        };
        let headline = format!("FROM {reference}");
        self.ground(&content, &headline, journal).await
    }

    /// The ground of an uploaded layout, and whether it was a template before.
    pub(crate) async fn layout(
        &self,
        hash: &str,
        journal: &mut Journal,
    ) -> Result<(State, bool), Failure> {
        let file = self.uploaded(hash).await?;
        let layout = Layout::read(file, architecture()).await;
        let layout = layout.map_err(|error| Failure::new(STEP, error.to_string()))?;
        let content = Content {
            digest: layout.image.digest.to_string(),
            env: layout.image.env(),
            layers: Layers::Layout(&layout),
        };
        let mut state = self.ground(&content, "FROM ARCHIVE", journal).await?;
        let was_template = layout.dress(&mut state);
        Ok((state, was_template))
    }

    /// The ground of an uploaded root file system.
    pub(crate) async fn rootfs(&self, hash: &str, journal: &mut Journal) -> Result<State, Failure> {
        // The name of an upload is the client's: only its content says whether two are the same.
        let file = self.uploaded(hash).await?.into_std().await;
        let failed = |error: &dyn std::fmt::Display| Failure::new(STEP, error.to_string());
        let hashing = tokio::task::spawn_blocking(move || hash::of_all(file));
        let digest = hashing.await.map_err(|error| failed(&error))?;
        let digest = digest.map_err(|error| failed(&error))?;
        let content = Content {
            digest: format!("rootfs {digest}"),
            env: std::collections::BTreeMap::new(),
            layers: Layers::Rootfs(hash),
        };
        self.ground(&content, "FROM ROOTFS", journal).await
    }

    /// An empty ground.
    pub(crate) async fn scratch(&self) -> Result<State, Failure> {
        let bare = self.bare().await?;
        Ok(State::on(
            Key::of_image("scratch"),
            vec![bare.ground],
            root(),
            self.request.force,
        ))
    }

    pub(crate) async fn bare(&self) -> Result<BareLayers, Failure> {
        self.driver
            .bare_layers()
            .await
            .map_err(Failure::driver(STEP))
    }

    pub(crate) async fn uploaded(&self, hash: &str) -> Result<File, Failure> {
        self.uploads
            .read(&self.team.id, hash)
            .await
            .map_err(|error| {
                Failure::new(
                    STEP,
                    match error.kind() {
                        std::io::ErrorKind::NotFound => {
                            "its files were not uploaded\nFIX: upload them, then start the build"
                                .to_owned()
                        }
                        _ => format!("cannot read the uploaded files: {error}"),
                    },
                )
            })
    }

    async fn ground(
        &self,
        content: &Content<'_>,
        headline: &str,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let key = Key::of_image(&content.digest);
        let line = format!("[base] {headline} [{}]", key.short());
        let bare = self.bare().await?;
        let mut context = root();
        context.env.clone_from(&content.env);
        let mut state = State::on(key.clone(), vec![bare.ground], context, self.request.force);
        let recalled = self.recall(&state, &key, STEP, &line, journal);
        let done = match recalled.await? {
            Some(done) => done,
            None => {
                let done = self.unpack(content, bare, &state.context, journal).await?;
                self.remember(&key, &done, STEP).await?;
                done
            }
        };
        if let Some(layer) = done.layer {
            state.lay(layer);
            state.ground_bytes += done.size_bytes;
        }
        Ok(state)
    }

    /// Unpacks every archive in one sandbox.
    async fn unpack(
        &self,
        content: &Content<'_>,
        bare: BareLayers,
        context: &BuildContext,
        journal: &mut Journal,
    ) -> Result<CachedStep, Failure> {
        let layers = [bare.tools, bare.ground];
        let stage = self.stage_on(&layers, &root(), STEP).await?;
        match &content.layers {
            Layers::Registry(found) => {
                let wanted = &found.image.layers;
                let fetches: Vec<BoxFuture<'_, _>> = wanted
                    .iter()
                    .map(|layer| found.layer(layer).boxed())
                    .collect();
                let mut coming = stream::iter(fetches).buffered(AT_A_TIME);
                let mut number = 0;
                while let Some(blob) = coming.next().await {
                    let blob: Blob =
                        blob.map_err(|error| Failure::new(STEP, error.told(&content.digest)))?;
                    let file = blob
                        .open()
                        .await
                        .map_err(|error| Failure::new(STEP, error.to_string()))?;
                    let id = found.image.config.rootfs.diff_ids.get(number);
                    self.lay(
                        &stage,
                        file,
                        id,
                        (number, &wanted[number], wanted.len()),
                        journal,
                    )
                    .await?;
                    number += 1;
                }
            }
            Layers::Layout(layout) => {
                let wanted = &layout.image.layers;
                for (number, layer) in wanted.iter().enumerate() {
                    let file = layout
                        .blob(layer)
                        .await
                        .map_err(|error| Failure::new(STEP, error.to_string()))?;
                    let id = layout.image.config.rootfs.diff_ids.get(number);
                    self.lay(&stage, file, id, (number, layer, wanted.len()), journal)
                        .await?;
                }
            }
            Layers::Rootfs(hash) => {
                let file = self.uploaded(hash).await?;
                let told = stage
                    .unpack(file, &["layer", ARCHIVE, "-"], self.most_bytes())
                    .await;
                told.map_err(|error| Failure::new(STEP, error.to_string()))?;
            }
        }
        fault::point!("build.image-unpacked");
        let saved = stage.save().await.map_err(Failure::driver(STEP))?;
        fault::point!("build.image-saved");
        Ok(kept(saved, context.clone()))
    }

    async fn lay(
        &self,
        stage: &Stage,
        file: impl AsyncRead + Send + 'static,
        diff_id: Option<&Digest>,
        (number, layer, of): (usize, &Descriptor, usize),
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let line = format!(
            "[base] layer {}/{of}: {} KiB",
            number + 1,
            layer.size.div_ceil(1024)
        );
        journal.say(LogLevel::Info, Some(STEP), line).await;
        let id = diff_id.map_or("-", Digest::hex);
        let told = stage
            .unpack(file, &["layer", ARCHIVE, id], self.most_bytes())
            .await;
        let told =
            told.map_err(|error| Failure::new(STEP, format!("layer {}: {error}", layer.digest)))?;
        journal
            .say(LogLevel::Debug, Some(STEP), format!("[base] {told}"))
            .await;
        Ok(())
    }

    /// What a template's disk can hold is what its image may bring.
    pub(crate) fn most_bytes(&self) -> u64 {
        u64::from(self.build.limits.disk_mib) << 20
    }

    /// Sees to it that a sandbox of an image can be used: by a shell, and as somebody who is not root.
    pub(crate) async fn provision(
        &self,
        state: &mut State,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let key = state
            .key
            .and(&["provision", script::PROVISION, script::USER]);
        let line = format!("[base] DEFAULT USER {DEFAULT_USER} [{}]", key.short());
        let recalled = self.recall(state, &key, STEP, &line, journal);
        let done = match recalled.await? {
            Some(done) => done,
            None => {
                let done = self.make_usable(state, journal).await?;
                self.remember(&key, &done, STEP).await?;
                done
            }
        };
        state.key = key;
        state.context = done.context.clone();
        // What it stands on may have been made by steps: those of a Dockerfile come before.
        if let Some(layer) = done.layer {
            state.lay_own(layer, done.size_bytes);
        }
        Ok(())
    }

    async fn make_usable(
        &self,
        state: &State,
        journal: &mut Journal,
    ) -> Result<CachedStep, Failure> {
        let stage = self.stage(state, STEP).await?;
        let mut output = Output {
            journal,
            step: STEP.to_owned(),
            prefix: "[base]".to_owned(),
        };
        let start = Start {
            cmd: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script::PROVISION.to_owned()],
            user: Some(ROOT.to_owned()),
            cwd: Some("/".to_owned()),
            envs: script::environment(&state.context),
            ..Start::default()
        };
        let unusable = |why: String| {
            let text = format!(
                "the image cannot be made usable: {why}\n\
                 FIX: use an image with a shell and bash, or with a package manager that can install bash"
            );
            Failure::new(STEP, text)
        };
        let end = stage.run(&start, &mut output).await;
        let end = end.map_err(|error| unusable(StepFailure::from(error).to_string()))?;
        if !end.exited || end.exit_code != 0 {
            return Err(unusable(end.status));
        }
        stage
            .script(&state.context, script::USER, &[DEFAULT_USER, "true"])
            .await
            .map_err(|error| unusable(format!("no user can be made: {error}")))?;
        let saved = stage.save().await.map_err(Failure::driver(STEP))?;
        let mut context = state.context.clone();
        if self.request.runtime == Runtime::V21 {
            DEFAULT_USER.clone_into(&mut context.user);
        }
        Ok(kept(saved, context))
    }
}

impl Stage {
    /// Sends an archive inside and runs `soulbox-tar` on it; the sandbox must stand on the layer that has it. Returns what
    /// that has told.
    pub(crate) async fn unpack(
        &self,
        archive: impl AsyncRead + Send + 'static,
        arguments: &[&str],
        most_bytes: u64,
    ) -> Result<String, StepFailure> {
        self.send(ARCHIVE, archive).await?;
        let mut all: Vec<&str> = arguments.to_vec();
        let (bytes, entries) = (most_bytes.to_string(), MOST_ENTRIES.to_string());
        all.extend([bytes.as_str(), entries.as_str()]);
        self.tar(&all).await
    }

    /// Runs `soulbox-tar`.
    pub(crate) async fn tar(&self, arguments: &[&str]) -> Result<String, StepFailure> {
        let start = Start {
            cmd: TAR.to_owned(),
            args: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            user: Some(ROOT.to_owned()),
            cwd: Some("/".to_owned()),
            ..Start::default()
        };
        let output = self.envd().run(&start).await?;
        if output.end.exited && output.end.exit_code == 0 {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        Err(StepFailure(if last.is_empty() {
            output.end.status
        } else {
            last.to_owned()
        }))
    }
}

pub(crate) fn root() -> BuildContext {
    BuildContext {
        user: ROOT.to_owned(),
        ..BuildContext::default()
    }
}

/// Layers of a stack on which `soulbox-tar` can be run.
pub(crate) fn with_tools(bare: BareLayers, layers: &[LayerDigest]) -> Vec<LayerDigest> {
    let mut all = vec![bare.tools];
    all.extend(layers);
    all
}

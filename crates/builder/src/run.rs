//! One build from its beginning to its end.
//!
//! Every step runs in a sandbox of its own, on the layers of the steps before it; what it has written becomes the next
//! layer. So a step's layer holds exactly what the step did, and can be used again by whoever does the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use soulbox_client::process::Start;
use soulbox_client::startup::{self, Note};
use soulbox_driver::{Driver, DriverError, SavedLayer};
use soulbox_fault as fault;
use soulbox_registry::Registries;
use soulbox_store::{
    Build, BuildReason, CachedStep, FinishedBuild, LogLevel, Store, StoreError, Team, Template,
};
use soulbox_types::{BuildContext, LayerDigest, StartCommand, TemplateRef};

use crate::act;
use crate::image::{DEFAULT_USER, STEP};
use crate::journal::{Journal, Output};
use crate::key::Key;
use crate::mirrors::{self, Mirrors};
use crate::place::Placement;
use crate::request::{BuildRequest, Runtime, Source, Step};
use crate::script;
use crate::stage::{Ground, Stage};
use crate::uploads::Uploads;

/// More layers than this and those of the build become one before it goes on.
const MOST_LAYERS: usize = 48;
/// What is waited for after a start command when nothing else is said.
pub(crate) const DEFAULT_READY: &str = "sleep 20";
/// How long a template may take to become ready.
const READY_PATIENCE: Duration = Duration::from_mins(10);
/// The image that SDKs name when they mean "the usual": our own base template.
const BASE_IMAGE: &str = "e2bdev/base";
pub(crate) const BASE_TEMPLATE: &str = "base";
/// The user that old SDKs expect.
const OLD_USER: &str = DEFAULT_USER;

/// Everything that one build needs.
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) uploads: Uploads,
    pub(crate) registries: Registries,
    pub(crate) mirrors: Arc<Mirrors>,
    pub(crate) team: Team,
    pub(crate) template: Template,
    pub(crate) build: Build,
    pub(crate) request: BuildRequest,
}

/// What a build has reached.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) key: Key,
    /// Topmost first.
    pub(crate) layers: Vec<LayerDigest>,
    /// How many of them are what the steps of this build did.
    own: usize,
    own_bytes: i64,
    /// Of an image that was unpacked for this build; nothing when it goes on from a template.
    pub(crate) ground_bytes: i64,
    pub(crate) context: BuildContext,
    pub(crate) start: Option<StartCommand>,
    /// Nothing is taken from the cache any more.
    pub(crate) force: bool,
}

impl State {
    /// Puts a layer on top. A stack that has it already, deeper down, needs it there no more: whatever the lower one does to
    /// those below it, the upper one does, too.
    pub(crate) fn lay(&mut self, layer: LayerDigest) {
        if let Some(at) = self.layers.iter().position(|known| *known == layer) {
            self.layers.remove(at);
            if at < self.own {
                self.own -= 1;
            }
        }
        self.layers.insert(0, layer);
    }

    /// A build that has done nothing yet.
    pub(crate) fn on(
        key: Key,
        layers: Vec<LayerDigest>,
        context: BuildContext,
        force: bool,
    ) -> Self {
        Self {
            key,
            layers,
            own: 0,
            own_bytes: 0,
            ground_bytes: 0,
            context,
            start: None,
            force,
        }
    }
}

/// What brings a state further.
pub(crate) enum Deed<'a> {
    /// A step as the wire has it.
    Step(&'a Step),
    /// A program; the text is how it was written.
    Run { start: Start, text: String },
    /// Files.
    Place(Placement<'a>),
    /// Only another context.
    Nothing(BuildContext),
}

/// Where in a build something happens.
pub(crate) struct Place {
    /// From 1.
    pub(crate) number: String,
    /// What stands before lines of the log: `[builder 1/2]`.
    pub(crate) prefix: String,
    /// It as it was written, on one line.
    pub(crate) headline: String,
}

impl Place {
    pub(crate) fn of(number: usize, of: usize, headline: &str) -> Self {
        Self {
            prefix: format!("[builder {number}/{of}]"),
            number: number.to_string(),
            headline: headline.to_owned(),
        }
    }
}

/// Why a build fails.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) step: Option<String>,
}

impl Failure {
    pub(crate) fn new(step: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            step: Some(step.to_owned()),
        }
    }

    fn store(step: &str) -> impl FnOnce(StoreError) -> Self {
        let step = step.to_owned();
        move |error| {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(error, "a build fails for the database");
            Self::internal(Some(step))
        }
    }

    /// Something that no owner of a template can do anything about.
    pub(crate) fn internal(step: Option<String>) -> Self {
        Self {
            message:
                "An internal error occurred. Please try again or contact support with the build ID."
                    .to_owned(),
            step,
        }
    }

    pub(crate) fn driver(step: &str) -> impl FnOnce(DriverError) -> Self {
        let step = step.to_owned();
        move |error| {
            let text = soulbox_telemetry::chain(&error);
            tracing::warn!(error = text, "a build fails for the host");
            let damaged = matches!(error, DriverError::Layer { .. });
            let fix = if damaged {
                "build again without the cache (skip_cache)"
            } else {
                "build again; finished steps are taken from the cache"
            };
            let message = format!("cannot run a sandbox for the build: {text}\nFIX: {fix}");
            Self::new(&step, message)
        }
    }
}

impl From<Failure> for BuildReason {
    fn from(failure: Failure) -> Self {
        Self {
            message: failure.message,
            step: failure.step,
        }
    }
}

impl Work {
    /// Does it. Whatever is said on the way is in the journal.
    pub(crate) async fn run(&self, journal: &mut Journal) -> Result<FinishedBuild, Failure> {
        let begun = Instant::now();
        let title = format!("Building template {}/{}", self.template.id, self.build.id);
        journal.say(LogLevel::Info, None, title).await;
        let mut state = self.base(journal).await?;
        // A Dockerfile has done it for each of its images.
        if !matches!(self.request.source, Source::Dockerfile { .. }) {
            self.use_mirrors(&mut state, journal).await?;
        }
        fault::point!("build.based");
        for (at, step) in self.request.steps.iter().enumerate() {
            self.step(&mut state, at, step, journal).await?;
            fault::point!("build.step-done");
        }
        self.squash(&mut state).await?;
        fault::point!("build.squashed");
        let finished = self.finalize(state, journal).await?;
        let took = format!("Build finished, took {}s", begun.elapsed().as_secs());
        journal.say(LogLevel::Info, None, took).await;
        Ok(finished)
    }

    /// Finds or makes what the build goes on from.
    async fn base(&self, journal: &mut Journal) -> Result<State, Failure> {
        match &self.request.source {
            Source::Template(name) => {
                let headline = format!("FROM TEMPLATE {name}");
                self.template(name, &headline, journal).await
            }
            Source::Image {
                reference,
                credentials,
            } => {
                if is_base_image(reference) {
                    let headline = format!("FROM {reference}");
                    return self.template(BASE_TEMPLATE, &headline, journal).await;
                }
                let mut state = self.image(reference, credentials.as_ref(), journal).await?;
                self.provision(&mut state, journal).await?;
                Ok(state)
            }
            Source::Rootfs(hash) => {
                let mut state = self.rootfs(hash, journal).await?;
                self.provision(&mut state, journal).await?;
                Ok(state)
            }
            Source::Archive(hash) => {
                let (mut state, was_template) = self.layout(hash, journal).await?;
                if !was_template {
                    self.provision(&mut state, journal).await?;
                }
                Ok(state)
            }
            Source::Dockerfile {
                recipe,
                credentials,
            } => self.dockerfile(recipe, credentials.as_ref(), journal).await,
        }
    }

    /// Lets the package managers of a state ask the operator's mirrors.
    pub(crate) async fn use_mirrors(
        &self,
        state: &mut State,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let Some(arguments) = self.mirrors.arguments() else {
            return Ok(());
        };
        let mut words = vec!["mirrors", mirrors::SCRIPT];
        words.extend(arguments);
        let key = state.key.and(&words);
        let mut args = vec!["-c".to_owned(), mirrors::SCRIPT.to_owned(), "sh".to_owned()];
        args.extend(arguments.map(str::to_owned));
        let deed = Deed::Run {
            start: Start {
                cmd: "/bin/sh".to_owned(),
                args,
                user: Some("root".to_owned()),
                cwd: Some("/".to_owned()),
                envs: script::environment(&state.context),
                ..Start::default()
            },
            text: "MIRRORS".to_owned(),
        };
        let place = Place {
            number: STEP.to_owned(),
            prefix: "[base]".to_owned(),
            headline: "MIRRORS".to_owned(),
        };
        self.advance(state, key, &deed, place, journal).await
    }

    /// The end of another template's build.
    pub(crate) async fn template(
        &self,
        name: &str,
        headline: &str,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let not_found = || Failure::new(STEP, format!("template '{name}' not found"));
        let reference: TemplateRef = name.parse().map_err(|_| not_found())?;
        let found = self.store.resolve_template(&self.team, &reference).await;
        let base = found
            .map_err(|error| Failure::new(STEP, soulbox_telemetry::chain(&error)))?
            .build;
        let layers: Result<Vec<LayerDigest>, _> =
            base.layers.iter().map(|text| text.parse()).collect();
        let layers = layers.map_err(|_| {
            Failure::new(
                STEP,
                "error getting base template, you may need to rebuild it first",
            )
        })?;
        let context = BuildContext {
            user: base.default_user,
            workdir: base.default_workdir,
            env: base.env,
        };
        let key = Key::of_build(&base.id, &context);
        let line = format!("[base] {headline} [{}]", key.short());
        journal.say(LogLevel::Info, Some(STEP), line).await;
        let mut state = State::on(key, layers, context, self.request.force);
        state.start = base.start;
        Ok(state)
    }

    async fn step(
        &self,
        state: &mut State,
        at: usize,
        step: &Step,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let key = state.key.after(step);
        state.force |= step.force;
        let place = Place::of(at + 1, self.request.steps.len(), &step.headline());
        self.advance(state, key, &Deed::Step(step), place, journal)
            .await
    }

    /// Brings a state further, from the cache or by doing something.
    pub(crate) async fn advance(
        &self,
        state: &mut State,
        key: Key,
        deed: &Deed<'_>,
        place: Place,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let Place {
            number,
            prefix,
            headline,
        } = place;
        let headline = format!("{prefix} {headline} [{}]", key.short());
        let recalled = self.recall(state, &key, &number, &headline, journal);
        let done = match recalled.await? {
            Some(done) => done,
            None => {
                let mut output = Output {
                    journal,
                    step: number.clone(),
                    prefix,
                };
                let done = self.carry_out(state, deed, &mut output).await?;
                self.remember(&key, &done, &number).await?;
                done
            }
        };
        state.key = key;
        state.context = done.context;
        if let Some(layer) = done.layer {
            state.lay(layer);
            state.own += 1;
            state.own_bytes += done.size_bytes;
        }
        if state.layers.len() > MOST_LAYERS {
            self.squash(state).await?;
        }
        Ok(())
    }

    /// What the cache has under a key, where it may be asked.
    pub(crate) async fn known(
        &self,
        state: &State,
        key: &Key,
        step: &str,
    ) -> Result<Option<CachedStep>, Failure> {
        if state.force {
            return Ok(None);
        }
        let found = self.store.cached_step(&self.team.id, key.as_str()).await;
        found.map_err(Failure::store(step))
    }

    /// The same, and tells the log which line it is about to do or has done before.
    pub(crate) async fn recall(
        &self,
        state: &State,
        key: &Key,
        step: &str,
        line: &str,
        journal: &mut Journal,
    ) -> Result<Option<CachedStep>, Failure> {
        let known = self.known(state, key, step).await?;
        let line = match known {
            Some(_) => format!("CACHED {line}"),
            None => line.to_owned(),
        };
        journal.say(LogLevel::Info, Some(step), line).await;
        Ok(known)
    }

    pub(crate) async fn remember(
        &self,
        key: &Key,
        done: &CachedStep,
        step: &str,
    ) -> Result<(), Failure> {
        let noted = self
            .store
            .put_cached_step(&self.team.id, key.as_str(), done);
        noted.await.map_err(Failure::store(step))
    }

    async fn carry_out(
        &self,
        state: &State,
        deed: &Deed<'_>,
        output: &mut Output<'_>,
    ) -> Result<CachedStep, Failure> {
        let number = output.step.clone();
        let (stage, context) = match deed {
            Deed::Nothing(context) => return Ok(kept(None, context.clone())),
            Deed::Step(step) => match self.act(state, step, output).await? {
                (Some(stage), context) => (stage, context),
                (None, context) => return Ok(kept(None, context)),
            },
            Deed::Run { start, text } => {
                let stage = self.stage(state, &number).await?;
                act::run_program(&stage, start, text, output)
                    .await
                    .map_err(|error| Failure::new(&number, error.to_string()))?;
                (stage, state.context.clone())
            }
            Deed::Place(placement) => {
                let stage = self.place(state, placement, &number).await?;
                (stage, placement.context.clone())
            }
        };
        fault::point!("build.step-ran");
        let saved = stage.save().await.map_err(Failure::driver(&number))?;
        fault::point!("build.step-saved");
        Ok(kept(saved, context))
    }

    /// Carries out a step; without a sandbox where it needs none.
    async fn act(
        &self,
        state: &State,
        step: &Step,
        output: &mut Output<'_>,
    ) -> Result<(Option<Stage>, BuildContext), Failure> {
        let number = output.step.clone();
        let action = step
            .action()
            .map_err(|error| Failure::new(&number, error.to_string()))?;
        if let Some(context) = act::without_stage(&action, &state.context) {
            return Ok((None, context));
        }
        let stage = self.stage(state, &number).await?;
        let files = (&self.uploads, &self.team.id);
        let context = act::act(&stage, &action, &state.context, files, output)
            .await
            .map_err(|error| Failure::new(&number, error.to_string()))?;
        Ok((Some(stage), context))
    }

    pub(crate) async fn stage(&self, state: &State, step: &str) -> Result<Stage, Failure> {
        self.stage_on(&state.layers, &state.context, step).await
    }

    /// A sandbox on these layers, topmost first, with what all sandboxes of the build have.
    pub(crate) async fn stage_on(
        &self,
        layers: &[LayerDigest],
        context: &BuildContext,
        step: &str,
    ) -> Result<Stage, Failure> {
        let ground = Ground {
            template: self.template.id.clone(),
            limits: self.build.limits,
        };
        Stage::open(&self.driver, &ground, layers, context)
            .await
            .map_err(Failure::driver(step))
    }

    /// Makes one layer of the build's own: sandboxes start as fast from many steps as from one.
    async fn squash(&self, state: &mut State) -> Result<(), Failure> {
        const STEP: &str = "finalize";
        if state.own < 2 {
            return Ok(());
        }
        let key = state.key.squashed();
        let cached = self.known(state, &key, STEP).await?;
        let (layer, size_bytes) = match cached.and_then(|step| Some((step.layer?, step.size_bytes)))
        {
            Some(known) => known,
            None => {
                let made = self.driver.squash(&state.layers[..state.own]).await;
                let made = made.map_err(Failure::driver(STEP))?;
                let step = CachedStep {
                    layer: Some(made.digest),
                    context: state.context.clone(),
                    size_bytes: bytes(&made),
                };
                self.remember(&key, &step, STEP).await?;
                (made.digest, step.size_bytes)
            }
        };
        state.layers.drain(..state.own);
        state.own = 0;
        state.lay(layer);
        state.own = 1;
        state.own_bytes = size_bytes;
        Ok(())
    }

    /// The commands of the build's own. That of a Dockerfile is one of them.
    fn own_commands(&self, state: &State) -> BuildRequest {
        let mut request = self.request.clone();
        if let (Source::Dockerfile { .. }, None) = (&request.source, &request.start_cmd) {
            request.start_cmd = state.start.as_ref().map(|start| start.command.clone());
        }
        request
    }

    /// Starts a sandbox of the result as its users will, and waits until it is ready.
    async fn finalize(
        &self,
        mut state: State,
        journal: &mut Journal,
    ) -> Result<FinishedBuild, Failure> {
        const STEP: &str = "finalize";
        let line = format!(
            "[finalize] Finalizing template build [{}]",
            state.key.short()
        );
        journal.say(LogLevel::Info, Some(STEP), line).await;
        state.start = start_command(
            &self.own_commands(&state),
            &state.context,
            state.start.take(),
        );
        if self.request.runtime == Runtime::V20 {
            OLD_USER.clone_into(&mut state.context.user);
            state.context.workdir = None;
        }
        let stage = self.stage(&state, STEP).await?;
        if let Some(start) = &state.start {
            let mut note = |note: Note| {
                let (level, message) = told(&note);
                journal.output_now(level, STEP, message);
            };
            startup::bring_up(stage.envd(), start, READY_PATIENCE, &mut note)
                .await
                .map_err(|error| Failure::new(STEP, error.to_string()))?;
        }
        drop(stage);
        Ok(FinishedBuild {
            layers: state.layers,
            context: state.context,
            start: state.start,
            envd_version: soulbox_envd_proto::ENVD_VERSION.to_owned(),
            size_bytes: state.ground_bytes + state.own_bytes,
            disk_mib: self.build.limits.disk_mib,
        })
    }
}

/// A result as the cache has it.
pub(crate) fn kept(saved: Option<SavedLayer>, context: BuildContext) -> CachedStep {
    CachedStep {
        layer: saved.map(|layer| layer.digest),
        context,
        size_bytes: saved.map_or(0, |layer| bytes(&layer)),
    }
}

fn bytes(layer: &SavedLayer) -> i64 {
    i64::try_from(layer.content_bytes).unwrap_or(i64::MAX)
}

pub(crate) fn is_base_image(reference: &str) -> bool {
    let name = reference.strip_prefix("docker.io/").unwrap_or(reference);
    name.split([':', '@']).next() == Some(BASE_IMAGE)
}

/// What runs in the sandboxes of a build: its own commands, or those of the template it goes on from.
fn start_command(
    request: &BuildRequest,
    context: &BuildContext,
    inherited: Option<StartCommand>,
) -> Option<StartCommand> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    match (given(&request.start_cmd), given(&request.ready_cmd)) {
        (None, None) => inherited,
        (command, ready) => Some(StartCommand {
            ready: match (&command, ready) {
                (_, Some(ready)) => ready,
                (Some(_), None) => DEFAULT_READY.to_owned(),
                (None, None) => String::new(),
            },
            command: command.unwrap_or_default(),
            context: context.clone(),
        }),
    }
}

fn told(note: &Note) -> (LogLevel, String) {
    match note {
        Note::Starting(command) => (LogLevel::Info, format!("Running start command: {command}")),
        Note::StartOutput(stream, line) => (LogLevel::Info, format!("[start] [{stream}]: {line}")),
        Note::Waiting(ready) => (
            LogLevel::Info,
            format!("Waiting for template to be ready: {ready}"),
        ),
        Note::ReadyOutput(stream, line) => (LogLevel::Debug, format!("[ready] [{stream}]: {line}")),
        Note::NotReady(how) => (LogLevel::Debug, format!("Template is not ready: {how}")),
        Note::Ready => (LogLevel::Info, "Template is ready".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(start: Option<&str>, ready: Option<&str>) -> BuildRequest {
        BuildRequest {
            source: Source::Template("base".to_owned()),
            steps: Vec::new(),
            start_cmd: start.map(str::to_owned),
            ready_cmd: ready.map(str::to_owned),
            force: false,
            runtime: Runtime::V21,
        }
    }

    #[test]
    fn either_command_replaces_both() {
        let context = BuildContext {
            user: "me".to_owned(),
            ..BuildContext::default()
        };
        let old = StartCommand {
            command: "old".to_owned(),
            ready: "old ready".to_owned(),
            context: BuildContext::default(),
        };
        let now = |start, ready| start_command(&request(start, ready), &context, Some(old.clone()));
        assert_eq!(now(None, Some(" ")), Some(old.clone()));
        let new = now(Some("run"), None).unwrap();
        assert_eq!(
            (new.command.as_str(), new.ready.as_str()),
            ("run", "sleep 20")
        );
        assert_eq!(new.context, context);
        let new = now(None, Some("look")).unwrap();
        assert_eq!((new.command.as_str(), new.ready.as_str()), ("", "look"));
        assert_eq!(start_command(&request(None, None), &context, None), None);
    }

    #[test]
    fn a_layer_is_in_a_stack_once() {
        let [a, b, c] = [1, 2, 3].map(|n| LayerDigest::from_bytes([n; 32]));
        let key = Key::of_image("x");
        let mut state = State::on(key, vec![c], BuildContext::default(), false);
        for layer in [a, b, a] {
            state.lay(layer);
            state.own += 1;
        }
        assert_eq!((state.layers.clone(), state.own), (vec![a, b, c], 2));
        state.lay(c);
        assert_eq!(state.layers, [c, a, b]);
    }

    #[test]
    fn the_usual_image() {
        for image in [
            "e2bdev/base",
            "e2bdev/base:latest",
            "docker.io/e2bdev/base@sha256:x",
        ] {
            assert!(is_base_image(image), "{image}");
        }
        for image in ["e2bdev/based", "base", "x/e2bdev/base", "debian:12"] {
            assert!(!is_base_image(image), "{image}");
        }
    }
}

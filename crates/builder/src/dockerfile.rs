//! Carries out a Dockerfile: stage by stage, each instruction kept in the cache like every step.
//!
//! It starts where Docker starts, as root in `/`, and RUN is the program that Docker would run. What comes out is a template
//! like every other: its sandboxes start as the last USER, or as `user` when the file names none.
//!
//! Reading order: `stages`, `instruction` (what each of them does), `copy`, `user`, `scope` (what later instructions see),
//! `args` and `words` (how texts are read), `start_line` (ENTRYPOINT and CMD).

mod args;
mod copy;
mod instruction;
mod scope;
mod stages;
mod start_line;
mod user;
mod words;

use std::sync::Arc;

use soulbox_dockerfile::{BadDockerfile, Dockerfile};
use soulbox_registry::Credentials;
use soulbox_registry::document::architecture;
use soulbox_types::StartCommand;

use self::args::Args;
use self::scope::Built;
use self::stages::Stages;
use self::start_line::start_line;
use crate::failure::Failure;
use crate::files::Files;
use crate::finalize::DEFAULT_READY;
use crate::image::STEP;
use crate::journal::Journal;
use crate::request::Recipe;
use crate::state::State;
use crate::work::Work;

impl Work {
    /// Builds the stage that is wanted, and those that it needs.
    pub(crate) async fn dockerfile(
        &self,
        recipe: &Recipe,
        credentials: Option<&Credentials>,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let bad = |error: BadDockerfile| Failure::new(STEP, format!("Dockerfile: {error}"));
        let file = Dockerfile::parse(&recipe.dockerfile).map_err(bad)?;
        let (target, given) = (recipe.target.as_deref(), &recipe.build_args);
        let planned = file.plan(target, given, architecture()).map_err(bad)?;
        let of = planned
            .iter()
            .map(|stage| file.stages[stage.stage].instructions.len())
            .sum();
        let args = Args::of(&file, given, architecture()).map_err(bad)?;
        let context = self.context(recipe).await?;
        let mut stages = Stages::new(self, args, context, credentials, of);
        for stage in &planned {
            stages.build(&file, stage, journal).await?;
        }
        let built = planned.last().and_then(|last| stages.take(last.stage));
        let built = built.ok_or_else(|| Failure::new(STEP, "Dockerfile: it has no stage"))?;
        self.finish(built, journal).await
    }

    /// The uploaded context.
    async fn context(&self, recipe: &Recipe) -> Result<Option<Arc<Files>>, Failure> {
        let Some(hash) = &recipe.context_hash else {
            return Ok(None);
        };
        let file = self.uploaded(hash).await?.into_std().await;
        let scratch = self.uploads.scratch_directory();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(STEP, format!("cannot read the context: {error}"))
        };
        let reading = tokio::task::spawn_blocking(move || Files::read(file, &scratch));
        let files = reading
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        Ok(Some(Arc::new(files)))
    }

    /// Makes the last stage a template: usable, with a user, and with what CMD says.
    async fn finish(&self, built: Built, journal: &mut Journal) -> Result<State, Failure> {
        let Built { mut state, scope } = built;
        let (user, workdir) = (state.context.user.clone(), state.context.workdir.clone());
        self.provision(&mut state, journal).await?;
        if scope.user_set {
            state.context.user = user;
        }
        state.context.workdir = workdir.filter(|_| scope.workdir_set);
        if let Some(command) = start_line(scope.entrypoint.as_ref(), scope.cmd.as_ref()) {
            state.start = Some(StartCommand {
                command,
                ready: DEFAULT_READY.to_owned(),
                context: state.context.clone(),
            });
        }
        Ok(state)
    }
}

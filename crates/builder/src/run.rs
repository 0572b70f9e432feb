//! One build from its beginning to its end: a ground, the steps on it, one layer of them, a sandbox that becomes ready.

use std::time::Instant;

use soulbox_fault as fault;
use soulbox_store::{FinishedBuild, LogLevel};

use crate::failure::Failure;
use crate::journal::Journal;
use crate::operation::{Operation, Position};
use crate::request::{Source, Step};
use crate::state::State;
use crate::template::{BASE_TEMPLATE, is_base_image, template_of};
use crate::work::Work;

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
                if let Some(template) = template_of(reference) {
                    let headline = format!("FROM {reference}");
                    return self.template(template, &headline, journal).await;
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

    async fn step(
        &self,
        state: &mut State,
        at: usize,
        step: &Step,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let key = state.key.after(step);
        state.force |= step.force;
        let position = Position::of(at + 1, self.request.steps.len(), &step.headline());
        self.advance(state, key, &Operation::Step(step), position, journal)
            .await
    }
}

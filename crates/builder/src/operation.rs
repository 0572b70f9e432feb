//! One thing that is done to a state, whatever asked for it: a step of the wire, an instruction of a Dockerfile, a
//! script of ours. Its result comes from the cache, or out of a sandbox whose writes become a layer.
//!
//! What runs, runs in a sandbox of its own, on the layers of what was done before. So its layer holds exactly what it
//! did, and can be used again by whoever does the same.

use soulbox_client::process::Start;
use soulbox_fault as fault;
use soulbox_store::CachedStep;
use soulbox_types::BuildContext;
use soulbox_types::digest::TALL_STACK;

use crate::act;
use crate::cache::kept;
use crate::failure::Failure;
use crate::journal::{Journal, Output};
use crate::key::Key;
use crate::place::Placement;
use crate::request::Step;
use crate::stage::Stage;
use crate::state::State;
use crate::work::Work;

/// What brings a state further.
pub(crate) enum Operation<'a> {
    /// A step as the wire has it.
    Step(&'a Step),
    /// A program; the text is how it was written.
    Run { start: Start, text: String },
    /// Files.
    Place(Placement<'a>),
    /// Only another context.
    Context(BuildContext),
}

/// Where in a build something happens.
pub(crate) struct Position {
    /// From 1.
    pub(crate) number: String,
    /// What stands before lines of the log: `[builder 1/2]`.
    pub(crate) prefix: String,
    /// It as it was written, on one line.
    pub(crate) headline: String,
}

impl Position {
    /// Of a step, or an instruction.
    pub(crate) fn of(number: usize, of: usize, headline: &str) -> Self {
        Self {
            prefix: format!("[builder {number}/{of}]"),
            number: number.to_string(),
            headline: headline.to_owned(),
        }
    }
}

impl Work {
    /// Brings a state further, from the cache or by doing something.
    pub(crate) async fn advance(
        &self,
        state: &mut State,
        key: Key,
        operation: &Operation<'_>,
        position: Position,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let Position {
            number,
            prefix,
            headline,
        } = position;
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
                let done = self.carry_out(state, operation, &mut output).await?;
                self.remember(&key, &done, &number).await?;
                done
            }
        };
        state.key = key;
        state.context = done.context;
        if let Some(layer) = done.layer {
            state.lay_own(layer, done.size_bytes);
        }
        if state.layers.len() > TALL_STACK {
            self.squash(state).await?;
        }
        Ok(())
    }

    /// Does it; what a sandbox has written is in the result.
    async fn carry_out(
        &self,
        state: &State,
        operation: &Operation<'_>,
        output: &mut Output<'_>,
    ) -> Result<CachedStep, Failure> {
        let number = output.step.clone();
        let (stage, context) = match operation {
            Operation::Context(context) => return Ok(kept(None, context.clone())),
            Operation::Step(step) => match self.act(state, step, output).await? {
                (Some(stage), context) => (stage, context),
                (None, context) => return Ok(kept(None, context)),
            },
            Operation::Run { start, text } => {
                let stage = self.stage(state, &number).await?;
                act::run_program(&stage, start, text, output)
                    .await
                    .map_err(|error| Failure::new(&number, error.to_string()))?;
                (stage, state.context.clone())
            }
            Operation::Place(placement) => {
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
}

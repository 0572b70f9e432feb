//! The stages of a Dockerfile, one after the other: what each starts from, and its instructions in order.

use std::collections::HashMap;
use std::sync::Arc;

use soulbox_dockerfile::{Base, Dockerfile, Planned};
use soulbox_registry::Credentials;

use super::args::Args;
use super::copy::Sources;
use super::instruction::Instructions;
use super::scope::{Built, Scope};
use crate::failure::Failure;
use crate::files::Files;
use crate::image::{STEP, root};
use crate::journal::Journal;
use crate::operation::Position;
use crate::script::SYSTEM_PATH;
use crate::state::State;
use crate::template::{BASE_TEMPLATE, is_base_image, template_of};
use crate::work::Work;

const PATH: &str = "PATH";

/// The stages of a Dockerfile that is being carried out.
pub(super) struct Stages<'a> {
    instructions: Instructions<'a>,
    /// What the registries of its images ask for.
    credentials: Option<&'a Credentials>,
    /// Instructions that have begun, of all that are needed.
    number: usize,
    of: usize,
}

impl<'a> Stages<'a> {
    /// None is built yet. Those that are planned have `of` instructions.
    pub(super) fn new(
        work: &'a Work,
        args: Args<'a>,
        context: Option<Arc<Files>>,
        credentials: Option<&'a Credentials>,
        of: usize,
    ) -> Self {
        let sources = Sources {
            context,
            stages: HashMap::new(),
            images: HashMap::new(),
        };
        Self {
            instructions: Instructions {
                work,
                args,
                sources,
            },
            credentials,
            number: 0,
            of,
        }
    }

    /// Takes out a stage that is built.
    pub(super) fn take(&mut self, stage: usize) -> Option<Built> {
        self.instructions.sources.stages.remove(&stage)
    }

    /// Builds one; those that it uses are built.
    pub(super) async fn build(
        &mut self,
        file: &Dockerfile,
        planned: &Planned,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let stage = &file.stages[planned.stage];
        let mut built = self.base(&planned.base, journal).await?;
        // What Docker has where an image says nothing.
        let path = built.state.context.env.entry(PATH.to_owned());
        path.or_insert_with(|| SYSTEM_PATH.to_owned());
        for (text, base) in &planned.uses {
            if let Base::Image(name) = base {
                let image = self.image(name, false, journal).await?;
                let images = &mut self.instructions.sources.images;
                images.insert(text.clone(), image);
            }
        }
        for instruction in &stage.instructions {
            self.number += 1;
            let position = Position::of(self.number, self.of, &instruction.text);
            self.instructions
                .carry_out(&mut built, planned, instruction, position, journal)
                .await?;
        }
        let stages = &mut self.instructions.sources.stages;
        stages.insert(planned.stage, built);
        Ok(())
    }

    /// What a stage starts from.
    async fn base(&self, base: &Base, journal: &mut Journal) -> Result<Built, Failure> {
        let state = match base {
            Base::Image(name) => self.image(name, true, journal).await?,
            Base::Scratch => self.instructions.work.scratch().await?,
            Base::Stage(number) => {
                let built = self.instructions.sources.stages.get(number);
                let built = built
                    .ok_or_else(|| Failure::new(STEP, "Dockerfile: a stage is not built yet"))?;
                return Ok(Built {
                    state: built.state.clone(),
                    scope: Scope::after(&built.scope),
                });
            }
        };
        Ok(Built {
            state,
            scope: Scope::new(),
        })
    }

    /// An image to go on from, or one to copy from.
    async fn image(
        &self,
        name: &str,
        for_steps: bool,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let mut state = if is_base_image(name) {
            let headline = format!("FROM {name}");
            let template = self
                .instructions
                .work
                .template(BASE_TEMPLATE, &headline, journal);
            let mut state = template.await?;
            state.context = root();
            state.start = None;
            state
        } else if let Some(template) = template_of(name) {
            let headline = format!("FROM {name}");
            let template = self
                .instructions
                .work
                .template(template, &headline, journal);
            let mut state = template.await?;
            state.start = None;
            state
        } else {
            self.instructions
                .work
                .image(name, self.credentials, journal)
                .await?
        };
        if for_steps {
            self.instructions
                .work
                .use_mirrors(&mut state, journal)
                .await?;
        }
        Ok(state)
    }
}

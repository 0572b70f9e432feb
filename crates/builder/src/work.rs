//! What one build works with: the parts of the server that it uses, what was asked of it, and the sandboxes it opens.
//!
//! The other files of a build add to [`Work`] what they are about: `image` a ground, `cache` what is known, `operation` a
//! step, `dockerfile` a Dockerfile, `run` the whole.

use std::sync::Arc;

use soulbox_driver::Driver;
use soulbox_registry::Registries;
use soulbox_store::{Build, Store, Team, Template};
use soulbox_types::{BuildContext, LayerDigest};

use crate::failure::Failure;
use crate::mirrors::Mirrors;
use crate::request::BuildRequest;
use crate::stage::{EnvdTokens, Ground, Stage};
use crate::state::State;
use crate::uploads::Uploads;

/// Everything that one build needs.
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) uploads: Uploads,
    pub(crate) registries: Registries,
    pub(crate) mirrors: Arc<Mirrors>,
    pub(crate) tokens: EnvdTokens,
    pub(crate) team: Team,
    pub(crate) template: Template,
    pub(crate) build: Build,
    pub(crate) request: BuildRequest,
}

impl Work {
    /// A sandbox on a state.
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
            team: Some(self.team.id.clone()),
            template: self.template.id.clone(),
            limits: self.build.limits,
            tokens: Arc::clone(&self.tokens),
        };
        Stage::open(&self.driver, &ground, layers, context)
            .await
            .map_err(Failure::driver(step))
    }
}

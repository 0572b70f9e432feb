//! The memory of a template: what its start command has brought up is kept, and its sandboxes go on from there.
//!
//! It saves time and nothing else. Whatever is in the way is told in the build's log, and the start command runs in each
//! sandbox instead.

use std::sync::Arc;

use soulbox_driver::{Driver, DriverError, Guest, SavedLayer};
use soulbox_fault as fault;
use soulbox_store::{LogLevel, SavedMemory};
use soulbox_types::{MemoryId, SandboxId, SandboxSpec, Timestamp};

use crate::cache::bytes;
use crate::finalize::STEP;
use crate::journal::Journal;
use crate::stage::Stage;
use crate::state::State;
use crate::work::Work;

impl Work {
    /// Ends a sandbox that has become ready, and keeps its memory. What it has written lies on top of the state then.
    pub(crate) async fn keep_warm(
        &self,
        stage: Stage,
        state: &mut State,
        journal: &mut Journal,
    ) -> Option<SavedMemory> {
        let kept = match self.driver.hibernation().await {
            Ok(()) => self.keep_memory_of(stage, state).await,
            Err(reason) => Err(reason),
        };
        let line = match &kept {
            Ok(_) => "Its memory is kept: sandboxes go on from here".to_owned(),
            Err(reason) => format!(
                "Its memory is not kept, so the start command runs in each sandbox: {reason}"
            ),
        };
        journal.say(LogLevel::Info, Some(STEP), line).await;
        kept.ok()
    }

    async fn keep_memory_of(&self, stage: Stage, state: &mut State) -> Result<SavedMemory, String> {
        let memory = SavedMemory {
            id: MemoryId::random(),
            of: stage.spec().id.clone(),
            replaceable: true,
        };
        let noted = self.store.note_memory(&memory.id, Timestamp::now()).await;
        noted.map_err(|error| soulbox_telemetry::chain(&error))?;
        let mut warm = state.clone();
        let kept = self.write_and_try(stage, &mut warm, &memory.id).await;
        if let Err(error) = kept {
            if let Err(error) = self.driver.forget_memory(&memory.id).await {
                let error = soulbox_telemetry::chain(&error);
                tracing::warn!(memory.id = %memory.id, error, "memory of a build stays until the next collection");
            }
            return Err(soulbox_telemetry::chain(&error));
        }
        *state = warm;
        Ok(memory)
    }

    async fn write_and_try(
        &self,
        stage: Stage,
        state: &mut State,
        memory: &MemoryId,
    ) -> Result<(), DriverError> {
        let spec = stage.spec().clone();
        let written = stage.capture(memory).await?;
        fault::point!("build.captured");
        if let Some(layer) = written {
            state.lay_own(layer.digest, bytes(&layer));
        }
        // The cache has nothing to do with it: no step is repeated by what a start command writes.
        if state.own_layers().len() > 1 {
            let one = self.driver.squash(state.own_layers()).await?;
            state.replace_own(one.digest, bytes(&one));
        }
        try_out(&self.driver, spec, state, memory).await?;
        self.driver.keep_memory(memory).await?;
        fault::point!("build.memory-kept");
        Ok(())
    }
}

/// Whether a sandbox can go on from it: rather now than in front of its users.
async fn try_out(
    driver: &Arc<dyn Driver>,
    mut spec: SandboxSpec,
    state: &State,
    memory: &MemoryId,
) -> Result<(), DriverError> {
    spec.id = SandboxId::random();
    spec.image.layers.clone_from(&state.layers);
    Stage::wake(driver, spec, memory)
        .await?
        .envd()
        .health()
        .await
        .map_err(|error| DriverError::Envd {
            reason: soulbox_telemetry::chain(&error),
        })
}

/// Has a frozen guest write down what it is.
pub(crate) async fn capture(
    guest: &dyn Guest,
    memory: &MemoryId,
) -> Result<Option<SavedLayer>, DriverError> {
    guest.freeze().await?;
    let layer = guest.snapshot().await?;
    guest.capture(memory).await?;
    Ok(layer)
}

//! What the cache knows of steps: asked before something is done, told afterwards. Under which name, `key` says.

use soulbox_driver::SavedLayer;
use soulbox_store::{CachedStep, LogLevel};
use soulbox_types::BuildContext;

use crate::failure::Failure;
use crate::journal::Journal;
use crate::key::Key;
use crate::state::State;
use crate::work::Work;

impl Work {
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

    /// Keeps a result under a key.
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
}

/// A result as the cache has it.
pub(crate) fn kept(saved: Option<SavedLayer>, context: BuildContext) -> CachedStep {
    CachedStep {
        layer: saved.map(|layer| layer.digest),
        context,
        size_bytes: saved.map_or(0, |layer| bytes(&layer)),
    }
}

/// Bytes of a layer's files, as the database counts.
pub(crate) fn bytes(layer: &SavedLayer) -> i64 {
    i64::try_from(layer.content_bytes).unwrap_or(i64::MAX)
}

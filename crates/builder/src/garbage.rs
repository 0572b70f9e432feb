//! Layers that nothing needs any more: which they are, and their removal.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use soulbox_driver::{Driver, DriverError, LayerHere, SavedLayer};
use soulbox_store::{Store, StoreError};
use soulbox_types::{ErrorKind, LayerDigest, MemoryId, Timestamp};

/// How long a step that nobody uses is remembered.
const STEPS_KEPT: Duration = Duration::from_hours(24 * 14);
/// A younger layer may be on its way into a record.
const SETTLED: Duration = Duration::from_hours(1);

/// What was found, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The layers that are gone now, or would be.
    pub layers: Vec<SavedLayer>,
    /// Memory of sandboxes that is gone now, or would be: how many times.
    pub memories: usize,
    /// Layers that nothing needs, but a sandbox stands on them. Not known without removing.
    pub in_use: usize,
}

/// Why garbage is not collected.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// Its layers could not be told from garbage.
    #[error("a template is being built\nFIX: try again when no build is in progress")]
    Building,
    /// The database failed.
    #[error("cannot find out which layers are needed")]
    Store(#[from] StoreError),
    /// The driver failed.
    #[error("cannot look after the layers of this host")]
    Driver(#[from] DriverError),
}

impl GarbageError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Building => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
            Self::Driver(error) => error.kind(),
        }
    }
}

/// Finds what nothing needs and removes it, unless it is only to be told. No build may be in progress.
pub(crate) async fn collect(
    store: &Store,
    driver: &Arc<dyn Driver>,
    only_tell: bool,
) -> Result<Garbage, GarbageError> {
    let now = Timestamp::now();
    let old = before(now, STEPS_KEPT);
    // First what is there: whatever is made from now on is not looked at.
    let here = driver.all_layers().await?;
    let unneeded = store.unneeded_layers(old).await?;
    let needed = store.layers_in_use(old).await?;
    let garbage = garbage(&here, &unneeded.layers, &needed, before(now, SETTLED));
    let memories = memories(store, driver).await?;
    if only_tell {
        return Ok(Garbage {
            layers: garbage,
            memories: memories.len(),
            in_use: 0,
        });
    }
    for memory in &memories {
        driver.forget_memory(memory).await?;
    }
    let digests: Vec<LayerDigest> = garbage.iter().map(|layer| layer.digest).collect();
    let removed = match digests.as_slice() {
        [] => Vec::new(),
        some => driver.remove_layers(some).await?,
    };
    if !removed.is_empty() {
        tracing::info!(
            layers = removed.len(),
            "layers that nothing needs are removed"
        );
    }
    let there: HashSet<LayerDigest> = here.iter().map(|here| here.layer.digest).collect();
    // Those that are not there are gone as well as those that were removed.
    let lost = (unneeded.layers.iter()).filter(|layer| !there.contains(layer));
    let gone: Vec<LayerDigest> = removed.iter().chain(lost).copied().collect();
    store.forget_unneeded(&unneeded, &gone).await?;
    let removed: HashSet<LayerDigest> = removed.into_iter().collect();
    let layers: Vec<SavedLayer> = garbage
        .into_iter()
        .filter(|layer| removed.contains(&layer.digest))
        .collect();
    Ok(Garbage {
        memories: memories.len(),
        in_use: digests.len() - layers.len(),
        layers,
    })
}

/// Memory on this host that nothing needs. First what is there, as with layers.
async fn memories(store: &Store, driver: &Arc<dyn Driver>) -> Result<Vec<MemoryId>, GarbageError> {
    let here = driver.memories().await?;
    let needed = store.memory_in_use().await?;
    let unneeded = here.into_iter().filter(|memory| !needed.contains(memory));
    Ok(unneeded.collect())
}

fn before(now: Timestamp, time: Duration) -> Timestamp {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(micros))
}

/// What the records say is not needed, and what no record speaks of: the server that made it died before it could say so.
fn garbage(
    here: &[LayerHere],
    released: &[LayerDigest],
    needed: &HashSet<LayerDigest>,
    settled: Timestamp,
) -> Vec<SavedLayer> {
    let released: HashSet<&LayerDigest> = released.iter().collect();
    let forgotten = |here: &LayerHere| {
        !here.named && here.made_at < settled && !needed.contains(&here.layer.digest)
    };
    here.iter()
        .filter(|here| released.contains(&here.layer.digest) || forgotten(here))
        .map(|here| here.layer)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(number: u8, made_at: i64, named: bool) -> LayerHere {
        LayerHere {
            layer: SavedLayer {
                digest: LayerDigest::from_bytes([number; 32]),
                entries: 1,
                content_bytes: u64::from(number),
            },
            made_at: Timestamp(made_at),
            named,
        }
    }

    #[test]
    fn what_is_needed_young_or_named_stays() {
        let digest = |number| LayerDigest::from_bytes([number; 32]);
        let all = [
            here(1, 10, false),
            here(2, 10, false),
            here(3, 90, false),
            here(4, 10, true),
            here(5, 90, false),
        ];
        let needed = HashSet::from([digest(2)]);
        let released = [digest(5), digest(9)];
        let found = garbage(&all, &released, &needed, Timestamp(50));
        let numbers: Vec<u64> = found.iter().map(|layer| layer.content_bytes).collect();
        assert_eq!(numbers, [1, 5]);
    }
}

//! The layers that sandboxes stand on: made of other sandboxes, squashed, and removed when nothing stands on them.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use soulbox_artifacts::{ArtifactError, Artifacts, LayerFacts, Written};
use soulbox_driver::{BareLayers, DriverError, LayerHere, SavedLayer, TAR};
use soulbox_types::{ErrorKind, LayerDigest, SandboxSpec, SlotIndex};
use tokio::sync::Semaphore;

use crate::disk;
use crate::lock::locked;

/// Layers made at the same time. They read and write as fast as the disk can; more would only hold more files open.
const AT_A_TIME: usize = 2;

/// How often each layer is stood on.
type Counts = HashMap<LayerDigest, usize>;

/// The layers of this host. A copy is another handle.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    /// The data directory whose `layers/` they are.
    data: PathBuf,
    counts: Arc<Mutex<Counts>>,
    making: Arc<Semaphore>,
    /// The program `soulbox-tar`.
    tar: Arc<[u8]>,
}

impl Layers {
    pub(crate) fn new(directory: &Path, tar: &[u8]) -> io::Result<Self> {
        let data = std::path::absolute(directory)?;
        let data = data.parent().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            data: data.to_owned(),
            counts: Arc::default(),
            making: Arc::new(Semaphore::new(AT_A_TIME)),
            tar: tar.into(),
        })
    }

    /// Keeps layers from being removed for as long as the result lives. Whether they are there is another question.
    pub(crate) fn stand_on(&self, layers: &[LayerDigest]) -> Standing {
        let mut counts = locked(&self.counts);
        for layer in layers {
            *counts.entry(*layer).or_default() += 1;
        }
        Standing {
            layers: layers.to_vec(),
            counts: Arc::clone(&self.counts),
        }
    }

    /// Removes what makers of layers left that died.
    pub(crate) fn clear_unfinished(&self) -> Result<(), ArtifactError> {
        Artifacts::clear_unfinished(&self.data)
    }

    /// Makes a layer of what a sandbox has written; it has ended. `upper` is where its overlay has put it.
    pub(crate) async fn save(
        &self,
        upper: OwnedFd,
        spec: &SandboxSpec,
        slot: SlotIndex,
    ) -> Result<Option<SavedLayer>, DriverError> {
        let (below, furnished) = (spec.image.layers.clone(), disk::furnished(spec, slot));
        let saved = self.work("save a sandbox", move |artifacts| {
            let written = Written {
                upper: upper.as_fd(),
                first_id: slot.uid_base(),
                furnished: &furnished,
            };
            artifacts.save(&written, &below)
        });
        Ok(saved.await?.map(saved_layer))
    }

    pub(crate) async fn squash(&self, layers: &[LayerDigest]) -> Result<SavedLayer, DriverError> {
        let standing = self.stand_on(layers);
        let squashed = self.work("squash layers", move |artifacts| {
            artifacts.squash(&standing.layers)
        });
        Ok(saved_layer(squashed.await?))
    }

    pub(crate) async fn bare(&self) -> Result<BareLayers, DriverError> {
        let tar = Arc::clone(&self.tar);
        let made = self.work("make the layers for images", move |artifacts| {
            Ok(BareLayers {
                ground: artifacts.bare()?.digest,
                tools: artifacts.tool(TAR, &tar)?.digest,
            })
        });
        made.await
    }

    pub(crate) async fn all(&self) -> Result<Vec<LayerHere>, DriverError> {
        let here = |layer: soulbox_artifacts::LayerHere| LayerHere {
            layer: saved_layer(layer.facts),
            made_at: layer.made_at.into(),
            named: layer.named,
        };
        let found = self.work("list layers", Artifacts::all_layers).await?;
        Ok(found.into_iter().map(here).collect())
    }

    pub(crate) async fn remove(
        &self,
        layers: &[LayerDigest],
    ) -> Result<Vec<LayerDigest>, DriverError> {
        let (layers, counts) = (layers.to_vec(), Arc::clone(&self.counts));
        self.work("remove layers", move |artifacts| {
            let mut removed = Vec::new();
            for layer in &layers {
                // Nobody begins to stand on it between the look and its removal. The files go without the lock.
                let files = {
                    let counts = locked(&counts);
                    if counts.contains_key(layer) {
                        continue;
                    }
                    artifacts.remove_layer(layer)?
                };
                removed.extend(files.is_some().then_some(*layer));
            }
            Ok(removed)
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Artifacts) -> Result<T, ArtifactError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let failed = |source: io::Error| DriverError::Host {
            operation: operation.to_owned(),
            source,
        };
        let permit = Arc::clone(&self.making).acquire_owned();
        let permit = permit.await.map_err(|e| failed(io::Error::other(e)))?;
        let data = self.data.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&Artifacts::open(&data)?)
        });
        done.await
            .map_err(|e| failed(io::Error::other(e)))?
            .map_err(|error| driver_error(operation, error))
    }
}

/// Layers that must stay.
#[derive(Debug)]
pub(crate) struct Standing {
    layers: Vec<LayerDigest>,
    counts: Arc<Mutex<Counts>>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut counts = locked(&self.counts);
        for layer in &self.layers {
            if let Some(count) = counts.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(layer);
                }
            }
        }
    }
}

fn saved_layer(facts: LayerFacts) -> SavedLayer {
    SavedLayer {
        digest: facts.digest,
        entries: facts.entries,
        content_bytes: facts.content_bytes,
    }
}

fn driver_error(operation: &str, error: ArtifactError) -> DriverError {
    if error.kind() == ErrorKind::StorageFull {
        return DriverError::StorageFull;
    }
    match error {
        ArtifactError::LayerMissing { digest } => DriverError::Layer {
            layer: digest.to_string(),
            source: io::ErrorKind::NotFound.into(),
        },
        ArtifactError::LayerAltered { digest, detail } => DriverError::Layer {
            layer: digest.to_string(),
            source: io::Error::other(detail),
        },
        ArtifactError::Io {
            operation: step,
            path,
            source,
        } => DriverError::Host {
            operation: format!("{operation}: cannot {step} {}", path.display()),
            source,
        },
        other => DriverError::Host {
            operation: operation.to_owned(),
            source: io::Error::other(other),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_by_who_stands_on_them() {
        let layers = Layers::new(Path::new("/data/layers"), b"").unwrap();
        let [one, other] = [1, 2].map(|n| LayerDigest::from_bytes([n; 32]));
        let first = layers.stand_on(&[one, other]);
        let second = layers.stand_on(&[one]);
        drop(first);
        assert_eq!(*locked(&layers.counts), HashMap::from([(one, 1)]));
        drop(second);
        assert!(locked(&layers.counts).is_empty());
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = ArtifactError::Io {
                operation: "write",
                path: "/x".into(),
                source: errno.into(),
            };
            let error = driver_error("save", error);
            assert!(matches!(error, DriverError::StorageFull), "{error:?}");
        }
    }
}

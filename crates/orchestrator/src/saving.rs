//! Saving the files of a guest: into layers that others can start from.

use std::sync::Arc;

use soulbox_driver::{DriverError, Guest};
use soulbox_fault as fault;
use soulbox_store::{SandboxRecord, SavedMemory};
use soulbox_types::digest::{self, TALL_STACK};
use soulbox_types::{LayerDigest, MemoryId, SandboxId, SandboxSpec};

use crate::SandboxError;
use crate::hibernation;
use crate::live::RunningSandbox;
use crate::node::{Node, store_error};

/// The files of a sandbox at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    /// The sandbox.
    pub(crate) record: Arc<SandboxRecord>,
    /// What a guest with these files is to be made from. Its token is empty.
    pub(crate) spec: SandboxSpec,
    /// Its memory at that moment, if it was wanted: not durable yet.
    pub(crate) memory: Option<SavedMemory>,
    /// Content of what it has written in its last run, with its memory, in bytes.
    pub(crate) content_bytes: u64,
}

/// Saves the files of a sandbox that runs on, with its memory if that is wanted: it stands still for as long as they are
/// copied.
pub(crate) async fn save(
    node: Arc<Node>,
    run: RunningSandbox,
    memory: bool,
) -> Result<Saved, SandboxError> {
    let id = &run.record.id;
    let failed = not_saved(id);
    let memory = if memory {
        Some(prepare_memory(&node, &run).await?)
    } else {
        None
    };
    run.guest.freeze().await.map_err(failed)?;
    fault::point!("snapshot.frozen");
    let saved = save_frozen(&node, &run, memory).await;
    let thawed = run.guest.thaw().await.map_err(failed);
    fault::point!("snapshot.thawed");
    thawed.and(saved)
}

/// What takes long is done while it runs.
async fn prepare_memory(node: &Node, run: &RunningSandbox) -> Result<SavedMemory, SandboxError> {
    let of = run.record.id.clone();
    if let Err(reason) = node.can_keep_memory(run.guest.spec()).await {
        return Err(SandboxError::NoMemory { reason });
    }
    let id = MemoryId::random();
    hibernation::note(node, &id).await?;
    let ready = run.guest.get_ready_to_capture(&id).await;
    ready.map_err(not_saved(&of))?;
    Ok(SavedMemory {
        id,
        of,
        replaceable: false,
    })
}

async fn save_frozen(
    node: &Node,
    run: &RunningSandbox,
    memory: Option<SavedMemory>,
) -> Result<Saved, SandboxError> {
    let failed = not_saved(&run.record.id);
    let mut spec = run.guest.spec().clone();
    spec.envd_access_token.clear();
    spec.network = run.guest.network();
    let mut content_bytes = put_on_top(node, &run.guest, &mut spec.image.layers, failed).await?;
    fault::point!("snapshot.files-saved");
    if let Some(memory) = &memory {
        content_bytes += run.guest.capture(&memory.id).await.map_err(failed)?;
        fault::point!("snapshot.captured");
    }
    Ok(Saved {
        record: Arc::clone(&run.record),
        spec,
        memory,
        content_bytes,
    })
}

pub(crate) fn not_saved(id: &SandboxId) -> impl Fn(DriverError) -> SandboxError + Copy {
    move |source| SandboxError::Snapshot {
        id: id.clone(),
        source: Arc::new(source),
    }
}

/// Puts what a frozen guest has written on top of its layers. Says how many bytes of content that is.
pub(crate) async fn put_on_top(
    node: &Node,
    guest: &Arc<dyn Guest>,
    layers: &mut Vec<LayerDigest>,
    failed: impl Fn(DriverError) -> SandboxError,
) -> Result<u64, SandboxError> {
    let Some(saved) = guest.snapshot().await.map_err(&failed)? else {
        return Ok(0);
    };
    lay(node, layers, saved.digest).await?;
    if layers.len() >= TALL_STACK {
        let upper: Vec<LayerDigest> = layers.drain(..TALL_STACK / 2).collect();
        let one = node.driver.squash(&upper).await.map_err(failed)?;
        lay(node, layers, one.digest).await?;
    }
    Ok(saved.content_bytes)
}

/// Puts a layer on top that was made just now.
async fn lay(
    node: &Node,
    layers: &mut Vec<LayerDigest>,
    layer: LayerDigest,
) -> Result<(), SandboxError> {
    let noted = node.store.note_saved_layer(layer, node.now()).await;
    noted.map_err(store_error("note a layer"))?;
    digest::lay(layers, layer);
    Ok(())
}

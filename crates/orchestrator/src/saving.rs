//! Saving the files of a guest: into layers that others can start from.

use std::sync::Arc;

use soulbox_driver::{DriverError, Guest};
use soulbox_fault as fault;
use soulbox_store::SandboxRecord;
use soulbox_types::digest::{self, TALL_STACK};
use soulbox_types::{LayerDigest, SandboxId, SandboxSpec};

use crate::SandboxError;
use crate::live::RunningSandbox;
use crate::node::{Node, store_error};

/// The files of a sandbox at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    /// The sandbox.
    pub(crate) record: Arc<SandboxRecord>,
    /// What a guest with these files is to be made from. Its token is empty.
    pub(crate) spec: SandboxSpec,
    /// Content of what it has written in its last run, in bytes.
    pub(crate) content_bytes: u64,
}

/// Saves the files of a sandbox that runs on: it stands still for as long as they are copied.
pub(crate) async fn save(node: Arc<Node>, run: RunningSandbox) -> Result<Saved, SandboxError> {
    let id = &run.record.id;
    let failed = not_saved(id);
    run.guest.freeze().await.map_err(failed)?;
    fault::point!("snapshot.frozen");
    let mut spec = run.guest.spec().clone();
    spec.envd_access_token.clear();
    let saved = put_on_top(&node, &run.guest, &mut spec.image.layers, failed).await;
    fault::point!("snapshot.files-saved");
    run.guest.thaw().await.map_err(failed)?;
    fault::point!("snapshot.thawed");
    Ok(Saved {
        record: Arc::clone(&run.record),
        spec,
        content_bytes: saved?,
    })
}

fn not_saved(id: &SandboxId) -> impl Fn(DriverError) -> SandboxError + Copy {
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

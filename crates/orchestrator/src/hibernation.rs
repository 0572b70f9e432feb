//! Memory of paused sandboxes on disk: putting it there after a while, and going on from it.
//!
//! The files are saved first, so that a sandbox whose memory cannot be brought back is not lost: it can be started anew.
//! While its memory is on disk there is no guest, and no actor. The record says so before the guest ends: where a server
//! dies in between, the next one finds the guest, or memory that is durable, and never none of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soulbox_driver::Guest;
use soulbox_fault as fault;
use soulbox_store::{Pause, SandboxRecord};
use soulbox_types::{MemoryId, SandboxId, SandboxSpec};

use crate::SandboxError;
use crate::housekeeping;
use crate::journal::{self, About};
use crate::live::RunningSandbox;
use crate::node::{Node, store_error};
use crate::pausing::{self, HowToResume, not_resumed};

/// Between two looks at the host's memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks whether everything is on disk that is to go there.
const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for this time, or until this host needs the memory of what is paused sooner.
pub(crate) async fn in_a_while(node: &Node, time: Duration) {
    let mut wanted = node.memory_wanted.subscribe();
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        // The sender lives in the node.
        _wanted = wanted.wait_for(|wanted| *wanted) => {}
    }
}

/// Looks whether the host runs out of memory, until the node stops.
pub(crate) async fn watch_memory(node: Arc<Node>) {
    while housekeeping::sleep(&node, LOOK_INTERVAL).await {
        match node.driver.memory_is_short().await {
            Ok(short) => {
                let wanted = short || node.leaving.load(Ordering::Acquire);
                let before = node.memory_wanted.send_replace(wanted);
                if short && !before {
                    tracing::warn!("memory is short: paused sandboxes go to disk now");
                }
            }
            Err(error) => {
                tracing::error!(error = %soulbox_telemetry::chain(&error), "cannot look whether memory is short");
            }
        }
    }
}

/// Has everything that is paused go to disk, for as long as a stop may wait for that.
pub(crate) async fn put_all_away(node: &Node) {
    let patience = node.settings.hibernate_on_stop;
    if patience.is_zero() || node.driver.hibernation().await.is_err() {
        return;
    }
    node.leaving.store(true, Ordering::Release);
    node.memory_wanted.send_replace(true);
    let gone = async {
        while node.live.may_go_to_disk() {
            tokio::time::sleep(STOP_LOOK_INTERVAL).await;
        }
    };
    if tokio::time::timeout(patience, gone).await.is_err() {
        tracing::warn!("stopping although not everything that is paused is on disk");
    }
}

/// Writes the memory of a frozen guest, whose files are saved, to disk and ends it: what the pause is then. On error it is
/// frozen as before, and its log says why.
pub(crate) async fn put_away(
    node: Arc<Node>,
    record: Arc<SandboxRecord>,
    guest: Arc<dyn Guest>,
) -> Option<Pause> {
    if let Err(reason) = node.can_keep_memory(guest.spec()).await {
        tracing::debug!(sandbox.id = %record.id, reason, "a paused sandbox stays in memory");
        return None;
    }
    let Ok(_turn) = node.putting_away.acquire().await else {
        // Nobody closes it.
        return None;
    };
    let memory = MemoryId::random();
    match write(&node, &record, &guest, &memory).await {
        Ok(Some(pause)) => {
            pausing::end(&node, &guest).await;
            fault::point!("hibernate.ended");
            tracing::info!(sandbox.id = %record.id, "a paused sandbox is on disk");
            Some(pause)
        }
        Ok(None) => {
            forget(&node, &record.id, &memory).await;
            None
        }
        Err(error) => {
            let reason = soulbox_telemetry::chain(&error);
            tracing::warn!(sandbox.id = %record.id, reason, "a paused sandbox stays in memory");
            let about = About::of(&record);
            let entry = journal::stays_in_memory(about, node.now(), &reason);
            node.store.log(entry);
            forget(&node, &record.id, &memory).await;
            None
        }
    }
}

/// `None` when the record is gone: the reconciler ends the guest.
async fn write(
    node: &Node,
    record: &SandboxRecord,
    guest: &Arc<dyn Guest>,
    memory: &MemoryId,
) -> Result<Option<Pause>, SandboxError> {
    let Some(mut pause) = record.pause.clone() else {
        return Ok(None);
    };
    let failed = |source| SandboxError::Hibernate {
        id: record.id.clone(),
        source: Arc::new(source),
    };
    note(node, memory).await?;
    guest.capture(memory).await.map_err(failed)?;
    fault::point!("hibernate.captured");
    node.driver.keep_memory(memory).await.map_err(failed)?;
    fault::point!("hibernate.kept");
    pause.memory = Some(memory.clone());
    let written = pausing::write_pause(node, &record.id, record.end_at, &pause).await?;
    fault::point!("hibernate.row-written");
    Ok(written.then_some(pause))
}

/// Memory that is being made is not taken for garbage.
pub(crate) async fn note(node: &Node, memory: &MemoryId) -> Result<(), SandboxError> {
    let noted = node.store.note_memory(memory, node.now()).await;
    noted.map_err(store_error("note memory"))
}

/// Makes a sandbox go on from its memory on disk. On error the memory is still there.
pub(crate) async fn bring_back(
    node: &Arc<Node>,
    record: &Arc<SandboxRecord>,
    memory: &MemoryId,
    mut spec: SandboxSpec,
    how: HowToResume,
) -> Result<RunningSandbox, SandboxError> {
    let id = &record.id;
    spec.envd_access_token = node.tokens.envd(id);
    let guest = node.driver.wake(&spec, memory).await;
    let guest = guest.map_err(not_resumed(id))?;
    fault::point!("wake.guest-back");
    match pausing::write(node, record, how).await {
        Ok(record) => {
            fault::point!("wake.row-written");
            forget(node, id, memory).await;
            Ok(RunningSandbox { record, guest })
        }
        Err(error) => {
            // Nobody could reach it: what it has done meanwhile is not missed.
            pausing::end(node, &guest).await;
            Err(error)
        }
    }
}

/// Removes the memory of a sandbox from disk: it is paused without memory from then on.
pub(crate) async fn give_up_memory(
    node: &Node,
    record: &SandboxRecord,
    pause: &mut Pause,
) -> Result<(), SandboxError> {
    let memory = pause.memory.take();
    pause.mode = soulbox_store::PauseMode::Filesystem;
    if !pausing::write_pause(node, &record.id, record.end_at, pause).await? {
        return Err(Node::not_found(&record.id));
    }
    if let Some(memory) = &memory {
        forget(node, &record.id, memory).await;
    }
    Ok(())
}

/// Removes memory from disk. What stays is collected with the rest of the garbage.
pub(crate) async fn forget(node: &Node, id: &SandboxId, memory: &MemoryId) {
    if let Err(error) = node.driver.forget_memory(memory).await {
        let error = soulbox_telemetry::chain(&error);
        tracing::error!(sandbox.id = %id, error, "memory that nobody needs stays on disk for now");
    }
}

/// The record of a sandbox whose guest was found, although it was about to go to disk or had just come back: the guest is
/// newer than what is on disk.
pub(crate) async fn is_here(node: &Node, mut record: SandboxRecord) -> SandboxRecord {
    let on_disk = record.pause.as_mut().and_then(|pause| pause.memory.take());
    if let (Some(memory), Some(pause)) = (on_disk, &record.pause) {
        match pausing::write_pause(node, &record.id, record.end_at, pause).await {
            Ok(_) => forget(node, &record.id, &memory).await,
            Err(error) => {
                let error = soulbox_telemetry::chain(&error);
                tracing::error!(sandbox.id = %record.id, error, "a sandbox is here, and its record says that it is on disk");
            }
        }
    }
    record
}

/// The memory that is whole.
pub(crate) async fn on_disk(node: &Node) -> Result<HashSet<MemoryId>, SandboxError> {
    let found = node.driver.memories().await;
    let found = found.map_err(|error| SandboxError::Adopt(Arc::new(error)))?;
    Ok(found.into_iter().collect())
}

impl Node {
    /// Whether memory can be written to disk here and brought back: tried once, with a sandbox like this one that nobody
    /// uses. Otherwise why not.
    pub(crate) async fn can_keep_memory(&self, like: &SandboxSpec) -> Result<(), String> {
        let tried = self.hibernation.get_or_init(|| async {
            let spec = SandboxSpec {
                id: SandboxId::random(),
                volumes: Vec::new(),
                ..like.clone()
            };
            let outcome = soulbox_driver::rehearse(self.driver.as_ref(), &spec).await;
            match &outcome {
                Ok(()) => tracing::info!("memory of sandboxes can be kept on disk"),
                Err(reason) => tracing::warn!(reason, "memory of sandboxes cannot be kept on disk"),
            }
            outcome
        });
        tried.await.clone()
    }
}

//! What a launch that has failed leaves behind, and its end.

use soulbox_types::SandboxId;

use crate::adopt::empty;
use crate::disk::{self, Disk, Image};
use crate::plan::SandboxFiles;
use crate::slot::{Pool, Slot};
use crate::view;

/// Ends what was started in a slot and gives it back. What cannot be removed stays until the next start, and the slot with
/// it.
pub(crate) fn undo(
    pool: &Pool,
    slot: Slot,
    files: &SandboxFiles,
    id: &SandboxId,
    disk: Option<Disk>,
) {
    let Slot {
        index,
        cgroup,
        network,
        mut jail,
        ahead,
    } = slot;
    // A program that it has become would go on for ever; one that has ended is fine.
    let _gone = jail.kill();
    drop((jail, network));
    let left = empty(&cgroup)
        .and_then(|()| view::remove(files))
        .and_then(|()| disk::remove(&files.directory))
        .and_then(|()| disk.map_or(Ok(()), Disk::discard))
        .and_then(|()| ahead.map_or(Ok(()), Image::discard));
    match left {
        Ok(()) => pool.release(index),
        Err(error) => {
            tracing::warn!(%error, sandbox.id = %id, "remains of a failed launch stay");
        }
    }
}

//! The work of a pause and of a resume.
//!
//! A pause freezes the guest first, so that what is written down is one moment of it. With its memory, the guest stays,
//! frozen; without, its files become a layer and it ends. The record is the turning point: before it is written, whatever
//! fails is undone and the sandbox runs on; once it is written, the sandbox is paused, whatever becomes of this server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use soulbox_driver::{DriverError, Guest};
use soulbox_fault as fault;
use soulbox_store::{NewRun, Pause, PauseMode, RecordState, SandboxRecord};
use soulbox_types::{ExecutionId, OnTimeout, SandboxId, SandboxSpec, Timestamp};
use tokio::sync::oneshot;

use crate::journal::{self, About};
use crate::live::RunningSandbox;
use crate::node::{Node, store_error};
use crate::saving::put_on_top;
use crate::transitions::{bring_up, envd, kill_guest, make_guest};
use crate::{SandboxError, hibernation, reconcile};

/// How long envd may take to say that it is there.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a guest that does not answer may take to be seen to have ended.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);

/// How a sandbox is to be paused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HowToPause {
    /// What is kept.
    pub(crate) mode: PauseMode,
    /// Whether it is refused when envd does not answer.
    pub(crate) strict: bool,
}

/// How a sandbox is to be brought back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HowToResume {
    /// How long it runs, from the moment it is usable.
    pub(crate) timeout: Duration,
    /// Another policy from now on.
    pub(crate) on_timeout: Option<OnTimeout>,
    /// False starts it anew from its files.
    pub(crate) memory: bool,
}

/// A paused sandbox.
#[derive(Debug, Clone)]
pub(crate) struct PausedSandbox {
    pub(crate) record: Arc<SandboxRecord>,
    /// Where its memory is kept.
    pub(crate) guest: Option<Arc<dyn Guest>>,
}

/// Pauses a running sandbox that nobody can reach any more. On error it runs as before.
pub(crate) async fn pause(
    node: Arc<Node>,
    run: RunningSandbox,
    how: HowToPause,
) -> Result<PausedSandbox, SandboxError> {
    let answers = answers(&run.guest).await;
    if !answers && how.strict {
        return Err(SandboxError::GuestUnresponsive {
            id: run.record.id.clone(),
        });
    }
    let paused = freeze_and_keep(&node, &run, how, !answers).await;
    if paused.is_err() {
        // A guest that is gone meanwhile says so in its own way.
        if let Err(error) = run.guest.thaw().await {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(sandbox.id = %run.record.id, error, "a sandbox that was not paused stays frozen");
        }
    }
    paused
}

async fn freeze_and_keep(
    node: &Arc<Node>,
    run: &RunningSandbox,
    how: HowToPause,
    guest_unresponsive: bool,
) -> Result<PausedSandbox, SandboxError> {
    let id = &run.record.id;
    run.guest.freeze().await.map_err(not_paused(id))?;
    fault::point!("pause.frozen");
    let mut spec = run.guest.spec().clone();
    spec.envd_access_token.clear();
    spec.network = run.guest.network();
    if how.mode == PauseMode::Filesystem {
        put_on_top(node, &run.guest, &mut spec.image.layers, not_paused(id)).await?;
    }
    fault::point!("pause.files-saved");
    let pause = Pause {
        memory: None,
        mode: how.mode,
        guest_unresponsive,
        files_saved: how.mode == PauseMode::Filesystem,
        spec,
    };
    let now = node.now();
    if !write_pause(node, id, now, &pause).await? {
        // Somebody has deleted the record: the reconciler will kill the guest.
        node.reconcile_wanted.notify_one();
        return Err(Node::not_found(id));
    }
    fault::point!("pause.row-written");
    let mut record = (*run.record).clone();
    record.state = RecordState::Paused;
    record.end_at = now;
    record.pause = Some(pause);
    let guest = match how.mode {
        PauseMode::Full => Some(Arc::clone(&run.guest)),
        PauseMode::Filesystem => {
            end(node, &run.guest).await;
            None
        }
    };
    fault::point!("pause.ended");
    Ok(PausedSandbox {
        record: Arc::new(record),
        guest,
    })
}

fn not_paused(id: &SandboxId) -> impl Fn(DriverError) -> SandboxError + Copy {
    move |source| SandboxError::Pause {
        id: id.clone(),
        source: Arc::new(source),
    }
}

pub(crate) fn not_resumed(id: &SandboxId) -> impl Fn(DriverError) -> SandboxError + Copy {
    move |source| SandboxError::Resume {
        id: id.clone(),
        source: Arc::new(source),
    }
}

/// Writes down what there is of a paused sandbox; false when it has no record any more.
pub(crate) async fn write_pause(
    node: &Node,
    id: &SandboxId,
    at: Timestamp,
    pause: &Pause,
) -> Result<bool, SandboxError> {
    let written = node.store.pause_sandbox(id, at, pause).await;
    written.map_err(store_error("record a pause"))
}

/// What is left of a paused sandbox whose guest has ended: its files, if they were saved.
pub(crate) async fn without_guest(node: &Node, paused: PausedSandbox) -> Option<PausedSandbox> {
    let mut record = (*paused.record).clone();
    let reason = "its processes have ended";
    match keep_files(node, &mut record, reason).await {
        Ok(true) => Some(PausedSandbox {
            record: Arc::new(record),
            guest: None,
        }),
        Ok(false) => None,
        Err(error) => {
            tracing::error!(sandbox.id = %record.id, error = %soulbox_telemetry::chain(&error), "a paused sandbox whose guest has ended");
            None
        }
    }
}

/// Of a paused sandbox whose memory is lost, the files may be saved: then it is paused without memory from now on. The
/// reason goes on from "the sandbox was lost: ".
pub(crate) async fn keep_files(
    node: &Node,
    record: &mut SandboxRecord,
    reason: &str,
) -> Result<bool, SandboxError> {
    let Some(pause) = record.pause.as_mut().filter(|pause| pause.files_saved) else {
        return Ok(false);
    };
    pause.mode = PauseMode::Filesystem;
    let memory = pause.memory.take();
    let written = write_pause(node, &record.id, record.end_at, pause).await?;
    if written {
        let about = About::of(record);
        tracing::warn!(sandbox.id = %record.id, reason, "memory of a paused sandbox is lost");
        node.store
            .log(journal::memory_lost(about, node.now(), reason));
    }
    if let Some(memory) = &memory {
        hibernation::forget(node, &record.id, memory).await;
    }
    Ok(written)
}

/// Saves the files of a frozen guest when it has been so for a while: what becomes of it then. `None` when they cannot be
/// saved; it is then only in its guest, as before. The work goes on in a task when nobody waits for it any more, so that no
/// layer is made without being noted.
pub(crate) fn save_in_a_while(
    node: &Arc<Node>,
    guest: Arc<dyn Guest>,
    record: &SandboxRecord,
) -> impl Future<Output = Option<Pause>> + use<> {
    let (node, pause, id) = (Arc::clone(node), record.pause.clone(), record.id.clone());
    async move {
        let mut pause = pause?;
        let made_of = guest.spec().image.layers.clone();
        pause.spec.image.layers = made_of;
        hibernation::in_a_while(&node, node.settings.save_paused_after).await;
        let (done, saved) = oneshot::channel();
        let saver = Arc::clone(&node);
        node.tasks.spawn("save a paused sandbox", async move {
            match put_on_top(&saver, &guest, &mut pause.spec.image.layers, not_paused(&id)).await {
                Ok(_) => {
                    pause.files_saved = true;
                    // Whoever does not wait any more has no use for it.
                    drop(done.send(pause));
                }
                Err(error) => {
                    tracing::warn!(sandbox.id = %id, error = %soulbox_telemetry::chain(&error), "files of a paused sandbox are not saved");
                }
            }
        });
        saved.await.ok()
    }
}

/// What it was is safe: it ends, now or in a while.
pub(crate) async fn end(node: &Arc<Node>, guest: &Arc<dyn Guest>) {
    if let Err(error) = kill_guest(guest.as_ref()).await {
        let error = soulbox_telemetry::chain(&error);
        tracing::error!(sandbox.id = %guest.spec().id, error, "the guest of a paused sandbox does not end; trying again later");
        reconcile::give_up(node, Arc::clone(guest));
    }
}

/// Brings a paused sandbox back. On error it is paused as before.
pub(crate) async fn resume(
    node: Arc<Node>,
    paused: PausedSandbox,
    how: HowToResume,
) -> Result<RunningSandbox, SandboxError> {
    let Some(mut pause) = paused.record.pause.clone() else {
        return Err(Node::not_found(&paused.record.id));
    };
    match paused.guest.clone() {
        Some(guest) if how.memory => {
            let resumed = thaw(&node, &paused, &guest, how).await;
            if resumed.is_ok() {
                return resumed;
            }
            if guest.ended().now_or_never().is_some()
                && let Some(left) = without_guest(&node, paused.clone()).await
            {
                return start_anew(&node, &left.record, pause.spec, how).await;
            }
            if let Err(error) = guest.freeze().await {
                let error = soulbox_telemetry::chain(&error);
                tracing::error!(sandbox.id = %paused.record.id, error, "a sandbox that was not resumed is not frozen");
            }
            resumed
        }
        Some(guest) => reboot(&node, &paused, &guest, pause, how).await,
        None => match pause.memory.clone() {
            Some(memory) if how.memory => {
                hibernation::bring_back(&node, &paused.record, &memory, pause.spec, how).await
            }
            Some(_) => {
                hibernation::give_up_memory(&node, &paused.record, &mut pause).await?;
                start_anew(&node, &paused.record, pause.spec, how).await
            }
            None => start_anew(&node, &paused.record, pause.spec, how).await,
        },
    }
}

/// What there is after a resume that has failed: it may have let go of the memory.
pub(crate) async fn what_is_left(node: &Node, before: PausedSandbox) -> PausedSandbox {
    let record = match node.store.find_sandbox(&before.record.id).await {
        Ok(Some(record)) if record.pause.is_some() => Arc::new(record),
        // Nobody knows better.
        Ok(_) | Err(_) => return before,
    };
    let keeps_memory = |pause: &Pause| pause.mode == PauseMode::Full;
    let guest = before
        .guest
        .filter(|_| record.pause.as_ref().is_some_and(keeps_memory));
    PausedSandbox { record, guest }
}

async fn thaw(
    node: &Node,
    paused: &PausedSandbox,
    guest: &Arc<dyn Guest>,
    how: HowToResume,
) -> Result<RunningSandbox, SandboxError> {
    let failed = not_resumed(&paused.record.id);
    guest.thaw().await.map_err(failed)?;
    fault::point!("resume.thawed");
    if dies(guest).await {
        return Err(failed(DriverError::Envd {
            reason: "its processes have ended".to_owned(),
        }));
    }
    let record = write(node, &paused.record, how).await?;
    Ok(RunningSandbox {
        record,
        guest: Arc::clone(guest),
    })
}

/// Lets go of the memory of a frozen guest and starts anew from its files, which may be saved already.
async fn reboot(
    node: &Arc<Node>,
    paused: &PausedSandbox,
    guest: &Arc<dyn Guest>,
    mut pause: Pause,
    how: HowToResume,
) -> Result<RunningSandbox, SandboxError> {
    let id = &paused.record.id;
    if !pause.files_saved {
        put_on_top(node, guest, &mut pause.spec.image.layers, not_resumed(id)).await?;
    }
    pause.mode = PauseMode::Filesystem;
    pause.files_saved = true;
    if !write_pause(node, id, paused.record.end_at, &pause).await? {
        return Err(Node::not_found(id));
    }
    fault::point!("resume.memory-given-up");
    end(node, guest).await;
    start_anew(node, &paused.record, pause.spec, how).await
}

/// Makes a guest of the saved files, and starts in it what the template starts.
async fn start_anew(
    node: &Arc<Node>,
    record: &Arc<SandboxRecord>,
    mut spec: SandboxSpec,
    how: HowToResume,
) -> Result<RunningSandbox, SandboxError> {
    let id = &record.id;
    let build = node
        .store
        .find_build(&record.template_id, &record.build_id)
        .await;
    let start = build
        .map_err(store_error("read a build"))?
        .and_then(|build| build.start);
    spec.envd_access_token = node.tokens.envd(id);
    let guest = make_guest(node, &spec).await?;
    fault::point!("resume.guest-made");
    let begun = async {
        if let Some(start) = &start {
            bring_up(&guest, start).await?;
        }
        write(node, record, how).await
    };
    match begun.await {
        Ok(record) => Ok(RunningSandbox { record, guest }),
        Err(error) => {
            end(node, &guest).await;
            Err(error)
        }
    }
}

/// From now its time runs.
pub(crate) async fn write(
    node: &Node,
    record: &SandboxRecord,
    how: HowToResume,
) -> Result<Arc<SandboxRecord>, SandboxError> {
    let started_at = node.now();
    let run = NewRun {
        execution_id: ExecutionId::random(),
        started_at,
        end_at: started_at.plus(how.timeout.min(node.settings.max_timeout)),
        on_timeout: how.on_timeout.unwrap_or(record.on_timeout),
    };
    let written = node.store.resume_sandbox(&record.id, &run).await;
    if !written.map_err(store_error("record a resume"))? {
        return Err(Node::not_found(&record.id));
    }
    fault::point!("resume.row-written");
    let mut record = record.clone();
    record.execution_id = run.execution_id;
    record.started_at = run.started_at;
    record.end_at = run.end_at;
    record.on_timeout = run.on_timeout;
    record.state = RecordState::Running;
    record.pause = None;
    Ok(Arc::new(record))
}

/// Whether a guest that was thawed ends at once: a signal may have waited for that. One that only does not answer is shown
/// as it is.
async fn dies(guest: &Arc<dyn Guest>) -> bool {
    if answers(guest).await {
        return false;
    }
    tokio::time::timeout(DEATH_PATIENCE, guest.ended())
        .await
        .is_ok()
}

/// Whether envd answers.
async fn answers(guest: &Arc<dyn Guest>) -> bool {
    let envd = envd(guest);
    let asked = tokio::time::timeout(ANSWER_PATIENCE, envd.health());
    matches!(asked.await, Ok(Ok(())))
}

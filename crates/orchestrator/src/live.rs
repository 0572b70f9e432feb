//! The sandboxes that have a guest on this node, or are getting one: who they are, what they have published, how to reach
//! their actors, and the way of the edge to them.
//!
//! Locks are held for a few lines. The edge's table has a lock of its own, because every request of every sandbox reads it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use soulbox_driver::{Guest, Route};
use soulbox_store::{RecordState, SandboxRecord};
use soulbox_types::lifecycle::State;
use soulbox_types::{SandboxId, TeamId};
use tokio::sync::mpsc;

use crate::actor::Message;
use crate::{SandboxError, instruments};

/// Requests that may wait for one sandbox's actor; more callers wait outside.
const MAILBOX: usize = 16;

/// The table of sandboxes.
#[derive(Debug, Default)]
pub(crate) struct Live {
    entries: RwLock<Entries>,
    routes: RwLock<HashMap<SandboxId, Arc<Route>>>,
}

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<SandboxId, Arc<Handle>>,
    concurrent: HashMap<TeamId, usize>,
    running: usize,
    closed: bool,
}

/// What others hold of a sandbox.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: SandboxId,
    pub(crate) team: TeamId,
    pub(crate) mailbox: mpsc::Sender<Message>,
    /// It is paused, and was tried in vain to go to disk.
    pub(crate) stays: AtomicBool,
    published: Mutex<Published>,
}

/// What a sandbox's actor lets others see. Only the actor writes it, through [`Live`].
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) state: State,
    /// Present from the moment it is usable.
    pub(crate) run: Option<RunningSandbox>,
}

impl Published {
    /// As it is shown: what is on its way into or out of a pause is paused.
    pub(crate) fn shown(&self) -> Option<RecordState> {
        match self.state {
            State::Running | State::Snapshotting => Some(RecordState::Running),
            State::Pausing | State::Paused | State::Resuming => Some(RecordState::Paused),
            State::Creating | State::Killing | State::Gone | State::Failed => None,
        }
    }
}

/// A sandbox that has been usable.
#[derive(Debug, Clone)]
pub(crate) struct RunningSandbox {
    pub(crate) record: Arc<SandboxRecord>,
    pub(crate) guest: Arc<dyn Guest>,
}

impl Handle {
    pub(crate) fn published(&self) -> Published {
        self.published.lock().clone()
    }

    /// The sandbox as it runs now, unless it does not.
    pub(crate) fn running(&self) -> Option<RunningSandbox> {
        let published = self.published.lock();
        matches!(published.state, State::Running | State::Snapshotting)
            .then(|| published.run.clone())
            .flatten()
    }
}

impl Live {
    /// Takes a place for a new sandbox of the team.
    pub(crate) fn reserve(
        &self,
        id: SandboxId,
        team: TeamId,
        max: usize,
    ) -> Result<(Arc<Handle>, mpsc::Receiver<Message>), SandboxError> {
        let mut entries = self.entries.write();
        if entries.closed {
            return Err(SandboxError::ShuttingDown);
        }
        if entries.is_full(&team, max) {
            return Err(SandboxError::TooMany { max });
        }
        Ok(entries.add(
            id,
            team,
            Published {
                state: State::Creating,
                run: None,
            },
        ))
    }

    /// Puts a sandbox there that runs already, or is frozen.
    pub(crate) fn adopt(
        &self,
        state: State,
        run: RunningSandbox,
    ) -> (Arc<Handle>, mpsc::Receiver<Message>) {
        let (id, team) = (run.record.id.clone(), run.record.team.clone());
        let run = Some(run);
        self.entries.write().add(id, team, Published { state, run })
    }

    /// Puts a paused sandbox without a guest there, or finds who has done so before.
    pub(crate) fn rouse(
        &self,
        record: &SandboxRecord,
    ) -> Result<(Arc<Handle>, Option<mpsc::Receiver<Message>>), SandboxError> {
        let mut entries = self.entries.write();
        if entries.closed {
            return Err(SandboxError::ShuttingDown);
        }
        if let Some(handle) = entries.by_id.get(&record.id) {
            return Ok((Arc::clone(handle), None));
        }
        let published = Published {
            state: State::Paused,
            run: None,
        };
        let (handle, mailbox) = entries.add(record.id.clone(), record.team.clone(), published);
        Ok((handle, Some(mailbox)))
    }

    /// Shows a paused sandbox as on its way back, if its team has a place for it.
    pub(crate) fn reserve_again(
        &self,
        handle: &Arc<Handle>,
        published: Published,
        max: usize,
    ) -> Result<(), SandboxError> {
        let mut entries = self.entries.write();
        if entries.closed {
            return Err(SandboxError::ShuttingDown);
        }
        if entries.is_full(&handle.team, max) {
            return Err(SandboxError::TooMany { max });
        }
        entries.show(handle, published);
        Ok(())
    }

    /// Shows a new state of a sandbox to everybody; the last one, `Gone`, takes it out of the table.
    pub(crate) fn publish(&self, handle: &Arc<Handle>, published: Published) {
        self.entries.write().show(handle, published);
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<Handle>> {
        self.entries.read().by_id.get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.entries.read().by_id.values().cloned().collect()
    }

    /// Whether something is paused, or about to be, that may still go to disk.
    pub(crate) fn may_go_to_disk(&self) -> bool {
        let may = |handle: &Arc<Handle>| {
            let state = handle.published.lock().state;
            matches!(state, State::Pausing | State::Paused) && !handle.stays.load(Ordering::Acquire)
        };
        self.entries.read().by_id.values().any(may)
    }

    pub(crate) fn running_count(&self) -> usize {
        self.entries.read().running
    }

    /// Lets no more sandboxes in.
    pub(crate) fn close(&self) {
        self.entries.write().closed = true;
    }

    pub(crate) fn route(&self, id: &SandboxId) -> Option<Arc<Route>> {
        self.routes.read().get(id).cloned()
    }

    pub(crate) fn open_route(&self, route: Route) {
        let id = route.sandbox_id.clone();
        self.routes.write().insert(id, Arc::new(route));
    }

    /// Closes the way to a sandbox: first to new requests, then to those under way.
    pub(crate) fn close_route(&self, id: &SandboxId) {
        let route = self.routes.write().remove(id);
        if let Some(route) = route {
            route.closed.cancel();
        }
    }
}

impl Entries {
    fn is_full(&self, team: &TeamId, max: usize) -> bool {
        self.concurrent.get(team).copied().unwrap_or_default() >= max
    }

    fn show(&mut self, handle: &Arc<Handle>, published: Published) {
        let new = published.state;
        let old = std::mem::replace(&mut *handle.published.lock(), published).state;
        self.count(&handle.team, old, new);
        let ours = self
            .by_id
            .get(&handle.id)
            .is_some_and(|entry| Arc::ptr_eq(entry, handle));
        if new == State::Gone && ours {
            self.by_id.remove(&handle.id);
        }
    }

    fn add(
        &mut self,
        id: SandboxId,
        team: TeamId,
        published: Published,
    ) -> (Arc<Handle>, mpsc::Receiver<Message>) {
        let (mailbox, receiver) = mpsc::channel(MAILBOX);
        self.count(&team, State::Gone, published.state);
        let handle = Arc::new(Handle {
            id: id.clone(),
            team,
            mailbox,
            stays: AtomicBool::new(false),
            published: Mutex::new(published),
        });
        self.by_id.insert(id, handle.clone());
        (handle, receiver)
    }

    fn count(&mut self, team: &TeamId, old: State, new: State) {
        match (old.counts_as_concurrent(), new.counts_as_concurrent()) {
            (false, true) => *self.concurrent.entry(team.clone()).or_default() += 1,
            (true, false) => {
                let left = self
                    .concurrent
                    .get(team)
                    .copied()
                    .unwrap_or_default()
                    .saturating_sub(1);
                if left == 0 {
                    self.concurrent.remove(team);
                } else {
                    self.concurrent.insert(team.clone(), left);
                }
            }
            (true, true) | (false, false) => {}
        }
        match (old == State::Running, new == State::Running) {
            (false, true) => self.running += 1,
            (true, false) => self.running = self.running.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        instruments::running(self.running);
    }
}

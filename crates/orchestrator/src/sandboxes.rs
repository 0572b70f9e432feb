//! What the rest of the server may ask of sandboxes.

use std::sync::Arc;
use std::time::Duration;

use soulbox_driver::{Driver, Route};
use soulbox_store::{ListQuery, LogEntry, LogQuery, MetricSample, SandboxPage, Store};
use soulbox_types::{SandboxId, TeamId, Timestamp};

use crate::{NewSandbox, SandboxError, SandboxView, Settings};

/// The sandboxes of this node. A copy is another handle on the same ones.
#[derive(Debug, Clone)]
pub struct Sandboxes {}

impl Sandboxes {
    /// Adopts what an earlier server left running, kills what nobody knows, forgets what is gone, and starts the clocks.
    ///
    /// # Errors
    /// When the driver cannot say what runs, or the database fails.
    pub async fn start(
        store: Store,
        driver: Arc<dyn Driver>,
        settings: Settings,
    ) -> Result<Self, SandboxError> {
        todo!("{store:?}{driver:?}{settings:?}")
    }

    /// Creates a sandbox and returns when it is usable. It is made in a task of its own: a caller that goes away
    /// leaves a whole sandbox or none.
    ///
    /// # Errors
    /// When the team has too many, or the driver or the database fails; then nothing is left of it.
    pub async fn create(&self, new: NewSandbox) -> Result<SandboxView, SandboxError> {
        todo!("{new:?}")
    }

    /// The team's sandbox with this id.
    ///
    /// # Errors
    /// When there is none or the database fails.
    pub async fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxView, SandboxError> {
        todo!("{team}{id}")
    }

    /// Some of a team's sandboxes.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list(&self, query: &ListQuery) -> Result<SandboxPage<SandboxView>, SandboxError> {
        todo!("{query:?}")
    }

    /// Ends a sandbox; false when there is none. Returns when it is dead.
    ///
    /// # Errors
    /// When the driver or the database fails.
    pub async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<bool, SandboxError> {
        todo!("{team}{id}")
    }

    /// Sets the end time to `timeout` from now, but never beyond the longest run; zero ends it now.
    ///
    /// # Errors
    /// When there is none, it is in transition, or it has used up its longest run.
    pub async fn set_timeout(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<(), SandboxError> {
        todo!("{team}{id}{timeout:?}")
    }

    /// Puts the end time off to at least `duration` (at least 15 s) from now.
    ///
    /// # Errors
    /// As [`Sandboxes::set_timeout`].
    pub async fn refresh(
        &self,
        team: &TeamId,
        id: &SandboxId,
        duration: Duration,
    ) -> Result<(), SandboxError> {
        todo!("{team}{id}{duration:?}")
    }

    /// Makes sure that the sandbox runs for at least `timeout` from now.
    ///
    /// # Errors
    /// When there is none, it is being killed, or it is paused (not built yet).
    pub async fn connect(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
    ) -> Result<SandboxView, SandboxError> {
        todo!("{team}{id}{timeout:?}")
    }

    /// The way to a running sandbox. Cheap: one read lock.
    #[must_use]
    pub fn route(&self, id: &SandboxId) -> Option<Route> {
        todo!("{id}")
    }

    /// Readings of a sandbox, oldest first, at most a thousand: the longer the range, the longer the steps.
    /// Nothing for a sandbox that is not the team's. A missing end of the range is that of the readings.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metrics(
        &self,
        team: &TeamId,
        id: &SandboxId,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Result<Vec<MetricSample>, SandboxError> {
        todo!("{team}{id}{start:?}{end:?}")
    }

    /// The newest reading of each of these sandboxes that is the team's and has one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn latest_metrics(
        &self,
        team: &TeamId,
        ids: &[SandboxId],
    ) -> Result<Vec<MetricSample>, SandboxError> {
        todo!("{team}{ids:?}")
    }

    /// What has happened to a sandbox. Nothing for a sandbox that is not the team's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn logs(&self, query: &LogQuery) -> Result<Vec<LogEntry>, SandboxError> {
        todo!("{query:?}")
    }

    /// Sandboxes that can be used at this moment, of all teams.
    #[must_use]
    pub fn running_count(&self) -> usize {
        todo!()
    }

    /// Asks for a comparison of records and guests now instead of at the next turn.
    pub fn reconcile_soon(&self) {
        todo!()
    }

    /// Takes no more creates, lets those in flight finish, stops the clocks and writes down what was deferred.
    /// Sandboxes run on.
    pub async fn shutdown(&self) {
        todo!()
    }
}

//! What the rest of the server may ask of sandboxes.
//!
//! Every request on one sandbox goes to its actor; this file only finds the actor and checks the team.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use soulbox_driver::{Driver, Route};
use soulbox_store::{ListQuery, LogEntry, LogQuery, MetricSample, RecordState, SandboxPage, Store};
use soulbox_types::lifecycle::Request;
use soulbox_types::{SandboxId, TeamId, Timestamp};
use tokio::sync::oneshot;

use crate::actor::{Actor, Message, Reply};
use crate::end_time::EndChange;
use crate::instruments::KillReason;
use crate::live::Handle;
use crate::node::{Node, store_error};
use crate::{NewSandbox, SandboxError, SandboxView, Settings};
use crate::{expiry, housekeeping, instruments, reconcile, sampler};

/// A refresh puts the end off by at least this long.
const SHORTEST_REFRESH: Duration = Duration::from_secs(15);
/// How long a stop waits for creates and kills in flight; longer than their own deadlines.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(45);
/// A task that panics each time must not take a CPU.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The sandboxes of this node. A copy is another handle on the same ones.
#[derive(Clone)]
pub struct Sandboxes {
    node: Arc<Node>,
}

impl fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandboxes")
            .field("running", &self.running_count())
            .finish_non_exhaustive()
    }
}

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
        let node = Arc::new(Node::new(store, driver, settings));
        reconcile::take_over(&node).await?;
        keep_going(&node, "expiry", expiry::run);
        keep_going(&node, "reconcile", reconcile::run);
        node.tasks.spawn("sampler", sampler::run(node.clone()));
        node.tasks.spawn("flush", housekeeping::flush(node.clone()));
        node.tasks.spawn("prune", housekeeping::prune(node.clone()));
        Ok(Self { node })
    }

    /// Creates a sandbox and returns when it is usable. It is made in a task of its own: a caller that goes away
    /// leaves a whole sandbox or none.
    ///
    /// # Errors
    /// When the team has too many, or the driver or the database fails; then nothing is left of it.
    pub async fn create(&self, new: NewSandbox) -> Result<SandboxView, SandboxError> {
        let id = SandboxId::random();
        let max = self.node.settings.max_concurrent_per_team;
        let place = match self.node.live.reserve(id, new.team.clone(), max) {
            Ok(place) => place,
            Err(error) => {
                instruments::create_ended::<()>(&Err(error.clone()));
                return Err(error);
            }
        };
        let (creator, answer) = oneshot::channel();
        self.node.tasks.spawn(
            "sandbox",
            Actor::create(self.node.clone(), place, new, creator).live(),
        );
        answer.await.unwrap_or(Err(SandboxError::ShuttingDown))
    }

    /// The team's sandbox with this id.
    ///
    /// # Errors
    /// When there is none or the database fails.
    pub async fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxView, SandboxError> {
        if let Some(handle) = self.find(team, id) {
            return handle
                .running()
                .map(|run| self.node.view(&run))
                .ok_or_else(|| Node::not_found(id));
        }
        // Without a guest it can only be a paused one.
        let record = self
            .node
            .store
            .get_sandbox(team, id)
            .await
            .map_err(store_error("read a sandbox"))?;
        let paused = record.filter(|record| record.state == RecordState::Paused);
        paused
            .and_then(|record| self.node.view_of_record(record))
            .ok_or_else(|| Node::not_found(id))
    }

    /// Some of a team's sandboxes.
    ///
    /// # Errors
    /// When the token is not valid or the database fails.
    pub async fn list(&self, query: &ListQuery) -> Result<SandboxPage<SandboxView>, SandboxError> {
        let page = self
            .node
            .store
            .list_sandboxes(query)
            .await
            .map_err(store_error("list sandboxes"))?;
        Ok(SandboxPage {
            items: page
                .items
                .into_iter()
                .filter_map(|record| self.node.view_of_record(record))
                .collect(),
            next_cursor: page.next_cursor,
            total_running: page.total_running,
        })
    }

    /// Ends a sandbox; false when there is none. Returns when it is dead.
    ///
    /// # Errors
    /// When the driver or the database fails.
    pub async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<bool, SandboxError> {
        if let Some(handle) = self.find(team, id) {
            let message = |reply| Message::Kill {
                reason: KillReason::Request,
                reply: Some(reply),
            };
            return match ask(&handle, message).await {
                Some(answer) => answer,
                None if self.node.stop.is_cancelled() => Err(SandboxError::ShuttingDown),
                None => Ok(false),
            };
        }
        let record = self
            .node
            .store
            .get_sandbox(team, id)
            .await
            .map_err(store_error("read a sandbox"))?;
        match record {
            // Without a guest there is only the record to remove.
            Some(record) => self
                .node
                .store
                .delete_sandbox(&record.id)
                .await
                .map_err(store_error("delete a sandbox")),
            None => Ok(false),
        }
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
        self.set_end(team, id, Request::Update, EndChange::Set(timeout))
            .await
            .map(drop)
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
        let change = EndChange::AtLeast(duration.max(SHORTEST_REFRESH));
        self.set_end(team, id, Request::Update, change)
            .await
            .map(drop)
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
        if self.find(team, id).is_none() {
            // Either an error, or a paused sandbox.
            self.get(team, id).await?;
            return Err(SandboxError::Unsupported {
                operation: "resuming a paused sandbox",
            });
        }
        self.set_end(team, id, Request::Connect, EndChange::AtLeast(timeout))
            .await
    }

    async fn set_end(
        &self,
        team: &TeamId,
        id: &SandboxId,
        request: Request,
        change: EndChange,
    ) -> Result<SandboxView, SandboxError> {
        let handle = self.find(team, id).ok_or_else(|| Node::not_found(id))?;
        match ask(&handle, |reply| Message::SetEnd {
            request,
            change,
            reply,
        })
        .await
        {
            Some(answer) => answer,
            None if self.node.stop.is_cancelled() => Err(SandboxError::ShuttingDown),
            None => Err(Node::not_found(id)),
        }
    }

    /// The way to a running sandbox. Cheap: one read lock.
    #[must_use]
    pub fn route(&self, id: &SandboxId) -> Option<Route> {
        self.node.live.route(id)
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
        let range = self
            .node
            .store
            .metrics_range(team, id)
            .await
            .map_err(store_error("read metrics"))?;
        let Some((first, last)) = range else {
            return Ok(Vec::new());
        };
        let range = (start.unwrap_or(first), end.unwrap_or(last));
        let step = metrics_step(range.1.since(range.0));
        self.node
            .store
            .metrics(team, id, range, step)
            .await
            .map_err(store_error("read metrics"))
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
        self.node
            .store
            .latest_metrics(team, ids)
            .await
            .map_err(store_error("read metrics"))
    }

    /// What has happened to a sandbox. Nothing for a sandbox that is not the team's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn logs(&self, query: &LogQuery) -> Result<Vec<LogEntry>, SandboxError> {
        self.node
            .store
            .logs(query)
            .await
            .map_err(store_error("read logs"))
    }

    /// Sandboxes that can be used at this moment, of all teams.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.node.live.running_count()
    }

    /// Asks for a comparison of records and guests now instead of at the next turn.
    pub fn reconcile_soon(&self) {
        self.node.reconcile_wanted.notify_one();
    }

    /// Takes no more creates, lets those in flight finish, stops the clocks and writes down what was deferred.
    /// Sandboxes run on.
    pub async fn shutdown(&self) {
        self.node.live.close();
        self.node.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_DEADLINE, self.node.tasks.finished())
            .await
            .is_err()
        {
            let left = self.node.tasks.len();
            tracing::error!(
                left,
                "stopping although sandboxes are still in transition; the next server sorts them out"
            );
        }
        if let Err(error) = self.node.store.flush().await {
            tracing::error!(error = %soulbox_telemetry::chain(&error), "deferred rows not written");
        }
    }

    fn find(&self, team: &TeamId, id: &SandboxId) -> Option<Arc<Handle>> {
        self.node.live.get(id).filter(|handle| handle.team == *team)
    }
}

/// Runs what must not stop as long as the server runs: after a panic, which is logged, it begins again.
fn keep_going<F>(node: &Arc<Node>, name: &'static str, task: fn(Arc<Node>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let node = node.clone();
    node.tasks.clone().spawn(name, async move {
        while !node.stop.is_cancelled() {
            // It ends by itself only when the node stops.
            let ended = node.tasks.spawn(name, task(node.clone())).await;
            if ended.is_ok() && !node.stop.is_cancelled() {
                tracing::error!(task.name = name, "{name} ended and is started again");
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        }
    });
}

/// Sends a request to a sandbox's actor and waits for the answer; none when the actor has ended.
async fn ask<T>(
    handle: &Handle,
    message: impl FnOnce(Reply<T>) -> Message,
) -> Option<Result<T, SandboxError>> {
    let (reply, answer) = oneshot::channel();
    handle.mailbox.send(message(reply)).await.ok()?;
    answer.await.ok()
}

/// The step in which readings of a range are shown: always fewer than a thousand.
fn metrics_step(range: Duration) -> Duration {
    const HOUR: u64 = 3600;
    Duration::from_secs(match range.as_secs() {
        s if s < HOUR => 5,
        s if s < 6 * HOUR => 30,
        s if s < 12 * HOUR => 60,
        s if s < 24 * HOUR => 120,
        s if s < 7 * 24 * HOUR => 300,
        _ => 900,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let check = |hours: u64, seconds: u64| {
            assert_eq!(
                metrics_step(Duration::from_hours(hours)).as_secs(),
                seconds,
                "{hours} h"
            );
        };
        assert_eq!(metrics_step(Duration::from_secs(3599)).as_secs(), 5);
        check(1, 30);
        check(6, 60);
        check(12, 120);
        check(24, 300);
        check(24 * 7, 900);
    }
}

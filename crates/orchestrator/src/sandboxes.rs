//! What the rest of the server may ask of sandboxes.
//!
//! Every request on one sandbox goes to its actor; this file only finds the actor and checks the team.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use soulbox_driver::route::Woken;
use soulbox_driver::{Driver, Moments, Route};
use soulbox_store::{
    ListQuery, LogEntry, LogQuery, MetricSample, Overdue, Pause, PauseMode, RecordState,
    SandboxPage, Store,
};
use soulbox_types::lifecycle::Request;
use soulbox_types::{EndReason, OnTimeout, SandboxId, TeamId, Timestamp};
use tokio::sync::oneshot;

use crate::actor::{Actor, Message, Reply, Started};
use crate::end_time::EndChange;
use crate::instruments::KillReason;
use crate::journal::{self, About};
use crate::live::Handle;
use crate::network::NetworkChange;
use crate::node::{Node, store_error};
use crate::pausing::{HowToPause, HowToResume, PausedSandbox};
use crate::{NewSandbox, SandboxError, SandboxView, Settings};
use crate::{expiry, hibernation, housekeeping, instruments, reconcile, sampler};

/// A refresh puts the end off by at least this long.
const SHORTEST_REFRESH: Duration = Duration::from_secs(15);
/// How long a stop waits for creates and kills in flight; longer than their own deadlines.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(45);
/// How often a sandbox is looked for whose actor ends under the question.
const ASKED: u32 = 5;
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
        node.tasks
            .spawn("memory", hibernation::watch_memory(node.clone()));
        node.tasks.spawn("flush", housekeeping::flush(node.clone()));
        node.tasks.spawn("prune", housekeeping::prune(node.clone()));
        let sandboxes = Self { node };
        let letting_go = housekeeping::let_go(sandboxes.clone());
        sandboxes.node.tasks.spawn("let go", letting_go);
        Ok(sandboxes)
    }

    /// Makes the secrets of envds from the ids of their sandboxes.
    #[must_use]
    pub fn envd_tokens(&self) -> Arc<dyn Fn(&SandboxId) -> String + Send + Sync> {
        let node = Arc::clone(&self.node);
        Arc::new(move |id| node.tokens.envd(id))
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Creates a sandbox and returns when it is usable. It is made in a task of its own: a caller that goes away
    /// leaves a whole sandbox or none.
    ///
    /// # Errors
    /// When the team has too many, or the driver or the database fails; then nothing is left of it.
    pub async fn create(&self, new: NewSandbox) -> Result<SandboxView, SandboxError> {
        self.create_watched(new, Moments::default()).await
    }

    /// The same for a caller who wants to know when each step was done.
    ///
    /// # Errors
    /// As [`Sandboxes::create`].
    pub async fn create_watched(
        &self,
        new: NewSandbox,
        moments: Moments,
    ) -> Result<SandboxView, SandboxError> {
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
            Actor::create(self.node.clone(), place, (new, moments), creator).live(),
        );
        answer.await.unwrap_or(Err(SandboxError::ShuttingDown))
    }

    /// The team's sandbox with this id.
    ///
    /// # Errors
    /// When there is none or the database fails.
    pub async fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxView, SandboxError> {
        if let Some(run) = self.find(team, id).and_then(|handle| handle.running()) {
            return Ok(self.node.view(&run));
        }
        // What does not run can only be seen when it is paused, or about to be.
        let record = self
            .node
            .store
            .get_sandbox(team, id)
            .await
            .map_err(store_error("read a sandbox"))?;
        record
            .and_then(|record| self.node.view_of_record(record))
            .filter(|view| view.record.state == RecordState::Paused)
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
                // On its way from one state to the other it is shown in the other already.
                .filter(|view| query.wants(view.record.state))
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
        let message = |reply| Message::Kill {
            reason: KillReason::Request,
            reply: Some(reply),
        };
        match self.ask_for(team, id, message).await {
            Err(SandboxError::NotFound { .. }) => {
                // Without a guest there may be a record that nobody has removed yet.
                let record = self.node.store.get_sandbox(team, id).await;
                match record.map_err(store_error("read a sandbox"))? {
                    Some(record) if self.find(team, id).is_none() => {
                        let (reason, now) = (EndReason::Request, self.node.now());
                        let ended = self.node.store.end_sandbox(&record.id, reason, now).await;
                        ended.map_err(store_error("delete a sandbox"))
                    }
                    _ => Ok(false),
                }
            }
            other => other,
        }
    }

    /// Ends a paused sandbox that is kept no longer; false when it is not paused since then any more.
    pub(crate) async fn let_go(&self, overdue: &Overdue) -> Result<bool, SandboxError> {
        let paused_at = overdue.paused_at;
        self.ask_for(&overdue.team, &overdue.sandbox, |reply| Message::LetGo {
            paused_at,
            reply,
        })
        .await
    }

    /// Pauses a sandbox. Returns when it stands still and nobody reaches it any more; `strict` refuses when its envd does
    /// not answer.
    ///
    /// # Errors
    /// When there is none, it is paused already, its envd does not answer, or what is to be kept cannot be written; then it
    /// runs on.
    pub async fn pause(
        &self,
        team: &TeamId,
        id: &SandboxId,
        mode: PauseMode,
        strict: bool,
    ) -> Result<(), SandboxError> {
        let how = HowToPause { mode, strict };
        self.ask_for(team, id, |reply| Message::Pause { how, reply })
            .await
    }

    /// Brings a paused sandbox back for `timeout`. Another policy than before holds from then on, if one is given; without
    /// `memory` it starts anew from its files.
    ///
    /// # Errors
    /// When there is none, it runs, the team has too many, or it cannot be brought back; then it stays paused.
    pub async fn resume(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        on_timeout: Option<OnTimeout>,
        memory: bool,
    ) -> Result<SandboxView, SandboxError> {
        let how = HowToResume {
            timeout,
            on_timeout,
            memory,
        };
        let started = self.start_it(team, id, Request::Resume, how).await?;
        Ok(started.view)
    }

    /// Brings a paused sandbox back because somebody wants to reach it, if its policy says so and he may come in.
    ///
    /// # Errors
    /// As [`Sandboxes::resume`].
    pub async fn wake(
        &self,
        id: &SandboxId,
        may_come_in: impl FnOnce(&SandboxView) -> bool,
    ) -> Result<Woken, SandboxError> {
        let found = self.node.store.find_sandbox(id).await;
        let Some(record) = found.map_err(store_error("read a sandbox"))? else {
            return Ok(Woken::Nobody);
        };
        let without_memory = |pause: &Pause| pause.mode == PauseMode::Filesystem;
        if !record.auto_resume || record.pause.as_ref().is_some_and(without_memory) {
            return Ok(Woken::Nobody);
        }
        let (team, seconds) = (record.team.clone(), record.auto_resume_timeout_seconds);
        let Some(view) = self.node.view_of_record(record) else {
            return Ok(Woken::Nobody);
        };
        if !may_come_in(&view) {
            return Ok(Woken::Denied);
        }
        let how = HowToResume {
            timeout: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            on_timeout: None,
            memory: true,
        };
        self.start_it(&team, id, Request::Connect, how).await?;
        Ok(self.route(id).map_or(Woken::Nobody, Woken::Open))
    }

    async fn start_it(
        &self,
        team: &TeamId,
        id: &SandboxId,
        request: Request,
        how: HowToResume,
    ) -> Result<Started, SandboxError> {
        self.ask_for(team, id, |reply| Message::Start {
            request,
            how,
            reply,
        })
        .await
    }

    /// Asks the sandbox's actor; a paused sandbox of which only files are left gets one for this.
    pub(crate) async fn ask_for<T>(
        &self,
        team: &TeamId,
        id: &SandboxId,
        message: impl Fn(Reply<T>) -> Message,
    ) -> Result<T, SandboxError> {
        for _ in 0..ASKED {
            let answer = match self.find(team, id) {
                Some(handle) => ask(&handle, &message).await,
                None => self.rouse(team, id, &message).await?,
            };
            if let Some(answer) = answer {
                return answer;
            }
            if self.node.stop.is_cancelled() {
                return Err(SandboxError::ShuttingDown);
            }
        }
        Err(Node::not_found(id))
    }

    async fn rouse<T>(
        &self,
        team: &TeamId,
        id: &SandboxId,
        message: impl Fn(Reply<T>) -> Message,
    ) -> Result<Option<Result<T, SandboxError>>, SandboxError> {
        let record = self.node.store.get_sandbox(team, id).await;
        let record = record.map_err(store_error("read a sandbox"))?;
        let record = record.filter(|record| record.state == RecordState::Paused);
        let record = record.ok_or_else(|| Node::not_found(id))?;
        let (handle, mailbox) = self.node.live.rouse(&record)?;
        let (reply, answer) = oneshot::channel();
        if handle.mailbox.send(message(reply)).await.is_err() {
            return Ok(None);
        }
        // Only now: an actor with nothing to do ends.
        if let Some(mailbox) = mailbox {
            let paused = PausedSandbox {
                record: Arc::new(record),
                guest: None,
            };
            let actor = Actor::paused(self.node.clone(), (handle, mailbox), paused);
            self.node.tasks.spawn("sandbox", actor.live());
        }
        Ok(answer.await.ok())
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

    /// Changes what a running sandbox may reach. In force when this returns.
    ///
    /// # Errors
    /// When there is none, it does not run, or the host refuses.
    pub async fn set_network(
        &self,
        team: &TeamId,
        id: &SandboxId,
        change: NetworkChange,
    ) -> Result<(), SandboxError> {
        let handle = self.find(team, id).ok_or_else(|| Node::not_found(id))?;
        match ask(&handle, |reply| Message::SetNetwork { change, reply }).await {
            Some(answer) => answer,
            None if self.node.stop.is_cancelled() => Err(SandboxError::ShuttingDown),
            None => Err(Node::not_found(id)),
        }
    }

    /// Whose a sandbox is, while it is live.
    #[must_use]
    pub fn team_of(&self, id: &SandboxId) -> Option<TeamId> {
        Some(self.node.live.get(id)?.team.clone())
    }

    /// Notes in a sandbox's log what its network policy did not let it do.
    pub fn note_refusal(&self, id: &SandboxId, protocol: &str, target: &str, reason: &str) {
        let Some(handle) = self.node.live.get(id) else {
            return;
        };
        let about = About {
            id,
            team: &handle.team,
        };
        let entry = journal::refused(about, self.node.now(), protocol, target, reason);
        self.node.store.log(entry);
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

    /// Makes sure that the sandbox runs for at least `timeout` from now. A paused one is brought back; without `memory` it
    /// then starts anew from its files.
    ///
    /// # Errors
    /// When there is none, it is being killed, or it cannot be brought back.
    pub async fn connect(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        memory: bool,
    ) -> Result<Started, SandboxError> {
        let how = HowToResume {
            timeout,
            on_timeout: None,
            memory,
        };
        self.start_it(team, id, Request::Connect, how).await
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
    pub fn route(&self, id: &SandboxId) -> Option<Arc<Route>> {
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
        hibernation::put_all_away(&self.node).await;
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

//! The one task that changes a sandbox.
//!
//! It asks [`decide`] about each request, carries out one transition at a time, and goes on listening while it does, so
//! that a second kill joins the first and an update meets the answer that it is too late. The end of the guest outranks
//! every request. When the server stops, an actor with nothing in flight just ends: the guest runs on.

use std::sync::Arc;
use std::time::Duration;

use soulbox_driver::{BoxFuture, Guest, OomKill};
use soulbox_fault as fault;
use soulbox_types::lifecycle::{
    Decision, Outcome, Rejection, Request, State, Transition, complete, decide,
};
use soulbox_types::{OnTimeout, SandboxId};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::end_time::{EndChange, Run, changed};
use crate::instruments::{self, KillReason};
use crate::journal::{self, About};
use crate::live::{Handle, Published, RunningSandbox};
use crate::node::{Node, store_error};
use crate::transitions::{self, Killed};
use crate::{NewSandbox, SandboxError, SandboxView, reconcile};

/// How long a create may take before its caller is told so: half of the minute after which clients give up.
const CREATE_DEADLINE: Duration = Duration::from_secs(30);

/// Where the answer to a request goes. Nobody may be there any more, which is fine.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, SandboxError>>;

/// What an actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// End the sandbox. True is answered when there was one to end.
    Kill {
        reason: KillReason,
        reply: Option<Reply<bool>>,
    },
    /// Move its end time. Answered with the sandbox as it then is.
    SetEnd {
        request: Request,
        change: EndChange,
        reply: Reply<SandboxView>,
    },
    /// Its end time may have come.
    Expire,
}

/// How a transition in flight has ended.
enum Ended {
    Create(Result<RunningSandbox, SandboxError>),
    Kill(Killed),
}

/// See the module.
pub(crate) struct Actor {
    node: Arc<Node>,
    handle: Arc<Handle>,
    mailbox: mpsc::Receiver<Message>,
    state: State,
    run: Option<RunningSandbox>,
    /// The transition in flight; exactly when the state says that there is one.
    in_flight: Option<BoxFuture<'static, Ended>>,
    /// Resolves when the guest ends by itself.
    guest_ended: Option<BoxFuture<'static, ()>>,
    /// Tells of processes killed for lack of memory.
    oom_kills: Option<broadcast::Receiver<OomKill>>,
    /// Resolves when a create has taken too long.
    create_deadline: Option<BoxFuture<'static, ()>>,
    creator: Option<Reply<SandboxView>>,
    /// The kill that is promised or in flight: why, and who waits for it.
    kill_reason: Option<KillReason>,
    kill_replies: Vec<Reply<bool>>,
}

/// What the actor wakes up for.
enum Event {
    Ended(Ended),
    GuestEnded,
    CreateDeadline,
    OomKill(OomKill),
    Message(Message),
    Stop,
}

impl Actor {
    /// Begins to create a sandbox; the caller has reserved its place.
    pub(crate) fn create(
        node: Arc<Node>,
        (handle, mailbox): (Arc<Handle>, mpsc::Receiver<Message>),
        new: NewSandbox,
        creator: Reply<SandboxView>,
    ) -> Self {
        let id = handle.id.clone();
        let created = create_apart(&node, id, new);
        let mut actor = Self::new(node, handle, mailbox, State::Creating);
        actor.in_flight = Some(Box::pin(async move { Ended::Create(created.await) }));
        actor.create_deadline = Some(Box::pin(tokio::time::sleep(CREATE_DEADLINE)));
        actor.creator = Some(creator);
        actor
    }

    /// Takes over a sandbox that runs already.
    pub(crate) fn adopt(
        node: Arc<Node>,
        (handle, mailbox): (Arc<Handle>, mpsc::Receiver<Message>),
        run: RunningSandbox,
    ) -> Self {
        let mut actor = Self::new(node, handle, mailbox, State::Running);
        actor.run_begins(run);
        actor
    }

    fn new(
        node: Arc<Node>,
        handle: Arc<Handle>,
        mailbox: mpsc::Receiver<Message>,
        state: State,
    ) -> Self {
        Self {
            node,
            handle,
            mailbox,
            state,
            run: None,
            in_flight: None,
            guest_ended: None,
            oom_kills: None,
            create_deadline: None,
            creator: None,
            kill_reason: None,
            kill_replies: Vec::new(),
        }
    }

    /// Lives until the sandbox is gone or the server stops.
    pub(crate) async fn live(mut self) {
        while self.state != State::Gone {
            match self.next_event().await {
                Event::Ended(Ended::Create(outcome)) => self.create_ended(outcome),
                Event::Ended(Ended::Kill(killed)) => self.kill_ended(killed),
                Event::GuestEnded => self.kill(KillReason::GuestEnded, None),
                Event::CreateDeadline => self.create_takes_too_long(),
                Event::OomKill(kill) => self.note_oom_kill(&kill),
                Event::Message(Message::Kill { reason, reply }) => self.kill(reason, reply),
                Event::Message(Message::Expire) => self.expire(),
                Event::Message(Message::SetEnd {
                    request,
                    change,
                    reply,
                }) => {
                    let answer = self.set_end(request, change).await;
                    // The caller may have gone away; the change stands.
                    drop(reply.send(answer));
                }
                Event::Stop => return,
            }
        }
        self.refuse_the_rest();
    }

    async fn next_event(&mut self) -> Event {
        let idle = self.in_flight.is_none();
        tokio::select! {
            biased;
            ended = when(&mut self.in_flight) => {
                self.in_flight = None;
                Event::Ended(ended)
            }
            () = when(&mut self.guest_ended) => {
                self.guest_ended = None;
                Event::GuestEnded
            }
            () = when(&mut self.create_deadline) => {
                self.create_deadline = None;
                Event::CreateDeadline
            }
            () = self.node.stop.cancelled(), if idle => Event::Stop,
            kill = next_kill(&mut self.oom_kills) => Event::OomKill(kill),
            message = self.mailbox.recv() => match message {
                Some(message) => Event::Message(message),
                // The table holds a sender as long as the sandbox is in it.
                None => Event::Stop,
            },
        }
    }

    /// What has been promised to follow the transition in flight.
    fn queued(&self) -> Option<Transition> {
        (self.kill_reason.is_some() && self.state != State::Killing).then_some(Transition::Kill)
    }

    fn decide(&self, request: Request) -> Decision {
        decide(self.state, self.queued(), request)
    }

    fn id(&self) -> &SandboxId {
        &self.handle.id
    }

    // Requests

    fn kill(&mut self, reason: KillReason, reply: Option<Reply<bool>>) {
        match self.decide(Request::Kill) {
            Decision::Start(_) => {
                self.kill_replies.extend(reply);
                self.begin_kill(reason);
            }
            Decision::After(_) => {
                self.kill_replies.extend(reply);
                self.kill_reason.get_or_insert(reason);
            }
            Decision::Join(_) => self.kill_replies.extend(reply),
            Decision::Satisfied | Decision::Reject(_) => {
                if let Some(reply) = reply {
                    drop(reply.send(Ok(false)));
                }
            }
        }
    }

    fn expire(&mut self) {
        let Some(record) = self.run.as_ref().map(|run| run.record.clone()) else {
            return;
        };
        if self.state == State::Running && self.node.now() < record.end_at {
            // Put off while the message was under way, or the clock has gone back.
            self.node.expiry.set(self.id(), record.end_at);
            return;
        }
        let request = match record.on_timeout {
            OnTimeout::Kill => Request::ExpireByKill,
            OnTimeout::Pause => Request::ExpireByPause,
        };
        match self.decide(request) {
            Decision::Start(Transition::Kill) => {
                fault::point!("timeout.due");
                self.begin_kill(KillReason::Expired);
            }
            Decision::Start(transition) => {
                // Creates that ask for a pause are refused until pausing is built, so only a record of a newer server
                // leads here. A sandbox that never ends would be worse.
                tracing::warn!(sandbox.id = %self.id(), "{transition:?} at the end time is not built: killing instead");
                self.begin_kill(KillReason::Expired);
            }
            Decision::Satisfied | Decision::Join(_) | Decision::After(_) | Decision::Reject(_) => {}
        }
    }

    async fn set_end(
        &mut self,
        request: Request,
        change: EndChange,
    ) -> Result<SandboxView, SandboxError> {
        match self.decide(request) {
            Decision::Satisfied => {}
            Decision::Reject(Rejection::NotFound) => return Err(Node::not_found(self.id())),
            Decision::Reject(rejection) => {
                return Err(SandboxError::Conflict {
                    id: self.id().clone(),
                    rejection,
                });
            }
            // States that lead here are not reached yet; when they are, the request is kept and asked again.
            Decision::Start(_) | Decision::Join(_) | Decision::After(_) => {
                return Err(SandboxError::Unsupported {
                    operation: "resuming a sandbox",
                });
            }
        }
        let Some(run) = self.run.clone() else {
            return Err(Node::not_found(self.id()));
        };
        let times = Run {
            started_at: run.record.started_at,
            end_at: run.record.end_at,
        };
        let end_at = changed(
            times,
            change,
            self.node.now(),
            self.node.settings.max_timeout,
        )
        .map_err(|_| SandboxError::MaxLength {
            id: self.id().clone(),
        })?;
        if end_at == run.record.end_at {
            return Ok(self.node.view(&run));
        }
        let written = self
            .node
            .store
            .set_end_at(self.id(), end_at)
            .await
            .map_err(store_error("set an end time"))?;
        fault::point!("timeout.row-written");
        if !written {
            // Somebody has deleted the record: the reconciler will kill the guest.
            self.node.reconcile_wanted.notify_one();
            return Err(Node::not_found(self.id()));
        }
        let mut record = (*run.record).clone();
        record.end_at = end_at;
        let run = RunningSandbox {
            record: Arc::new(record),
            guest: run.guest,
        };
        let view = self.node.view(&run);
        self.run = Some(run);
        self.node.expiry.set(self.id(), end_at);
        self.publish();
        Ok(view)
    }

    // Create

    fn create_takes_too_long(&mut self) {
        self.answer_creator(Err(SandboxError::CreateTimeout {
            id: self.id().clone(),
        }));
        self.kill(KillReason::CreateFailed, None);
    }

    fn create_ended(&mut self, outcome: Result<RunningSandbox, SandboxError>) {
        self.create_deadline = None;
        match outcome {
            Ok(run) => {
                self.state = complete(Transition::Create, Outcome::Done);
                if let Some(reason) = self.kill_reason {
                    // Killed before it was born: it is never shown to anybody.
                    self.run = Some(run);
                    self.answer_creator(Err(SandboxError::EndedInCreate {
                        id: self.id().clone(),
                    }));
                    self.begin_kill(reason);
                } else {
                    self.node.store.log(journal::created(&run.record));
                    tracing::info!(sandbox.id = %self.id(), team.id = %self.handle.team, "sandbox created");
                    let view = self.node.view(&run);
                    self.run_begins(run);
                    fault::point!("create.route-open");
                    self.answer_creator(Ok(view));
                    fault::point!("create.answered");
                }
            }
            Err(error) => {
                self.state = complete(Transition::Create, Outcome::Undone);
                self.publish();
                self.answer_creator(Err(error));
                self.answer_kills(&Ok(false));
            }
        }
    }

    /// Makes a usable sandbox known.
    fn run_begins(&mut self, run: RunningSandbox) {
        let guest: Arc<dyn Guest> = run.guest.clone();
        self.oom_kills = Some(guest.oom_kills());
        self.guest_ended = Some(Box::pin(async move { guest.ended().await }));
        self.node.live.open_route(self.node.new_route(&run));
        self.node.expiry.set(self.id(), run.record.end_at);
        self.run = Some(run);
        self.publish();
    }

    fn note_oom_kill(&self, kill: &OomKill) {
        let about = About {
            id: &self.handle.id,
            team: &self.handle.team,
        };
        let entry = journal::killed_for_memory(about, self.node.now(), kill);
        self.node.store.log(entry);
    }

    fn answer_creator(&mut self, answer: Result<SandboxView, SandboxError>) {
        if let Some(creator) = self.creator.take() {
            instruments::create_ended(&answer);
            if let Err(error) = &answer {
                tracing::warn!(sandbox.id = %self.id(), error = %soulbox_telemetry::chain(error), "sandbox not created");
            }
            // A creator that has gone away leaves a whole sandbox, which its team's list shows.
            drop(creator.send(answer));
        }
    }

    // Kill

    /// First nobody may come in any more, then those inside are put out, then it ends.
    fn begin_kill(&mut self, reason: KillReason) {
        let Some(run) = self.run.clone() else { return };
        self.kill_reason = Some(reason);
        self.state = Transition::Kill.state();
        self.guest_ended = None;
        self.node.expiry.remove(self.id());
        self.publish();
        fault::point!("kill.begun");
        self.node.live.close_route(self.id());
        fault::point!("kill.route-closed");
        let work = transitions::kill(self.node.clone(), run);
        self.in_flight = Some(Box::pin(async move { Ended::Kill(work.await) }));
    }

    fn kill_ended(&mut self, Killed { record, guest }: Killed) {
        let reason = self.kill_reason.take().unwrap_or(KillReason::Reconciled);
        if let Err(error) = record {
            // The guest's end is what counts; the record goes with the next comparison.
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(sandbox.id = %self.id(), error, "record of a killed sandbox is left over");
            self.node.reconcile_wanted.notify_one();
        }
        match guest {
            Ok(()) => {
                self.state = complete(Transition::Kill, Outcome::Done);
                instruments::killed(reason);
                let about = About {
                    id: &self.handle.id,
                    team: &self.handle.team,
                };
                self.node
                    .store
                    .log(journal::ended(about, self.node.now(), reason));
                tracing::info!(sandbox.id = %self.id(), reason = reason.as_str(), "sandbox killed");
                self.publish();
                self.answer_kills(&Ok(true));
                fault::point!("kill.answered");
            }
            Err(error) => {
                self.state = complete(Transition::Kill, Outcome::Undone);
                instruments::kill_failed();
                let error = SandboxError::Kill {
                    id: self.id().clone(),
                    source: Arc::new(error),
                };
                tracing::error!(error = %soulbox_telemetry::chain(&error), "sandbox not killed; trying again later");
                self.publish();
                self.answer_kills(&Err(error));
            }
        }
    }

    fn answer_kills(&mut self, answer: &Result<bool, SandboxError>) {
        for reply in self.kill_replies.drain(..) {
            // A caller that has gone away needs no answer.
            drop(reply.send(answer.clone()));
        }
    }

    // The end

    fn publish(&self) {
        self.node.live.publish(
            &self.handle,
            Published {
                state: self.state,
                run: self.run.clone(),
            },
        );
    }

    /// Answers what was sent while the sandbox was on its way out.
    fn refuse_the_rest(&mut self) {
        self.mailbox.close();
        while let Ok(message) = self.mailbox.try_recv() {
            match message {
                Message::Kill {
                    reply: Some(reply), ..
                } => drop(reply.send(Ok(false))),
                Message::SetEnd { reply, .. } => drop(reply.send(Err(Node::not_found(self.id())))),
                Message::Kill { reply: None, .. } | Message::Expire => {}
            }
        }
    }
}

/// Creates in a task of its own, because a driver's create cannot be broken off: when the actor is gone by the time there
/// is a guest, the guest ends.
fn create_apart(
    node: &Arc<Node>,
    id: SandboxId,
    new: NewSandbox,
) -> impl Future<Output = Result<RunningSandbox, SandboxError>> + use<> {
    let (reply, answer) = oneshot::channel();
    let creator = node.clone();
    node.tasks.spawn("create", async move {
        let outcome = transitions::create(creator.clone(), id, new).await;
        if let Err(Ok(run)) = reply.send(outcome) {
            reconcile::give_up(&creator, run.guest);
        }
    });
    async { answer.await.unwrap_or(Err(SandboxError::ShuttingDown)) }
}

/// An actor that panics must not leave a sandbox that nobody answers for.
impl Drop for Actor {
    fn drop(&mut self) {
        let settled =
            self.state == State::Gone || (self.in_flight.is_none() && !std::thread::panicking());
        if settled {
            return;
        }
        self.state = State::Gone;
        self.node.expiry.remove(self.id());
        self.node.live.close_route(self.id());
        self.publish();
        if let Some(run) = self.run.take() {
            tracing::error!(sandbox.id = %self.id(), "nobody answers for this sandbox any more: it is killed");
            reconcile::give_up(&self.node, run.guest);
        }
        self.node.reconcile_wanted.notify_one();
    }
}

/// Resolves when the future does; never when there is none.
async fn when<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The next one there is; never when nobody can tell. Those that came too fast are left out: the sampler counts them.
async fn next_kill(kills: &mut Option<broadcast::Receiver<OomKill>>) -> OomKill {
    while let Some(receiver) = kills {
        match receiver.recv().await {
            Ok(kill) => return kill,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => *kills = None,
        }
    }
    std::future::pending().await
}

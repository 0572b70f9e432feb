//! The one task that changes a sandbox.
//!
//! It asks [`decide`] about each request, carries out one transition at a time, and goes on listening while it does, so
//! that a second kill joins the first and an update meets the answer that it is too late. The end of the guest outranks
//! every request. When the server stops, an actor with nothing in flight just ends: the guest runs on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soulbox_driver::{BoxFuture, Guest, Moments, OomKill};
use soulbox_fault as fault;
use soulbox_store::{Pause, PauseMode};
use soulbox_types::lifecycle::{
    Decision, Outcome, Rejection, Request, State, Transition, complete, decide,
};
use soulbox_types::{OnTimeout, SandboxId, Timestamp};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::end_time::{EndChange, Run, changed};
use crate::instruments::{self, KillReason};
use crate::journal::{self, About};
use crate::live::{Handle, Published, RunningSandbox};
use crate::network::NetworkChange;
use crate::node::{Node, store_error};
use crate::pausing::{self, HowToPause, HowToResume, PausedSandbox};
use crate::saving::{self, Saved};
use crate::transitions::{self, Killed, trust_live};
use crate::trust::going_on_from;
use crate::{NewSandbox, SandboxError, SandboxView, hibernation, reconcile};

/// When a pause at the end time that has failed is tried again.
const PAUSE_RETRY: Duration = Duration::from_secs(30);
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
    /// Change what it may reach. Answered when that is in force.
    SetNetwork {
        change: NetworkChange,
        reply: Reply<()>,
    },
    /// Save and stop it. Answered when it is paused.
    Pause { how: HowToPause, reply: Reply<()> },
    /// Save its files, and its memory if that is wanted: [`Request::Snapshot`] or [`Request::Fork`]. Answered when it runs
    /// on.
    Save {
        request: Request,
        memory: bool,
        reply: Reply<Saved>,
    },
    /// Make sure that it runs: [`Request::Connect`] or [`Request::Resume`].
    Start {
        request: Request,
        how: HowToResume,
        reply: Reply<Started>,
    },
    /// Its end time may have come.
    Expire,
    /// It is kept no longer, if it is still as it was when that was found out: paused since then. True when it ends.
    LetGo {
        paused_at: Timestamp,
        reply: Reply<bool>,
    },
}

/// A sandbox that runs.
#[derive(Debug, Clone)]
pub struct Started {
    /// As its owner sees it.
    pub view: SandboxView,
    /// Whether it was paused until now.
    pub resumed: bool,
}

/// How a transition in flight has ended.
enum Ended {
    Create(Result<RunningSandbox, SandboxError>),
    Kill(Killed),
    Pause(Result<PausedSandbox, SandboxError>),
    Resume(Result<RunningSandbox, SandboxError>),
    Save(Result<Saved, SandboxError>),
    PutAway(Option<Pause>),
}

/// See the module.
pub(crate) struct Actor {
    node: Arc<Node>,
    handle: Arc<Handle>,
    mailbox: mpsc::Receiver<Message>,
    state: State,
    run: Option<RunningSandbox>,
    /// What there is of it while it does not run.
    paused: Option<PausedSandbox>,
    /// The transition in flight; exactly when the state says that there is one.
    in_flight: Option<BoxFuture<'static, Ended>>,
    /// Resolves when the guest ends by itself.
    guest_ended: Option<BoxFuture<'static, ()>>,
    /// Tells of processes killed for lack of memory.
    oom_kills: Option<broadcast::Receiver<OomKill>>,
    /// Resolves when the files of a frozen guest are saved, or cannot be.
    files_saved: Option<BoxFuture<'static, Option<Pause>>>,
    /// Resolves when a paused sandbox whose files are saved is to go to disk.
    put_away: Option<BoxFuture<'static, ()>>,
    /// Resolves when a create has taken too long.
    create_deadline: Option<BoxFuture<'static, ()>>,
    creator: Option<Reply<SandboxView>>,
    /// The kill that is promised or in flight: why, and who waits for it.
    kill_reason: Option<KillReason>,
    kill_replies: Vec<Reply<bool>>,
    pause_replies: Vec<Reply<()>>,
    resume_replies: Vec<Reply<Started>>,
    /// Who waits for the files that are being saved.
    save_reply: Option<Reply<Saved>>,
    /// Requests that are asked again when the transition in flight has ended.
    waiting: Vec<Message>,
}

/// What the actor wakes up for.
enum Event {
    Ended(Ended),
    GuestEnded,
    CreateDeadline,
    OomKill(OomKill),
    FilesSaved(Option<Pause>),
    PutAway,
    Message(Message),
    Stop,
}

impl Actor {
    /// Begins to create a sandbox; the caller has reserved its place.
    pub(crate) fn create(
        node: Arc<Node>,
        (handle, mailbox): (Arc<Handle>, mpsc::Receiver<Message>),
        (new, moments): (NewSandbox, Moments),
        creator: Reply<SandboxView>,
    ) -> Self {
        let id = handle.id.clone();
        let created = create_apart(&node, id, new, moments);
        let mut actor = Self::new(node, handle, mailbox, State::Creating);
        actor.in_flight = Some(Box::pin(async move { Ended::Create(created.await) }));
        actor.create_deadline = Some(Box::pin(tokio::time::sleep(CREATE_DEADLINE)));
        actor.creator = Some(creator);
        actor
    }

    /// Takes over a paused sandbox, with its guest if it has one.
    pub(crate) fn paused(
        node: Arc<Node>,
        (handle, mailbox): (Arc<Handle>, mpsc::Receiver<Message>),
        paused: PausedSandbox,
    ) -> Self {
        let mut actor = Self::new(node, handle, mailbox, State::Paused);
        actor.rests(paused);
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
            paused: None,
            in_flight: None,
            guest_ended: None,
            oom_kills: None,
            files_saved: None,
            put_away: None,
            create_deadline: None,
            creator: None,
            kill_reason: None,
            kill_replies: Vec::new(),
            pause_replies: Vec::new(),
            resume_replies: Vec::new(),
            save_reply: None,
            waiting: Vec::new(),
        }
    }

    /// Lives until the sandbox is gone, or only its files are left, or the server stops.
    pub(crate) async fn live(mut self) {
        while self.state != State::Gone {
            match self.next_event().await {
                Event::Ended(Ended::Create(outcome)) => self.create_ended(outcome),
                Event::Ended(Ended::Kill(killed)) => self.kill_ended(killed),
                Event::Ended(Ended::Pause(outcome)) => self.pause_ended(outcome),
                Event::Ended(Ended::Resume(outcome)) => self.resume_ended(outcome).await,
                Event::Ended(Ended::Save(outcome)) => self.save_ended(outcome),
                Event::Ended(Ended::PutAway(pause)) => self.is_put_away(pause),
                Event::GuestEnded => self.guest_is_gone().await,
                Event::CreateDeadline => self.create_takes_too_long(),
                Event::OomKill(kill) => self.note_oom_kill(&kill),
                Event::FilesSaved(pause) => self.note_saved_files(pause).await,
                Event::PutAway => self.begin_put_away(),
                Event::Message(message) => self.told(message).await,
                Event::Stop => return,
            }
            if self.in_flight.is_none() {
                for message in std::mem::take(&mut self.waiting) {
                    self.told(message).await;
                }
            }
            if self.has_nothing_to_do() {
                self.state = State::Gone;
                self.publish();
            }
        }
        self.refuse_the_rest();
    }

    async fn told(&mut self, message: Message) {
        if self.state == State::Paused && self.in_flight.is_some() {
            // It is on its way to disk, which nothing may break off.
            self.waiting.push(message);
            return;
        }
        match message {
            Message::Kill { reason, reply } => self.kill(reason, reply),
            Message::Expire => self.expire(),
            Message::LetGo { paused_at, reply } => self.let_go(paused_at, reply),
            Message::Pause { how, reply } => self.pause(how, reply),
            Message::Save {
                request,
                memory,
                reply,
            } => self.save(request, memory, reply),
            Message::Start {
                request,
                how,
                reply,
            } => self.start(request, how, reply).await,
            Message::SetNetwork { change, reply } => {
                let answer = self.set_network(change).await;
                // The caller may have gone away; the change stands.
                drop(reply.send(answer));
            }
            Message::SetEnd {
                request,
                change,
                reply,
            } => {
                let answer = self.set_end(request, change).await;
                // The caller may have gone away; the change stands.
                drop(reply.send(answer));
            }
        }
    }

    /// Only files are left of a paused sandbox, and its record: whoever wants it finds it there.
    fn has_nothing_to_do(&self) -> bool {
        let bare = (self.paused.as_ref()).is_some_and(|paused| paused.guest.is_none());
        self.state == State::Paused && bare && self.mailbox.is_empty()
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
            pause = when(&mut self.files_saved) => {
                self.files_saved = None;
                Event::FilesSaved(pause)
            }
            () = when(&mut self.put_away), if idle => {
                self.put_away = None;
                Event::PutAway
            }
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

    fn let_go(&mut self, paused_at: Timestamp, reply: Reply<bool>) {
        let unchanged = |paused: &PausedSandbox| paused.record.end_at == paused_at;
        if self.state == State::Paused && self.paused.as_ref().is_some_and(unchanged) {
            self.kill(KillReason::KeptLongEnough, Some(reply));
        } else {
            drop(reply.send(Ok(false)));
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
            Decision::Start(transition) => {
                fault::point!("timeout.due");
                if transition == Transition::Kill {
                    self.begin_kill(KillReason::Expired);
                    return;
                }
                let mode = if record.auto_pause_memory {
                    PauseMode::Full
                } else {
                    PauseMode::Filesystem
                };
                self.begin_pause(HowToPause {
                    mode,
                    strict: false,
                });
            }
            Decision::After(_) => self.waiting.push(Message::Expire),
            Decision::Satisfied | Decision::Join(_) | Decision::Reject(_) => {}
        }
    }

    /// The sandbox as it runs, for a request that changes nothing of its state.
    fn runs(&self, request: Request) -> Result<RunningSandbox, SandboxError> {
        match self.decide(request) {
            Decision::Satisfied => self.run.clone().ok_or_else(|| Node::not_found(self.id())),
            Decision::Reject(Rejection::NotFound) => Err(Node::not_found(self.id())),
            Decision::Reject(rejection) => Err(self.refusal(rejection)),
            // Only requests that may wait or begin something are answered so; they have functions of their own.
            Decision::Start(_) | Decision::Join(_) | Decision::After(_) => {
                Err(Node::not_found(self.id()))
            }
        }
    }

    /// In force first, then recorded: the record is for people, the guest knows what it may reach.
    async fn set_network(&mut self, change: NetworkChange) -> Result<(), SandboxError> {
        let run = self.runs(Request::Update)?;
        // Trusted before it is needed: what is refused now is tried again by nobody.
        let network = going_on_from(change.network.clone(), &run.guest.network());
        let put = match trust_live(&self.node, &run.guest, &network).await {
            Ok(()) => {
                fault::point!("network.trusted");
                run.guest.set_network(&network).await
            }
            refused => refused,
        };
        put.map_err(|source| SandboxError::Network {
            id: self.id().clone(),
            source: Arc::new(source),
        })?;
        fault::point!("network.in-force");
        let mut record = (*run.record).clone();
        record.network = Some(change.with_ingress_of(record.network.take()));
        record.allow_internet_access = change
            .allow_internet_access
            .or(record.allow_internet_access);
        let written = self.node.store.set_network(&record).await;
        if !written.map_err(store_error("record the network of a sandbox"))? {
            // Somebody has deleted the record: the reconciler will kill the guest.
            self.node.reconcile_wanted.notify_one();
            return Err(Node::not_found(self.id()));
        }
        fault::point!("network.row-written");
        self.run = Some(RunningSandbox {
            record: Arc::new(record),
            guest: run.guest,
        });
        self.publish();
        Ok(())
    }

    async fn set_end(
        &mut self,
        request: Request,
        change: EndChange,
    ) -> Result<SandboxView, SandboxError> {
        let run = self.runs(request)?;
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
            .set_end_at(self.id(), end_at, self.node.now())
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

    // Pause and resume

    fn pause(&mut self, how: HowToPause, reply: Reply<()>) {
        match self.decide(Request::Pause) {
            Decision::Start(_) => {
                self.pause_replies.push(reply);
                self.begin_pause(how);
            }
            Decision::Join(_) => self.pause_replies.push(reply),
            Decision::After(_) => self.waiting.push(Message::Pause { how, reply }),
            Decision::Satisfied => drop(reply.send(Ok(()))),
            Decision::Reject(rejection) => drop(reply.send(Err(self.refusal(rejection)))),
        }
    }

    fn refusal(&self, rejection: Rejection) -> SandboxError {
        SandboxError::Conflict {
            id: self.id().clone(),
            rejection,
        }
    }

    /// First nobody may come in any more, then it stands still.
    fn begin_pause(&mut self, how: HowToPause) {
        let Some(run) = self.run.clone() else { return };
        self.state = Transition::Pause.state();
        self.guest_ended = None;
        self.node.expiry.remove(self.id());
        self.publish();
        self.node.live.close_route(self.id());
        fault::point!("pause.route-closed");
        let work = pausing::pause(self.node.clone(), run, how);
        self.in_flight = Some(Box::pin(async move { Ended::Pause(work.await) }));
    }

    fn pause_ended(&mut self, outcome: Result<PausedSandbox, SandboxError>) {
        let answer = match outcome {
            Ok(paused) => {
                self.state = complete(Transition::Pause, Outcome::Done);
                self.run = None;
                self.node.store.log(journal::paused(&paused.record));
                tracing::info!(sandbox.id = %self.id(), "sandbox paused");
                self.rests(paused);
                self.publish();
                Ok(())
            }
            Err(error) => {
                self.state = complete(Transition::Pause, Outcome::Undone);
                tracing::warn!(sandbox.id = %self.id(), error = %soulbox_telemetry::chain(&error), "sandbox not paused");
                if let Some(run) = self.run.clone() {
                    self.node
                        .store
                        .log(journal::not_paused(&run.record, self.node.now(), &error));
                    self.goes_on(run);
                }
                Err(error)
            }
        };
        for reply in self.pause_replies.drain(..) {
            drop(reply.send(answer.clone()));
        }
        fault::point!("pause.answered");
        if let Some(reason) = self.kill_reason {
            self.begin_kill(reason);
        }
    }

    /// It could not be paused and runs on. When its time is over, that is tried again after a while.
    fn goes_on(&mut self, run: RunningSandbox) {
        let end_at = run.record.end_at;
        self.run_begins(run);
        let now = self.node.now();
        if end_at <= now {
            self.node.expiry.set(self.id(), now.plus(PAUSE_RETRY));
        }
    }

    /// It is paused: what remains may end by itself. Its files are saved after a while, also when an earlier pause has done
    /// so: it may have run since then. Only then it may go to disk.
    fn rests(&mut self, paused: PausedSandbox) {
        self.oom_kills = None;
        self.handle.stays.store(false, Ordering::Release);
        self.files_saved = paused.guest.clone().map(|guest| {
            let saved = pausing::save_in_a_while(&self.node, guest, &paused.record);
            let saved: BoxFuture<'static, Option<Pause>> = Box::pin(saved);
            saved
        });
        self.watch(paused);
    }

    /// It is paused, and its guest may end by itself.
    fn watch(&mut self, paused: PausedSandbox) {
        self.guest_ended = paused.guest.clone().map(|guest| {
            let ended: BoxFuture<'static, ()> = Box::pin(async move { guest.ended().await });
            ended
        });
        self.paused = Some(paused);
    }

    /// From now on, it would survive the loss of its memory.
    async fn note_saved_files(&mut self, pause: Option<Pause>) {
        let (Some(pause), Some(paused)) = (pause, &mut self.paused) else {
            self.handle.stays.store(true, Ordering::Release);
            return;
        };
        let mut record = (*paused.record).clone();
        let written = self
            .node
            .store
            .pause_sandbox(&record.id, record.end_at, &pause)
            .await;
        match written {
            Ok(_) => {
                record.pause = Some(pause);
                paused.record = Arc::new(record);
                let node = Arc::clone(&self.node);
                self.put_away = Some(Box::pin(async move {
                    hibernation::in_a_while(&node, node.settings.hibernate_after).await;
                }));
            }
            Err(error) => {
                let error = soulbox_telemetry::chain(&error);
                tracing::error!(sandbox.id = %self.handle.id, error, "files of a paused sandbox are saved, and its record does not say so");
            }
        }
    }

    /// The end of its guest is no end of the sandbox then.
    fn begin_put_away(&mut self) {
        let Some(paused) = &self.paused else { return };
        let Some(guest) = paused.guest.clone() else {
            return;
        };
        self.guest_ended = None;
        let work = hibernation::put_away(self.node.clone(), paused.record.clone(), guest);
        self.in_flight = Some(Box::pin(async move { Ended::PutAway(work.await) }));
    }

    fn is_put_away(&mut self, pause: Option<Pause>) {
        let Some(paused) = self.paused.take() else {
            return;
        };
        match pause {
            Some(pause) => {
                let mut record = (*paused.record).clone();
                record.pause = Some(pause);
                self.paused = Some(PausedSandbox {
                    record: Arc::new(record),
                    guest: None,
                });
            }
            None => {
                self.handle.stays.store(true, Ordering::Release);
                self.watch(paused);
            }
        }
    }

    /// Of a paused sandbox, files may be left.
    async fn guest_is_gone(&mut self) {
        if let Some(paused) = self.paused.take() {
            let left = pausing::without_guest(&self.node, paused.clone()).await;
            let is_left = left.is_some();
            self.paused = Some(left.unwrap_or(paused));
            if is_left {
                return;
            }
        }
        self.kill(KillReason::GuestEnded, None);
    }

    async fn start(&mut self, request: Request, how: HowToResume, reply: Reply<Started>) {
        match self.decide(request) {
            Decision::Satisfied => {
                let change = EndChange::AtLeast(how.timeout);
                let answer = self.set_end(request, change).await;
                drop(reply.send(answer.map(|view| Started {
                    view,
                    resumed: false,
                })));
            }
            Decision::Start(_) => {
                if let Err(error) = self.begin_resume(how) {
                    drop(reply.send(Err(error)));
                } else {
                    self.resume_replies.push(reply);
                }
            }
            Decision::Join(_) if !how.memory => {
                let id = self.id().clone();
                drop(reply.send(Err(SandboxError::StartInFlight { id })));
            }
            Decision::Join(_) if request == Request::Resume => self.resume_replies.push(reply),
            Decision::Join(_) | Decision::After(_) => self.waiting.push(Message::Start {
                request,
                how,
                reply,
            }),
            Decision::Reject(rejection) => drop(reply.send(Err(self.refusal(rejection)))),
        }
    }

    fn begin_resume(&mut self, how: HowToResume) -> Result<(), SandboxError> {
        let id = self.id().clone();
        let paused = self.paused.clone().ok_or_else(|| Node::not_found(&id))?;
        let has_memory = |pause: &Pause| paused.guest.is_some() || pause.memory.is_some();
        let unresponsive = |pause: &Pause| pause.guest_unresponsive && has_memory(pause);
        if how.memory && paused.record.pause.as_ref().is_some_and(unresponsive) {
            return Err(SandboxError::PausedUnresponsive { id });
        }
        let state = Transition::Resume.state();
        let max = self.node.settings.max_concurrent_per_team;
        let published = Published { state, run: None };
        self.node.live.reserve_again(&self.handle, published, max)?;
        self.state = state;
        self.guest_ended = None;
        self.files_saved = None;
        self.put_away = None;
        let work = pausing::resume(self.node.clone(), paused, how);
        self.in_flight = Some(Box::pin(async move { Ended::Resume(work.await) }));
        Ok(())
    }

    async fn resume_ended(&mut self, outcome: Result<RunningSandbox, SandboxError>) {
        let answer = match outcome {
            Ok(run) => {
                self.state = complete(Transition::Resume, Outcome::Done);
                self.paused = None;
                self.node.store.log(journal::resumed(&run.record));
                tracing::info!(sandbox.id = %self.id(), "sandbox resumed");
                let view = self.node.view(&run);
                self.run_begins(run);
                Ok(Started {
                    view,
                    resumed: true,
                })
            }
            Err(error) => {
                self.state = complete(Transition::Resume, Outcome::Undone);
                tracing::warn!(sandbox.id = %self.id(), error = %soulbox_telemetry::chain(&error), "sandbox not resumed");
                if let Some(paused) = self.paused.take() {
                    let paused = pausing::what_is_left(&self.node, paused).await;
                    self.rests(paused);
                }
                self.publish();
                Err(error)
            }
        };
        for reply in self.resume_replies.drain(..) {
            drop(reply.send(answer.clone()));
        }
        fault::point!("resume.answered");
        if let Some(reason) = self.kill_reason {
            self.begin_kill(reason);
        }
    }

    // Save

    fn save(&mut self, request: Request, memory: bool, reply: Reply<Saved>) {
        match (self.decide(request), self.run.clone()) {
            (Decision::Start(_), Some(run)) => {
                self.save_reply = Some(reply);
                self.state = Transition::Snapshot.state();
                self.publish();
                let work = saving::save(self.node.clone(), run, memory);
                self.in_flight = Some(Box::pin(async move { Ended::Save(work.await) }));
            }
            (Decision::Reject(rejection), _) => drop(reply.send(Err(self.refusal(rejection)))),
            // Only requests that may wait are answered so; they have functions of their own.
            _ => drop(reply.send(Err(Node::not_found(self.id())))),
        }
    }

    fn save_ended(&mut self, outcome: Result<Saved, SandboxError>) {
        let ended = match &outcome {
            Ok(_) => Outcome::Done,
            Err(error) => {
                tracing::warn!(sandbox.id = %self.id(), error = %soulbox_telemetry::chain(error), "sandbox not saved");
                Outcome::Undone
            }
        };
        self.state = complete(Transition::Snapshot, ended);
        self.publish();
        if let Some(reply) = self.save_reply.take() {
            drop(reply.send(outcome));
        }
        if let Some(reason) = self.kill_reason {
            self.begin_kill(reason);
        }
    }

    // Kill

    /// First nobody may come in any more, then those inside are put out, then it ends.
    fn begin_kill(&mut self, reason: KillReason) {
        let guest = match (&self.run, &self.paused) {
            (Some(run), _) => Some(Arc::clone(&run.guest)),
            (None, Some(paused)) => paused.guest.clone(),
            (None, None) => return,
        };
        let pause = self
            .paused
            .as_ref()
            .and_then(|paused| paused.record.pause.as_ref());
        let memory = pause.and_then(|pause| pause.memory.clone());
        self.kill_reason = Some(reason);
        self.state = Transition::Kill.state();
        self.guest_ended = None;
        self.files_saved = None;
        self.put_away = None;
        self.node.expiry.remove(self.id());
        self.publish();
        fault::point!("kill.begun");
        self.node.live.close_route(self.id());
        fault::point!("kill.route-closed");
        let left = transitions::Left { guest, memory };
        let work = transitions::kill(self.node.clone(), self.id().clone(), reason.told(), left);
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
                self.paused = None;
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
                _ if self.paused.is_some() => {}
                Message::Kill {
                    reply: Some(reply), ..
                } => drop(reply.send(Ok(false))),
                Message::SetEnd { reply, .. } => drop(reply.send(Err(Node::not_found(self.id())))),
                Message::SetNetwork { reply, .. } => {
                    drop(reply.send(Err(Node::not_found(self.id()))));
                }
                // Whoever hears nothing looks once more: a paused sandbox may be there, without an actor.
                Message::Pause { .. } | Message::Save { .. } | Message::Start { .. } => {}
                Message::LetGo { reply, .. } => drop(reply.send(Ok(false))),
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
    moments: Moments,
) -> impl Future<Output = Result<RunningSandbox, SandboxError>> + use<> {
    let (reply, answer) = oneshot::channel();
    let creator = node.clone();
    node.tasks.spawn("create", async move {
        let outcome = transitions::create(creator.clone(), id, new, moments).await;
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

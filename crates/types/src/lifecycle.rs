//! The life of a sandbox as a pure state machine.
//!
//! One function, [`decide`], answers every request on a sandbox from its state alone; whoever owns the sandbox carries
//! the answer out, so that idempotence, "kill always wins" and "a pause waits for the checkpoint" are cases of one table
//! and not of timing. [`complete`] says where a finished transition leads.
//!
//! A transition in flight is part of the state (`Pausing`, `Killing`, …). The one promise that outlives it is a queued
//! kill: once given, everything else is answered as if the kill had begun.

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Being made; nobody but its creator may know it.
    Creating,
    /// Usable.
    Running,
    /// On the way to `Paused`.
    Pausing,
    /// Saved; uses no CPU.
    Paused,
    /// On the way back to `Running`.
    Resuming,
    /// A checkpoint is taken in place; it runs on afterwards.
    Snapshotting,
    /// On the way to `Gone`.
    Killing,
    /// Nothing is left.
    Gone,
    /// A transition broke it: it can only be killed.
    Failed,
}

/// What changes a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// To `Running`, from nothing.
    Create,
    /// `Running` to `Paused`.
    Pause,
    /// `Paused` to `Running`.
    Resume,
    /// `Running` to `Running`, leaving a checkpoint.
    Snapshot,
    /// Anything to `Gone`.
    Kill,
}

/// What somebody wants of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// End it.
    Kill,
    /// Its end time has come and the policy says kill.
    ExpireByKill,
    /// Its end time has come and the policy says pause.
    ExpireByPause,
    /// Save and stop it.
    Pause,
    /// Bring it back; an error when it runs (the old call).
    Resume,
    /// Make sure that it runs.
    Connect,
    /// Change its end time or network.
    Update,
    /// Take a checkpoint to create others from.
    Snapshot,
    /// Take a checkpoint and start others from it.
    Fork,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Begin this transition; its outcome is the answer.
    Start(Transition),
    /// It is already so, or can be done in place: go ahead.
    Satisfied,
    /// The same is in flight: its outcome is the answer.
    Join(Transition),
    /// Ask again when the transition in flight has ended.
    After(Transition),
    /// No, and why.
    Reject(Rejection),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It does not exist, for this request.
    NotFound,
    /// Not while this transition is in flight.
    InTransition(Transition),
    /// A pause of a paused one.
    AlreadyPaused,
    /// A resume of a running one.
    AlreadyRunning,
    /// A resume during a checkpoint.
    SnapshotInProgress,
    /// A checkpoint in this state.
    CannotSnapshot(State),
    /// A fork in this state.
    CannotFork(State),
    /// A fork of a paused one.
    PausedCannotFork,
}

/// How a transition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As wanted.
    Done,
    /// Not done, and everything is as before.
    Undone,
    /// Not done, and the sandbox is damaged.
    Broken,
}

impl State {
    /// The transition that is in flight in this state.
    #[must_use]
    pub fn in_flight(self) -> Option<Transition> {
        match self {
            Self::Creating => Some(Transition::Create),
            Self::Pausing => Some(Transition::Pause),
            Self::Resuming => Some(Transition::Resume),
            Self::Snapshotting => Some(Transition::Snapshot),
            Self::Killing => Some(Transition::Kill),
            Self::Running | Self::Paused | Self::Gone | Self::Failed => None,
        }
    }

    /// Whether it takes one of its team's places for concurrent sandboxes.
    #[must_use]
    pub fn counts_as_concurrent(self) -> bool {
        match self {
            Self::Creating
            | Self::Running
            | Self::Pausing
            | Self::Resuming
            | Self::Snapshotting => true,
            Self::Paused | Self::Killing | Self::Gone | Self::Failed => false,
        }
    }

    /// The name that messages use for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Snapshotting => "snapshotting",
            Self::Killing => "killing",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }

    /// Every state, for tables and tests.
    pub const ALL: [Self; 9] = [
        Self::Creating,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Snapshotting,
        Self::Killing,
        Self::Gone,
        Self::Failed,
    ];
}

impl Request {
    /// Every request, for tables and tests.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::ExpireByKill,
        Self::ExpireByPause,
        Self::Pause,
        Self::Resume,
        Self::Connect,
        Self::Update,
        Self::Snapshot,
        Self::Fork,
    ];
}

impl Transition {
    /// The state while it is in flight.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::Create => State::Creating,
            Self::Pause => State::Pausing,
            Self::Resume => State::Resuming,
            Self::Snapshot => State::Snapshotting,
            Self::Kill => State::Killing,
        }
    }
}

/// Answers a request on a sandbox in `state`, where `queued` has been promised to follow the transition in flight.
#[must_use]
pub fn decide(state: State, queued: Option<Transition>, request: Request) -> Decision {
    if queued == Some(Transition::Kill) {
        return match (request, state.in_flight()) {
            // The promise is kept when the transition in flight ends; a second kill waits for the same end.
            (Request::Kill, Some(in_flight)) if in_flight != Transition::Kill => {
                Decision::After(in_flight)
            }
            (Request::Kill, None) => kill(state),
            _ => decide_in(State::Killing, request),
        };
    }
    decide_in(state, request)
}

fn decide_in(state: State, request: Request) -> Decision {
    match request {
        Request::Kill => kill(state),
        Request::ExpireByKill | Request::ExpireByPause => expire(state, request),
        Request::Pause => pause(state),
        Request::Resume => resume(state),
        Request::Connect => connect(state),
        Request::Update => update(state),
        Request::Snapshot => checkpoint(state, Rejection::CannotSnapshot, Rejection::NotFound),
        Request::Fork => checkpoint(state, Rejection::CannotFork, Rejection::PausedCannotFork),
    }
}

fn kill(state: State) -> Decision {
    match state {
        State::Running | State::Paused | State::Failed => Decision::Start(Transition::Kill),
        State::Killing => Decision::Join(Transition::Kill),
        // No transition may be torn down half-way: the guest is in the hands of the driver until it ends.
        State::Creating => Decision::After(Transition::Create),
        State::Pausing => Decision::After(Transition::Pause),
        State::Resuming => Decision::After(Transition::Resume),
        State::Snapshotting => Decision::After(Transition::Snapshot),
        State::Gone => Decision::Reject(Rejection::NotFound),
    }
}

fn expire(state: State, request: Request) -> Decision {
    let transition = if request == Request::ExpireByPause {
        Transition::Pause
    } else {
        Transition::Kill
    };
    match state {
        State::Running => Decision::Start(transition),
        State::Snapshotting => Decision::After(Transition::Snapshot),
        // A resume sets a new end time; the old one means nothing any more.
        State::Creating
        | State::Pausing
        | State::Paused
        | State::Resuming
        | State::Killing
        | State::Gone
        | State::Failed => Decision::Satisfied,
    }
}

fn pause(state: State) -> Decision {
    match state {
        State::Running => Decision::Start(Transition::Pause),
        State::Pausing => Decision::Join(Transition::Pause),
        State::Snapshotting => Decision::After(Transition::Snapshot),
        State::Resuming => Decision::After(Transition::Resume),
        State::Paused => Decision::Reject(Rejection::AlreadyPaused),
        State::Creating | State::Killing | State::Gone | State::Failed => {
            Decision::Reject(Rejection::NotFound)
        }
    }
}

fn resume(state: State) -> Decision {
    match state {
        State::Paused => Decision::Start(Transition::Resume),
        State::Resuming => Decision::Join(Transition::Resume),
        State::Pausing => Decision::After(Transition::Pause),
        State::Running => Decision::Reject(Rejection::AlreadyRunning),
        State::Snapshotting => Decision::Reject(Rejection::SnapshotInProgress),
        State::Creating | State::Killing | State::Gone | State::Failed => {
            Decision::Reject(Rejection::NotFound)
        }
    }
}

fn connect(state: State) -> Decision {
    match state {
        State::Running => Decision::Satisfied,
        State::Paused => Decision::Start(Transition::Resume),
        State::Resuming => Decision::Join(Transition::Resume),
        State::Pausing => Decision::After(Transition::Pause),
        State::Snapshotting => Decision::After(Transition::Snapshot),
        State::Killing => Decision::Reject(Rejection::InTransition(Transition::Kill)),
        State::Creating | State::Gone | State::Failed => Decision::Reject(Rejection::NotFound),
    }
}

fn update(state: State) -> Decision {
    match state {
        State::Running => Decision::Satisfied,
        State::Pausing | State::Snapshotting | State::Killing | State::Resuming => {
            Decision::Reject(
                state
                    .in_flight()
                    .map_or(Rejection::NotFound, Rejection::InTransition),
            )
        }
        State::Creating | State::Paused | State::Gone | State::Failed => {
            Decision::Reject(Rejection::NotFound)
        }
    }
}

fn checkpoint(state: State, busy: fn(State) -> Rejection, paused: Rejection) -> Decision {
    match state {
        State::Running => Decision::Start(Transition::Snapshot),
        State::Pausing | State::Resuming | State::Snapshotting | State::Killing => {
            Decision::Reject(busy(state))
        }
        State::Paused => Decision::Reject(paused),
        State::Creating | State::Gone | State::Failed => Decision::Reject(Rejection::NotFound),
    }
}

/// The state that a transition leads to when it has ended.
#[must_use]
pub fn complete(transition: Transition, outcome: Outcome) -> State {
    match (transition, outcome) {
        (Transition::Create | Transition::Resume | Transition::Snapshot, Outcome::Done)
        | (Transition::Pause | Transition::Snapshot, Outcome::Undone) => State::Running,
        (Transition::Pause, Outcome::Done) | (Transition::Resume, Outcome::Undone) => State::Paused,
        // The driver leaves nothing behind when a create fails.
        (Transition::Create, Outcome::Undone) | (Transition::Kill, Outcome::Done) => State::Gone,
        (Transition::Kill, Outcome::Undone) | (_, Outcome::Broken) => State::Failed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One row of the table: a request, and its answer in each state of [`State::ALL`].
    type Row = (Request, [Decision; 9]);

    /// The table of the wire contract, completed for the states that callers never see.
    #[rustfmt::skip]
    fn table() -> Vec<Row> {
        use Decision::{After, Join, Reject, Satisfied, Start};
        use Rejection::{AlreadyPaused, AlreadyRunning, InTransition, NotFound, PausedCannotFork, SnapshotInProgress};
        use Transition::{Create, Kill, Pause, Resume, Snapshot};
        let no = Reject(NotFound);
        let busy = |transition| Reject(InTransition(transition));
        let snap = |state| Reject(Rejection::CannotSnapshot(state));
        let fork = |state| Reject(Rejection::CannotFork(state));
        let (pausing, resuming) = (State::Pausing, State::Resuming);
        let (snapshotting, killing) = (State::Snapshotting, State::Killing);
        vec![
            //                        creating       running                 pausing        paused                    resuming        snapshotting                 killing        gone       failed
            (Request::Kill,          [After(Create), Start(Kill),            After(Pause),  Start(Kill),              After(Resume),  After(Snapshot),             Join(Kill),    no,        Start(Kill)]),
            (Request::ExpireByKill,  [Satisfied,     Start(Kill),            Satisfied,     Satisfied,                Satisfied,      After(Snapshot),             Satisfied,     Satisfied, Satisfied]),
            (Request::ExpireByPause, [Satisfied,     Start(Pause),           Satisfied,     Satisfied,                Satisfied,      After(Snapshot),             Satisfied,     Satisfied, Satisfied]),
            (Request::Pause,         [no,            Start(Pause),           Join(Pause),   Reject(AlreadyPaused),    After(Resume),  After(Snapshot),             no,            no,        no]),
            (Request::Resume,        [no,            Reject(AlreadyRunning), After(Pause),  Start(Resume),            Join(Resume),   Reject(SnapshotInProgress),  no,            no,        no]),
            (Request::Connect,       [no,            Satisfied,              After(Pause),  Start(Resume),            Join(Resume),   After(Snapshot),             busy(Kill),    no,        no]),
            (Request::Update,        [no,            Satisfied,              busy(Pause),   no,                       busy(Resume),   busy(Snapshot),              busy(Kill),    no,        no]),
            (Request::Snapshot,      [no,            Start(Snapshot),        snap(pausing), no,                       snap(resuming), snap(snapshotting),          snap(killing), no,        no]),
            (Request::Fork,          [no,            Start(Snapshot),        fork(pausing), Reject(PausedCannotFork), fork(resuming), fork(snapshotting),          fork(killing), no,        no]),
        ]
    }

    #[test]
    fn every_request_in_every_state() {
        let rows = table();
        assert_eq!(
            rows.iter().map(|row| row.0).collect::<Vec<_>>(),
            Request::ALL
        );
        for (request, answers) in rows {
            for (state, want) in State::ALL.into_iter().zip(answers) {
                assert_eq!(
                    decide(state, None, request),
                    want,
                    "{request:?} while {}",
                    state.name()
                );
            }
        }
    }

    #[test]
    fn a_queued_kill_is_as_good_as_begun() {
        for state in State::ALL
            .into_iter()
            .filter(|state| state.in_flight().is_some())
        {
            for request in Request::ALL
                .into_iter()
                .filter(|request| *request != Request::Kill)
            {
                let as_if = decide(State::Killing, None, request);
                assert_eq!(
                    decide(state, Some(Transition::Kill), request),
                    as_if,
                    "{request:?} while {}",
                    state.name()
                );
            }
        }
        let kill = |state| decide(state, Some(Transition::Kill), Request::Kill);
        assert_eq!(kill(State::Pausing), Decision::After(Transition::Pause));
        assert_eq!(kill(State::Killing), Decision::Join(Transition::Kill));
        assert_eq!(kill(State::Running), Decision::Start(Transition::Kill));
    }

    #[test]
    fn where_transitions_lead() {
        let check = |transition, ends: [State; 3]| {
            let outcomes = [Outcome::Done, Outcome::Undone, Outcome::Broken];
            assert_eq!(
                outcomes.map(|outcome| complete(transition, outcome)),
                ends,
                "{transition:?}"
            );
            assert_eq!(transition.state().in_flight(), Some(transition));
        };
        check(
            Transition::Create,
            [State::Running, State::Gone, State::Failed],
        );
        check(
            Transition::Pause,
            [State::Paused, State::Running, State::Failed],
        );
        check(
            Transition::Resume,
            [State::Running, State::Paused, State::Failed],
        );
        check(
            Transition::Snapshot,
            [State::Running, State::Running, State::Failed],
        );
        check(
            Transition::Kill,
            [State::Gone, State::Failed, State::Failed],
        );
    }

    /// What happens to a sandbox in a test: somebody asks for something, or the transition in flight ends.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Ask(Request),
        End(Outcome),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ask = proptest::sample::select(Request::ALL.to_vec()).prop_map(Step::Ask);
        let outcomes = vec![
            Outcome::Done,
            Outcome::Done,
            Outcome::Undone,
            Outcome::Broken,
        ];
        let end = proptest::sample::select(outcomes).prop_map(Step::End);
        proptest::collection::vec(prop_oneof![ask, end], 0..40)
    }

    /// An owner of a sandbox that does nothing of its own: it obeys `decide` and `complete`.
    struct Owner {
        state: State,
        waiting: Vec<Request>,
        begun: Vec<Transition>,
    }

    impl Owner {
        fn queued(&self) -> Option<Transition> {
            self.waiting
                .contains(&Request::Kill)
                .then_some(Transition::Kill)
        }

        fn ask(&mut self, request: Request) -> Decision {
            let decision = decide(self.state, self.queued(), request);
            match decision {
                Decision::Start(transition) => {
                    assert_eq!(self.state.in_flight(), None, "one transition at a time");
                    self.begun.push(transition);
                    self.state = transition.state();
                }
                Decision::After(transition) => {
                    assert_eq!(
                        self.state.in_flight(),
                        Some(transition),
                        "one waits only for what is in flight"
                    );
                    self.waiting.push(request);
                }
                Decision::Join(transition) => assert_eq!(self.state.in_flight(), Some(transition)),
                Decision::Satisfied | Decision::Reject(_) => {}
            }
            decision
        }

        fn end(&mut self, outcome: Outcome) {
            let Some(transition) = self.state.in_flight() else {
                return;
            };
            self.state = complete(transition, outcome);
            let mut waiting = std::mem::take(&mut self.waiting);
            // Kills first; the others are asked again in their order.
            waiting.sort_by_key(|request| *request != Request::Kill);
            for request in waiting {
                self.ask(request);
            }
        }
    }

    /// The reference: what a sandbox's owner would say of it, without any of the machine's states.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Model {
        /// Has memory and files somewhere.
        exists: bool,
        /// Somebody was promised that it would end.
        doomed: bool,
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(steps in steps()) {
            let mut owner = Owner { state: State::Creating, waiting: Vec::new(), begun: Vec::new() };
            let mut model = Model { exists: true, doomed: false };
            for step in steps {
                let before = owner.state;
                match step {
                    Step::Ask(request) => {
                        let begun = owner.begun.len();
                        let decision = owner.ask(request);
                        if !model.exists {
                            let nothing = matches!(decision, Decision::Reject(Rejection::NotFound) | Decision::Satisfied);
                            prop_assert!(nothing, "{decision:?} of what is gone");
                        }
                        if request == Request::Kill && model.exists {
                            prop_assert!(!matches!(decision, Decision::Reject(_)), "a kill is never refused");
                            model.doomed = true;
                        } else if model.doomed {
                            // Whoever was promised an end gets it: nothing else begins any more.
                            prop_assert_eq!(owner.begun.len(), begun);
                        }
                        if request == Request::ExpireByKill && decision == Decision::Start(Transition::Kill) {
                            model.doomed = true;
                        }
                    }
                    Step::End(outcome) => {
                        owner.end(outcome);
                        // A kill that fails takes the promise back; the reconciler asks again.
                        if before == State::Killing && outcome != Outcome::Done {
                            model.doomed = false;
                        }
                        if owner.begun.last() == Some(&Transition::Kill) && owner.state == State::Killing {
                            model.doomed = true;
                        }
                        if before.in_flight().is_some() {
                            let ends = (before, outcome);
                            let died = matches!(ends, (State::Killing, Outcome::Done) | (State::Creating, Outcome::Undone));
                            model.exists = model.exists && !died;
                        }
                    }
                }
                prop_assert_eq!(owner.state != State::Gone, model.exists);
                if !model.exists {
                    model.doomed = false;
                    prop_assert!(owner.waiting.is_empty(), "nobody waits for what is gone");
                }
                if owner.state.in_flight().is_none() {
                    prop_assert!(owner.waiting.is_empty(), "nobody waits when nothing is in flight");
                    prop_assert!(!model.doomed, "a promised kill begins as soon as it can");
                }
            }
        }

        #[test]
        fn every_kill_ends_it(steps in steps()) {
            let mut owner = Owner { state: State::Creating, waiting: Vec::new(), begun: Vec::new() };
            for step in steps {
                match step {
                    Step::Ask(request) => { owner.ask(request); }
                    Step::End(outcome) => owner.end(outcome),
                }
            }
            owner.ask(Request::Kill);
            owner.end(Outcome::Done);
            owner.end(Outcome::Done);
            prop_assert_eq!(owner.state, State::Gone);
        }
    }
}

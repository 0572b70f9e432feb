//! The processes that clients started: which live, who listens, and how recent ones ended.
//!
//! A process is listed from before its start event until before its end event. Its end is kept for half a minute, so
//! that a client that connects a moment too late still learns it; for those that ask for what they missed, twice as
//! long, and the last output with it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use connectrpc::ConnectError;
use rustix::process::{Pid, Signal, kill_process};
use soulbox_envd_proto::process::process_event::EndEvent;
use soulbox_envd_proto::process::{ProcessConfig, ProcessInfo};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::archive::{Archive, Tape};
use super::heard::{Ahead, Begin, Event, Heard};
use super::input::{Input, Terminal};
use super::ring::{Chunk, Kind};
use crate::idle::worked;
use crate::sync::lock;

/// How long an end is told to whoever connects.
pub(crate) const END_RETENTION: Duration = Duration::from_secs(30);
/// How long to those that ask for what they missed.
pub(crate) const OUTPUT_RETENTION: Duration = Duration::from_secs(60);
/// How much longer it may be until the memory is given back: many that end soon after each other are one piece of work.
const SWEEP_DELAY: Duration = Duration::from_secs(5);
/// Ended processes whose output is kept.
const ENDED_OUTPUTS_MAX: usize = 64;
/// Ends remembered at once, so that a loop of short commands does not fill memory.
const ENDS_MAX: usize = 4096;
/// Processes at once. Far more than a sandbox's pid limit usually is.
pub(crate) const PROCESSES_MAX: usize = 4096;
/// Listeners of one process at once.
const LISTENERS_MAX: usize = 256;
/// Chunks that wait for one slow listener before the process has to.
const LISTENER_BUFFER: usize = 64;

/// How a client names a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    Pid(u32),
    Tag(String),
}

/// A live process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) config: ProcessConfig,
    pub(crate) tag: Option<String>,
    /// Where input goes; absent when it was started without.
    pub(crate) input: Option<Input>,
    /// The terminal it was started on.
    pub(crate) terminal: Option<Terminal>,
    /// Tells the output pumps to take what there is and stop, whoever still holds the other end.
    pub(crate) stop_output: CancellationToken,
    /// Cancelled by the reaper when it takes the exit status.
    pub(crate) reaped: CancellationToken,
    /// When it is killed for its time.
    pub(crate) deadline: Option<Instant>,
    /// Its last output.
    pub(crate) tape: Arc<Tape>,
    state: Mutex<State>,
    /// Taken in the order of the ring, so that every listener hears what the ring says.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<mpsc::Sender<Event>>,
    /// Somebody asked for its death: its end does not wait for the pipes that its children hold.
    doomed: bool,
    end: Option<Arc<EndEvent>>,
}

/// Why a client cannot listen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("too many listeners on one process (limit {LISTENERS_MAX})")]
    TooMany,
    #[error(transparent)]
    Ahead(#[from] Ahead),
}

impl From<ListenError> for ConnectError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::TooMany => Self::resource_exhausted(error.to_string()),
            ListenError::Ahead(ahead) => ahead.into(),
        }
    }
}

impl Process {
    pub(crate) fn new(
        pid: Pid,
        config: ProcessConfig,
        tag: Option<String>,
        reaped: CancellationToken,
        tape: Arc<Tape>,
    ) -> Self {
        let stop_output = CancellationToken::new();
        Self {
            pid,
            config,
            tag,
            input: None,
            terminal: None,
            stop_output,
            reaped,
            deadline: None,
            tape,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn with_deadline(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    pub(crate) fn with_streams(self, input: Option<Input>, terminal: Option<Terminal>) -> Self {
        Self {
            input,
            terminal,
            ..self
        }
    }

    /// The number as the wire has it.
    pub(crate) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Hears everything from where the client wants to begin. A process that has just ended gives its end.
    ///
    /// # Errors
    /// When there are too many listeners, or the client asks for what has not been written.
    pub(crate) fn listen(&self, begin: Begin) -> Result<Heard, ListenError> {
        let (sender, live) = mpsc::channel(LISTENER_BUFFER);
        // What is written meanwhile waits for this lock: it is in the ring and missed, or heard, and never both.
        let mut state = lock(&self.state);
        let heard = Heard::of_live(&self.tape, begin, live)?;
        if let Some(end) = &state.end {
            // A fresh channel has room.
            drop(sender.try_send(self.end_event(end)));
            return Ok(heard);
        }
        state.listeners.retain(|listener| !listener.is_closed());
        if state.listeners.len() >= LISTENERS_MAX {
            return Err(ListenError::TooMany);
        }
        state.listeners.push(sender);
        Ok(heard)
    }

    /// Keeps output and gives it to every live listener, waiting for slow ones.
    ///
    /// # Cancel safety
    /// It is kept when the future has been polled once; listeners that have not taken it find it in the ring.
    pub(crate) async fn publish(&self, kind: Kind, data: Bytes) {
        let (chunk, listeners) = {
            let state = lock(&self.state);
            let at = self.tape.append(kind, &data);
            (Chunk { at, kind, data }, state.listeners.clone())
        };
        // Those who wait for their turn get it in the order in which they were here, which is that of the ring.
        let _turn = self.turn.lock().await;
        let mut gone = false;
        for listener in &listeners {
            let event = Event::Output(chunk.clone());
            gone |= listener.send(event).await.is_err();
        }
        if gone {
            lock(&self.state)
                .listeners
                .retain(|listener| !listener.is_closed());
        }
    }

    pub(crate) fn end_event(&self, end: &Arc<EndEvent>) -> Event {
        Event::End {
            written: self.tape.end(),
            end: Arc::clone(end),
        }
    }

    /// Records the end, and gives back who is to be told.
    pub(crate) fn finish(&self, end: &Arc<EndEvent>) -> Vec<mpsc::Sender<Event>> {
        let mut state = lock(&self.state);
        state.end = Some(Arc::clone(end));
        std::mem::take(&mut state.listeners)
    }

    pub(crate) fn doomed(&self) -> bool {
        lock(&self.state).doomed
    }

    /// Signals the process itself, not its children.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        lock(&self.state).doomed = true;
        if self.reaped.is_cancelled() {
            // Only its output is left, held open by a child of its own.
            self.stop_output.cancel();
            return Ok(());
        }
        // The number cannot belong to another process: it has not been waited for.
        kill_process(self.pid, signal)
    }
}

/// What is left of a process that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) number: u32,
    tag: Option<String>,
    pub(crate) end: Arc<EndEvent>,
    at: Instant,
    /// When its time was up, if that was before its end.
    pub(crate) overran: Option<Instant>,
    /// How much output it wrote.
    pub(crate) written: u64,
    /// As [`Tape::name`].
    pub(crate) name: String,
    /// None when there were too many ends since.
    pub(crate) tape: Option<Arc<Tape>>,
}

#[derive(Debug, Default)]
struct Entries {
    live: HashMap<u32, Arc<Process>>,
    /// In the order of their ends.
    ended: VecDeque<Ended>,
}

impl Entries {
    fn forget_expired(&mut self, now: Instant) {
        while self
            .ended
            .front()
            .is_some_and(|e| now >= e.at + OUTPUT_RETENTION)
        {
            self.ended.pop_front();
        }
    }
}

/// All processes of this envd.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Mutex<Entries>,
    archive: Arc<Archive>,
    /// Told when there is output of an ended process to forget later.
    ended: Notify,
}

/// What a selector finds.
#[derive(Debug)]
pub(crate) enum Found {
    Live(Arc<Process>),
    Ended(Ended),
}

impl Table {
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.entries).live.len() >= PROCESSES_MAX
    }

    /// Where a new process's output will be kept.
    pub(crate) fn open_tape(&self) -> Arc<Tape> {
        self.archive.open()
    }

    /// Enters a process; what ended under its number or tag is forgotten.
    pub(crate) fn insert(&self, process: Arc<Process>) {
        let number = process.number();
        let mut entries = lock(&self.entries);
        let tag = process.tag.as_deref();
        entries
            .ended
            .retain(|e| e.number != number && (tag.is_none() || e.tag.as_deref() != tag));
        entries.live.insert(number, process);
    }

    /// Takes a process from the list and remembers its end.
    pub(crate) fn retire(&self, process: &Process, end: &Arc<EndEvent>) {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        let number = process.number();
        entries.live.remove(&number);
        entries.forget_expired(now);
        if entries.ended.len() >= ENDS_MAX {
            entries.ended.pop_front();
        }
        entries.ended.push_back(Ended {
            number,
            tag: process.tag.clone(),
            end: Arc::clone(end),
            at: now,
            overran: process.deadline.filter(|deadline| now >= *deadline),
            written: process.tape.end(),
            name: process.tape.name.clone(),
            tape: Some(Arc::clone(&process.tape)),
        });
        if let Some(older) = entries.ended.iter_mut().nth_back(ENDED_OUTPUTS_MAX) {
            older.tape = None;
        }
        self.ended.notify_one();
    }

    /// Forgets ended processes when it is time. Sleeps for ever when there are none.
    pub(crate) async fn forget_in_time(&self) -> ! {
        loop {
            let oldest = lock(&self.entries).ended.front().map(|e| e.at);
            match oldest {
                Some(at) => {
                    tokio::time::sleep_until((at + OUTPUT_RETENTION + SWEEP_DELAY).into()).await;
                    lock(&self.entries).forget_expired(Instant::now());
                    worked();
                }
                None => self.ended.notified().await,
            }
        }
    }

    pub(crate) fn live(&self, selector: &Selector) -> Option<Arc<Process>> {
        let entries = lock(&self.entries);
        match selector {
            Selector::Pid(number) => entries.live.get(number).cloned(),
            Selector::Tag(tag) => entries
                .live
                .values()
                .find(|p| p.tag.as_ref() == Some(tag))
                .cloned(),
        }
    }

    /// What a selector means: a process that lives, or the last one that ended at most `retention` ago.
    pub(crate) fn find(&self, selector: &Selector, retention: Duration) -> Option<Found> {
        if let Some(process) = self.live(selector) {
            return Some(Found::Live(process));
        }
        let now = Instant::now();
        let entries = lock(&self.entries);
        let matches = |e: &&Ended| match selector {
            Selector::Pid(number) => e.number == *number,
            Selector::Tag(tag) => e.tag.as_ref() == Some(tag),
        };
        let mut recent = entries.ended.iter().rev();
        let ended = recent
            .by_ref()
            .take_while(|e| now < e.at + retention)
            .find(matches)?;
        Some(Found::Ended(ended.clone()))
    }

    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let info = |process: &Arc<Process>| ProcessInfo {
            config: process.config.clone().into(),
            pid: process.number(),
            tag: process.tag.clone(),
            ..ProcessInfo::default()
        };
        lock(&self.entries).live.values().map(info).collect()
    }
}

#[cfg(test)]
mod tests;

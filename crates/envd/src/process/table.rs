//! The processes that clients started: which live, who listens, and how recent ones ended.
//!
//! A process is listed from before its start event until before its end event. Its end is kept for half a minute, so
//! that a client that connects a moment too late still learns it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use soulbox_envd_proto::process::process_event::EndEvent;
use soulbox_envd_proto::process::{ProcessConfig, ProcessInfo};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::input::{Input, Terminal};
use crate::sync::lock;

/// How long an end is remembered.
const END_RETENTION: Duration = Duration::from_secs(30);
/// Ends remembered at once, so that a loop of short commands does not fill memory.
const ENDS_MAX: usize = 4096;
/// Processes at once. Far more than a sandbox's pid limit usually is.
pub(crate) const PROCESSES_MAX: usize = 4096;
/// Listeners of one process at once.
const LISTENERS_MAX: usize = 256;
/// Chunks that wait for one slow listener before the process has to.
const LISTENER_BUFFER: usize = 64;

/// What a listener hears.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Stdout(Bytes),
    Stderr(Bytes),
    Pty(Bytes),
    End(Arc<EndEvent>),
}

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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<mpsc::Sender<Event>>,
    /// Somebody asked for its death: its end does not wait for the pipes that its children hold.
    doomed: bool,
    end: Option<Arc<EndEvent>>,
}

/// Why nobody can listen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many listeners on one process (limit {LISTENERS_MAX})")]
pub(crate) struct TooManyListeners;

impl Process {
    pub(crate) fn new(
        pid: Pid,
        config: ProcessConfig,
        tag: Option<String>,
        reaped: CancellationToken,
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
            state: Mutex::default(),
        }
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

    /// Hears everything from now on. A process that has just ended gives its end.
    pub(crate) fn listen(&self) -> Result<mpsc::Receiver<Event>, TooManyListeners> {
        let (sender, receiver) = mpsc::channel(LISTENER_BUFFER);
        let mut state = lock(&self.state);
        if let Some(end) = &state.end {
            // A fresh channel has room.
            drop(sender.try_send(Event::End(Arc::clone(end))));
            return Ok(receiver);
        }
        state.listeners.retain(|listener| !listener.is_closed());
        if state.listeners.len() >= LISTENERS_MAX {
            return Err(TooManyListeners);
        }
        state.listeners.push(sender);
        Ok(receiver)
    }

    /// Gives an event to every live listener, waiting for slow ones. With none it is simply gone.
    pub(crate) async fn publish(&self, event: Event) {
        let listeners = lock(&self.state).listeners.clone();
        let mut gone = false;
        for listener in &listeners {
            gone |= listener.send(event.clone()).await.is_err();
        }
        if gone {
            lock(&self.state)
                .listeners
                .retain(|listener| !listener.is_closed());
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

#[derive(Debug)]
struct Ended {
    number: u32,
    tag: Option<String>,
    end: Arc<EndEvent>,
    until: Instant,
}

#[derive(Debug, Default)]
struct Entries {
    live: HashMap<u32, Arc<Process>>,
    /// In the order of their ends.
    ended: std::collections::VecDeque<Ended>,
}

/// All processes of this envd.
#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Entries>);

/// What a selector finds.
#[derive(Debug)]
pub(crate) enum Found {
    Live(Arc<Process>),
    Ended { number: u32, end: Arc<EndEvent> },
}

impl Table {
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.0).live.len() >= PROCESSES_MAX
    }

    /// Enters a process; what ended under its number or tag is forgotten.
    pub(crate) fn insert(&self, process: Arc<Process>) {
        let number = process.number();
        let mut entries = lock(&self.0);
        let tag = process.tag.as_deref();
        entries
            .ended
            .retain(|e| e.number != number && (tag.is_none() || e.tag.as_deref() != tag));
        entries.live.insert(number, process);
    }

    /// Takes a process from the list and remembers its end.
    pub(crate) fn retire(&self, process: &Process, end: &Arc<EndEvent>) {
        let now = Instant::now();
        let mut entries = lock(&self.0);
        let number = process.number();
        entries.live.remove(&number);
        entries.ended.retain(|e| e.until > now);
        if entries.ended.len() >= ENDS_MAX {
            entries.ended.pop_front();
        }
        let (tag, end) = (process.tag.clone(), Arc::clone(end));
        entries.ended.push_back(Ended {
            number,
            tag,
            end,
            until: now + END_RETENTION,
        });
    }

    pub(crate) fn live(&self, selector: &Selector) -> Option<Arc<Process>> {
        let entries = lock(&self.0);
        match selector {
            Selector::Pid(number) => entries.live.get(number).cloned(),
            Selector::Tag(tag) => entries
                .live
                .values()
                .find(|p| p.tag.as_ref() == Some(tag))
                .cloned(),
        }
    }

    pub(crate) fn find(&self, selector: &Selector) -> Option<Found> {
        if let Some(process) = self.live(selector) {
            return Some(Found::Live(process));
        }
        let now = Instant::now();
        let entries = lock(&self.0);
        let matches = |e: &&Ended| match selector {
            Selector::Pid(number) => e.number == *number,
            Selector::Tag(tag) => e.tag.as_ref() == Some(tag),
        };
        let ended = entries
            .ended
            .iter()
            .rev()
            .filter(|e| e.until > now)
            .find(matches)?;
        Some(Found::Ended {
            number: ended.number,
            end: Arc::clone(&ended.end),
        })
    }

    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let info = |process: &Arc<Process>| ProcessInfo {
            config: process.config.clone().into(),
            pid: process.number(),
            tag: process.tag.clone(),
            ..ProcessInfo::default()
        };
        lock(&self.0).live.values().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::exit_status::end_event;
    use crate::reaper::Exit;

    fn process(number: i32, tag: Option<&str>) -> Arc<Process> {
        let pid = Pid::from_raw(number).unwrap();
        Arc::new(Process::new(
            pid,
            ProcessConfig::default(),
            tag.map(str::to_owned),
            CancellationToken::new(),
        ))
    }

    fn end() -> Arc<EndEvent> {
        Arc::new(end_event(Exit::Code(0), None))
    }

    #[test]
    fn ends_are_remembered_until_the_name_is_taken_again() {
        let table = Table::default();
        let first = process(5, Some("a"));
        table.insert(Arc::clone(&first));
        assert!(matches!(
            table.find(&Selector::Tag("a".into())),
            Some(Found::Live(_))
        ));
        table.retire(&first, &end());
        assert!(table.list().is_empty());
        assert!(matches!(
            table.find(&Selector::Pid(5)),
            Some(Found::Ended { number: 5, .. })
        ));
        assert!(table.live(&Selector::Pid(5)).is_none());
        table.insert(process(6, Some("a")));
        assert!(table.find(&Selector::Pid(5)).is_none());
        assert!(
            matches!(table.find(&Selector::Tag("a".into())), Some(Found::Live(p)) if p.number() == 6)
        );
        assert!(table.find(&Selector::Tag("b".into())).is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn listeners_hear_everything_since_they_came() {
        let process = process(5, None);
        process.publish(Event::Stdout("lost".into())).await;
        let mut one = process.listen().unwrap();
        process.publish(Event::Stdout("a".into())).await;
        let mut two = process.listen().unwrap();
        process.publish(Event::Stderr("b".into())).await;
        drop(process.finish(&end()));
        let mut late = process.listen().unwrap();
        assert!(matches!(one.recv().await, Some(Event::Stdout(b)) if b == "a"));
        assert!(matches!(one.recv().await, Some(Event::Stderr(b)) if b == "b"));
        assert!(one.recv().await.is_none());
        assert!(matches!(two.recv().await, Some(Event::Stderr(_))));
        assert!(matches!(late.recv().await, Some(Event::End(_))));
    }
}

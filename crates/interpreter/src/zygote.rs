//! A process that has a language's libraries loaded and forks kernels: one line of JSON per request and per answer.
//!
//! Its children die with it, and it dies when its input ends: nothing outlives the server.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{oneshot, watch};

use crate::kernel::KernelError;

/// Importing everything takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const WHO: &str = "the process that forks kernels";

/// A kernel that stands ready.
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) pid: i32,
    /// How it ended, once it has.
    pub(crate) ended: watch::Receiver<Option<String>>,
}

/// The process, while it lives.
#[derive(Debug)]
pub(crate) struct Zygote {
    stdin: tokio::sync::Mutex<ChildStdin>,
    state: Arc<Mutex<State>>,
    pid: i32,
    _child: Child,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Who waits for a kernel to become ready.
    waiting: HashMap<u64, oneshot::Sender<Result<Forked, KernelError>>>,
    /// Children that live: who they were asked by, and who is told of their end.
    children: HashMap<i32, (u64, watch::Sender<Option<String>>)>,
    is_over: bool,
    is_loaded: watch::Sender<bool>,
}

/// What it says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event {
    Loaded,
    Forked { id: u64, pid: i32 },
    Ready { pid: i32 },
    Refused { id: u64, reason: String },
    Exited { pid: i32, how: String },
}

impl Zygote {
    pub(crate) fn start(argv: &[String]) -> Result<Self, KernelError> {
        let (program, arguments) = argv.split_first().ok_or(KernelError::NoProgram)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| KernelError::Start(program.clone(), e))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let (Some(stdin), Some(stdout), Some(pid)) = (child.stdin.take(), child.stdout.take(), pid)
        else {
            return Err(KernelError::NoProgram);
        };
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(listen(stdout, Arc::clone(&state)));
        Ok(Self {
            stdin: tokio::sync::Mutex::new(stdin),
            state,
            pid,
            _child: child,
        })
    }

    /// Its process, as soon as it has loaded what its children are to have.
    pub(crate) async fn loaded(&self) -> Result<i32, KernelError> {
        let mut is_loaded = lock(&self.state).is_loaded.subscribe();
        let loaded = is_loaded.wait_for(|is_loaded| *is_loaded);
        match tokio::time::timeout(PATIENCE, loaded).await {
            Ok(Ok(_)) => Ok(self.pid),
            Ok(Err(_)) => Err(KernelError::Died(WHO.into())),
            Err(_) => Err(KernelError::Silent),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }

    /// A new kernel that listens on `connection`.
    pub(crate) async fn fork(
        &self,
        kernel: &str,
        connection: &Value,
        cwd: &Path,
    ) -> Result<Forked, KernelError> {
        let (ready, waiting) = oneshot::channel();
        let id = {
            let mut state = lock(&self.state);
            state.next += 1;
            let id = state.next;
            state.waiting.insert(id, ready);
            id
        };
        let mut line =
            json!({"id": id, "kernel": kernel, "connection": connection, "cwd": cwd}).to_string();
        line.push('\n');
        let sent = self.stdin.lock().await.write_all(line.as_bytes()).await;
        if sent.is_err() {
            lock(&self.state).waiting.remove(&id);
            return Err(KernelError::Died(WHO.into()));
        }
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Ok(forked)) => forked,
            Ok(Err(_)) => Err(KernelError::Died(WHO.into())),
            Err(_) => Err(KernelError::Silent),
        }
    }
}

async fn listen(stdout: ChildStdout, state: Arc<Mutex<State>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Libraries may print while they are loaded.
        if let Ok(event) = serde_json::from_str(&line) {
            lock(&state).take(event);
        }
    }
    let mut state = lock(&state);
    state.is_over = true;
    state.waiting.clear();
    // Whoever waits for it to load is told by the sender's end.
    state.is_loaded = watch::Sender::default();
    for (_, (_, ended)) in state.children.drain() {
        ended.send_replace(Some("the process that forked it has ended".into()));
    }
}

impl State {
    fn take(&mut self, event: Event) {
        match event {
            Event::Loaded => {
                self.is_loaded.send_replace(true);
            }
            Event::Forked { id, pid } => {
                self.children.insert(pid, (id, watch::channel(None).0));
            }
            Event::Ready { pid } => {
                let Some((id, ended)) = self.children.get(&pid) else {
                    return;
                };
                let ended = ended.subscribe();
                self.answer(*id, Ok(Forked { pid, ended }));
            }
            Event::Refused { id, reason } => self.answer(id, Err(KernelError::Died(reason))),
            Event::Exited { pid, how } => {
                let Some((id, ended)) = self.children.remove(&pid) else {
                    return;
                };
                ended.send_replace(Some(how.clone()));
                self.answer(id, Err(KernelError::Died(how)));
            }
        }
    }

    fn answer(&mut self, id: u64, answer: Result<Forked, KernelError>) {
        // Who gave up waiting wants none.
        if let Some(waiting) = self.waiting.remove(&id) {
            drop(waiting.send(answer));
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The log of one build: written line by line, stored a few at a time, in order.

use std::time::Duration;

use soulbox_store::{BuildLogLine, LogLevel, Store};
use soulbox_types::{BuildId, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Lines that may wait for the database; whoever writes more waits, too.
const QUEUE: usize = 512;
/// Lines that are stored in one transaction.
const BATCH: usize = 256;
/// Lines that come within this time of the first are stored with it.
const GATHER: Duration = Duration::from_millis(20);
/// What is kept of one build's output. A step may print without end.
const MOST_LINES: usize = 50_000;
const MOST_BYTES: usize = 16 << 20;

/// Where the lines of a build go.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: mpsc::Sender<BuildLogLine>,
    writer: JoinHandle<()>,
    written: usize,
    bytes: usize,
    cut: bool,
}

impl Journal {
    /// Begins to write.
    pub(crate) fn open(store: Store, build: BuildId) -> Self {
        let (lines, queue) = mpsc::channel(QUEUE);
        Self {
            lines,
            writer: tokio::spawn(write(store, build, queue)),
            written: 0,
            bytes: 0,
            cut: false,
        }
    }

    /// Says something about a step, or about the build.
    pub(crate) async fn say(&mut self, level: LogLevel, step: Option<&str>, message: String) {
        self.put(level, step, message).await;
    }

    /// Takes a line of output. When there is too much of it, that is said once, and the rest is left out.
    pub(crate) async fn output(&mut self, level: LogLevel, step: &str, message: String) {
        if self.written >= MOST_LINES || self.bytes >= MOST_BYTES {
            if !self.cut {
                self.cut = true;
                let text = "the output is too long: the rest is left out".to_owned();
                self.put(LogLevel::Warn, Some(step), text).await;
            }
            return;
        }
        self.written += 1;
        self.bytes += message.len();
        self.put(level, Some(step), message).await;
    }

    /// The same for whoever cannot wait; what finds no room is left out.
    pub(crate) fn output_now(&mut self, level: LogLevel, step: &str, message: String) {
        if self.written >= MOST_LINES || self.bytes >= MOST_BYTES {
            return;
        }
        self.written += 1;
        self.bytes += message.len();
        self.lines.try_send(line(level, Some(step), message)).ok();
    }

    async fn put(&mut self, level: LogLevel, step: Option<&str>, message: String) {
        // The writer ends only after this sender.
        self.lines.send(line(level, step, message)).await.ok();
    }

    /// Returns when every line is stored.
    pub(crate) async fn close(self) {
        drop(self.lines);
        if let Err(error) = self.writer.await {
            tracing::error!(%error, "the log of a build is not whole");
        }
    }
}

fn line(level: LogLevel, step: Option<&str>, message: String) -> BuildLogLine {
    BuildLogLine {
        at: Timestamp::now(),
        level,
        step: step.map(str::to_owned),
        message,
    }
}

/// Where the output of one step goes.
#[derive(Debug)]
pub(crate) struct Output<'j> {
    pub(crate) journal: &'j mut Journal,
    /// Number of the step, from 1.
    pub(crate) step: String,
    /// What stands before each line: `[builder 1/2]`.
    pub(crate) prefix: String,
}

impl Output<'_> {
    /// Writes one line of `stdout` or `stderr`.
    pub(crate) async fn line(&mut self, stream: &str, text: &str) {
        let message = format!("{} [{stream}]: {text}", self.prefix);
        self.journal
            .output(LogLevel::Info, &self.step, message)
            .await;
    }
}

async fn write(store: Store, build: BuildId, mut queue: mpsc::Receiver<BuildLogLine>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let gathered = tokio::time::sleep(GATHER);
        tokio::pin!(gathered);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                () = &mut gathered => break,
                got = queue.recv_many(&mut batch, room) => if got == 0 { break },
            }
        }
        if let Err(error) = store.append_build_log(&build, &batch).await {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(build.id = %build, error, "lines of a build's log are lost");
        }
        batch.clear();
    }
}

//! CRIU that has started, knows the kernel, and waits for a sandbox to stand still: that time is not the sandbox's.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use soulbox_driver::DriverError;
use soulbox_types::MemoryId;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{Capture, refused};

/// How long it waits.
const WAIT: Duration = Duration::from_secs(30);

type Outcome = Result<u64, DriverError>;

/// Dropped, it ends and leaves nothing.
#[derive(Debug)]
pub(crate) struct Readied {
    memory: MemoryId,
    go: mpsc::Sender<()>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Readied {
    /// Returns when it waits.
    pub(crate) async fn start(capture: Capture, memory: &MemoryId) -> Result<Self, DriverError> {
        let (go, wait) = mpsc::channel();
        let (ready, is_ready) = oneshot::channel();
        let (told, outcome) = oneshot::channel();
        let id = memory.clone();
        tokio::task::spawn_blocking(move || {
            let mut ready = Some(ready);
            let written = capture.run(&id, || {
                // Whoever wanted it may have gone away, and then nobody says go.
                let _told = ready.take().map(|ready| ready.send(()));
                wait.recv_timeout(WAIT)
                    .map_err(|_| io::Error::other("nobody has said that it stands still"))
            });
            let _heard = told.send(written);
        });
        let readied = Self {
            memory: memory.clone(),
            go,
            outcome,
        };
        match is_ready.await {
            Ok(()) => Ok(readied),
            Err(_) => match readied.outcome().await {
                Ok(_) => Err(refused("CRIU has not waited")),
                Err(error) => Err(error),
            },
        }
    }

    /// Whether it waits for this memory. Saving many files takes longer than it waits.
    pub(crate) fn waits_for(&mut self, memory: &MemoryId) -> bool {
        self.memory == *memory && matches!(self.outcome.try_recv(), Err(TryRecvError::Empty))
    }

    /// The sandbox stands still: returns when its memory is written, with its size.
    pub(crate) async fn go_on(self) -> Outcome {
        // It may have given up: then its outcome says so.
        let _heard = self.go.send(());
        self.outcome().await
    }

    async fn outcome(self) -> Outcome {
        let outcome = self.outcome.await;
        outcome.unwrap_or_else(|_| Err(refused("the task that writes it has ended")))
    }
}

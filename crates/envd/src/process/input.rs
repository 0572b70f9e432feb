//! Input of a process: one task per process that writes in order, as long as the pipe takes it.
//!
//! A write may block for ever, when nobody reads; it blocks only its own request, and closing stdin ends it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::watched::watched;

/// Why input was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("stdin not enabled or closed")]
    Closed,
    #[error("{0}")]
    Write(#[from] io::Error),
}

struct Write {
    data: Vec<u8>,
    done: oneshot::Sender<Result<(), InputError>>,
}

/// The writing end of a process's stdin or terminal.
#[derive(Debug)]
pub(crate) struct Input {
    writes: mpsc::Sender<Write>,
    closed: CancellationToken,
}

/// The master end of a process's terminal, kept for its size.
#[derive(Debug)]
pub(crate) struct Terminal(OwnedFd);

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> Self {
        Self(master)
    }

    pub(crate) fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        soulbox_linux::pty::resize(&self.0, rows, cols)
    }
}

impl Input {
    /// Takes a pipe or terminal and starts its task.
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub(crate) fn start(target: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&target, true)?;
        let target = watched(target, Interest::WRITABLE)?;
        let (writes, mut queue) = mpsc::channel::<Write>(1);
        let closed = CancellationToken::new();
        let stop = closed.clone();
        tokio::spawn(async move {
            let serve = async {
                while let Some(write) = queue.recv().await {
                    // A client that has gone does not hear the outcome.
                    drop(write.done.send(write_all(&target, &write.data).await));
                }
            };
            // Dropping `serve` drops the pending write's `done`, which its client sees as closed.
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve => {}
            }
        });
        Ok(Self { writes, closed })
    }

    /// Writes everything, after what was asked before.
    ///
    /// # Errors
    /// When stdin is closed by either side.
    pub(crate) async fn write(&self, data: Vec<u8>) -> Result<(), InputError> {
        let (done, outcome) = oneshot::channel();
        self.writes
            .send(Write { data, done })
            .await
            .map_err(|_| InputError::Closed)?;
        outcome.await.map_err(|_| InputError::Closed)?
    }

    /// Closes it; again is fine.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

async fn write_all(target: &AsyncFd<OwnedFd>, mut data: &[u8]) -> Result<(), InputError> {
    while !data.is_empty() {
        let mut ready = target.writable().await?;
        match rustix::io::write(target.get_ref().as_fd(), data) {
            Ok(written) => data = data.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(InputError::Write(error.into())),
        }
    }
    Ok(())
}

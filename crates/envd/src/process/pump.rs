//! Moves a process's output to its listeners, until the last holder of the other end closes it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ring::Kind;
use super::table::Process;
use crate::watched::watched;

/// Bytes per event of a pipe and of a terminal, as clients know them.
const PIPE_CHUNK: usize = 32 * 1024;
const PTY_CHUNK: usize = 16 * 1024;
/// What is still taken from a pipe after its process was killed: more than a pipe holds by default.
const LAST_WORDS_MAX: usize = 1024 * 1024;
/// How long a listener that does not read may delay the end of a killed process.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// One output stream.
#[derive(Debug)]
pub(crate) struct Output {
    source: AsyncFd<OwnedFd>,
    kind: Kind,
}

enum Read {
    Chunk(Bytes),
    /// Nothing there now.
    Later,
    End,
}

impl Output {
    /// # Errors
    /// When the descriptor cannot be watched.
    pub(crate) fn new(source: OwnedFd, kind: Kind) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&source, true)?;
        Ok(Self {
            source: watched(source, Interest::READABLE)?,
            kind,
        })
    }

    /// Publishes everything until the stream ends or the process's output is stopped.
    pub(crate) async fn pump(self, process: &Process) {
        loop {
            let ready = tokio::select! {
                ready = self.source.readable() => ready,
                () = process.stop_output.cancelled() => return self.last_words(process).await,
            };
            let Ok(mut ready) = ready else { return };
            match self.read() {
                Read::Chunk(chunk) => {
                    if !self.publish(chunk, process).await {
                        return;
                    }
                }
                Read::Later => ready.clear_ready(),
                Read::End => return,
            }
        }
    }

    /// What the killed process had written but nobody had read yet.
    async fn last_words(&self, process: &Process) {
        let mut taken = 0;
        while let (true, Read::Chunk(chunk)) = (taken < LAST_WORDS_MAX, self.read()) {
            taken += chunk.len();
            if !self.publish(chunk, process).await {
                return;
            }
        }
    }

    /// False when a listener did not take it in time after the process was killed.
    async fn publish(&self, chunk: Bytes, process: &Process) -> bool {
        let out_of_patience = async {
            process.stop_output.cancelled().await;
            tokio::time::sleep(LAST_WORDS_PATIENCE).await;
        };
        tokio::select! {
            biased;
            () = process.publish(self.kind, chunk) => true,
            () = out_of_patience => false,
        }
    }

    fn read(&self) -> Read {
        let mut scratch = [0_u8; PIPE_CHUNK];
        let limit = if matches!(self.kind, Kind::Pty) {
            PTY_CHUNK
        } else {
            PIPE_CHUNK
        };
        let buffer = scratch.get_mut(..limit).unwrap_or_default();
        match rustix::io::read(self.source.get_ref().as_fd(), &mut *buffer) {
            Ok(0) => Read::End,
            Ok(length) => Read::Chunk(Bytes::copy_from_slice(
                buffer.get(..length).unwrap_or_default(),
            )),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Read::Later,
            // A terminal whose last user has gone says EIO.
            Err(_) => Read::End,
        }
    }
}

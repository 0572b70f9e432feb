//! The fork server, seen from the runtime: one task that asks it, one request at a time.
//!
//! A task of its own because a request must be carried to its end even when whoever asked has gone: the answer of one
//! request must never be read by the next.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use soulbox_linux::spawn::{ForkServer, SpawnError, SpawnRequest, Stdio, Step};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::reaper::{Ending, Reaper};
use crate::watched::watched;

/// Longer than any exec takes, unless the program lies on a file system that hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Requests that may wait.
const QUEUE: usize = 64;

/// The standard streams of a program to be started.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A started program.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: Pid,
    pub(crate) ending: Ending,
}

#[derive(Debug)]
struct Job {
    request: SpawnRequest,
    streams: Streams,
    answer: oneshot::Sender<Result<Started, SpawnError>>,
}

/// Where programs are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    /// Takes over a fork server that was started before the runtime. `user_cgroups` are for its successors.
    ///
    /// # Errors
    /// When its socket cannot be watched.
    pub(crate) fn start(
        server: ForkServer,
        user_cgroups: Vec<OwnedFd>,
        reaper: Arc<Reaper>,
    ) -> io::Result<Self> {
        let (sender, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let mut server = Server::new(server)?;
        let mut rescue = Rescue(None);
        tokio::spawn(async move {
            while let Some(job) = jobs.recv().await {
                reaper.spawn_begins();
                let answer = match server.spawn_restarting(&job, &user_cgroups).await {
                    Err(error) if user_is_full(&error) => rescue.spawn(&job).await,
                    other => other,
                };
                let ending = reaper.spawn_ends(answer.as_ref().ok().copied());
                let answer = match (answer, ending) {
                    (Ok(pid), Some(ending)) => Ok(Started { pid, ending }),
                    (Ok(_), None) => Err(SpawnError::Gone(io::ErrorKind::InvalidData.into())),
                    (Err(error), _) => Err(error),
                };
                if let Err(Ok(unwanted)) = job.answer.send(answer) {
                    // Whoever asked has gone; nobody could ever find this process.
                    let _ = kill_process(unwanted.pid, Signal::KILL);
                }
            }
        });
        Ok(Self(sender))
    }

    /// Starts a program.
    pub(crate) async fn spawn(
        &self,
        request: SpawnRequest,
        streams: Streams,
    ) -> Result<Started, SpawnError> {
        let gone = || SpawnError::Gone(io::ErrorKind::BrokenPipe.into());
        let (answer, answered) = oneshot::channel();
        self.0
            .send(Job {
                request,
                streams,
                answer,
            })
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Whether the user's processes have used up the sandbox's number of processes or its memory; a fork server that has
/// gone twice was killed for memory.
fn user_is_full(error: &SpawnError) -> bool {
    match error {
        SpawnError::Step {
            step: Step::Clone,
            source,
        } => {
            matches!(
                source.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory
            )
        }
        SpawnError::Step { .. } => false,
        SpawnError::Gone(_) => true,
    }
}

/// A fork server in envd's own cgroup, for when the user's is full: a few processes are set aside there, so that
/// somebody can still come in and clean up. Started when it is first needed.
struct Rescue(Option<Server>);

impl Rescue {
    async fn spawn(&mut self, job: &Job) -> Result<Pid, SpawnError> {
        let server = match self.0.take() {
            Some(server) => server,
            None => ForkServer::start(&[])
                .and_then(Server::new)
                .map_err(SpawnError::Gone)?,
        };
        self.0.insert(server).spawn_restarting(job, &[]).await
    }
}

/// A fork server whose socket the runtime watches.
struct Server {
    server: ForkServer,
    /// The same socket, registered.
    socket: AsyncFd<OwnedFd>,
}

impl Server {
    fn new(server: ForkServer) -> io::Result<Self> {
        let socket = watched(server.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { server, socket })
    }

    /// Anybody with root inside the sandbox can kill the fork server; then there is another one.
    async fn spawn_restarting(
        &mut self,
        job: &Job,
        user_cgroups: &[OwnedFd],
    ) -> Result<Pid, SpawnError> {
        match self.spawn(job).await {
            Err(SpawnError::Gone(_)) => {
                self.server.kill();
                let cgroups: Vec<_> = user_cgroups.iter().map(AsFd::as_fd).collect();
                *self = ForkServer::start(&cgroups)
                    .and_then(Self::new)
                    .map_err(SpawnError::Gone)?;
                self.spawn(job).await
            }
            other => other,
        }
    }

    async fn spawn(&self, job: &Job) -> Result<Pid, SpawnError> {
        let Streams {
            stdin,
            stdout,
            stderr,
        } = &job.streams;
        let stdio = Stdio {
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
        };
        self.server.send(&job.request, stdio)?;
        match tokio::time::timeout(ANSWER_DEADLINE, self.answer()).await {
            Ok(answer) => answer,
            Err(_) => Err(SpawnError::Gone(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn answer(&self) -> Result<Pid, SpawnError> {
        loop {
            let mut ready = self.socket.readable().await.map_err(SpawnError::Gone)?;
            match self.server.receive() {
                Some(answer) => return answer,
                None => ready.clear_ready(),
            }
        }
    }
}

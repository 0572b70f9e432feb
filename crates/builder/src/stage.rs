//! One sandbox in which one step of a build runs. It is like every other sandbox; only nobody but the build knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use soulbox_client::lines::Lines;
use soulbox_client::process::{End, Event, Start};
use soulbox_client::{ClientError, Code, Dial, Envd, Secret};
use soulbox_driver::{Driver, DriverError, Guest, SavedLayer};
use soulbox_envd_proto::PORT;
use soulbox_types::{
    BuildContext, LayerDigest, Limits, MemoryId, NetworkMode, SandboxId, SandboxSpec, TeamId,
    TemplateId, TemplateImage,
};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::journal::Output;
use crate::script;
use crate::warm;

/// Bytes of a file that are sent at a time.
const PIECE: usize = 256 * 1024;

/// Makes the secret that envd of a sandbox asks for, always the same.
pub type EnvdTokens = Arc<dyn Fn(&SandboxId) -> String + Send + Sync>;

/// A running sandbox of a build. Dropped, it ends.
pub(crate) struct Stage {
    guest: Option<Arc<dyn Guest>>,
    spec: SandboxSpec,
    envd: Envd,
}

/// What the sandboxes of a build have in common.
#[derive(Clone)]
pub(crate) struct Ground {
    /// Whose code runs in them; nobody's where files are only read.
    pub(crate) team: Option<TeamId>,
    pub(crate) template: TemplateId,
    pub(crate) limits: Limits,
    pub(crate) tokens: EnvdTokens,
}

impl Stage {
    /// Makes one on these layers, topmost first.
    pub(crate) async fn open(
        driver: &Arc<dyn Driver>,
        ground: &Ground,
        layers: &[LayerDigest],
        context: &BuildContext,
    ) -> Result<Self, DriverError> {
        let id = SandboxId::random();
        let spec = SandboxSpec {
            envd_access_token: (ground.tokens)(&id),
            id,
            image: TemplateImage {
                template_id: ground.template.clone(),
                layers: layers.to_vec(),
                default_user: context.user.clone(),
                default_workdir: context.workdir.clone(),
            },
            limits: ground.limits,
            network: NetworkMode::Internet,
            env_vars: BTreeMap::new(),
            volumes: Vec::new(),
            team: ground.team.clone(),
        };
        let making = Arc::clone(driver);
        let make = async move { making.create(&spec).await };
        Ok(Self::of(make_apart(make).await?))
    }

    /// Makes one that goes on from memory. `spec` has the layers and the token of that moment.
    pub(crate) async fn wake(
        driver: &Arc<dyn Driver>,
        spec: SandboxSpec,
        memory: &MemoryId,
    ) -> Result<Self, DriverError> {
        let (driver, memory) = (Arc::clone(driver), memory.clone());
        let make = async move { driver.wake(&spec, &memory).await };
        Ok(Self::of(make_apart(make).await?))
    }

    fn of(guest: Arc<dyn Guest>) -> Self {
        let spec = guest.spec();
        let token = Secret::new(spec.envd_access_token.clone());
        Self {
            envd: Envd::through(dial(&guest), spec.id.as_str(), token),
            spec: spec.clone(),
            guest: Some(guest),
        }
    }

    /// What it was made from.
    pub(crate) fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// Its daemon.
    pub(crate) fn envd(&self) -> &Envd {
        &self.envd
    }

    /// Runs a program to its end and writes its output, line by line, to the log of a step.
    pub(crate) async fn run(
        &self,
        start: &Start,
        output: &mut Output<'_>,
    ) -> Result<End, ClientError> {
        let mut events = self.envd.start(start).await?;
        let (mut out, mut err) = (Lines::default(), Lines::default());
        let mut ended = None;
        while let Some(event) = events.next().await? {
            let mut lines = Vec::new();
            match event {
                Event::Started { .. } => {}
                Event::Stdout(bytes) | Event::Pty(bytes) => {
                    out.push(&bytes, |line| lines.push(("stdout", line)));
                }
                Event::Stderr(bytes) => err.push(&bytes, |line| lines.push(("stderr", line))),
                Event::Ended(end) => {
                    out.finish(|line| lines.push(("stdout", line)));
                    err.finish(|line| lines.push(("stderr", line)));
                    ended = Some(end);
                }
            }
            // Awaited: a program that prints faster than lines are stored waits at its full pipe.
            for (stream, line) in lines {
                output.line(stream, &line).await;
            }
        }
        // A stream without an end is reported by `next`.
        Ok(ended.unwrap_or_default())
    }

    /// Sends a file inside, which belongs to root.
    pub(crate) async fn send(
        &self,
        path: &str,
        file: impl AsyncRead + Send + 'static,
    ) -> Result<(), StepFailure> {
        let pieces = ReaderStream::with_capacity(file, PIECE).map_ok(Frame::data);
        let body = StreamBody::new(pieces);
        self.envd.upload(path, Some("root"), body).await?;
        Ok(())
    }

    /// Runs one of our scripts as root and returns what it printed.
    pub(crate) async fn script(
        &self,
        context: &BuildContext,
        script: &str,
        arguments: &[&str],
    ) -> Result<String, StepFailure> {
        let mut args = vec!["-l", "-c", script, "bash"];
        args.extend(arguments);
        let start = Start {
            cmd: "/bin/bash".to_owned(),
            args: args.into_iter().map(str::to_owned).collect(),
            user: Some("root".to_owned()),
            cwd: Some("/".to_owned()),
            envs: script::environment(context),
            ..Start::default()
        };
        let output = self.envd.run(&start).await?;
        if output.end.exited && output.end.exit_code == 0 {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        Err(StepFailure(if last.is_empty() {
            output.end.status
        } else {
            format!("{last} ({})", output.end.status)
        }))
    }

    /// Ends it and makes a layer of what it has written, if that is anything.
    pub(crate) async fn save(self) -> Result<Option<SavedLayer>, DriverError> {
        self.ending_with(|guest| async move { guest.save().await })
            .await
    }

    /// Ends it after its memory was written to disk, and makes a layer of what it has written, if that is anything.
    pub(crate) async fn capture(
        self,
        memory: &MemoryId,
    ) -> Result<Option<SavedLayer>, DriverError> {
        let memory = memory.clone();
        self.ending_with(|guest| async move {
            let captured = warm::capture(guest.as_ref(), &memory).await;
            guest.kill().await?;
            captured
        })
        .await
    }

    /// In a task: whoever no longer waits must not leave a guest that runs.
    async fn ending_with<F, W>(mut self, work: F) -> Result<Option<SavedLayer>, DriverError>
    where
        F: FnOnce(Arc<dyn Guest>) -> W,
        W: Future<Output = Result<Option<SavedLayer>, DriverError>> + Send + 'static,
    {
        let Some(guest) = self.guest.take() else {
            return Ok(None);
        };
        tokio::spawn(work(guest)).await.unwrap_or_else(|error| {
            Err(DriverError::Host {
                operation: "save a sandbox".to_owned(),
                source: std::io::Error::other(error),
            })
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take() {
            end(guest);
        }
    }
}

fn end(guest: Arc<dyn Guest>) {
    soulbox_telemetry::task::spawn("end a build's sandbox", async move {
        if let Err(error) = guest.kill().await {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(sandbox.id = %guest.spec().id, error, "a sandbox of a build was not ended");
        }
    });
}

/// Makes it in a task: a build that is cancelled meanwhile leaves nothing.
async fn make_apart(
    make: impl Future<Output = Result<Arc<dyn Guest>, DriverError>> + Send + 'static,
) -> Result<Arc<dyn Guest>, DriverError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    soulbox_telemetry::task::spawn("make a build's sandbox", async move {
        if let Err(Ok(unwanted)) = sender.send(make.await) {
            end(unwanted);
        }
    });
    receiver.await.unwrap_or_else(|_| {
        Err(DriverError::Envd {
            reason: "the task that makes it has ended".to_owned(),
        })
    })
}

fn dial(guest: &Arc<dyn Guest>) -> Dial {
    let guest = Arc::clone(guest);
    Arc::new(move || {
        let guest = Arc::clone(&guest);
        Box::pin(async move { guest.dial(PORT).await.map_err(std::io::Error::other) })
    })
}

/// Why something inside did not work, in the wire's words: `exit status 3`, `command failed: not_found: …`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StepFailure(pub(crate) String);

impl From<ClientError> for StepFailure {
    fn from(error: ClientError) -> Self {
        Self(match error {
            ClientError::Refused {
                code: Code::Rpc(code),
                message,
                ..
            } => format!("command failed: {code}: {message}"),
            ClientError::Refused { message, .. } => format!("command failed: {message}"),
            other => format!("command failed: {}", soulbox_telemetry::chain(&other)),
        })
    }
}

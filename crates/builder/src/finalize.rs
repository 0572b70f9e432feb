//! The end of a build: a sandbox of the result starts as its users will start it, and has to become ready.

use std::time::Duration;

use soulbox_client::startup::{self, Note};
use soulbox_store::{FinishedBuild, LogLevel};
use soulbox_types::{BuildContext, StartCommand};

use crate::failure::Failure;
use crate::image::DEFAULT_USER;
use crate::journal::Journal;
use crate::request::{BuildRequest, Runtime, Source};
use crate::state::State;
use crate::work::Work;

pub(crate) const STEP: &str = "finalize";
/// What is waited for after a start command when nothing else is said.
pub(crate) const DEFAULT_READY: &str = "sleep 20";
/// How long a template may take to become ready.
const READY_PATIENCE: Duration = Duration::from_mins(10);
/// The user that old SDKs expect.
const OLD_USER: &str = DEFAULT_USER;

impl Work {
    /// Starts a sandbox of the result as its users will, and waits until it is ready.
    pub(crate) async fn finalize(
        &self,
        mut state: State,
        journal: &mut Journal,
    ) -> Result<FinishedBuild, Failure> {
        let line = format!(
            "[finalize] Finalizing template build [{}]",
            state.key.short()
        );
        journal.say(LogLevel::Info, Some(STEP), line).await;
        state.start = start_command(
            &self.own_commands(&state),
            &state.context,
            state.start.take(),
        );
        if self.request.runtime == Runtime::V20 {
            OLD_USER.clone_into(&mut state.context.user);
            state.context.workdir = None;
        }
        let stage = self.stage(&state, STEP).await?;
        if let Some(start) = &state.start {
            let mut note = |note: Note| {
                let (level, message) = told(&note);
                journal.output_now(level, STEP, message);
            };
            startup::bring_up(stage.envd(), start, READY_PATIENCE, &mut note)
                .await
                .map_err(|error| Failure::new(STEP, error.to_string()))?;
        }
        let memory = match &state.start {
            Some(_) => self.keep_warm(stage, &mut state, journal).await,
            None => None,
        };
        Ok(FinishedBuild {
            envd_version: soulbox_envd_proto::ENVD_VERSION.to_owned(),
            size_bytes: state.size_bytes(),
            layers: state.layers,
            context: state.context,
            start: state.start,
            memory,
            disk_mib: self.build.limits.disk_mib,
        })
    }

    /// The commands of the build's own. That of a Dockerfile is one of them.
    fn own_commands(&self, state: &State) -> BuildRequest {
        let mut request = self.request.clone();
        if let (Source::Dockerfile { .. }, None) = (&request.source, &request.start_cmd) {
            request.start_cmd = state.start.as_ref().map(|start| start.command.clone());
        }
        request
    }
}

/// What runs in the sandboxes of a build: its own commands, or those of the template it goes on from.
fn start_command(
    request: &BuildRequest,
    context: &BuildContext,
    inherited: Option<StartCommand>,
) -> Option<StartCommand> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    match (given(&request.start_cmd), given(&request.ready_cmd)) {
        (None, None) => inherited,
        (command, ready) => Some(StartCommand {
            ready: match (&command, ready) {
                (_, Some(ready)) => ready,
                (Some(_), None) => DEFAULT_READY.to_owned(),
                (None, None) => String::new(),
            },
            command: command.unwrap_or_default(),
            context: context.clone(),
        }),
    }
}

/// Where a line about the start belongs in the log, and how it reads.
fn told(note: &Note) -> (LogLevel, String) {
    match note {
        Note::Starting(command) => (LogLevel::Info, format!("Running start command: {command}")),
        Note::StartOutput(stream, line) => (LogLevel::Info, format!("[start] [{stream}]: {line}")),
        Note::Waiting(ready) => (
            LogLevel::Info,
            format!("Waiting for template to be ready: {ready}"),
        ),
        Note::ReadyOutput(stream, line) => (LogLevel::Debug, format!("[ready] [{stream}]: {line}")),
        Note::NotReady(how) => (LogLevel::Debug, format!("Template is not ready: {how}")),
        Note::Ready => (LogLevel::Info, "Template is ready".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(start: Option<&str>, ready: Option<&str>) -> BuildRequest {
        BuildRequest {
            source: Source::Template("base".to_owned()),
            steps: Vec::new(),
            start_cmd: start.map(str::to_owned),
            ready_cmd: ready.map(str::to_owned),
            force: false,
            runtime: Runtime::V21,
        }
    }

    #[test]
    fn either_command_replaces_both() {
        let context = BuildContext {
            user: "me".to_owned(),
            ..BuildContext::default()
        };
        let old = StartCommand {
            command: "old".to_owned(),
            ready: "old ready".to_owned(),
            context: BuildContext::default(),
        };
        let now = |start, ready| start_command(&request(start, ready), &context, Some(old.clone()));
        assert_eq!(now(None, Some(" ")), Some(old.clone()));
        let new = now(Some("run"), None).unwrap();
        assert_eq!(
            (new.command.as_str(), new.ready.as_str()),
            ("run", "sleep 20")
        );
        assert_eq!(new.context, context);
        let new = now(None, Some("look")).unwrap();
        assert_eq!((new.command.as_str(), new.ready.as_str()), ("", "look"));
        assert_eq!(start_command(&request(None, None), &context, None), None);
    }
}

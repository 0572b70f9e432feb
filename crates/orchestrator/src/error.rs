//! How a request on a sandbox fails, and what the caller is told.

use std::sync::Arc;

use soulbox_client::startup::StartupError;
use soulbox_driver::DriverError;
use soulbox_store::{RequestBuildError, StoreError};
use soulbox_types::lifecycle::{Rejection, Transition};
use soulbox_types::{ErrorKind, SandboxId};

/// A request on a sandbox that was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SandboxError {
    /// There is none, or not for this team.
    #[error("sandbox {id} not found")]
    NotFound {
        /// The id asked for.
        id: SandboxId,
    },
    /// It is in the wrong state for this.
    #[error("sandbox {id} is in the wrong state: {rejection:?}")]
    Conflict {
        /// Which sandbox.
        id: SandboxId,
        /// What stands in the way.
        rejection: Rejection,
    },
    /// The team has as many as it may have.
    #[error("team has reached its limit of {max} concurrent sandboxes")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// It has run as long as it may.
    #[error("sandbox {id} has used up its longest run")]
    MaxLength {
        /// Which sandbox.
        id: SandboxId,
    },
    /// The driver could not create it.
    #[error("cannot create sandbox {id}")]
    Create {
        /// The id it would have had.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// What its template runs in it failed, or was not ready in time.
    #[error("the template of sandbox {id} does not come up")]
    Startup {
        /// The id it would have had.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<StartupError>,
    },
    /// It was not usable in time.
    #[error("sandbox {id} was not usable in time")]
    CreateTimeout {
        /// The id it would have had.
        id: SandboxId,
    },
    /// It was killed, or ended by itself, before it was usable.
    #[error("sandbox {id} ended before it was usable")]
    EndedInCreate {
        /// The id it had.
        id: SandboxId,
    },
    /// The driver could not end it; the reconciler goes on trying.
    #[error("cannot kill sandbox {id}")]
    Kill {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// The driver or the disk could not keep it as it is; it runs on.
    #[error("cannot pause sandbox {id}")]
    Pause {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// The driver could not bring it back; it stays paused.
    #[error("cannot resume sandbox {id}")]
    Resume {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// The driver or the disk could not save its files; it runs on.
    #[error("cannot save the files of sandbox {id}")]
    Snapshot {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// What it may reach is as it was.
    #[error("cannot change the network of sandbox {id}")]
    Network {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// Its memory cannot go to disk; it stays paused in memory.
    #[error("cannot put sandbox {id} on disk")]
    Hibernate {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Arc<DriverError>,
    },
    /// This host cannot keep memory on disk.
    #[error("memory of sandboxes cannot be kept on disk here: {reason}")]
    NoMemory {
        /// Why, with a way out.
        reason: String,
    },
    /// What was saved cannot have the name that was asked for, or no record.
    #[error("cannot name a snapshot")]
    SnapshotName {
        /// Why.
        #[source]
        source: Arc<RequestBuildError>,
    },
    /// Its envd does not answer, and whoever wants to pause it wants it to; it runs on.
    #[error("envd of sandbox {id} does not answer")]
    GuestUnresponsive {
        /// Which sandbox.
        id: SandboxId,
    },
    /// Its envd did not answer when it was paused: only a start without its memory makes it usable.
    #[error("envd of sandbox {id} did not answer when it was paused")]
    PausedUnresponsive {
        /// Which sandbox.
        id: SandboxId,
    },
    /// A start without memory was asked for while another start is in flight.
    #[error("sandbox {id} is already starting")]
    StartInFlight {
        /// Which sandbox.
        id: SandboxId,
    },
    /// The driver could not find out what runs already.
    #[error("cannot adopt running sandboxes")]
    Adopt(#[source] Arc<DriverError>),
    /// The record could not be read or written.
    #[error("cannot {operation}")]
    Store {
        /// What was being done, as a verb with its object.
        operation: &'static str,
        /// Why.
        #[source]
        source: Arc<StoreError>,
    },
    /// This kind of request is not built yet.
    #[error("{operation} is not supported yet")]
    Unsupported {
        /// What was asked.
        operation: &'static str,
    },
    /// The server is about to stop.
    #[error("server is shutting down")]
    ShuttingDown,
}

impl SandboxError {
    /// Whether it is the fault of memory that a sandbox was to go on from.
    pub(crate) fn is_of_memory(&self) -> bool {
        let Self::Create { source, .. } = self else {
            return false;
        };
        let envd = matches!(**source, DriverError::Envd { .. });
        envd || is_checkpoint(source)
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Conflict {
                rejection: Rejection::NotFound,
                ..
            } => ErrorKind::NotFound,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::TooMany { .. } => ErrorKind::LimitExceeded,
            Self::MaxLength { .. } => ErrorKind::InvalidArgument,
            Self::GuestUnresponsive { .. } => ErrorKind::Unavailable,
            Self::PausedUnresponsive { .. } | Self::StartInFlight { .. } => ErrorKind::Conflict,
            Self::NoMemory { .. } => ErrorKind::Unimplemented,
            // Its owner can do something about it.
            Self::Snapshot { source, .. }
            | Self::Resume { source, .. }
            | Self::Create { source, .. }
                if is_checkpoint(source) =>
            {
                ErrorKind::Conflict
            }
            Self::Pause { source, .. }
            | Self::Hibernate { source, .. }
            | Self::Resume { source, .. }
            | Self::Network { source, .. }
            | Self::Snapshot { source, .. } => match source.kind() {
                kind @ (ErrorKind::StorageFull | ErrorKind::Unimplemented) => kind,
                _ => ErrorKind::Internal,
            },
            Self::Create { source, .. } => match source.kind() {
                ErrorKind::Unavailable | ErrorKind::StorageFull => ErrorKind::Unavailable,
                ErrorKind::Timeout => ErrorKind::Timeout,
                ErrorKind::Unimplemented => ErrorKind::Unimplemented,
                ErrorKind::InvalidArgument => ErrorKind::InvalidArgument,
                _ => ErrorKind::Internal,
            },
            Self::Startup { source, .. } => match **source {
                StartupError::NotReady(_) => ErrorKind::Timeout,
                StartupError::Start(_) | StartupError::Envd(_) => ErrorKind::Internal,
            },
            Self::CreateTimeout { .. } => ErrorKind::Timeout,
            Self::SnapshotName { source } => source.kind(),
            Self::Store { source, .. } => source.kind(),
            Self::Unsupported { .. } => ErrorKind::Unimplemented,
            Self::ShuttingDown => ErrorKind::Unavailable,
            Self::EndedInCreate { .. } | Self::Kill { .. } | Self::Adopt(_) => ErrorKind::Internal,
        }
    }

    /// The wire's `error_code`, where it has one for this.
    #[must_use]
    pub fn error_code(&self) -> Option<&'static str> {
        match self {
            Self::Create { .. }
            | Self::Startup { .. }
            | Self::CreateTimeout { .. }
            | Self::EndedInCreate { .. } => Some(match self.kind() {
                ErrorKind::Unavailable => "sandbox_capacity_unavailable",
                ErrorKind::Timeout => "sandbox_placement_timeout",
                _ => "sandbox_create_failed",
            }),
            Self::PausedUnresponsive { .. } => Some("sandbox_snapshot_guest_agent_unresponsive"),
            Self::StartInFlight { .. } => Some("sandbox_start_in_flight"),
            _ => None,
        }
    }

    /// What a sandbox's owner is told in its log: the words of the host where they help, such as of a full disk.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Pause { source, .. } => source.to_string(),
            other => other.user_message(),
        }
    }

    /// What the caller is told: the wire's own texts, and nothing of the inside.
    #[must_use]
    pub fn user_message(&self) -> String {
        match self {
            Self::NotFound { id } => not_found(id),
            Self::Conflict { id, rejection } => conflict(id, *rejection),
            Self::TooMany { max } => format!(
                "you have reached the maximum number of concurrent E2B sandboxes ({max}). \
                 If you need more, please visit 'https://e2b.dev/docs/billing'"
            ),
            Self::MaxLength { .. } => "Max instance length exceeded".into(),
            Self::Create { source, .. } if matches!(**source, DriverError::Volume { .. }) => {
                format!("Failed to place sandbox: {source}")
            }
            Self::Create { source, .. } if is_checkpoint(source) => {
                format!("Failed to place sandbox: {source}. FIX: save a new snapshot")
            }
            Self::Create { .. } | Self::CreateTimeout { .. } | Self::EndedInCreate { .. } => {
                create_failed(self.kind())
            }
            // The template's own words: its owner can mend it, nobody else.
            Self::Startup { source, .. } => format!("Failed to place sandbox: {source}"),
            Self::Kill { .. } => "Error killing sandbox".into(),
            Self::Pause { source, .. } if source.kind() == ErrorKind::StorageFull => {
                format!("Error pausing sandbox: {source}")
            }
            Self::Pause { .. } => "Error pausing sandbox".into(),
            Self::Snapshot { source, .. } if source.kind() == ErrorKind::StorageFull => {
                format!("Error creating snapshot template: {source}")
            }
            Self::Snapshot { source, .. } if is_checkpoint(source) => format!(
                "Error creating snapshot template: {source}. \
                 FIX: save its files alone, with memory: false in the body, mode=\"filesystem\" in Python, or `--files-only` \
                 of soulbox; or remove what is in the way"
            ),
            Self::Network { .. } => "Error applying network config to sandbox".into(),
            Self::Snapshot { .. } => "Error creating snapshot template".into(),
            Self::Hibernate { .. } => "Error putting the sandbox on disk".into(),
            Self::NoMemory { reason } => format!(
                "This server cannot keep the memory of sandboxes on disk: {reason}. \
                 FIX: `soulbox criu` and a restart of the server, or save files alone, with memory: false in the body, \
                 mode=\"filesystem\" in Python, or `--files-only` of soulbox"
            ),
            Self::SnapshotName { source } => match &**source {
                RequestBuildError::Store(error) => {
                    error.user_message().unwrap_or("internal error").into()
                }
                other => other.to_string(),
            },
            Self::Resume { source, .. } if is_checkpoint(source) => format!(
                "Error resuming sandbox: {source}. FIX: try again, or resume it with memory: false, which starts it anew \
                 from its files"
            ),
            Self::Resume { .. } => "Error resuming sandbox".into(),
            Self::GuestUnresponsive { id } => format!(
                "Sandbox '{id}' cannot be paused right now because its guest agent does not answer. \
                 FIX: pause it with its memory and without requireHealthyGuest, or kill it"
            ),
            Self::PausedUnresponsive { id } => format!(
                "The guest agent of sandbox '{id}' did not answer when it was paused. \
                 FIX: resume it with memory: false, which starts it anew from its files"
            ),
            Self::StartInFlight { .. } => {
                "Sandbox is already starting; memory: false cannot be applied to a start \
                already in flight — retry once it is running or paused"
                    .into()
            }
            Self::Store { source, .. } => source.user_message().unwrap_or("internal error").into(),
            Self::Adopt(_) => "internal error".into(),
            Self::Unsupported { operation } => format!("{operation} is not supported yet"),
            Self::ShuttingDown => "the server is shutting down, please retry".into(),
        }
    }
}

/// Whether memory could not be written or brought back, with a reason that its owner understands.
fn is_checkpoint(error: &DriverError) -> bool {
    matches!(error, DriverError::Checkpoint { .. })
}

fn not_found(id: &SandboxId) -> String {
    format!("Sandbox \"{id}\" doesn't exist or you don't have access to it")
}

fn conflict(id: &SandboxId, rejection: Rejection) -> String {
    match rejection {
        Rejection::NotFound => not_found(id),
        Rejection::InTransition(transition) => {
            format!("Sandbox \"{id}\" is being {}", participle(transition))
        }
        Rejection::AlreadyPaused => {
            format!("Error pausing sandbox - sandbox '{id}' is already paused")
        }
        Rejection::AlreadyRunning => format!("Sandbox {id} is already running"),
        Rejection::SnapshotInProgress => {
            format!("Sandbox snapshot is currently being created for sandbox '{id}'")
        }
        Rejection::CannotSnapshot(state) => {
            format!(
                "Sandbox '{id}' cannot be snapshotted while in '{}' state",
                state.name()
            )
        }
        Rejection::CannotFork(state) => format!(
            "Sandbox '{id}' cannot be forked while in '{}' state",
            state.name()
        ),
        Rejection::PausedCannotFork => {
            format!("Sandbox '{id}' is paused and cannot be forked; resume it first")
        }
    }
}

fn participle(transition: Transition) -> &'static str {
    match transition {
        Transition::Create => "created",
        Transition::Pause => "paused",
        Transition::Resume => "resumed",
        Transition::Snapshot => "snapshotted",
        Transition::Kill => "killed",
    }
}

fn create_failed(kind: ErrorKind) -> String {
    let detail = match kind {
        ErrorKind::Unavailable => {
            "not enough capacity for the requested resources right now, please retry shortly"
        }
        ErrorKind::Timeout => "placement timed out, please retry",
        _ => {
            "sandbox creation failed on 1 node(s), please retry; if the problem persists, contact us"
        }
    };
    format!("Failed to place sandbox: {detail}")
}

#[cfg(test)]
mod tests {
    use soulbox_types::lifecycle::State;

    use super::*;

    fn conflict(rejection: Rejection) -> SandboxError {
        SandboxError::Conflict {
            id: "iabc".parse().unwrap(),
            rejection,
        }
    }

    #[test]
    fn conflicts_are_told_in_the_wires_words() {
        let check = |rejection, kind, text: &str| {
            let error = conflict(rejection);
            assert_eq!(
                (
                    error.kind(),
                    error.user_message().as_str(),
                    error.error_code()
                ),
                (kind, text, None)
            );
        };
        let no = ErrorKind::Conflict;
        let not_found = "Sandbox \"iabc\" doesn't exist or you don't have access to it";
        check(Rejection::NotFound, ErrorKind::NotFound, not_found);
        check(
            Rejection::InTransition(Transition::Pause),
            no,
            "Sandbox \"iabc\" is being paused",
        );
        check(
            Rejection::InTransition(Transition::Snapshot),
            no,
            "Sandbox \"iabc\" is being snapshotted",
        );
        check(
            Rejection::InTransition(Transition::Kill),
            no,
            "Sandbox \"iabc\" is being killed",
        );
        check(
            Rejection::AlreadyPaused,
            no,
            "Error pausing sandbox - sandbox 'iabc' is already paused",
        );
        check(
            Rejection::AlreadyRunning,
            no,
            "Sandbox iabc is already running",
        );
        let text = "Sandbox snapshot is currently being created for sandbox 'iabc'";
        check(Rejection::SnapshotInProgress, no, text);
        let text = "Sandbox 'iabc' cannot be snapshotted while in 'pausing' state";
        check(Rejection::CannotSnapshot(State::Pausing), no, text);
        let text = "Sandbox 'iabc' cannot be forked while in 'snapshotting' state";
        check(Rejection::CannotFork(State::Snapshotting), no, text);
        let text = "Sandbox 'iabc' is paused and cannot be forked; resume it first";
        check(Rejection::PausedCannotFork, no, text);
    }

    #[test]
    fn failed_creates() {
        let check = |source: DriverError, kind, code: &str| {
            let error = SandboxError::Create {
                id: "iabc".parse().unwrap(),
                source: Arc::new(source),
            };
            assert_eq!((error.kind(), error.error_code()), (kind, Some(code)));
            assert!(
                error
                    .user_message()
                    .starts_with("Failed to place sandbox: ")
            );
            assert!(
                !error.user_message().contains("secret"),
                "nothing of the inside is told"
            );
        };
        let secret = || "secret".to_owned();
        check(
            DriverError::NoSlot,
            ErrorKind::Unavailable,
            "sandbox_capacity_unavailable",
        );
        check(
            DriverError::StorageFull,
            ErrorKind::Unavailable,
            "sandbox_capacity_unavailable",
        );
        check(
            DriverError::Envd { reason: secret() },
            ErrorKind::Timeout,
            "sandbox_placement_timeout",
        );
        let source = std::io::Error::other("secret");
        check(
            DriverError::Launch {
                step: secret(),
                source,
            },
            ErrorKind::Internal,
            "sandbox_create_failed",
        );
    }
}

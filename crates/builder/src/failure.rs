//! Why a build fails, in words for the owner of its template. What only an operator can mend goes to the server's log.

use soulbox_driver::DriverError;
use soulbox_store::{BuildReason, StoreError};

/// Why a build fails.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// The step that has failed, as lines of the log name it; the whole build when absent.
    pub(crate) step: Option<String>,
}

impl Failure {
    /// Something that the text explains.
    pub(crate) fn new(step: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            step: Some(step.to_owned()),
        }
    }

    /// The database has failed; the log of the server says how.
    pub(crate) fn store(step: &str) -> impl FnOnce(StoreError) -> Self {
        let step = step.to_owned();
        move |error| {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(error, "a build fails for the database");
            Self::internal(Some(step))
        }
    }

    /// Something that no owner of a template can do anything about.
    pub(crate) fn internal(step: Option<String>) -> Self {
        Self {
            message:
                "An internal error occurred. Please try again or contact support with the build ID."
                    .to_owned(),
            step,
        }
    }

    /// The host has failed to run a sandbox or to keep a layer.
    pub(crate) fn driver(step: &str) -> impl FnOnce(DriverError) -> Self {
        let step = step.to_owned();
        move |error| {
            let text = soulbox_telemetry::chain(&error);
            tracing::warn!(error = text, "a build fails for the host");
            let damaged = matches!(error, DriverError::Layer { .. });
            let fix = if damaged {
                "build again without the cache (skip_cache)"
            } else {
                "build again; finished steps are taken from the cache"
            };
            let message = format!("cannot run a sandbox for the build: {text}\nFIX: {fix}");
            Self::new(&step, message)
        }
    }
}

impl From<Failure> for BuildReason {
    fn from(failure: Failure) -> Self {
        Self {
            message: failure.message,
            step: failure.step,
        }
    }
}

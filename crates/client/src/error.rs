//! How a call fails, by what a caller can do about it.

use std::fmt;
use std::time::Duration;

use soulbox_types::ErrorKind;

/// What a server said instead of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// An HTTP status, from the control plane, envd's plain endpoints or a proxy between.
    Http(u16),
    /// A Connect code, from envd's services: `not_found`, `invalid_argument`, ….
    Rpc(String),
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "{status}"),
            Self::Rpc(code) => f.write_str(code),
        }
    }
}

impl Code {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Http(400 | 406 | 413 | 415 | 422) => ErrorKind::InvalidArgument,
            Self::Http(401) => ErrorKind::Unauthenticated,
            Self::Http(403) => ErrorKind::PermissionDenied,
            // 502 is how the edge says that the sandbox, or the port in it, is not there.
            Self::Http(404 | 410 | 502) => ErrorKind::NotFound,
            Self::Http(409) => ErrorKind::Conflict,
            Self::Http(429) => ErrorKind::LimitExceeded,
            Self::Http(501) => ErrorKind::Unimplemented,
            Self::Http(503) => ErrorKind::Unavailable,
            Self::Http(408 | 504) => ErrorKind::Timeout,
            Self::Http(507) => ErrorKind::StorageFull,
            Self::Http(_) => ErrorKind::Internal,
            Self::Rpc(code) => match code.as_str() {
                "invalid_argument" | "out_of_range" => ErrorKind::InvalidArgument,
                "unauthenticated" => ErrorKind::Unauthenticated,
                "permission_denied" => ErrorKind::PermissionDenied,
                "not_found" => ErrorKind::NotFound,
                "failed_precondition" | "already_exists" | "aborted" => ErrorKind::Conflict,
                "resource_exhausted" => ErrorKind::LimitExceeded,
                "unimplemented" => ErrorKind::Unimplemented,
                "unavailable" => ErrorKind::Unavailable,
                "deadline_exceeded" | "canceled" => ErrorKind::Timeout,
                _ => ErrorKind::Internal,
            },
        }
    }
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot connect to {authority}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke before the answer was complete.
    #[error("{operation}: the connection broke")]
    Broken {
        /// What was asked.
        operation: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{operation}: no answer within {after:?}")]
    Timeout {
        /// What was asked.
        operation: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server understood and said no.
    #[error("{operation}: {message} ({code})")]
    Refused {
        /// What was asked.
        operation: String,
        /// How it said no.
        code: Code,
        /// Its words.
        message: String,
        /// Its machine-readable word, where it gave one.
        error_code: Option<String>,
    },
    /// The answer is not what the contract says.
    #[error("{operation}: the answer cannot be read: {reason}")]
    Answer {
        /// What was asked.
        operation: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The request cannot even be made.
    #[error("{operation}: {reason}")]
    Request {
        /// What was asked.
        operation: String,
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => ErrorKind::Unavailable,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Refused { code, .. } => code.kind(),
            Self::Answer { .. } => ErrorKind::Internal,
            Self::Request { .. } => ErrorKind::InvalidArgument,
        }
    }

    /// Whether no server was reached at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether there was no connection, or it broke: what was asked may have been done, and another connection may tell.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.kind() == ErrorKind::Unavailable
    }

    pub(crate) fn answer(operation: &str, reason: impl fmt::Display) -> Self {
        Self::Answer {
            operation: operation.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn request(operation: &str, reason: impl fmt::Display) -> Self {
        Self::Request {
            operation: operation.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn broken(
        operation: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Broken {
            operation: operation.to_owned(),
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_codes() {
        assert_eq!(Code::Http(502).kind(), ErrorKind::NotFound);
        assert_eq!(Code::Http(418).kind(), ErrorKind::Internal);
        assert_eq!(
            Code::Rpc("resource_exhausted".to_owned()).kind(),
            ErrorKind::LimitExceeded
        );
    }

    #[test]
    fn text() {
        let error = ClientError::Refused {
            operation: "kill sandbox i1".to_owned(),
            code: Code::Http(404),
            message: "Sandbox \"i1\" doesn't exist".to_owned(),
            error_code: None,
        };
        assert_eq!(
            error.to_string(),
            "kill sandbox i1: Sandbox \"i1\" doesn't exist (404)"
        );
    }
}

//! How a request fails on the wire: one error type, one table from kind to status.
//!
//! Clients decide by the status and by `code` in the body, so the two are always equal, and every answer of 400 or
//! more is JSON: the Python client parses it before it looks at anything else.
//! What may be shown stands in `message`; what happened stands in the source and goes to the log only.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode};
use soulbox_api_types::ErrorBody;
use soulbox_orchestrator::SandboxError;
use soulbox_store::{ResolveError, StoreError};
use soulbox_types::ErrorKind;

use crate::observe;

/// Read by the Python client: any value but `true` means that it must not send the request again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// The status of each kind. The only place that decides it.
pub(crate) const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::LimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        // Not 409, which a pause takes for "already paused", and not 503, which is tried again.
        ErrorKind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A request that failed.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    error_code: Option<&'static str>,
    never_retry: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What the request log prints for a failure that is ours; travels with the response.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub Arc<dyn Error + Send + Sync>);

impl ApiError {
    /// A failure of this kind with this text.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::with_status(status_of(kind), message)
    }

    /// A failure with a status that belongs to one endpoint and not to a kind (410, 413, 422).
    pub(crate) fn with_status(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            error_code: None,
            never_retry: false,
            source: None,
        }
    }

    /// The request is wrong as it stands.
    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The request does not follow the schema. Callers test for the prefix.
    pub(crate) fn violation(detail: impl fmt::Display) -> Self {
        Self::invalid(format!("validation error: {detail}"))
    }

    /// It does not exist, or not for this caller.
    pub(crate) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Known to the wire and not built yet. `way_out` completes "FIX: ".
    pub(crate) fn not_available(what: &str, way_out: &str) -> Self {
        let message = format!("{what} not available in this version of SoulBox. FIX: {way_out}");
        Self {
            never_retry: true,
            ..Self::new(ErrorKind::Unimplemented, message)
        }
    }

    /// Our fault; the source goes to the log.
    pub(crate) fn internal(source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            source: Some(Arc::new(source)),
            ..Self::internal_without_source()
        }
    }

    fn disk_full(source: impl Error + Send + Sync + 'static) -> Self {
        let message = "the server's disk is full. FIX: free space in its data directory";
        Self {
            source: Some(Arc::new(source)),
            ..Self::new(ErrorKind::StorageFull, message)
        }
    }

    fn internal_without_source() -> Self {
        let message = match observe::request_id() {
            Some(id) => {
                format!("internal error; the server's log has the reason under request {id}")
            }
            None => "internal error; the server's log has the reason".to_owned(),
        };
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds the machine-readable code.
    pub(crate) fn code(self, error_code: &'static str) -> Self {
        Self {
            error_code: Some(error_code),
            ..self
        }
    }

    /// Tells clients not to send the request again by themselves.
    pub(crate) fn never_retry(self) -> Self {
        Self {
            never_retry: true,
            ..self
        }
    }

    /// What will be answered besides the status.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What a caller can do about it; none for a status that belongs to one endpoint.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        let kinds = ErrorKind::ALL;
        kinds
            .into_iter()
            .find(|kind| status_of(*kind) == self.status)
    }

    /// The status that will be answered.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What is told of it; where it is one of several outcomes, inside another answer.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            code: self.status.as_u16(),
            message: self.message.clone().into_owned(),
            error_code: self.error_code.map(str::to_owned),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.never_retry {
            response
                .headers_mut()
                .insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(source) = self.source {
            response.extensions_mut().insert(Cause(source));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match (error.kind(), error.user_message()) {
            (ErrorKind::StorageFull, _) => Self::disk_full(error),
            (ErrorKind::Internal, _) | (_, None) => Self::internal(error),
            (kind, Some(message)) => Self {
                source: Some(Arc::new(error)),
                ..Self::new(kind, message)
            },
        }
    }
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Store(error) => error.into(),
            ResolveError::NotFound { .. }
            | ResolveError::Foreign { .. }
            | ResolveError::TagNotFound { .. } => Self::new(error.kind(), error.to_string()),
        }
    }
}

impl From<SandboxError> for ApiError {
    fn from(error: SandboxError) -> Self {
        let kind = error.kind();
        let code = error.error_code();
        match (kind, code) {
            (ErrorKind::Internal, None) => return Self::internal(error),
            (ErrorKind::StorageFull, None) => return Self::disk_full(error),
            _ => {}
        }
        let message = error.user_message();
        Self {
            error_code: code,
            // What this server cannot do it cannot do a moment later.
            never_retry: kind == ErrorKind::Unimplemented,
            source: Some(Arc::new(error)),
            ..Self::new(kind, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_to_status() {
        let table: String = ErrorKind::ALL
            .iter()
            .map(|kind| format!("{kind:?} {}\n", status_of(*kind).as_u16()))
            .collect();
        insta::assert_snapshot!(table, @r"
        InvalidArgument 400
        Unauthenticated 401
        PermissionDenied 403
        NotFound 404
        Conflict 409
        LimitExceeded 429
        StorageFull 507
        Unavailable 503
        Timeout 504
        Unimplemented 501
        Internal 500
        ");
    }

    #[test]
    fn what_is_not_built_is_neither_already_paused_nor_tried_again() {
        let response = ApiError::not_available("Pausing a sandbox is", "kill it.").into_response();
        assert!(![409, 429, 502, 503, 504].contains(&response.status().as_u16()));
        assert_eq!(response.headers()["should-retry"], "false");
    }
}

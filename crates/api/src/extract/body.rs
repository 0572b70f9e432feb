//! Bodies: at most 16 MiB of JSON that follows its schema.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::extract::strict;

/// The contract's limit.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// The contract's time for a client to send a body.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// A request body: what its types do not say, [`Body::check`] says.
pub(crate) trait Body: DeserializeOwned {
    /// Finds what the schema forbids: ranges, lengths, patterns. The text completes "validation error: ".
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A body that must be there.
pub(crate) struct JsonBody<T>(pub T);

/// A body that may be missing.
pub(crate) struct OptionalJsonBody<T>(pub T);

impl<S: Send + Sync, T: Body> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (headers, bytes) = read(request).await?;
        if bytes.is_empty() {
            return Err(ApiError::violation(
                "request body: value is required but missing",
            ));
        }
        parse(&headers, &bytes).map(Self)
    }
}

impl<S: Send + Sync, T: Body + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (headers, bytes) = read(request).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&headers, &bytes).map(Self)
    }
}

async fn read(request: Request) -> Result<(HeaderMap, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(READ_DEADLINE, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok((parts.headers, collected.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_broken)) => Err(ApiError::violation(
            "request body: cannot be read to its end",
        )),
        Err(_elapsed) => Err(ApiError::with_status(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive in time",
        )),
    }
}

fn too_large() -> ApiError {
    let message = format!("request body is larger than {MAX_BODY_BYTES} bytes");
    ApiError::with_status(StatusCode::PAYLOAD_TOO_LARGE, message)
}

fn parse<T: Body>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, ApiError> {
    if !is_json(headers) {
        return Err(ApiError::violation(
            "request body: header Content-Type must be application/json",
        ));
    }
    let value: T = strict::from_slice(bytes)
        .map_err(|e| ApiError::violation(format_args!("request body: {e}")))?;
    value
        .check()
        .map_err(|detail| ApiError::violation(format_args!("request body: {detail}")))?;
    Ok(value)
}

/// A missing header counts as JSON: nothing else is ever meant.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let Ok(value) = value.to_str() else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

//! `Idempotency-Key` on `POST /v2/sandboxes`: the same request with the same key acts once.
//!
//! The work runs in a task of its own, so that a caller who goes away does not leave the key claimed for ever.
//! Answers that clients repeat by themselves (429 and 5xx) are not kept: nothing was made, and the repetition must
//! be able to succeed.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use sha2::{Digest, Sha256};
use soulbox_store::Begin;
use soulbox_types::{ErrorKind, TeamId};

use crate::error::ApiError;
use crate::observe;
use crate::state::Shared;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY_LENGTH: usize = 255;

/// Reads the header: 1 to 255 of `[a-z0-9-]`.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY_LENGTH).contains(&key.len()) && key.bytes().all(allowed))
        .map(|key| Some(key.to_owned()))
        .ok_or_else(|| {
            ApiError::invalid("Idempotency-Key must be 1 to 255 characters of [a-z0-9-]")
        })
}

/// What makes two requests the same: method, path and parsed body.
pub(crate) fn fingerprint(
    method_and_path: &str,
    body: &impl Serialize,
) -> Result<String, ApiError> {
    let json = serde_json::to_vec(body).map_err(ApiError::internal)?;
    let digest = Sha256::new()
        .chain_update(method_and_path)
        .chain_update([0])
        .chain_update(json)
        .finalize();
    Ok(data_encoding::HEXLOWER.encode(&digest))
}

/// Does the work once per key; a repetition gets the first answer again.
pub(crate) async fn once(
    api: Shared,
    team: TeamId,
    key: String,
    fingerprint: String,
    work: impl Future<Output = Response> + Send + 'static,
) -> Result<Response, ApiError> {
    let begin = api.store.begin_idempotent(&team, &key, &fingerprint).await;
    match begin.map_err(|_| {
        ApiError::new(
            ErrorKind::Unavailable,
            "idempotency records are not available",
        )
    })? {
        Begin::Started => {}
        Begin::Replay { status, body } => return Ok(replay(status, body)),
        Begin::InProgress => {
            let message = "A request with this Idempotency-Key is still in progress";
            return Err(ApiError::new(ErrorKind::Conflict, message).code("idempotency_in_progress"));
        }
        Begin::Mismatch => {
            let message = "This Idempotency-Key was used for a different request";
            return Err(
                ApiError::new(ErrorKind::Conflict, message).code("idempotency_request_mismatch")
            );
        }
        Begin::Lost => {
            let message = "The outcome of the request with this Idempotency-Key is unknown. \
                           FIX: list the sandboxes, then use a new key.";
            let error = ApiError::with_status(StatusCode::UNPROCESSABLE_ENTITY, message);
            return Err(error.code("idempotency_outcome_unknown"));
        }
    }
    let task = tokio::spawn(observe::carried(async move {
        settle(&api, &team, &key, work.await).await
    }));
    task.await.map_err(ApiError::internal)?
}

/// Keeps the answer, or gives the key back. The caller gets the answer even when neither can be written.
async fn settle(
    api: &Shared,
    team: &TeamId,
    key: &str,
    response: Response,
) -> Result<Response, ApiError> {
    let status = response.status();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(ApiError::internal)?;
    let nothing_done = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let written = if nothing_done {
        api.store.release_idempotent(team, key).await
    } else {
        let text = String::from_utf8_lossy(&bytes);
        api.store
            .finish_idempotent(team, key, status.as_u16(), &text)
            .await
    };
    if let Err(error) = written {
        tracing::warn!(%error, "answer to an idempotent request could not be kept");
    }
    Ok(Response::from_parts(parts, bytes.into()))
}

fn replay(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = (
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    (status, [json], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap());
            key(&headers)
        };
        assert_eq!(read("abc-123").unwrap().as_deref(), Some("abc-123"));
        assert!(read(&"a".repeat(255)).is_ok());
        for bad in ["", "A", "a_b", "a b", &"a".repeat(256)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
    }
}

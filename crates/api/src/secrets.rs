//! Secrets: there are none yet, and no way to make one.
//!
//! No answer may be stored, and no message repeats what was sent: [`guard`] holds for all of them.

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use soulbox_api_types::secret::{NewSecret, Secret, SecretUpdate};
use soulbox_types::ErrorKind;

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, Query};

const MAX_NAME_LENGTH: usize = 128;

impl Body for NewSecret {
    fn check(&self) -> Result<(), String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits =
            (1..=MAX_NAME_LENGTH).contains(&self.name.len()) && self.name.bytes().all(allowed);
        if fits { Ok(()) } else { Err("name".to_owned()) }
    }
}

impl Body for SecretUpdate {}

pub(crate) async fn list(_team: TeamAuth, query: Query) -> Result<Json<Vec<Secret>>, ApiError> {
    query.page_limit()?;
    if query.next_token().is_some() {
        return Err(ApiError::invalid("Invalid next token"));
    }
    Ok(Json(Vec::new()))
}

pub(crate) async fn create(_team: TeamAuth, JsonBody(_body): JsonBody<NewSecret>) -> ApiError {
    ApiError::new(
        ErrorKind::PermissionDenied,
        "Secrets are not available for this team",
    )
}

pub(crate) async fn update(_team: TeamAuth, JsonBody(_body): JsonBody<SecretUpdate>) -> ApiError {
    not_found()
}

/// Read and delete.
pub(crate) async fn unknown(_team: TeamAuth) -> ApiError {
    not_found()
}

fn not_found() -> ApiError {
    ApiError::not_found("Secret not found")
}

/// Replaces the messages that could hold input by fixed ones, and forbids storing the answer.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let fixed = match response.status() {
        StatusCode::BAD_REQUEST => Some(ApiError::invalid("Invalid secrets request")),
        StatusCode::UNAUTHORIZED => Some(ApiError::new(
            ErrorKind::Unauthenticated,
            "You are not authenticated",
        )),
        _ => None,
    };
    let mut response = fixed.map_or(response, IntoResponse::into_response);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

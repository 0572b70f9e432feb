//! Answers that need no caller: health, who signs tokens, addresses that are no more, addresses that never were.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::Shared;

/// Plain text, unlike everything else: load balancers read it.
pub(crate) async fn health(State(api): State<Shared>) -> Response {
    if api.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "Service is unavailable").into_response();
    }
    "Health check successful".into_response()
}

/// `GET /.well-known/openid-configuration`.
pub(crate) async fn discovery(State(api): State<Shared>) -> Json<Value> {
    Json(api.identity.discovery())
}

/// `GET /.well-known/jwks.json`.
pub(crate) async fn key_set(State(api): State<Shared>) -> Json<Value> {
    Json(api.identity.key_set())
}

/// `/instances…` and `/envs…`.
pub(crate) async fn removed_prefix() -> ApiError {
    ApiError::not_found(
        "Endpoints are deprecated, please update your SDK to use the new endpoints.",
    )
}

/// The build requests of old command lines.
pub(crate) async fn removed_build() -> ApiError {
    ApiError::not_found("Endpoint deprecated please update your CLI to the latest version")
}

/// Whatever no route matches, by path or by method.
pub(crate) async fn unmatched(method: Method) -> ApiError {
    ApiError::not_found(format!(
        "validation error: no operation matches this path with method {method}"
    ))
}

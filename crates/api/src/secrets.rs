//! Secrets. A value goes in and never comes out.
//!
//! No answer may be stored, and no message repeats what was sent: [`guard`] holds for all of them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use soulbox_api_types::secret as wire;
use soulbox_secrets::{MOST_VALUE_BYTES, Secret, SecretsError, Value};
use soulbox_store::PageRequest;
use soulbox_types::{ErrorKind, SecretName, SecretSelector};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg, Query};
use crate::page;
use crate::state::Shared;

const MOST_METADATA: usize = 32;
const LONGEST_METADATA: usize = 1024;

impl Body for wire::NewSecret {
    fn check(&self) -> Result<(), String> {
        if SecretName::parse(&self.name).is_none() {
            return Err("name".to_owned());
        }
        check_value(&self.value)?;
        self.metadata.as_ref().map_or(Ok(()), check_metadata)
    }
}

impl Body for wire::SecretUpdate {
    fn check(&self) -> Result<(), String> {
        check_value(&self.value)?;
        self.metadata.as_ref().map_or(Ok(()), check_metadata)
    }
}

fn check_value(value: &str) -> Result<(), String> {
    match (1..=MOST_VALUE_BYTES).contains(&value.len()) {
        true => Ok(()),
        false => Err("value".to_owned()),
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), String> {
    let fits = |text: &String| text.chars().count() <= LONGEST_METADATA && !text.contains('\0');
    let all = metadata.iter().all(|(key, value)| fits(key) && fits(value));
    match all && metadata.len() <= MOST_METADATA {
        true => Ok(()),
        false => Err("metadata".to_owned()),
    }
}

/// `GET /secrets`.
pub(crate) async fn list(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Response, ApiError> {
    let wanted = PageRequest {
        limit: query.page_limit()?,
        cursor: query.next_token(),
    };
    let found = api.secrets.list(&team.id, &wanted).await;
    let found = found.map_err(refused)?;
    let shown: Vec<wire::Secret> = found.items.into_iter().map(shown).collect();
    Ok(page::answer(shown, found.next_cursor))
}

/// `POST /secrets`.
pub(crate) async fn create(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<wire::NewSecret>,
) -> Result<(StatusCode, Json<wire::Secret>), ApiError> {
    let name = SecretName::parse(&body.name).ok_or_else(|| refused(SecretsError::Value))?;
    let value = Value::new(body.value);
    let metadata = body.metadata.unwrap_or_default();
    let made = api.secrets.create(&team.id, name, &value, metadata).await;
    Ok((StatusCode::CREATED, Json(shown(made.map_err(refused)?))))
}

/// `GET /secrets/{secretID}`: an id or a name.
pub(crate) async fn get(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(selector): PathArg,
) -> Result<Json<wire::Secret>, ApiError> {
    let found = api.secrets.get(&team.id, &meant(&selector)?).await;
    Ok(Json(shown(found.map_err(refused)?)))
}

/// `POST /secrets/{secretID}`.
pub(crate) async fn update(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(selector): PathArg,
    JsonBody(body): JsonBody<wire::SecretUpdate>,
) -> Result<Json<wire::Secret>, ApiError> {
    let value = Value::new(body.value);
    let selector = meant(&selector)?;
    let changed = api
        .secrets
        .update(&team.id, &selector, &value, body.metadata);
    Ok(Json(shown(changed.await.map_err(refused)?)))
}

/// `DELETE /secrets/{secretID}`.
pub(crate) async fn remove(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    PathArg(selector): PathArg,
) -> Result<StatusCode, ApiError> {
    let removed = api.secrets.remove(&team.id, &meant(&selector)?).await;
    removed.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// No secret has a name that is none.
fn meant(selector: &str) -> Result<SecretSelector, ApiError> {
    SecretSelector::parse(selector).ok_or_else(|| refused(SecretsError::Unknown))
}

fn shown(secret: Secret) -> wire::Secret {
    wire::Secret {
        secret_id: secret.id.into(),
        name: secret.name.to_string(),
        current_version: secret.version,
        metadata: secret.metadata,
        created_at: secret.created_at.to_string(),
        updated_at: secret.updated_at.to_string(),
    }
}

/// The contract's texts.
fn refused(error: SecretsError) -> ApiError {
    let state = "Secret cannot be modified in its current state";
    match error {
        SecretsError::Unknown => ApiError::not_found("Secret not found"),
        SecretsError::Taken | SecretsError::Changed => ApiError::new(ErrorKind::Conflict, state),
        SecretsError::TooMany => {
            ApiError::new(ErrorKind::Conflict, state).code("secret_limit_reached")
        }
        SecretsError::Value => ApiError::invalid("Invalid secrets request"),
        SecretsError::Store(error) => error.into(),
        error @ (SecretsError::Sealed(_) | SecretsError::SealedWebhook(_)) => {
            ApiError::internal(error)
        }
    }
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

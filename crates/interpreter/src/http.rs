//! The routes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower_http::cors::CorsLayer;

use crate::context::{Context, Description};
use crate::contexts::{ContextError, World};
use crate::envd;
use crate::language;
use crate::run::{self, Execution};

/// Code may carry data, but not without end.
const BODY_MAX_BYTES: usize = 128 * 1024 * 1024;
/// Lines that wait for a slow client.
const LINES: usize = 16;

/// The body of `/execute`.
#[derive(Debug, Deserialize)]
struct ExecuteBody {
    code: String,
    context_id: Option<String>,
    language: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
}

/// The body of `/contexts`.
#[derive(Debug, Deserialize)]
struct ContextBody {
    language: Option<String>,
    cwd: Option<PathBuf>,
}

/// Everything that is served.
pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/health", get(|| async { axum::Json("OK") }))
        .route("/execute", post(execute))
        .route("/contexts", get(list).post(create))
        .route("/contexts/{id}", delete(remove))
        .route("/contexts/{id}/restart", post(restart))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(CorsLayer::permissive())
        .with_state(world)
}

/// An answer that is no success.
#[derive(Debug)]
enum Refusal {
    /// A sentence.
    Text(StatusCode, String),
    /// What is wrong with a body, in the form that clients of the original know.
    Body(serde_json::Error),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Text(status, text) => (status, text).into_response(),
            Self::Body(error) => {
                let kind = if error.is_data() {
                    "value_error"
                } else {
                    "json_invalid"
                };
                let detail = json!([{"type": kind, "loc": ["body"], "msg": error.to_string()}]);
                let answer = axum::Json(json!({"detail": detail}));
                (StatusCode::UNPROCESSABLE_ENTITY, answer).into_response()
            }
        }
    }
}

impl From<ContextError> for Refusal {
    fn from(error: ContextError) -> Self {
        let status = match &error {
            ContextError::NotFound(_) => StatusCode::NOT_FOUND,
            ContextError::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ContextError::Kernel(..) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::Text(status, error.to_string())
    }
}

type Answer<T> = Result<T, Refusal>;

fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    serde_json::from_slice(bytes).map_err(Refusal::Body)
}

async fn execute(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<Response> {
    let body: ExecuteBody = body(&bytes)?;
    let context = context_of(&world, &body).await?;
    let token = headers
        .get(envd::TOKEN)
        .and_then(|value| value.to_str().ok());
    let execution = Execution {
        code: body.code,
        variables: body.env_vars.unwrap_or_default(),
        token: token.map(ToOwned::to_owned),
    };
    let (lines, written) = mpsc::channel(LINES);
    // It goes on without the caller for as long as it takes to stop the kernel.
    tokio::spawn(run::execute(world, context, execution, lines));
    let written = ReceiverStream::new(written).map(Ok::<_, Infallible>);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, Body::from_stream(written)).into_response())
}

async fn context_of(world: &World, body: &ExecuteBody) -> Answer<Arc<Context>> {
    match (&body.context_id, &body.language) {
        (Some(_), Some(_)) => {
            let text = "Only one of context_id or language can be provided";
            Err(Refusal::Text(StatusCode::BAD_REQUEST, text.to_owned()))
        }
        (Some(id), None) => Ok(world.find(id)?),
        (None, language) => {
            let language = language.as_deref().unwrap_or(language::DEFAULT);
            Ok(world.default_of(language).await?)
        }
    }
}

async fn list(State(world): State<Arc<World>>) -> axum::Json<Vec<Description>> {
    axum::Json(world.list())
}

async fn create(State(world): State<Arc<World>>, bytes: Bytes) -> Answer<axum::Json<Description>> {
    let body: ContextBody = body(&bytes)?;
    let language = body.language.as_deref().unwrap_or(language::DEFAULT);
    let context = world.create(language, body.cwd).await?;
    Ok(axum::Json(context.description.clone()))
}

async fn remove(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
) -> Answer<axum::Json<Value>> {
    world.remove(&id)?;
    Ok(axum::Json(Value::Null))
}

async fn restart(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
) -> Answer<axum::Json<Value>> {
    let context = world.find(&id)?;
    // Carried out to its end, whoever waits for it.
    let done = tokio::spawn(async move { context.restart(&world.starter).await }).await;
    match done {
        Ok(Ok(())) => Ok(axum::Json(Value::Null)),
        _ => Err(Refusal::Text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Failed to restart context {id}"),
        )),
    }
}

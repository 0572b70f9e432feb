//! The routes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
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
use crate::notebook::NewCell;
use crate::notebooks::OpenError;
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

/// The body of `POST /notebooks`.
#[derive(Debug, Deserialize)]
struct NotebookBody {
    path: PathBuf,
    /// Of a new one; an old one says it itself.
    language: Option<String>,
    /// Instead of those that it has.
    cells: Option<Vec<NewCell>>,
}

/// The body of `/notebooks/run`.
#[derive(Debug, Deserialize)]
struct RunBody {
    path: PathBuf,
    /// One cell, from 0; all that are code otherwise.
    cell: Option<usize>,
}

/// The query of `DELETE /notebooks`.
#[derive(Debug, Deserialize)]
struct NotebookQuery {
    path: PathBuf,
}

/// Everything that is served.
pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/health", get(|| async { axum::Json("OK") }))
        .route("/execute", post(execute))
        .route("/contexts", get(list).post(create))
        .route("/contexts/{id}", delete(remove))
        .route("/contexts/{id}/restart", post(restart))
        .route("/notebooks", post(open_notebook).delete(close_notebook))
        .route("/notebooks/run", post(run_notebook))
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

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        let status = match error {
            OpenError::Context(error) => return error.into(),
            OpenError::File(_, ref cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                StatusCode::NOT_FOUND
            }
            OpenError::File(..) | OpenError::Notebook(..) => StatusCode::BAD_REQUEST,
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
    let execution = Execution {
        code: body.code,
        variables: body.env_vars.unwrap_or_default(),
        token: token(&headers),
    };
    Ok(streamed(|lines| {
        run::execute(world, context, execution, lines)
    }))
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

async fn open_notebook(State(world): State<Arc<World>>, bytes: Bytes) -> Answer<axum::Json<Value>> {
    let body: NotebookBody = body(&bytes)?;
    let language = body.language.as_deref().unwrap_or(language::DEFAULT);
    let opened = world.open_notebook(&body.path, language, body.cells.as_deref());
    Ok(axum::Json(opened.await?))
}

async fn close_notebook(
    State(world): State<Arc<World>>,
    Query(query): Query<NotebookQuery>,
) -> Answer<axum::Json<Value>> {
    if world.close_notebook(&query.path) {
        return Ok(axum::Json(Value::Null));
    }
    let text = format!("Notebook {} is not open", query.path.display());
    Err(Refusal::Text(StatusCode::NOT_FOUND, text))
}

async fn run_notebook(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer<Response> {
    let body: RunBody = body(&bytes)?;
    let prepared = world.prepare_notebook(&body.path, body.cell).await?;
    let token = token(&headers);
    Ok(streamed(|lines| world.run_notebook(prepared, token, lines)))
}

/// The caller's token for the daemon of the sandbox.
fn token(headers: &HeaderMap) -> Option<String> {
    let token = headers.get(envd::TOKEN)?.to_str().ok()?;
    Some(token.to_owned())
}

/// An answer whose lines come from work that goes on without the caller for as long as it takes to stop the kernel.
fn streamed<W: Future<Output = ()> + Send + 'static>(
    work: impl FnOnce(run::Lines) -> W,
) -> Response {
    let (lines, written) = mpsc::channel(LINES);
    tokio::spawn(work(lines));
    let written = ReceiverStream::new(written).map(Ok::<_, Infallible>);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, Body::from_stream(written)).into_response()
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

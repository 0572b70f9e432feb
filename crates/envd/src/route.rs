//! Which endpoint a request is for, and whether it may go there.

use std::convert::Infallible;
use std::sync::Arc;

use connectrpc::{ConnectRpcBody, ConnectRpcService, DeadlinePolicy, Limits, Router};
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, ORIGIN};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use soulbox_envd_proto::OOM_PATH;
use soulbox_envd_proto::filesystem::FilesystemExt as _;
use soulbox_envd_proto::process::ProcessExt as _;
use tower::Service as _;

use crate::app::App;
use crate::filesystem::FilesystemService;
use crate::idle::Work;
use crate::process::ProcessService;
use crate::reply::{Refusal, Reply, empty, json, no_store};
use crate::{cors, files, init, oom, rpc_timeout};

/// Of one RPC message, on the wire and decoded. Inputs of processes are the large ones.
const MESSAGE_MAX_BYTES: usize = 64 * 1024 * 1024;
/// JSON of such a message is a third larger.
const REQUEST_MAX_BYTES: usize = 96 * 1024 * 1024;

pub(crate) const ACCESS_TOKEN: &str = "x-access-token";
const UNAUTHORIZED: &str =
    "unauthorized access, please provide a valid access token or method signing if supported";

/// All endpoints of envd.
#[derive(Clone)]
pub(crate) struct Endpoints {
    app: Arc<App>,
    rpc: ConnectRpcService<Router>,
}

impl Endpoints {
    pub(crate) fn new(app: Arc<App>) -> Self {
        let router = Arc::new(ProcessService::new(Arc::clone(&app))).register(Router::new());
        let router = Arc::new(FilesystemService::new(Arc::clone(&app))).register(router);
        let limits = Limits::default()
            .with_max_message_size(REQUEST_MAX_BYTES)
            .with_max_request_body_size(REQUEST_MAX_BYTES);
        let rpc = ConnectRpcService::new(router)
            .with_limits(limits.with_element_memory_limit(MESSAGE_MAX_BYTES))
            // Off by default: without it a stream outlives the timeout its client gave.
            .with_deadline_policy(DeadlinePolicy::new().with_enforce_on_streams(true));
        Self { app, rpc }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        if let Some(preflight) = cors::preflight(request.method(), request.headers()) {
            return Ok(preflight);
        }
        let _work = Work;
        let from_page = request.headers().contains_key(ORIGIN);
        let mut reply = if self.may_pass(&request) {
            self.dispatch(request).await
        } else {
            Refusal::unauthorized(UNAUTHORIZED).into_reply()
        };
        cors::expose(from_page, &mut reply);
        Ok(reply)
    }

    /// Whether a request bears the token, whatever it is for.
    pub(crate) fn knows<B>(&self, request: &Request<B>) -> bool {
        self.app.settings.admits(shown_token(request.headers()))
    }

    /// These check for themselves: health needs no token, files may be signed instead, init brings its own.
    fn may_pass<B>(&self, request: &Request<B>) -> bool {
        let own_check = match request.uri().path() {
            "/health" => request.method() == Method::GET,
            "/files" => request.method() == Method::GET || request.method() == Method::POST,
            "/init" => request.method() == Method::POST,
            _ => false,
        };
        own_check || self.knows(request)
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let outcome = match (path.as_str(), method.as_str()) {
            ("/health", "GET") => Ok(no_store(empty(StatusCode::NO_CONTENT))),
            ("/metrics", "GET") => self
                .app
                .meter
                .read()
                .map(|metrics| no_store(json(&metrics))),
            ("/envs", "GET") => Ok(no_store(json(&self.app.settings.variables()))),
            (OOM_PATH, "POST") => oom::told(&self.app.oom_kills, request).await,
            ("/init", "POST") => init::init(&self.app, request).await,
            ("/files", "GET") => files::download(&self.app, &request),
            ("/files", "POST") => files::upload(&self.app, request).await,
            ("/files/compose", "POST") => files::compose(&self.app, request).await,
            (
                "/health" | "/metrics" | "/envs" | "/init" | "/files" | "/files/compose" | OOM_PATH,
                _,
            ) => Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed",
            )),
            (rpc, _)
                if rpc.starts_with("/process.Process/")
                    || rpc.starts_with("/filesystem.Filesystem/") =>
            {
                return self.call(request).await;
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("no such endpoint: {path}"),
            )),
        };
        outcome.unwrap_or_else(Refusal::into_reply)
    }

    async fn call(&self, mut request: Request<Incoming>) -> Reply {
        if let Some(refusal) = rpc_timeout::refuse(&mut request) {
            return refusal;
        }
        // Infallible: errors of a call are answers too.
        let Ok(mut response) = self.rpc.clone().call(request).await;
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 asks for it; the library forgets it for GET.
            let allow = response.headers_mut().entry(ALLOW);
            allow.or_insert(HeaderValue::from_static("POST"));
        }
        response.map(|body| match body {
            // Kept as it is, so that the answer has a Content-Length.
            ConnectRpcBody::Full(full) => full.map_err(|never| match never {}).boxed_unsync(),
            other => other.map_err(|never| match never {}).boxed_unsync(),
        })
    }
}

/// The token a request bears.
pub(crate) fn shown_token(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(ACCESS_TOKEN).map(HeaderValue::as_bytes)
}

/// The media type of a request, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let header = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    header
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

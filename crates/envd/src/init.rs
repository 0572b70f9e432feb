//! `POST /init`: the control plane sets a sandbox's state. It never passes the proxy.

use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use soulbox_envd_proto::{ENVD_VERSION, InitBody};

use crate::app::App;
use crate::body::collect;
use crate::boot;
use crate::reply::{Refusal, Reply, empty, no_store};
use crate::route::ACCESS_TOKEN;
use crate::settings::InitOutcome;

const BODY_MAX_BYTES: usize = 4 * 1024 * 1024;

pub(crate) async fn init(app: &Arc<App>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let (head, body) = request.into_parts();
    let body = collect(body, BODY_MAX_BYTES).await?;
    let body: InitBody = if body.is_empty() {
        InitBody::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|e| Refusal::bad_request(format!("invalid init request: {e}")))?
    };
    let shown = head
        .headers
        .get(ACCESS_TOKEN)
        .and_then(|value| value.to_str().ok());
    let outcome = app.settings.init(&body, shown);
    let is_renamed = body.sandbox_id.is_some() || body.template_id.is_some();
    if is_renamed && matches!(outcome, InitOutcome::Applied) {
        boot::write_identity(body.sandbox_id.as_deref(), body.template_id.as_deref())
            .map_err(|e| Refusal::internal(format!("cannot write its identity: {e}")))?;
    }
    match outcome {
        InitOutcome::Applied | InitOutcome::Stale => {
            let mut reply = no_store(empty(StatusCode::NO_CONTENT));
            reply
                .headers_mut()
                .insert("x-envd-version", HeaderValue::from_static(ENVD_VERSION));
            Ok(reply)
        }
        InitOutcome::Unauthorized => Err(Refusal::unauthorized("access token validation failed")),
        InitOutcome::Invalid(reason) => Err(Refusal::bad_request(reason)),
    }
}

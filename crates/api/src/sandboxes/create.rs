//! `POST /sandboxes` and `POST /v2/sandboxes`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use soulbox_api_types::sandbox::{NewSandbox, Sandbox};
use soulbox_orchestrator::Moments;
use soulbox_store::Team;

use crate::auth::TeamAuth;
use crate::convert;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::sandboxes::admission::{self, CreateVersion};
use crate::sandboxes::{idempotency, schema, timing};
use crate::state::{Api, Shared};
use crate::templates;
use crate::volumes::mounts;

pub(crate) async fn v1(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    JsonBody(body): JsonBody<NewSandbox>,
) -> Result<Response, ApiError> {
    let unwatched = Moments::default();
    let sandbox = create(&api, &team, body, CreateVersion::V1, &unwatched).await?;
    Ok(created(sandbox))
}

pub(crate) async fn v2(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewSandbox>,
) -> Result<Response, ApiError> {
    let minimum = CreateVersion::V2.minimum_timeout();
    schema::at_least("timeout", body.timeout, minimum).map_err(ApiError::violation)?;
    let Some(key) = idempotency::key(&headers)? else {
        let moments = timing::asked(&headers);
        let sandbox = create(&api, &team, body, CreateVersion::V2, &moments).await?;
        return Ok(timing::told(created(sandbox), &moments));
    };
    let fingerprint = idempotency::fingerprint("POST /v2/sandboxes", &body)?;
    let (owner, worker) = (team.id.clone(), api.clone());
    let work = async move {
        create(&worker, &team, body, CreateVersion::V2, &Moments::default())
            .await
            .map_or_else(IntoResponse::into_response, created)
    };
    idempotency::once(api, owner, key, fingerprint, work).await
}

async fn create(
    api: &Api,
    team: &Team,
    body: NewSandbox,
    version: CreateVersion,
    moments: &Moments,
) -> Result<Sandbox, ApiError> {
    let reference = templates::reference(&body.template_id, "Invalid template reference")?;
    let resolved = api.store.resolve_template(team, &reference).await?;
    moments.mark("resolve-template");
    let admitted = admission::check(&body, version, &api.limits)?;
    let asked = body.volume_mounts.as_deref().unwrap_or_default();
    let mounts = mounts::resolve(api, team, asked, &resolved.build.envd_version).await?;
    let in_flight = api.creates.begin();
    let network = admitted.network.clone().network(api, &team.id).await?;
    let new = convert::new_sandbox(team, network, body, &resolved, admitted, mounts)?;
    moments.mark("admit");
    let view = api.sandboxes.create_watched(new, moments.clone()).await?;
    moments.mark("answer");
    in_flight.succeed();
    Ok(convert::sandbox(&view))
}

fn created(sandbox: Sandbox) -> Response {
    (StatusCode::CREATED, Json(sandbox)).into_response()
}

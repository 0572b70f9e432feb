//! `/nodes`: this server is the only node.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use soulbox_api_types::admin::{Node, NodeMetrics, NodeStatus, NodeStatusChange};
use soulbox_types::Timestamp;

use crate::auth::AdminAuth;
use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArg};
use crate::state::{Api, Shared};

/// There is one cluster, and it has no name.
const CLUSTER_ID: &str = "00000000-0000-0000-0000-000000000000";

impl Body for NodeStatusChange {}

pub(crate) async fn list(
    State(api): State<Shared>,
    _admin: AdminAuth,
) -> Result<Json<Vec<Node>>, ApiError> {
    Ok(Json(vec![this_node(&api).await?]))
}

pub(crate) async fn get(
    State(api): State<Shared>,
    _admin: AdminAuth,
    PathArg(id): PathArg,
) -> Result<Json<Node>, ApiError> {
    must_be_this(&api, &id)?;
    Ok(Json(this_node(&api).await?))
}

/// A single node is ready or stops; it has nowhere to drain to.
pub(crate) async fn set_status(
    State(api): State<Shared>,
    _admin: AdminAuth,
    PathArg(id): PathArg,
    JsonBody(body): JsonBody<NodeStatusChange>,
) -> Result<StatusCode, ApiError> {
    must_be_this(&api, &id)?;
    if body.status == status(&api) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_available(
        "Changing a node's status is",
        "stop the server: its sandboxes run on without it.",
    ))
}

fn must_be_this(api: &Api, id: &str) -> Result<(), ApiError> {
    if id == api.node.id {
        Ok(())
    } else {
        Err(ApiError::not_found(format!("node '{id}' not found")))
    }
}

fn status(api: &Api) -> NodeStatus {
    if api.shutdown.is_cancelled() {
        NodeStatus::Draining
    } else {
        NodeStatus::Ready
    }
}

async fn this_node(api: &Api) -> Result<Node, ApiError> {
    let running = api.store.all_running().await?;
    let host = api
        .host
        .read(&api.node.data_dir)
        .await
        .map_err(ApiError::internal)?;
    let (create_successes, create_fails, sandbox_starting_count) = api.creates.read();
    Ok(Node {
        version: api.node.version.clone(),
        commit: api.node.commit.clone(),
        id: api.node.id.clone(),
        service_instance_id: api.instance.to_string(),
        cluster_id: CLUSTER_ID.to_owned(),
        machine_info: host.machine,
        status: status(api),
        status_changed_at: changed_at(api).to_string(),
        sandbox_count: u32::try_from(running.len()).unwrap_or(u32::MAX),
        metrics: NodeMetrics {
            allocated_cpu: running
                .iter()
                .map(|r| r.limits.vcpu_count)
                .fold(0, u32::saturating_add),
            allocated_memory_bytes: running
                .iter()
                .map(|r| r.limits.memory_bytes())
                .fold(0, u64::saturating_add),
            ..host.metrics
        },
        create_successes,
        create_fails,
        sandbox_starting_count,
    })
}

/// When the shutdown began is not remembered: it is about now.
fn changed_at(api: &Api) -> Timestamp {
    if api.shutdown.is_cancelled() {
        Timestamp::now()
    } else {
        api.started
    }
}

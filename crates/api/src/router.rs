//! Which address leads where. With the layers around it, this is the whole control plane.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{delete, get, patch, post, put};

use crate::operator::{admin, nodes};
use crate::sandboxes::{create, later, lifetime, list, logs, metrics, read};
use crate::state::{Api, ApiState, Shared};
use crate::templates::{builds, change, read as template_read, tags};
use crate::{cors, keys, observe, outside, secrets, teams, volumes};

/// The control plane as one service.
pub fn router(state: ApiState) -> Router {
    observe::describe_metrics();
    Router::new()
        .route("/health", get(outside::health))
        .merge(sandboxes())
        .merge(templates())
        .merge(team_routes())
        .merge(storage())
        .merge(operator())
        .merge(removed())
        .fallback(outside::unmatched)
        .method_not_allowed_fallback(outside::unmatched)
        .layer(from_fn(observe::shield))
        .layer(cors::layer())
        .layer(from_fn(observe::record))
        .with_state(Arc::new(Api::new(state)))
}

fn sandboxes() -> Router<Shared> {
    Router::new()
        .route("/sandboxes", get(list::v1).post(create::v1))
        .route("/v2/sandboxes", get(list::v2).post(create::v2))
        .route("/sandboxes/metrics", get(metrics::of_many))
        .route("/sandboxes/{sandboxID}", get(read::get).delete(read::kill))
        .route("/sandboxes/{sandboxID}/logs", get(logs::v1))
        .route("/v2/sandboxes/{sandboxID}/logs", get(logs::v2))
        .route("/sandboxes/{sandboxID}/metrics", get(metrics::of_one))
        .route(
            "/sandboxes/{sandboxID}/timeout",
            post(lifetime::set_timeout),
        )
        .route("/sandboxes/{sandboxID}/refreshes", post(lifetime::refresh))
        .route("/sandboxes/{sandboxID}/connect", post(lifetime::connect_v1))
        .route(
            "/v2/sandboxes/{sandboxID}/connect",
            post(lifetime::connect_v2),
        )
        .route("/sandboxes/{sandboxID}/pause", post(later::pause))
        .route("/sandboxes/{sandboxID}/resume", post(later::resume))
        .route("/sandboxes/{sandboxID}/fork", post(later::fork))
        .route("/sandboxes/{sandboxID}/snapshots", post(later::snapshot))
        .route("/sandboxes/{sandboxID}/network", put(later::put_network))
        .route("/snapshots", get(later::snapshots))
}

fn templates() -> Router<Shared> {
    Router::new()
        .route(
            "/templates",
            get(template_read::list_v1).post(outside::removed_build),
        )
        .route(
            "/v2/templates",
            get(template_read::list_v2).post(outside::removed_build),
        )
        .route("/v3/templates", post(builds::request))
        .route("/default-templates", get(template_read::defaults))
        .route("/templates/tags", post(tags::assign).delete(tags::remove))
        .route("/templates/aliases/{alias}", get(template_read::alias))
        .route(
            "/templates/{templateID}",
            get(template_read::get)
                .patch(change::update)
                .delete(change::delete)
                .post(outside::removed_build),
        )
        .route("/v2/templates/{templateID}", patch(change::update))
        .route("/templates/{templateID}/files/{hash}", get(builds::upload))
        .route(
            "/templates/{templateID}/builds/{buildID}",
            post(outside::removed_build),
        )
        .route(
            "/v2/templates/{templateID}/builds/{buildID}",
            post(builds::start),
        )
        .route(
            "/templates/{templateID}/builds/{buildID}/status",
            get(builds::status),
        )
        .route(
            "/templates/{templateID}/builds/{buildID}/logs",
            get(builds::logs),
        )
        .route("/templates/{templateID}/tags", get(tags::list))
        .route("/templates/{templateID}/tags/count", get(tags::count))
        .route("/templates/{templateID}/tags/exists", get(tags::exists))
        .route("/templates/{templateID}/tags/groups", get(tags::groups))
        .route(
            "/templates/{templateID}/tags/{tag}/assignments",
            get(tags::assignments),
        )
}

fn team_routes() -> Router<Shared> {
    Router::new()
        .route("/teams", get(teams::list))
        .route("/teams/{teamID}/metrics", get(teams::metrics))
        .route("/teams/{teamID}/metrics/max", get(teams::metrics_max))
        .route("/api-keys", get(keys::list).post(keys::create))
        .route(
            "/api-keys/{apiKeyID}",
            patch(keys::rename).delete(keys::delete),
        )
        .route("/access-tokens", post(keys::access_tokens))
        .route(
            "/access-tokens/{accessTokenID}",
            delete(keys::access_tokens),
        )
}

fn storage() -> Router<Shared> {
    let secrets = Router::new()
        .route("/secrets", get(secrets::list).post(secrets::create))
        .route(
            "/secrets/{secretID}",
            get(secrets::unknown)
                .post(secrets::update)
                .delete(secrets::unknown),
        )
        .layer(from_fn(secrets::guard));
    Router::new()
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route(
            "/volumes/{volumeID}",
            get(volumes::unknown).delete(volumes::unknown),
        )
        .merge(secrets)
}

fn operator() -> Router<Shared> {
    Router::new()
        .route("/nodes", get(nodes::list))
        .route("/nodes/{nodeID}", get(nodes::get).post(nodes::set_status))
        .route(
            "/admin/sandboxes/running-counts",
            get(admin::running_counts),
        )
        .route(
            "/admin/teams/{teamID}/sandboxes/kill",
            post(admin::kill_sandboxes),
        )
        .route(
            "/admin/teams/{teamID}/builds/cancel",
            post(admin::cancel_builds),
        )
        .route("/admin/teams/{teamID}/api-keys", post(admin::create_key))
        .route(
            "/admin/teams/{teamID}/api-keys/{apiKeyID}",
            delete(admin::delete_key),
        )
}

fn removed() -> Router<Shared> {
    use axum::routing::any;
    Router::new()
        .route("/instances", any(outside::removed_prefix))
        .route("/instances/{*rest}", any(outside::removed_prefix))
        .route("/envs", any(outside::removed_prefix))
        .route("/envs/{*rest}", any(outside::removed_prefix))
}

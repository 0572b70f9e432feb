//! Which address leads where. With the layers around it, this is the whole control plane.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn;
use axum::routing::{MethodFilter, MethodRouter, any, on};

use crate::events::{self, webhooks};
use crate::operator::{admin, nodes};
use crate::sandboxes::{
    branch, contacts, create, lifetime, list, logs, metrics, network, pause, read, urls,
};
use crate::state::{Api, ApiState, Shared};
use crate::templates::{
    builds, catalogue, change, look, read as template_read, request, start, tags, uploads,
};
use crate::volumes::{content, files};
use crate::{cors, keys, observe, openapi, outside, secrets, teams, volumes};

/// The control plane as one service.
pub fn router(state: ApiState) -> Router {
    observe::describe_metrics();
    all()
        .router
        .fallback(outside::unmatched)
        .method_not_allowed_fallback(outside::unmatched)
        .layer(from_fn(observe::shield))
        .layer(cors::layer())
        .layer(from_fn(observe::record))
        .with_state(Arc::new(Api::new(state)))
}

fn all() -> Routes {
    Routes::default()
        .get("/health", outside::health)
        .get("/openapi.json", openapi::get)
        .merge(sandboxes())
        .merge(templates())
        .merge(team_routes())
        .merge(storage())
        .merge(event_routes())
        .merge(operator())
        .merge(removed())
}

fn sandboxes() -> Routes {
    Routes::default()
        .get("/sandboxes", list::v1)
        .post("/sandboxes", create::v1)
        .get("/v2/sandboxes", list::v2)
        .post("/v2/sandboxes", create::v2)
        .get("/sandboxes/metrics", metrics::of_many)
        .get("/sandboxes/{sandboxID}", read::get)
        .delete("/sandboxes/{sandboxID}", read::kill)
        .get("/sandboxes/{sandboxID}/logs", logs::v1)
        .get("/v2/sandboxes/{sandboxID}/logs", logs::v2)
        .get("/sandboxes/{sandboxID}/metrics", metrics::of_one)
        .post("/sandboxes/{sandboxID}/timeout", lifetime::set_timeout)
        .post("/sandboxes/{sandboxID}/refreshes", lifetime::refresh)
        .post("/sandboxes/{sandboxID}/connect", lifetime::connect_v1)
        .post("/v2/sandboxes/{sandboxID}/connect", lifetime::connect_v2)
        .post("/sandboxes/{sandboxID}/pause", pause::pause)
        .post("/sandboxes/{sandboxID}/resume", pause::resume)
        .post("/sandboxes/{sandboxID}/fork", branch::fork)
        .post("/sandboxes/{sandboxID}/snapshots", branch::snapshot)
        .put("/sandboxes/{sandboxID}/network", network::put_network)
        .get("/sandboxes/{sandboxID}/network/contacts", contacts::list)
        .post("/sandboxes/{sandboxID}/urls", urls::create)
        .get("/snapshots", branch::snapshots)
}

fn templates() -> Routes {
    Routes::default()
        .get("/templates", template_read::list_v1)
        .post("/templates", outside::removed_build)
        .get("/v2/templates", template_read::list_v2)
        .post("/v2/templates", outside::removed_build)
        .post("/v3/templates", request::request)
        .get("/default-templates", template_read::defaults)
        .get("/template-catalogue", catalogue::search)
        .post("/templates/tags", tags::assign)
        .delete("/templates/tags", tags::remove)
        .get("/templates/aliases/{alias}", template_read::alias)
        .get("/templates/{templateID}", template_read::get)
        .patch("/templates/{templateID}", change::update_v1)
        .delete("/templates/{templateID}", change::delete)
        .post("/templates/{templateID}", outside::removed_build)
        .patch("/v2/templates/{templateID}", change::update_v2)
        .get("/templates/{templateID}/files/{hash}", uploads::link)
        .add(
            uploads::ROUTE,
            "PUT",
            on(MethodFilter::PUT, uploads::put).fallback(uploads::only_put),
        )
        .post(
            "/templates/{templateID}/builds/{buildID}",
            outside::removed_build,
        )
        .post("/v2/templates/{templateID}/builds/{buildID}", start::start)
        .get(
            "/templates/{templateID}/builds/{buildID}/status",
            builds::status,
        )
        .get(
            "/templates/{templateID}/builds/{buildID}/logs",
            builds::logs,
        )
        .get("/templates/{templateID}/diff", look::diff)
        .get("/templates/{templateID}/export", look::export)
        .get("/templates/{templateID}/tags", tags::list)
        .get("/templates/{templateID}/tags/count", tags::count)
        .get("/templates/{templateID}/tags/exists", tags::exists)
        .get("/templates/{templateID}/tags/groups", tags::groups)
        .get(
            "/templates/{templateID}/tags/{tag}/assignments",
            tags::assignments,
        )
}

fn team_routes() -> Routes {
    Routes::default()
        .get("/teams", teams::list)
        .get("/teams/{teamID}/metrics", teams::metrics)
        .get("/teams/{teamID}/metrics/max", teams::metrics_max)
        .get("/api-keys", keys::list)
        .post("/api-keys", keys::create)
        .patch("/api-keys/{apiKeyID}", keys::rename)
        .delete("/api-keys/{apiKeyID}", keys::delete)
        .post("/access-tokens", keys::access_tokens)
        .delete("/access-tokens/{accessTokenID}", keys::access_tokens)
}

fn storage() -> Routes {
    let mut secrets = Routes::default()
        .get("/secrets", secrets::list)
        .post("/secrets", secrets::create)
        .get("/secrets/{secretID}", secrets::get)
        .post("/secrets/{secretID}", secrets::update)
        .delete("/secrets/{secretID}", secrets::remove);
    secrets.router = secrets.router.layer(from_fn(secrets::guard));
    Routes::default()
        .get("/volumes", volumes::list)
        .post("/volumes", volumes::create)
        .get("/volumes/{volumeID}", volumes::get)
        .delete("/volumes/{volumeID}", volumes::remove)
        .get(content::PATH_ROUTE, content::stat)
        .patch(content::PATH_ROUTE, content::change)
        .delete(content::PATH_ROUTE, content::remove)
        .get(content::DIRECTORY_ROUTE, content::list)
        .post(content::DIRECTORY_ROUTE, content::make_directory)
        .get(content::FILE_ROUTE, files::read)
        .put(content::FILE_ROUTE, files::write)
        .merge(secrets)
}

fn event_routes() -> Routes {
    Routes::default()
        .get("/events/sandboxes", events::of_team)
        .get("/events/sandboxes/{sandboxID}", events::of_sandbox)
        .get("/events/webhooks", webhooks::list)
        .post("/events/webhooks", webhooks::create)
        .get("/events/webhooks/{webhookID}", webhooks::get)
        .patch("/events/webhooks/{webhookID}", webhooks::update)
        .delete("/events/webhooks/{webhookID}", webhooks::remove)
        .get(
            "/events/webhooks/{webhookID}/deliveries",
            webhooks::deliveries,
        )
}

fn operator() -> Routes {
    Routes::default()
        .get("/nodes", nodes::list)
        .get("/nodes/{nodeID}", nodes::get)
        .post("/nodes/{nodeID}", nodes::set_status)
        .get("/admin/sandboxes/running-counts", admin::running_counts)
        .post(
            "/admin/teams/{teamID}/sandboxes/kill",
            admin::kill_sandboxes,
        )
        .post("/admin/gc", admin::collect_garbage)
        .get("/admin/teams/{teamID}/retention", admin::retention)
        .put("/admin/teams/{teamID}/retention", admin::set_retention)
        .post("/admin/teams/{teamID}/builds/cancel", admin::cancel_builds)
        .post("/admin/teams/{teamID}/api-keys", admin::create_key)
        .delete(
            "/admin/teams/{teamID}/api-keys/{apiKeyID}",
            admin::delete_key,
        )
}

fn removed() -> Routes {
    Routes::default()
        .any("/instances", outside::removed_prefix)
        .any("/instances/{*rest}", outside::removed_prefix)
        .any("/envs", outside::removed_prefix)
        .any("/envs/{*rest}", outside::removed_prefix)
}

/// Routes, and the list of them that the served document is compared with.
#[derive(Default)]
struct Routes {
    router: Router<Shared>,
    /// Path and method of each; `*` is any method.
    listed: Vec<(&'static str, &'static str)>,
}

impl Routes {
    fn get<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(path, "GET", on(MethodFilter::GET, handler))
    }

    fn post<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(path, "POST", on(MethodFilter::POST, handler))
    }

    fn put<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(path, "PUT", on(MethodFilter::PUT, handler))
    }

    fn patch<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(path, "PATCH", on(MethodFilter::PATCH, handler))
    }

    fn delete<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(path, "DELETE", on(MethodFilter::DELETE, handler))
    }

    fn any<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(path, "*", any(handler))
    }

    fn add(
        mut self,
        path: &'static str,
        method: &'static str,
        handlers: MethodRouter<Shared>,
    ) -> Self {
        self.router = self.router.route(path, handlers);
        self.listed.push((path, method));
        self
    }

    fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.listed.extend(other.listed);
        self
    }
}

/// Path and method of every route; `*` is any method.
#[cfg(test)]
pub(crate) fn listed() -> Vec<(&'static str, &'static str)> {
    all().listed
}

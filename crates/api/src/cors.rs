//! Which browsers may call: all of them, since every call needs a key anyway.

use http::{HeaderName, Method};
use tower_http::cors::{AllowHeaders, AllowMethods, Any, CorsLayer, ExposeHeaders};

/// Headers that SDKs in browsers send.
const ALLOWED_HEADERS: [&str; 24] = [
    "origin",
    "content-length",
    "content-type",
    "user-agent",
    "authorization",
    "x-api-key",
    "x-team-id",
    "x-admin-token",
    "browser",
    "lang",
    "lang_version",
    "machine",
    "os",
    "package_version",
    "processor",
    "publisher",
    "release",
    "sdk_runtime",
    "system",
    "idempotency-key",
    "accept",
    "accept-language",
    "cache-control",
    "integration",
];

/// Headers that scripts may read.
const EXPOSED_HEADERS: [&str; 8] = [
    "x-next-token",
    "x-total-running",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "retry-after",
    "should-retry",
    "x-e2b-trace-id",
];

/// The layer that answers preflights and marks answers.
pub(crate) fn layer() -> CorsLayer {
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(AllowMethods::list(methods))
        .allow_headers(AllowHeaders::list(
            ALLOWED_HEADERS.map(HeaderName::from_static),
        ))
        .expose_headers(ExposeHeaders::list(
            EXPOSED_HEADERS.map(HeaderName::from_static),
        ))
}

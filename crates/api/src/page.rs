//! Pages of lists: the headers that carry what the body cannot.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use serde::Serialize;

/// Present exactly when there are more: SDKs ask for nothing else.
pub(crate) const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Running sandboxes that pass the filters, on whatever page.
pub(crate) const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");

/// A page and the token of the next.
pub(crate) fn answer(body: impl Serialize, next: Option<String>) -> Response {
    let mut response = Json(body).into_response();
    set_header(&mut response, NEXT_TOKEN, next);
    response
}

/// Sets a header whose value is made by this server.
pub(crate) fn set_header(response: &mut Response, name: HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(name, value);
    }
}

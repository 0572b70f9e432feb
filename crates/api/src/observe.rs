//! What surrounds every request: an id, a log line, a counter, a deadline, and an answer when a handler panics.
//!
//! The log line has the matched route and never the path, query, headers or body: those hold ids, keys and values
//! that are the caller's.

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, StatusCode};
use soulbox_types::ErrorKind;
use soulbox_types::id::random_label;
use tracing::{Instrument, Level, Span, field};

use crate::error::{ApiError, Cause};
use crate::templates::{look, uploads};
use crate::volumes::content;

/// The contract's name for an id to look up in the server's log.
const TRACE_ID: HeaderName = HeaderName::from_static("x-e2b-trace-id");
/// The contract's limit for one request; creates have their own, shorter ones.
const REQUEST_DEADLINE: Duration = Duration::from_secs(70);

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that this task serves.
pub(crate) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Lets a task of its own keep the request's id and span.
pub(crate) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    REQUEST_ID
        .scope(request_id().unwrap_or_default(), work)
        .in_current_span()
}

/// Notes in the request's span whose request it is.
pub(crate) fn note_team(team: &soulbox_types::TeamId) {
    Span::current().record("team.id", field::display(team));
}

/// Outermost layer: gives the request its id, and logs and counts the answer.
pub(crate) async fn record(request: Request, next: Next) -> Response {
    let id = random_label(16);
    let started = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!(
        "request",
        http.method = %method,
        http.route = %route,
        request.id = %id,
        team.id = field::Empty
    );
    let mut response = REQUEST_ID
        .scope(id.clone(), next.run(request))
        .instrument(span.clone())
        .await;
    let elapsed = started.elapsed();
    let _entered = span.enter();
    log_answer(&response, elapsed);
    count_answer(method.as_str(), &route, response.status(), elapsed);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(TRACE_ID, value);
    }
    response
}

/// Innermost layer: turns a panic and a request without end into answers.
pub(crate) async fn shield(request: Request, next: Next) -> Response {
    let deadline = deadline(&request);
    let guarded = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(deadline, guarded).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => ApiError::internal(HandlerPanicked).into_response(),
        Err(_elapsed) => ApiError::new(ErrorKind::Timeout, "the request took too long")
            .never_retry()
            .into_response(),
    }
}

fn deadline(request: &Request) -> Duration {
    let route = request.extensions().get::<MatchedPath>();
    match route.map(MatchedPath::as_str) {
        Some(uploads::ROUTE | content::FILE_ROUTE) => uploads::DEADLINE,
        Some(look::DIFF_ROUTE | look::EXPORT_ROUTE) => look::DEADLINE,
        _ => REQUEST_DEADLINE,
    }
}

/// A handler panicked; the panic hook has already printed where.
#[derive(Debug, thiserror::Error)]
#[error("request handler panicked")]
struct HandlerPanicked;

fn log_answer(response: &Response, elapsed: Duration) {
    let status = response.status();
    let duration_ms = elapsed.as_secs_f64() * 1000.0;
    let cause = response
        .extensions()
        .get::<Cause>()
        .map(|Cause(source)| chain(source.as_ref()));
    // One line per request; its level says whether somebody must look.
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                http.status = status.as_u16(),
                duration_ms,
                error = cause,
                "request answered"
            )
        };
    }
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => line!(Level::ERROR),
        StatusCode::NOT_IMPLEMENTED => line!(Level::INFO),
        _ if status.is_server_error() => line!(Level::WARN),
        _ => line!(Level::INFO),
    }
}

/// An error and all that caused it, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

const REQUESTS: &str = "soulbox_api_requests_total";
const DURATION: &str = "soulbox_api_request_duration_seconds";

/// Tells the metrics exporter what the numbers mean.
pub(crate) fn describe_metrics() {
    metrics::describe_counter!(
        REQUESTS,
        "Requests to the control plane by method, matched route and class of status"
    );
    metrics::describe_histogram!(
        DURATION,
        metrics::Unit::Seconds,
        "Time to the answer, by the same labels"
    );
}

fn count_answer(method: &str, route: &str, status: StatusCode, elapsed: Duration) {
    let class = match status.as_u16() {
        ..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500.. => "5xx",
    };
    // A method is any word that a stranger sends: only known ones become labels.
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let method = known
        .into_iter()
        .find(|word| *word == method)
        .unwrap_or("other");
    let labels = [
        ("method", method.to_owned()),
        ("route", route.to_owned()),
        ("status", class.to_owned()),
    ];
    metrics::counter!(REQUESTS, &labels).increment(1);
    metrics::histogram!(DURATION, &labels).record(elapsed.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] HandlerPanicked);
        assert_eq!(
            chain(&Outer(HandlerPanicked)),
            "outer: request handler panicked"
        );
    }

    async fn panics() -> &'static str {
        panic!("secret detail")
    }

    async fn never() {
        std::future::pending::<()>().await;
    }

    async fn answer(path: &str) -> (StatusCode, String, String) {
        use axum::middleware::from_fn;
        use axum::routing::get;
        use http_body_util::BodyExt;
        use tower::ServiceExt;

        let router = axum::Router::new()
            .route("/panics", get(panics))
            .route("/never", get(never))
            .layer(from_fn(shield))
            .layer(from_fn(record));
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let id = parts.headers[TRACE_ID].to_str().unwrap().to_owned();
        (parts.status, id, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_with_the_requests_id() {
        let (status, id, body) = answer("/panics").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            body.contains(&id) && body.starts_with("{\"code\":500,") && !body.contains("secret"),
            "{body}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_end_is_an_answer() {
        let (status, _, body) = answer("/never").await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert!(body.starts_with("{\"code\":504,"), "{body}");
    }
}

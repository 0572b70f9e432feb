//! Where the time of a create went, for a caller who asks: `Server-Timing` in the answer.

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use soulbox_orchestrator::Moments;

/// A request that has it wants to know; its value means nothing.
const ASKED: HeaderName = HeaderName::from_static("soulbox-timing");
/// Of W3C's "Server Timing": metrics with a duration in milliseconds, one for each step, in order.
const TOLD: HeaderName = HeaderName::from_static("server-timing");

/// Where moments are kept, if the request wants them.
pub(super) fn asked(headers: &HeaderMap) -> Moments {
    match headers.contains_key(ASKED) {
        true => Moments::kept(),
        false => Moments::default(),
    }
}

/// The answer with the time of each step, if somebody wants to know.
pub(super) fn told(mut answer: Response, moments: &Moments) -> Response {
    if let Some(value) = value(moments) {
        answer.headers_mut().insert(TOLD, value);
    }
    answer
}

fn value(moments: &Moments) -> Option<HeaderValue> {
    let steps = moments.steps();
    if steps.is_empty() {
        return None;
    }
    let metrics = steps
        .into_iter()
        .map(|(step, took)| format!("{step};dur={:.4}", took.as_secs_f64() * 1000.0));
    // Names of steps are words of ours.
    HeaderValue::try_from(metrics.collect::<Vec<_>>().join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_is_told() {
        let silent = asked(&HeaderMap::new());
        silent.mark("admit");
        assert_eq!(value(&silent), None);
        let mut headers = HeaderMap::new();
        headers.insert(ASKED, HeaderValue::from_static("1"));
        let moments = asked(&headers);
        moments.mark("admit");
        let told = value(&moments).unwrap();
        assert!(told.to_str().unwrap().starts_with("admit;dur=0."));
    }
}

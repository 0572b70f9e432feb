//! The API's description of itself: `GET /openapi.json`.
//!
//! Bodies come from the wire's types, words from the tables that the handlers read them with. What is written by hand
//! is the table of operations, and a test compares it with the router, both ways.
//! It is for everybody: it says nothing that the source does not, and a client must be able to read it before it has
//! a key.

mod document;
mod events;
mod operation;
mod sandboxes;
mod schema;
mod teams;
mod templates;

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};

use operation::Operation;
use schema::{number, text};

/// In the answers of pages: the token of the next.
const NEXT_TOKEN: &str = "X-Next-Token";

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| document::write(&operations()).to_string().into());

/// `GET /openapi.json`.
pub(crate) async fn get() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], DOCUMENT.clone()).into_response()
}

fn operations() -> Vec<Operation> {
    [
        sandboxes::operations(),
        templates::operations(),
        teams::operations(),
        events::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The parameters of every list in pages.
fn with_page(operation: Operation) -> Operation {
    operation
        .query("limit", number(1, 100))
        .query("nextToken", text())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::router;

    /// Old prefixes with everything below them: not operations, so the document does not have them.
    const NOT_DESCRIBED: [&str; 4] = ["/instances", "/instances/{*rest}", "/envs", "/envs/{*rest}"];

    #[test]
    fn the_router_and_the_document_have_the_same_operations() {
        let operations = operations();
        let described: BTreeSet<(&str, &str)> =
            operations.iter().map(|o| (o.path, o.method)).collect();
        assert_eq!(described.len(), operations.len(), "described twice");
        let (served, any): (Vec<_>, Vec<_>) = router::listed()
            .into_iter()
            .partition(|(_, method)| *method != "*");
        let served: BTreeSet<_> = served.into_iter().collect();
        let only = |a: &BTreeSet<_>, b: &BTreeSet<_>| a.difference(b).copied().collect::<Vec<_>>();
        assert_eq!(only(&served, &described), [], "served and not described");
        assert_eq!(only(&described, &served), [], "described and not served");
        let any: Vec<&str> = any.into_iter().map(|(path, _)| path).collect();
        assert_eq!(any, NOT_DESCRIBED);
    }

    #[test]
    fn ids_are_unique() {
        let operations = operations();
        let ids: BTreeSet<&str> = operations.iter().map(|o| o.id).collect();
        assert_eq!(ids.len(), operations.len());
    }

    #[test]
    fn operations_at_a_glance() {
        let lines: String = operations()
            .iter()
            .map(|o| {
                let good = o.answers.iter().map(|a| a.status.as_u16());
                let statuses: Vec<String> = good
                    .chain(o.all_refusals())
                    .map(|s| s.to_string())
                    .collect();
                format!("{} {} {}: {}\n", o.method, o.path, o.id, statuses.join(" "))
            })
            .collect();
        insta::assert_snapshot!(lines);
    }
}

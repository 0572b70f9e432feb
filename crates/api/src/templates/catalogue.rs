//! `GET /template-catalogue`: the team's own templates and all public ones, found by words.
//!
//! It does not stand below `/templates`, where its word would hide the template that somebody calls so.

use axum::extract::State;
use axum::response::Response;
use soulbox_api_types::catalogue::CatalogueTemplate;
use soulbox_store::{CatalogueEntry, PageRequest};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{Query, violation};
use crate::page;
use crate::state::Shared;

/// Longest query, in bytes.
const MAX_QUERY: usize = 256;

pub(crate) async fn search(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    query: Query,
) -> Result<Response, ApiError> {
    let words = query.text("query").unwrap_or_default();
    if words.len() > MAX_QUERY {
        return Err(violation("query", "is longer than 256 bytes"));
    }
    let wanted = PageRequest {
        limit: query.page_limit()?,
        cursor: query.next_token(),
    };
    let found = api.store.search_templates(&team, words, &wanted).await?;
    let items: Vec<CatalogueTemplate> = found.items.into_iter().map(entry).collect();
    Ok(page::answer(items, found.next_cursor))
}

fn entry(entry: CatalogueEntry) -> CatalogueTemplate {
    let template = entry.template;
    CatalogueTemplate {
        template_id: template.id.to_string(),
        names: template.names,
        description: template.description,
        author: entry.author,
        tags: entry.tags,
        version: entry.version,
        size_bytes: entry.size_bytes,
        downloads: template.spawn_count,
        public: template.public,
        updated_at: template.updated_at.to_string(),
    }
}

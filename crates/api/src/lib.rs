//! The control plane over HTTP: who is asking, what is asked, and the answer on E2B's wire.
//!
//! Handlers extract, call and map; they know neither SQL nor the kernel. Decisions that take thought are plain
//! functions: `sandboxes::admission` (may this create go ahead), `network` (what does a policy come to),
//! `metadata` (the filter's encoding), `templates::tag_groups`.
//!
//! Reading order: [`router()`], `auth`, `error`, `extract`, `sandboxes`, `convert`, then the rest.

mod admin_token;
mod auth;
mod convert;
mod cors;
mod derived;
mod error;
mod events;
mod extract;
mod keys;
mod metadata;
mod network;
mod observe;
mod openapi;
mod operator;
mod outside;
mod page;
mod router;
mod sandboxes;
mod secrets;
mod state;
mod teams;
mod templates;
mod volumes;

pub use admin_token::AdminToken;
pub use router::router;
pub use state::{ApiState, NodeIdentity, PortUrls, TeamLimits};

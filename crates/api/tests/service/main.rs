//! Service tests: the real router, database and orchestrator, one file per subject.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod auth;
mod create;
mod document;
mod events;
mod fuzz;
mod idempotency;
mod later;
mod lifetime;
mod list;
mod operator;
mod secrets;
mod stack;
mod teams;
mod template_builds;
mod template_changes;
mod template_looks;
mod templates;
mod transport;
mod usage;
mod volumes;

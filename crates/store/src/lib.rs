//! What SoulBox must remember: teams, keys, templates, sandboxes, snapshots, volumes, metrics, logs, events and who is
//! told of them, secrets that it cannot read.
//!
//! The only crate with SQL. Callers pass and get typed values; every row belongs to a team, and every question that a
//! user asks names the team, so that a foreign row is the same as none.
//!
//! Suggested reading order: [`database`] (connections and what is written later), then one file per subject.

pub mod bootstrap;
pub mod build_logs;
pub mod builds;
pub mod catalogue;
pub mod contacts;
pub mod database;
pub mod deliveries;
pub mod error;
pub mod events;
mod files;
pub mod idempotency;
pub mod keeping;
pub mod keys;
pub mod layer_cache;
pub mod logs;
pub mod metrics;
pub mod page;
pub mod pauses;
pub mod request_build;
pub mod retention;
pub mod sandboxes;
pub mod secrets;
pub mod snapshots;
pub mod tags;
pub mod teams;
pub mod template_changes;
pub mod templates;
mod unneeded;
mod versions;
pub mod volumes;
pub mod webhooks;

pub use bootstrap::BootstrapTemplate;
pub use build_logs::{BuildLogLine, BuildLogQuery};
pub use builds::{Build, BuildReason, BuildStatus, FinishedBuild, SavedMemory};
pub use catalogue::CatalogueEntry;
pub use contacts::{Contact, ContactQuery};
pub use database::Store;
pub use deliveries::{Delivery, DeliveryState, Due, Tried};
pub use error::StoreError;
pub use events::{EventQuery, SandboxEvent};
pub use files::Expect;
pub use idempotency::Begin;
pub use keeping::{Keeping, Overdue};
pub use keys::{ApiKey, KeyMask};
pub use layer_cache::CachedStep;
pub use logs::{Direction, LogEntry, LogLevel, LogQuery};
pub use metrics::MetricSample;
pub use page::{Order, Page, PageRequest};
pub use pauses::{NewRun, Pause, PauseMode};
pub use request_build::{NewBuild, RequestBuildError, RequestedBuild};
pub use retention::Pruned;
pub use sandboxes::{ListQuery, RecordState, SandboxPage, SandboxRecord};
pub use secrets::{SecretChange, SecretRow};
pub use snapshots::{NewSnapshot, Snapshot, SnapshotFilter};
pub use tags::{TagAssignment, TaggedBuild};
pub use teams::Team;
pub use template_changes::{DeleteTemplateError, PublishError};
pub use templates::{ResolveError, ResolvedTemplate, Template, TemplateSummary};
pub use unneeded::Unneeded;
pub use volumes::Volume;
pub use webhooks::{Webhook, WebhookChange};

//! The record of each sandbox that exists: running or paused. A killed one has no row.

use std::collections::BTreeMap;

use soulbox_types::{
    BuildId, ExecutionId, Limits, OnTimeout, SandboxId, TeamId, TemplateId, Timestamp,
};

use crate::{Order, Store, StoreError};

/// What is remembered of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxRecord {
    /// Its id, kept over pause and resume.
    pub id: SandboxId,
    /// Its owner.
    pub team: TeamId,
    /// The template it was first created from.
    pub template_id: TemplateId,
    /// The build it started from.
    pub build_id: BuildId,
    /// Its current run; its last run when paused.
    pub execution_id: ExecutionId,
    /// First alias of the template at that time.
    pub alias: Option<String>,
    /// What its creator has written on it; absent is not the same as empty.
    pub metadata: Option<BTreeMap<String, String>>,
    /// When the current run became usable (of the last run when paused).
    pub started_at: Timestamp,
    /// When its policy ends it; when it was paused, for a paused one.
    pub end_at: Timestamp,
    /// What happens then.
    pub on_timeout: OnTimeout,
    /// Whether a pause at the end time keeps the memory.
    pub auto_pause_memory: bool,
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// For how long it then runs.
    pub auto_resume_timeout_seconds: i64,
    /// What it may use.
    pub limits: Limits,
    /// Version of the envd in it.
    pub envd_version: String,
    /// As the creator gave it: absent, allowed, denied.
    pub allow_internet_access: Option<bool>,
    /// The network policy as the creator gave it.
    pub network: Option<serde_json::Value>,
    /// Whether anybody may reach its ports.
    pub allow_public_traffic: bool,
    /// `Host` header to show to servers inside.
    pub mask_request_host: Option<String>,
    /// Ports inside that speak TLS.
    pub https_ports: Vec<u16>,
    /// Volumes mounted, as the creator gave them; an array.
    pub volume_mounts: serde_json::Value,
    /// Running or paused.
    pub state: RecordState,
}

/// The state as the wire shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordState {
    /// It has a guest.
    Running,
    /// It is saved.
    Paused,
}

/// What a list of sandboxes should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Whose.
    pub team: TeamId,
    /// Pairs that must all be present and equal; none of them means all sandboxes.
    pub metadata: BTreeMap<String, String>,
    /// Which states; an empty list means both.
    pub states: Vec<RecordState>,
    /// By start of the last run.
    pub order: Order,
    /// Started then or later.
    pub started_after: Option<Timestamp>,
    /// Created from this template.
    pub template_id: Option<TemplateId>,
    /// At most this many.
    pub limit: u32,
    /// Token of the page before.
    pub cursor: Option<String>,
}

/// Some sandboxes of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxPage<T> {
    /// The sandboxes, in order.
    pub items: Vec<T>,
    /// Present exactly when there are more.
    pub next_cursor: Option<String>,
    /// Running sandboxes that pass every filter, on whatever page.
    pub total_running: i64,
}

impl ListQuery {
    /// All of a team's sandboxes, newest first.
    #[must_use]
    pub fn all(team: TeamId) -> Self {
        Self {
            team,
            metadata: BTreeMap::new(),
            states: Vec::new(),
            order: Order::Descending,
            started_after: None,
            template_id: None,
            limit: 100,
            cursor: None,
        }
    }
}

impl Store {
    /// Adds a sandbox.
    ///
    /// # Errors
    /// When the database fails or the id is taken.
    pub async fn insert_sandbox(&self, record: &SandboxRecord) -> Result<(), StoreError> {
        todo!("{record:?}")
    }

    /// Forgets a sandbox; false when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_sandbox(&self, id: &SandboxId) -> Result<bool, StoreError> {
        todo!("{id}")
    }

    /// Moves a sandbox's end time; false when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_end_at(&self, id: &SandboxId, end_at: Timestamp) -> Result<bool, StoreError> {
        todo!("{id}{end_at}")
    }

    /// The team's sandbox with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_sandbox(
        &self,
        team: &TeamId,
        id: &SandboxId,
    ) -> Result<Option<SandboxRecord>, StoreError> {
        todo!("{team}{id}")
    }

    /// Every sandbox that should have a guest on this node.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_running(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        todo!()
    }

    /// Some of a team's sandboxes.
    ///
    /// # Errors
    /// When the token is not valid for this order or the database fails.
    pub async fn list_sandboxes(
        &self,
        query: &ListQuery,
    ) -> Result<SandboxPage<SandboxRecord>, StoreError> {
        todo!("{query:?}")
    }
}

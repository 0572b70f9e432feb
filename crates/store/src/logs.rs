//! What has happened to sandboxes, in words.

use std::collections::BTreeMap;

use soulbox_types::{SandboxId, TeamId, Timestamp};

use crate::{Store, StoreError};

/// How much an entry matters, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For whoever looks for a fault.
    Debug,
    /// Ordinary.
    Info,
    /// Somebody may want to look.
    Warn,
    /// Something failed.
    Error,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// What happened.
    pub message: String,
    /// The particulars.
    pub fields: BTreeMap<String, String>,
}

/// Which way a list of entries runs, and which end it is cut at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Whose.
    pub team: TeamId,
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Then or later.
    pub start: Timestamp,
    /// Then or earlier.
    pub end: Timestamp,
    /// At most this many.
    pub limit: u32,
    /// In which order.
    pub direction: Direction,
    /// At least this level.
    pub min_level: LogLevel,
    /// Text that the message must contain.
    pub search: Option<String>,
}

impl Store {
    /// Notes an entry, to be written within a moment; reading sees it at once.
    pub fn log(&self, entry: LogEntry) {
        todo!("{entry:?}")
    }

    /// Adds entries, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_logs(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        todo!("{entries:?}")
    }

    /// The entries that match.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn logs(&self, query: &LogQuery) -> Result<Vec<LogEntry>, StoreError> {
        todo!("{query:?}")
    }
}

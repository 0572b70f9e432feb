//! What sandboxes have used, sampled every few seconds and thinned with age.

use std::time::Duration;

use soulbox_types::{SandboxId, TeamId, Timestamp};

use crate::{Store, StoreError};

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSample {
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// When.
    pub at: Timestamp,
    /// CPUs it has.
    pub cpu_count: u32,
    /// Percent of all of them together, 0 to 100, two decimals.
    pub cpu_used_pct: f64,
    /// Memory in use, without page cache.
    pub mem_used_bytes: u64,
    /// Memory it may use.
    pub mem_total_bytes: u64,
    /// Page cache.
    pub mem_cache_bytes: u64,
    /// Disk in use.
    pub disk_used_bytes: u64,
    /// Size of its disk.
    pub disk_total_bytes: u64,
}

impl Store {
    /// Adds readings, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_metrics(&self, samples: &[MetricSample]) -> Result<(), StoreError> {
        todo!("{samples:?}")
    }

    /// Times of the team's first and last reading of a sandbox.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metrics_range(
        &self,
        team: &TeamId,
        sandbox: &SandboxId,
    ) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        todo!("{team}{sandbox}")
    }

    /// Readings of a sandbox from `start` to `end` (both included), averaged over steps, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn metrics(
        &self,
        team: &TeamId,
        sandbox: &SandboxId,
        range: (Timestamp, Timestamp),
        step: Duration,
    ) -> Result<Vec<MetricSample>, StoreError> {
        todo!("{team}{sandbox}{range:?}{step:?}")
    }

    /// The newest reading of each of these sandboxes that is the team's and has one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn latest_metrics(
        &self,
        team: &TeamId,
        sandboxes: &[SandboxId],
    ) -> Result<Vec<MetricSample>, StoreError> {
        todo!("{team}{sandboxes:?}")
    }
}

//! What the operator decides about sandboxes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Clock, SystemClock};

/// Longest run of a sandbox, unless the operator says otherwise.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);
/// Sandboxes of one team at the same time, unless the operator says otherwise: all slots of a server.
const MAX_CONCURRENT: usize = 2048;
/// Who pauses for a moment is spared the copy.
const SAVE_PAUSED_AFTER: Duration = Duration::from_secs(30);
/// Who pauses for some minutes is spared the disk.
const HIBERNATE_AFTER: Duration = Duration::from_mins(5);
/// How long it is known what has happened to sandboxes.
const EVENTS_KEPT: Duration = Duration::from_hours(24 * 30);
/// Clients expect a reading every five seconds.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// Settings of [`crate::Sandboxes`].
#[derive(Clone)]
pub struct Settings {
    /// Longest run of a sandbox, from its start.
    pub max_timeout: Duration,
    /// Sandboxes of one team at the same time.
    pub max_concurrent_per_team: usize,
    /// Secret that the tokens of sandboxes are made from. Must survive restarts.
    pub token_seed: [u8; 32],
    /// Domain under which sandboxes are reached; clients use their own when absent.
    pub domain: Option<String>,
    /// How long after a pause with memory the files are saved, too: from then on, a restart of the machine costs only the
    /// memory.
    pub save_paused_after: Duration,
    /// How long after its files are saved a sandbox that was paused with memory goes to disk, where this host can do that.
    pub hibernate_after: Duration,
    /// How long a stop waits for sandboxes that are paused with memory to go to disk; zero leaves them in memory.
    pub hibernate_on_stop: Duration,
    /// How long events of sandboxes are kept.
    pub events_kept: Duration,
    /// Time between two readings of a sandbox.
    pub sample_interval: Duration,
    /// Certificate of the authority that vouches for names of sandboxes, PEM, where no program trusts it by itself.
    pub authority: Option<String>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The defaults, with this seed.
    #[must_use]
    pub fn new(token_seed: [u8; 32]) -> Self {
        Self {
            max_timeout: MAX_TIMEOUT,
            max_concurrent_per_team: MAX_CONCURRENT,
            token_seed,
            domain: None,
            save_paused_after: SAVE_PAUSED_AFTER,
            hibernate_after: HIBERNATE_AFTER,
            hibernate_on_stop: Duration::ZERO,
            events_kept: EVENTS_KEPT,
            sample_interval: SAMPLE_INTERVAL,
            authority: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Without the seed: whoever knows it can enter every sandbox.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("max_timeout", &self.max_timeout)
            .field("max_concurrent_per_team", &self.max_concurrent_per_team)
            .field("domain", &self.domain)
            .field("save_paused_after", &self.save_paused_after)
            .field("hibernate_after", &self.hibernate_after)
            .field("hibernate_on_stop", &self.hibernate_on_stop)
            .field("events_kept", &self.events_kept)
            .field("sample_interval", &self.sample_interval)
            .finish_non_exhaustive()
    }
}

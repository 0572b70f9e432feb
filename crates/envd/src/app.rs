//! What all requests share.

use std::sync::Arc;

use crate::filesystem::Watchers;
use crate::metrics::Meter;
use crate::oom::OomKills;
use crate::process::Table;
use crate::settings::Settings;
use crate::spawner::Spawner;

/// One per envd.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) processes: Arc<Table>,
    pub(crate) watchers: Watchers,
    pub(crate) spawner: Spawner,
    pub(crate) meter: Meter,
    pub(crate) oom_kills: Arc<OomKills>,
    /// `PATH` of envd itself, the only variable that users' processes inherit from it.
    pub(crate) inherited_path: String,
}

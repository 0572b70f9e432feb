//! What the edge must know to carry traffic to one running sandbox.
//!
//! It stands in this crate because two crates that know nothing of each other share it:
//! the orchestrator fills it in, the edge uses it.

use std::sync::Arc;

use soulbox_types::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::Guest;

/// The way to a running sandbox. A copy may outlive the sandbox; [`Route::closed`] says when it has.
#[derive(Debug, Clone)]
pub struct Route {
    /// Which sandbox.
    pub sandbox_id: SandboxId,
    /// Whom to dial.
    pub guest: Arc<dyn Guest>,
    /// Cancelled when the sandbox is no longer to be reached: open streams are then reset.
    pub closed: CancellationToken,
    /// Changes with each run of the sandbox, unique in this process: the key of connection pools.
    pub execution: u64,
    /// What envd asks of its callers.
    pub envd_access_token: String,
    /// Present when the sandbox's ports are not public: what callers of any port but envd's must show.
    pub traffic_access_token: Option<String>,
    /// `Host` header to show to servers inside, with `${PORT}` for the port.
    pub mask_request_host: Option<String>,
    /// Ports inside that speak TLS.
    pub https_ports: Vec<u16>,
}

/// What became of somebody who wants to reach a paused sandbox.
#[derive(Debug, Clone)]
pub enum Woken {
    /// It runs again, or by now; this is the way.
    Open(Arc<Route>),
    /// It would be brought back for others.
    Denied,
    /// There is no such sandbox, or nobody brings it back like this.
    Nobody,
}

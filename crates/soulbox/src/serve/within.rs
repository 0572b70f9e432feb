//! Sandboxes as clients of the edge: what they may ask for is what their policies say.

use std::net::Ipv4Addr;
use std::sync::Arc;

use soulbox_edge::Within;
use soulbox_egress::Gate;
use tokio::sync::OwnedSemaphorePermit;

/// See the module.
pub(super) struct Sandboxes(pub(super) Arc<Gate>);

impl Within for Sandboxes {
    fn place(&self, client: Ipv4Addr) -> Option<OwnedSemaphorePermit> {
        self.0.place(client)
    }

    fn judge(&self, client: Ipv4Addr, name: &str) -> Result<(), String> {
        self.0.judge_own(client, name)
    }
}

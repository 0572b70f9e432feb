//! What the database needs done from time to time.

use std::sync::Arc;
use std::time::Duration;

use crate::node::Node;

/// Between two writings of what was deferred. Clients must see a key's last use within ten seconds.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Between two deletions of what is old.
const PRUNE_INTERVAL: Duration = Duration::from_mins(10);

/// Writes down what was deferred, until the node stops.
pub(crate) async fn flush(node: Arc<Node>) {
    while sleep(&node, FLUSH_INTERVAL).await {
        if let Err(error) = node.store.flush().await {
            tracing::error!(error = %soulbox_telemetry::chain(&error), "deferred rows not written; trying again");
        }
    }
}

/// Deletes what has been kept long enough, until the node stops.
pub(crate) async fn prune(node: Arc<Node>) {
    while sleep(&node, PRUNE_INTERVAL).await {
        let kept = node.settings.events_kept;
        match node.store.prune(node.now(), kept).await {
            Ok(pruned) => tracing::debug!(?pruned, "old rows deleted"),
            Err(error) => {
                tracing::error!(error = %soulbox_telemetry::chain(&error), "old rows not deleted");
            }
        }
    }
}

/// False when the node stops.
async fn sleep(node: &Node, interval: Duration) -> bool {
    tokio::select! {
        () = node.stop.cancelled() => false,
        () = tokio::time::sleep(interval) => true,
    }
}

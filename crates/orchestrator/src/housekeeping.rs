//! What the database needs done from time to time.

use std::sync::Arc;
use std::time::Duration;

use soulbox_store::DeleteTemplateError;

use crate::node::{Node, store_error};
use crate::{SandboxError, Sandboxes};

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

/// Ends what is paused, and deletes snapshots, when their teams keep them no longer, until the node stops.
pub(crate) async fn let_go(sandboxes: Sandboxes) {
    while sleep(sandboxes.node(), PRUNE_INTERVAL).await {
        if let Err(error) = let_go_once(&sandboxes).await {
            tracing::error!(error = %soulbox_telemetry::chain(&error), "what is kept no longer stays for now");
        }
    }
}

async fn let_go_once(sandboxes: &Sandboxes) -> Result<(), SandboxError> {
    let node = sandboxes.node();
    let now = node.now();
    let paused = node.store.overdue_paused(now).await;
    for overdue in paused.map_err(store_error("look for old paused sandboxes"))? {
        match sandboxes.let_go(&overdue).await {
            // Somebody was faster.
            Ok(_) | Err(SandboxError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let snapshots = node.store.overdue_snapshots(now).await;
    for template in snapshots.map_err(store_error("look for old snapshots"))? {
        let found = node.store.get_template(&template).await;
        let Some(found) = found.map_err(store_error("read a snapshot"))? else {
            continue;
        };
        match node
            .store
            .delete_template(&found.template, template.as_str())
            .await
        {
            Ok(_) => tracing::info!(template.id = %template, "a snapshot is kept no longer"),
            Err(DeleteTemplateError::Store(error)) => {
                return Err(store_error("delete a snapshot")(error));
            }
            // A sandbox was made of it meanwhile.
            Err(_) => {}
        }
    }
    Ok(())
}

/// False when the node stops.
pub(crate) async fn sleep(node: &Node, interval: Duration) -> bool {
    tokio::select! {
        () = node.stop.cancelled() => false,
        () = tokio::time::sleep(interval) => true,
    }
}

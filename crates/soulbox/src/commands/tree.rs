//! `soulbox sandbox tree`: which sandboxes and snapshots come from which.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use soulbox_api_types::metrics::SandboxesWithMetrics;
use soulbox_api_types::sandbox::{ListedSandbox, SandboxState, SnapshotInfo};
use soulbox_client::Api;
use soulbox_client::api::ListQuery;
use termtree::Tree;

use crate::failure::Failure;
use crate::output::{Output, note};
use crate::session::failure;
use crate::text::{ago, size};

/// As many sandboxes are asked about at once.
const AT_ONCE: usize = 100;

/// What stands in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    /// `running`, `paused`, `snapshot`, or `gone`.
    state: &'static str,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// What it has written, in bytes; of a snapshot, what it adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node>,
}

/// `sandbox tree`
pub(crate) async fn show(api: &Api, output: Output) -> Result<(), Failure> {
    let refused = |error| failure(&error, None);
    let sandboxes = api
        .list_all(ListQuery::default(), usize::MAX)
        .await
        .map_err(refused)?;
    let snapshots = api.snapshots(None).await.map_err(refused)?;
    let running = |sandbox: &&ListedSandbox| sandbox.state == SandboxState::Running;
    let ids: Vec<String> = sandboxes
        .iter()
        .filter(running)
        .map(|sandbox| sandbox.sandbox_id.clone())
        .collect();
    let mut sizes = BTreeMap::new();
    for some in ids.chunks(AT_ONCE) {
        let SandboxesWithMetrics { sandboxes } = api.latest_metrics(some).await.map_err(refused)?;
        sizes.extend(
            sandboxes
                .into_iter()
                .map(|(id, metric)| (id, metric.disk_used)),
        );
    }
    let roots = grow(&sandboxes, &snapshots, &sizes);
    if output == Output::Text && roots.is_empty() {
        note("no sandboxes; `soulbox sandbox create` makes one");
        return Ok(());
    }
    output.show(&roots, |roots| {
        let now = Timestamp::now();
        let trees = roots.iter().map(|root| draw(root, now).to_string());
        trees.collect::<String>().trim_end().to_owned()
    })
}

/// Everything below what it comes from; what came from something that is gone stands below its name.
fn grow(
    sandboxes: &[ListedSandbox],
    snapshots: &[SnapshotInfo],
    sizes: &BTreeMap<String, i64>,
) -> Vec<Node> {
    let mut nodes = BTreeMap::new();
    let mut below: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for snapshot in snapshots {
        let id = snapshot.snapshot_id.clone();
        below
            .entry(snapshot.sandbox_id.clone())
            .or_default()
            .push(id.clone());
        let node = Node {
            id: id.clone(),
            state: "snapshot",
            since: snapshot.created_at.clone(),
            size_bytes: snapshot.size_bytes,
            children: Vec::new(),
        };
        nodes.insert(id, node);
    }
    for sandbox in sandboxes {
        let id = sandbox.sandbox_id.clone();
        let parent = sandbox
            .forked_from
            .clone()
            .or_else(|| snapshot_of(sandbox, snapshots));
        below.entry(parent).or_default().push(id.clone());
        let node = Node {
            id: id.clone(),
            state: match sandbox.state {
                SandboxState::Running => "running",
                SandboxState::Paused => "paused",
            },
            since: Some(sandbox.started_at.clone()),
            size_bytes: sizes.get(&id).copied(),
            children: Vec::new(),
        };
        nodes.insert(id, node);
    }
    let gone: BTreeSet<String> = below
        .keys()
        .flatten()
        .filter(|parent| !nodes.contains_key(*parent))
        .cloned()
        .collect();
    for id in &gone {
        let node = Node {
            id: id.clone(),
            state: "gone",
            since: None,
            size_bytes: None,
            children: Vec::new(),
        };
        nodes.insert(id.clone(), node);
    }
    let mut roots = below.remove(&None).unwrap_or_default();
    roots.extend(gone);
    collect(&roots, &mut nodes, &below)
}

/// Each node is taken once, so that no answer of a server can lead in a circle.
fn collect(
    ids: &[String],
    nodes: &mut BTreeMap<String, Node>,
    below: &BTreeMap<Option<String>, Vec<String>>,
) -> Vec<Node> {
    let mut found = Vec::new();
    for id in ids {
        let Some(mut node) = nodes.remove(id) else {
            continue;
        };
        if let Some(children) = below.get(&Some(id.clone())) {
            node.children = collect(children, nodes, below);
        }
        found.push(node);
    }
    found
}

/// The snapshot that a sandbox was created from: its template is the snapshot's own, or has its name.
fn snapshot_of(sandbox: &ListedSandbox, snapshots: &[SnapshotInfo]) -> Option<String> {
    let is_it = |snapshot: &&SnapshotInfo| {
        let name = snapshot.snapshot_id.split(':').next();
        let alias = snapshot
            .names
            .first()
            .and_then(|name| name.split('/').nth(1));
        name == Some(sandbox.template_id.as_str())
            || (alias.is_some() && alias == sandbox.alias.as_deref())
    };
    let found = snapshots.iter().find(is_it)?;
    Some(found.snapshot_id.clone())
}

fn draw(node: &Node, now: Timestamp) -> Tree<String> {
    let mut parts = vec![node.id.clone(), node.state.to_owned()];
    parts.extend(node.since.as_deref().map(|since| ago(now, since)));
    parts.extend(node.size_bytes.map(size));
    Tree::new(parts.join("  ")).with_leaves(node.children.iter().map(|child| draw(child, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, from: Option<&str>, template: &str) -> ListedSandbox {
        let text = serde_json::json!({
            "templateID": template, "sandboxID": id, "clientID": "c", "startedAt": "2026-01-01T00:00:00Z",
            "endAt": "2026-01-01T00:00:00Z", "cpuCount": 1, "memoryMB": 1, "diskSizeMB": 1, "state": "running",
            "envdVersion": "0.6.4", "forkedFrom": from, "volumeMounts": [],
        });
        serde_json::from_value(text).unwrap()
    }

    fn snapshot(id: &str, of: &str) -> SnapshotInfo {
        SnapshotInfo {
            snapshot_id: id.into(),
            names: Vec::new(),
            sandbox_id: Some(of.into()),
            size_bytes: Some(7),
            created_at: None,
        }
    }

    fn names(nodes: &[Node]) -> String {
        let one = |node: &Node| match node.children.as_slice() {
            [] => node.id.clone(),
            children => format!("{}({})", node.id, names(children)),
        };
        nodes.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_stands_below_what_it_comes_from() {
        let sandboxes = [
            sandbox("a", None, "base"),
            sandbox("b", Some("a"), "base"),
            sandbox("c", Some("b"), "base"),
            sandbox("d", None, "t"),
            sandbox("e", Some("dead"), "base"),
        ];
        let snapshots = [snapshot("t:default", "a")];
        let sizes = BTreeMap::from([("a".to_owned(), 5)]);
        let roots = grow(&sandboxes, &snapshots, &sizes);
        assert_eq!(names(&roots), "a(t:default(d) b(c)) dead(e)");
        assert_eq!((roots[0].size_bytes, roots[1].state), (Some(5), "gone"));
    }

    #[test]
    fn a_circle_ends() {
        let sandboxes = [
            sandbox("a", Some("b"), "base"),
            sandbox("b", Some("a"), "base"),
        ];
        assert_eq!(names(&grow(&sandboxes, &[], &BTreeMap::new())), "");
    }
}

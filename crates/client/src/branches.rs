//! Snapshots and forks.

use hyper::Method;
use soulbox_api_types::metrics::SandboxesWithMetrics;
use soulbox_api_types::sandbox::{ForkResult, ForkSandbox, NewSnapshot, SnapshotInfo};

use crate::api::{body, segment};
use crate::http::json;
use crate::versions::with_pairs;
use crate::{Api, ClientError};

impl Api {
    /// Makes sandboxes from what a running one has at this moment; one result for each.
    ///
    /// # Errors
    /// When it does not run, or cannot be saved.
    pub async fn fork(
        &self,
        id: &str,
        wanted: &ForkSandbox,
    ) -> Result<Vec<ForkResult>, ClientError> {
        let operation = format!("fork sandbox {id}");
        let body = body(&operation, wanted)?;
        let path = format!("/sandboxes/{}/fork", segment(id));
        let (_, _, bytes) = self
            .call(&operation, Method::POST, &path, self.team(), Some(body))
            .await?;
        json(&operation, &bytes)
    }

    /// Saves a running sandbox as something that others can be created from.
    ///
    /// # Errors
    /// When it does not run, cannot be saved, or the name cannot be used.
    pub async fn snapshot(
        &self,
        id: &str,
        wanted: &NewSnapshot,
    ) -> Result<SnapshotInfo, ClientError> {
        let operation = format!("take a snapshot of sandbox {id}");
        let body = body(&operation, wanted)?;
        let path = format!("/sandboxes/{}/snapshots", segment(id));
        let (_, _, bytes) = self
            .call(&operation, Method::POST, &path, self.team(), Some(body))
            .await?;
        json(&operation, &bytes)
    }

    /// All snapshots, of one sandbox if one is given: the newest of each name.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn snapshots(&self, sandbox: Option<&str>) -> Result<Vec<SnapshotInfo>, ClientError> {
        let mut query = vec![("limit", "100".to_owned())];
        query.extend(sandbox.map(|id| ("sandboxID", id.to_owned())));
        let given = query.len();
        let mut all = Vec::new();
        loop {
            let path = with_pairs("/snapshots", &query);
            let page = self.page("list snapshots", &path, |items| items).await?;
            all.extend::<Vec<SnapshotInfo>>(page.items);
            match page.next_token {
                Some(token) => {
                    query.truncate(given);
                    query.push(("nextToken", token));
                }
                None => return Ok(all),
            }
        }
    }

    /// The latest reading of each of these sandboxes that has one, at most 100.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn latest_metrics(
        &self,
        ids: &[String],
    ) -> Result<SandboxesWithMetrics, ClientError> {
        let path = with_pairs("/sandboxes/metrics", &[("sandbox_ids", ids.join(","))]);
        self.get("read metrics", &path).await
    }
}

//! What becomes of saved files: a snapshot that sandboxes can be created from, or forks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use soulbox_fault as fault;
use soulbox_store::{Build, FinishedBuild, NewSnapshot, Snapshot, Team};
use soulbox_types::lifecycle::Request;
use soulbox_types::{BuildContext, SandboxId, StartCommand, TemplateRef};
use tokio::sync::oneshot;

use crate::actor::Message;
use crate::hibernation;
use crate::journal;
use crate::node::store_error;
use crate::saving::{Saved, not_saved};
use crate::{NewSandbox, SandboxError, SandboxView, Sandboxes};

impl Sandboxes {
    /// Saves a running sandbox, which goes on, under a name of its team or without one: its files, and its memory if that is
    /// wanted. A caller that goes away leaves a whole snapshot or none.
    ///
    /// # Errors
    /// When there is none, it does not run, the name cannot be used, or the files cannot be written; it runs on as before.
    pub async fn snapshot(
        &self,
        team: &Team,
        id: &SandboxId,
        name: Option<TemplateRef>,
        memory: bool,
    ) -> Result<Snapshot, SandboxError> {
        let (worker, team, id) = (self.clone(), team.clone(), id.clone());
        self.finish_anyway("snapshot", async move {
            let saved = worker.save(&team, &id, Request::Snapshot, memory).await?;
            let named = worker.name(&team, &saved, name).await;
            if named.is_err() {
                worker.forget_memory(&saved).await;
            }
            named
        })
        .await
    }

    /// Makes `count` sandboxes from the files that a running one has at this moment, and its memory if that is wanted; each
    /// runs for `timeout`. One answer for each of them.
    ///
    /// # Errors
    /// When there is none, it does not run, or its files cannot be written; it runs on as before.
    pub async fn fork(
        &self,
        team: &Team,
        id: &SandboxId,
        count: usize,
        timeout: Duration,
        memory: bool,
    ) -> Result<Vec<Result<SandboxView, SandboxError>>, SandboxError> {
        let (worker, team, id) = (self.clone(), team.clone(), id.clone());
        self.finish_anyway("fork", async move {
            let saved = worker.save(&team, &id, Request::Fork, memory).await?;
            fault::point!("fork.saved");
            let build = worker.build_of(&saved).await;
            let start = match build {
                Ok(build) => build.and_then(|build| build.start),
                Err(error) => {
                    worker.forget_memory(&saved).await;
                    return Err(error);
                }
            };
            let forks = (0..count).map(|_| worker.create(fork_of(&saved, start.clone(), timeout)));
            let forks = join_all(forks).await;
            worker.forget_memory(&saved).await;
            worker.tell_of(&saved, &forks).await;
            Ok(forks)
        })
        .await
    }

    async fn save(
        &self,
        team: &Team,
        id: &SandboxId,
        request: Request,
        memory: bool,
    ) -> Result<Saved, SandboxError> {
        self.ask_for(&team.id, id, |reply| Message::Save {
            request,
            memory,
            reply,
        })
        .await
    }

    async fn forget_memory(&self, saved: &Saved) {
        if let Some(memory) = &saved.memory {
            hibernation::forget(self.node(), &memory.of, &memory.id).await;
        }
    }

    async fn name(
        &self,
        team: &Team,
        saved: &Saved,
        name: Option<TemplateRef>,
    ) -> Result<Snapshot, SandboxError> {
        let node = self.node();
        if let Some(memory) = &saved.memory {
            let kept = node.driver.keep_memory(&memory.id).await;
            kept.map_err(not_saved(&saved.record.id))?;
            fault::point!("snapshot.memory-kept");
        }
        let build = self.build_of(saved).await?;
        let new = NewSnapshot {
            reference: name,
            saved_from: saved.record.id.clone(),
            limits: saved.record.limits,
            finished: finished(saved, build),
        };
        let added = node.store.add_snapshot(team, &new).await;
        let snapshot = added.map_err(|source| SandboxError::SnapshotName {
            source: Arc::new(source),
        })?;
        fault::point!("snapshot.row-written");
        (node.store).log(journal::saved(&saved.record, node.now(), &snapshot));
        Ok(snapshot)
    }

    /// Records what was made. The forks are there, whether or not that succeeds.
    async fn tell_of(&self, saved: &Saved, forks: &[Result<SandboxView, SandboxError>]) {
        let made = forks.iter().flatten();
        let ids: Vec<SandboxId> = made.map(|view| view.record.id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        let node = self.node();
        let told = (node.store)
            .record_fork(&saved.record, &ids, node.now())
            .await;
        if let Err(error) = told {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(sandbox.id = %saved.record.id, error, "a fork is not among the events");
        }
    }

    /// The build that a sandbox was created from, if it is still known.
    async fn build_of(&self, saved: &Saved) -> Result<Option<Build>, SandboxError> {
        let record = &saved.record;
        let found = (self.node().store)
            .find_build(&record.template_id, &record.build_id)
            .await;
        found.map_err(store_error("read a build"))
    }

    /// Works in a task of its own.
    async fn finish_anyway<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, SandboxError>> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let (reply, answer) = oneshot::channel();
        self.node().tasks.spawn(what, async move {
            // Whoever asked may have gone away.
            drop(reply.send(work.await));
        });
        answer.await.unwrap_or(Err(SandboxError::ShuttingDown))
    }
}

/// Sandboxes made from it start as those of the build that its sandbox came from.
fn finished(saved: &Saved, build: Option<Build>) -> FinishedBuild {
    let image = &saved.spec.image;
    let (env, start) = build.map_or_else(Default::default, |build| (build.env, build.start));
    FinishedBuild {
        layers: image.layers.clone(),
        context: BuildContext {
            user: image.default_user.clone(),
            workdir: image.default_workdir.clone(),
            env,
        },
        start,
        memory: saved.memory.clone(),
        envd_version: saved.record.envd_version.clone(),
        size_bytes: i64::try_from(saved.content_bytes).unwrap_or(i64::MAX),
        disk_mib: saved.record.limits.disk_mib,
    }
}

/// All that its source has, but for its id, its time, and what follows from them.
fn fork_of(saved: &Saved, start: Option<StartCommand>, timeout: Duration) -> NewSandbox {
    let record = &saved.record;
    let spec = &saved.spec;
    NewSandbox {
        team: record.team.clone(),
        image: spec.image.clone(),
        build_id: record.build_id.clone(),
        alias: record.alias.clone(),
        limits: record.limits,
        envd_version: record.envd_version.clone(),
        start,
        memory: saved.memory.clone(),
        timeout,
        on_timeout: record.on_timeout,
        auto_pause_memory: record.auto_pause_memory,
        auto_resume: record.auto_resume,
        auto_resume_timeout_seconds: record.auto_resume_timeout_seconds,
        metadata: record.metadata.clone(),
        env_vars: spec.env_vars.clone(),
        network: spec.network.clone(),
        allow_internet_access: record.allow_internet_access,
        network_json: record.network.clone(),
        allow_public_traffic: record.allow_public_traffic,
        mask_request_host: record.mask_request_host.clone(),
        https_ports: record.https_ports.clone(),
        volumes: spec.volumes.clone(),
        volume_mounts: record.volume_mounts.clone(),
        forked_from: Some(record.id.clone()),
    }
}

//! The builds that are in progress: started, cancelled, waited for.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use soulbox_driver::Driver;
use soulbox_fault as fault;
use soulbox_registry::Registries;
use soulbox_store::{Build, BuildReason, LogLevel, Store, StoreError, Team, Template};
use soulbox_telemetry::task::Tasks;
use soulbox_types::{BuildId, ErrorKind};
use tokio::sync::{Notify, RwLock, watch};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::garbage::{self, Garbage, GarbageError};
use crate::journal::Journal;
use crate::look::Looks;
use crate::mirrors::Mirrors;
use crate::request::BuildRequest;
use crate::stage::EnvdTokens;
use crate::uploads::Uploads;
use crate::work::Work;

/// What is said of builds that nobody works on any more.
const INTERRUPTED: &str = "the server was stopped during the build\nFIX: build again; finished steps are taken from the cache";
/// How often layers are looked for that nothing needs.
const COLLECT_EVERY: Duration = Duration::from_hours(1);
const CANCELLED: &str = "build was cancelled";

/// The builds of this server. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Builds {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    driver: Arc<dyn Driver>,
    uploads: Uploads,
    registries: Registries,
    mirrors: Arc<Mirrors>,
    tokens: EnvdTokens,
    longest: Duration,
    tasks: Tasks,
    /// Held for reading by every build, and for writing while layers are removed: between the moment a layer is made and
    /// the moment the database knows it, nothing else says that it is needed.
    quiet: Arc<RwLock<()>>,
    /// Held while layers are collected: who comes second waits.
    collecting: Arc<tokio::sync::Mutex<()>>,
    /// Somebody has a reason to look for layers to remove.
    collect: Notify,
    stop: CancellationToken,
    /// Each with the way to tell it why it has to end.
    running: Mutex<HashMap<BuildId, watch::Sender<Option<&'static str>>>>,
}

impl std::fmt::Debug for Builds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builds")
            .field("running", &self.shared.running.lock().len())
            .finish_non_exhaustive()
    }
}

/// What all builds of a server have.
pub struct BuildSettings {
    /// Directory of uploaded files; made when it is not there.
    pub uploads: PathBuf,
    /// Where images come from.
    pub registries: Registries,
    /// Where packages come from.
    pub mirrors: Mirrors,
    /// Secrets of the sandboxes of builds, which are still in force in the memory of templates.
    pub tokens: EnvdTokens,
    /// A build that takes longer is given up.
    pub longest: Duration,
}

impl std::fmt::Debug for BuildSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildSettings")
            .field("uploads", &self.uploads)
            .field("longest", &self.longest)
            .finish_non_exhaustive()
    }
}

/// Why a build was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartBuildError {
    /// It runs already, or has ended.
    #[error("build is not in waiting state")]
    NotWaiting,
    /// The database failed.
    #[error("cannot start the build")]
    Store(#[from] StoreError),
}

impl StartBuildError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotWaiting => ErrorKind::InvalidArgument,
            Self::Store(error) => error.kind(),
        }
    }
}

/// Why builds cannot be made by this server.
#[derive(Debug, thiserror::Error)]
pub enum OpenBuildsError {
    /// The directory of uploads.
    #[error(
        "cannot use the directory of uploaded files\nFIX: remove `uploads` in the data directory; clients upload again"
    )]
    Uploads(#[source] std::io::Error),
    /// The database failed.
    #[error("cannot end the builds of an earlier server")]
    Store(#[from] StoreError),
}

impl Builds {
    /// Ends what an earlier server has left unfinished, and is ready for new builds.
    ///
    /// # Errors
    /// See [`OpenBuildsError`].
    pub async fn open(
        store: Store,
        driver: Arc<dyn Driver>,
        settings: BuildSettings,
    ) -> Result<Self, OpenBuildsError> {
        let uploads = Uploads::open(settings.uploads).map_err(OpenBuildsError::Uploads)?;
        let reason = BuildReason {
            message: INTERRUPTED.to_owned(),
            step: None,
        };
        let interrupted = store.fail_interrupted_builds(&reason).await?;
        if interrupted > 0 {
            tracing::warn!(interrupted, "builds of an earlier server have failed");
        }
        let shared = Arc::new(Shared {
            store,
            driver,
            uploads,
            registries: settings.registries,
            mirrors: Arc::new(settings.mirrors),
            tokens: settings.tokens,
            longest: settings.longest,
            tasks: Tasks::new(),
            quiet: Arc::default(),
            collecting: Arc::default(),
            collect: Notify::new(),
            stop: CancellationToken::new(),
            running: Mutex::default(),
        });
        // First of all: what an earlier server was removing must not be found in the cache.
        collect_again_later(&shared).await;
        let collecting = Arc::clone(&shared);
        shared.tasks.spawn("collect layers", async move {
            keep_collecting(&collecting).await;
        });
        Ok(Self { shared })
    }

    /// Starts a build that waits, and cancels those of the same template that work on one of its tags. Returns at once.
    ///
    /// # Errors
    /// See [`StartBuildError`].
    pub async fn start(
        &self,
        team: Team,
        template: Template,
        build: Build,
        request: BuildRequest,
    ) -> Result<(), StartBuildError> {
        let others = self.shared.store.start_build(&build.id).await?;
        let others = others.ok_or(StartBuildError::NotWaiting)?;
        for other in &others {
            self.cancel(other);
        }
        let (stop, stopped) = watch::channel(None);
        self.shared.running.lock().insert(build.id.clone(), stop);
        let work = Work {
            store: self.shared.store.clone(),
            driver: Arc::clone(&self.shared.driver),
            uploads: self.shared.uploads.clone(),
            registries: self.shared.registries.clone(),
            mirrors: Arc::clone(&self.shared.mirrors),
            tokens: Arc::clone(&self.shared.tokens),
            team,
            template,
            build,
            request,
        };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn("build", async move {
            carry_through(&shared, work, stopped).await;
        });
        Ok(())
    }

    /// Ends a build that is in progress; false when there is none.
    pub fn cancel(&self, build: &BuildId) -> bool {
        let running = self.shared.running.lock();
        running
            .get(build)
            .is_some_and(|stop| stop.send_replace(Some(CANCELLED)).is_none())
    }

    /// Looks soon for layers that nothing needs any more: a template was deleted.
    pub fn collect_soon(&self) {
        self.shared.collect.notify_one();
    }

    /// Removes the layers that nothing needs, now, or only tells which they are.
    ///
    /// # Errors
    /// When a build is in progress, or the database or the driver fails.
    pub async fn collect(&self, only_tell: bool) -> Result<Garbage, GarbageError> {
        collect(&self.shared, only_tell).await
    }

    /// The files that COPY steps read.
    #[must_use]
    pub fn uploads(&self) -> &Uploads {
        &self.shared.uploads
    }

    /// What can be read out of finished builds. Each call has its own count of sandboxes: ask once.
    #[must_use]
    pub fn looks(&self) -> Looks {
        let shared = &self.shared;
        Looks::new(
            Arc::clone(&shared.driver),
            shared.uploads.clone(),
            Arc::clone(&shared.tokens),
        )
    }

    /// Ends every build and returns when nothing of them is left.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        for stop in self.shared.running.lock().values() {
            stop.send_replace(Some(INTERRUPTED));
        }
        self.shared.tasks.finished().await;
    }
}

/// Runs a build and writes down how it went.
async fn carry_through(
    shared: &Shared,
    work: Work,
    mut stopped: watch::Receiver<Option<&'static str>>,
) {
    let id = work.build.id.clone();
    let _noise = shared.quiet.read().await;
    let mut journal = Journal::open(shared.store.clone(), id.clone());
    let given_up = async {
        // The sender is in the table until this task takes it out.
        let why = stopped.wait_for(Option::is_some).await.map(|why| *why);
        why.ok().flatten().unwrap_or(CANCELLED)
    };
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(work.run(&mut journal)).catch_unwind() => outcome.unwrap_or_else(|_| Err(Failure::internal(None))),
        why = given_up => Err(Failure { message: why.to_owned(), step: None }),
        () = tokio::time::sleep(shared.longest) => Err(timed_out(shared.longest)),
    };
    if let Err(failure) = &outcome {
        let text = format!("Build failed: {}", failure.message);
        journal
            .say(LogLevel::Error, failure.step.as_deref(), text)
            .await;
    }
    // Before the status: who reads of the end finds every line.
    journal.close().await;
    fault::point!("build.journal-closed");
    let written = match outcome {
        Ok(finished) => shared.store.finish_build(&id, &finished).await,
        Err(failure) => shared.store.fail_build(&id, &failure.into()).await,
    };
    fault::point!("build.status-written");
    match written {
        Ok(true) => {}
        Ok(false) => tracing::warn!(build.id = %id, "a build had ended before it did"),
        Err(error) => {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(build.id = %id, error, "the end of a build is not written; the next start says that it failed");
        }
    }
    shared.running.lock().remove(&id);
}

fn timed_out(longest: Duration) -> Failure {
    let message = format!(
        "build timed out after {} seconds\n\
         FIX: find the command that hangs or takes too long, or raise max_build_seconds",
        longest.as_secs()
    );
    Failure {
        message,
        step: None,
    }
}

/// Looks now and then, and when there is a reason.
async fn keep_collecting(shared: &Shared) {
    while !shared.stop.is_cancelled() {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.collect.notified() => {}
            () = tokio::time::sleep(COLLECT_EVERY) => {}
        }
        collect_again_later(shared).await;
    }
}

/// Removes the layers that nothing needs. What fails is tried again the next time.
async fn collect_again_later(shared: &Shared) {
    match collect(shared, false).await {
        Ok(_) | Err(GarbageError::Building) => {}
        Err(error) => {
            let error = soulbox_telemetry::chain(&error);
            tracing::error!(error, "layers that nothing needs stay for now");
        }
    }
}

/// Removes the layers that nothing needs, if no build is in progress.
async fn collect(shared: &Shared, only_tell: bool) -> Result<Garbage, GarbageError> {
    let _alone = shared.collecting.lock().await;
    let Ok(_quiet) = shared.quiet.try_write() else {
        return Err(GarbageError::Building);
    };
    garbage::collect(&shared.store, &shared.driver, only_tell).await
}

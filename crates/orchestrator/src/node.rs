//! What the parts of this crate share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use soulbox_driver::{Driver, Route};
use soulbox_store::{RecordState, SandboxRecord, Store};
use soulbox_telemetry::task::Tasks;
use soulbox_types::{SandboxId, Timestamp};
use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::expiry::Expiry;
use crate::live::{Live, RunningSandbox};
use crate::tokens::Tokens;
use crate::{SandboxError, SandboxView, Settings};

/// Writing memory takes what others need to run.
const PUT_AWAY_AT_ONCE: usize = 2;

/// One node's sandboxes and everything that acts on them.
pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) settings: Settings,
    pub(crate) tokens: Tokens,
    pub(crate) live: Live,
    pub(crate) expiry: Expiry,
    pub(crate) tasks: Tasks,
    /// Ends every clock, and every actor that has nothing in flight.
    pub(crate) stop: CancellationToken,
    pub(crate) reconcile_wanted: Notify,
    executions: AtomicU64,
    /// Whether memory can be kept on disk, once it was tried.
    pub(crate) hibernation: OnceCell<Result<(), String>>,
    /// Whether this host needs the memory of what is paused.
    pub(crate) memory_wanted: watch::Sender<bool>,
    /// Whether the server stops, and what is paused is to go to disk before.
    pub(crate) leaving: AtomicBool,
    /// How many go to disk at the same time.
    pub(crate) putting_away: Semaphore,
}

impl Node {
    pub(crate) fn new(store: Store, driver: Arc<dyn Driver>, settings: Settings) -> Self {
        Self {
            tokens: Tokens::new(settings.token_seed),
            store,
            driver,
            settings,
            live: Live::default(),
            expiry: Expiry::default(),
            tasks: Tasks::new(),
            stop: CancellationToken::new(),
            reconcile_wanted: Notify::new(),
            executions: AtomicU64::new(1),
            hibernation: OnceCell::new(),
            memory_wanted: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            putting_away: Semaphore::new(PUT_AWAY_AT_ONCE),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    /// The way to a sandbox that has just become usable.
    pub(crate) fn new_route(&self, run: &RunningSandbox) -> Route {
        let record = &run.record;
        Route {
            sandbox_id: record.id.clone(),
            guest: run.guest.clone(),
            closed: CancellationToken::new(),
            execution: self.executions.fetch_add(1, Ordering::Relaxed),
            envd_access_token: run.guest.spec().envd_access_token.clone(),
            traffic_access_token: self.traffic_token(record),
            mask_request_host: record.mask_request_host.clone(),
            https_ports: record.https_ports.clone(),
        }
    }

    /// A running sandbox as its owner sees it. The token is the one its envd was started with.
    pub(crate) fn view(&self, run: &RunningSandbox) -> SandboxView {
        self.view_with(
            (*run.record).clone(),
            run.guest.spec().envd_access_token.clone(),
        )
    }

    /// A recorded sandbox as its owner sees it; none when it is on its way out and its record has not gone yet.
    pub(crate) fn view_of_record(&self, record: SandboxRecord) -> Option<SandboxView> {
        let Some(handle) = self.live.get(&record.id) else {
            let token = self.tokens.envd(&record.id);
            return Some(self.view_with(record, token));
        };
        let published = handle.published();
        let mut record = record;
        record.state = published.shown()?;
        let token = match &published.run {
            Some(run) => run.guest.spec().envd_access_token.clone(),
            None => self.tokens.envd(&record.id),
        };
        Some(self.view_with(record, token))
    }

    fn view_with(&self, record: SandboxRecord, envd_access_token: String) -> SandboxView {
        SandboxView {
            envd_access_token,
            traffic_access_token: self.traffic_token(&record),
            // Nothing of a paused one can be reached.
            domain: (self.settings.domain.clone()).filter(|_| record.state == RecordState::Running),
            record,
        }
    }

    fn traffic_token(&self, record: &SandboxRecord) -> Option<String> {
        (!record.allow_public_traffic).then(|| self.tokens.traffic(&record.id))
    }

    pub(crate) fn not_found(id: &SandboxId) -> SandboxError {
        SandboxError::NotFound { id: id.clone() }
    }
}

/// Names the operation that a failure of the store interrupted.
pub(crate) fn store_error(
    operation: &'static str,
) -> impl Fn(soulbox_store::StoreError) -> SandboxError {
    move |source| SandboxError::Store {
        operation,
        source: Arc::new(source),
    }
}

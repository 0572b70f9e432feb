//! What the control plane is built from, and what it keeps while it runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use soulbox_builder::{Builds, Looks};
use soulbox_orchestrator::{Sandboxes, Volumes};
use soulbox_outbound::Reach;
use soulbox_secrets::{Identity, Secrets};
use soulbox_store::Store;
use soulbox_types::{ExecutionId, SandboxId, Timestamp};
use soulbox_webhooks::Webhooks;
use tokio_util::sync::CancellationToken;

use crate::AdminToken;
use crate::events::Streams;
use crate::operator::HostReader;
use crate::templates::uploads::UploadLinks;
use crate::volumes::token::VolumeTokens;

/// Makes the address of a port; with a traffic token and a time in seconds since 1970, one that is signed until then.
pub type PortUrls = Arc<dyn Fn(&SandboxId, u16, Option<(&str, i64)>) -> String + Send + Sync>;

/// Everything that [`crate::router`] needs.
#[derive(Clone)]
pub struct ApiState {
    /// The sandboxes of this node.
    pub sandboxes: Sandboxes,
    /// The database.
    pub store: Store,
    /// The operator's secret; without one the operator's endpoints answer 401.
    pub admin_token: Option<AdminToken>,
    /// What a team may ask for. The orchestrator enforces the same.
    pub limits: TeamLimits,
    /// What this node says about itself.
    pub node: NodeIdentity,
    /// Cancelled when the server begins to stop: `/health` then answers 503.
    pub shutdown: CancellationToken,
    /// The builds of templates.
    pub builds: Builds,
    /// The volumes of this node.
    pub volumes: Volumes,
    /// Who tells webhooks of events.
    pub webhooks: Webhooks,
    /// Secrets of teams.
    pub secrets: Secrets,
    /// Who signs tokens of sandboxes.
    pub identity: Arc<Identity>,
    /// Where the proxies of sandboxes may be.
    pub egress_proxies: Reach,
    /// Signs the addresses that files are uploaded to, and the tokens of volumes.
    pub upload_key: [u8; 32],
    /// How clients reach this server, where their request does not say it, for example `https://sandboxes.example`.
    pub public_url: String,
    /// How clients reach a port of a sandbox.
    pub port_urls: PortUrls,
}

// Written by hand so that no log ever shows the key.
impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState")
            .field("limits", &self.limits)
            .field("node", &self.node)
            .field("public_url", &self.public_url)
            .finish_non_exhaustive()
    }
}

/// What a team may ask for.
#[derive(Debug, Clone, Copy)]
pub struct TeamLimits {
    /// Longest run of a sandbox.
    pub max_timeout: Duration,
    /// Sandboxes at the same time.
    pub max_concurrent: usize,
    /// Virtual CPUs of a sandbox.
    pub max_vcpu: u32,
    /// Memory of a sandbox in MiB.
    pub max_memory_mib: u32,
    /// Builds of templates that wait or are in progress at the same time.
    pub max_concurrent_builds: usize,
}

/// What a node says about itself.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Its id.
    pub id: String,
    /// The server's version.
    pub version: String,
    /// What the server was built from.
    pub commit: String,
    /// Where it keeps its data: the disk to report.
    pub data_dir: PathBuf,
}

/// Handle that handlers get.
pub(crate) type Shared = Arc<Api>;

/// The state of the running control plane.
pub(crate) struct Api {
    pub(crate) port_urls: PortUrls,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) store: Store,
    pub(crate) admin_token: Option<AdminToken>,
    pub(crate) limits: TeamLimits,
    pub(crate) node: NodeIdentity,
    pub(crate) shutdown: CancellationToken,
    pub(crate) builds: Builds,
    /// What is in finished builds.
    pub(crate) looks: Looks,
    pub(crate) volumes: Volumes,
    pub(crate) webhooks: Webhooks,
    pub(crate) secrets: Secrets,
    pub(crate) identity: Arc<Identity>,
    pub(crate) egress_proxies: Reach,
    /// Who follows events.
    pub(crate) streams: Streams,
    /// Who may see the content of volumes.
    pub(crate) volume_tokens: VolumeTokens,
    /// Where files are uploaded to.
    pub(crate) links: UploadLinks,
    /// Creates since the start.
    pub(crate) creates: CreateTally,
    /// Reads the machine.
    pub(crate) host: HostReader,
    /// Changes with each start.
    pub(crate) instance: ExecutionId,
    /// When this was built.
    pub(crate) started: Timestamp,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("limits", &self.limits)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(state: ApiState) -> Self {
        let ApiState {
            sandboxes,
            store,
            admin_token,
            limits,
            node,
            shutdown,
            builds,
            volumes,
            webhooks,
            secrets,
            identity,
            egress_proxies,
            upload_key,
            public_url,
            port_urls,
        } = state;
        Self {
            port_urls,
            sandboxes,
            store,
            admin_token,
            limits,
            node,
            shutdown,
            looks: builds.looks(),
            builds,
            volumes,
            webhooks,
            secrets,
            identity,
            egress_proxies,
            streams: Streams::default(),
            volume_tokens: VolumeTokens::new(&upload_key, &public_url),
            links: UploadLinks::new(upload_key, public_url),
            creates: CreateTally::default(),
            host: HostReader::default(),
            instance: ExecutionId::random(),
            started: Timestamp::now(),
        }
    }
}

/// How creates have gone.
#[derive(Debug, Default)]
pub(crate) struct CreateTally {
    succeeded: AtomicU64,
    failed: AtomicU64,
    under_way: AtomicI64,
}

/// One create under way; counts as failed unless [`CreateInFlight::succeed`] is called.
#[derive(Debug)]
pub(crate) struct CreateInFlight<'a> {
    tally: &'a CreateTally,
    succeeded: bool,
}

impl CreateTally {
    pub(crate) fn begin(&self) -> CreateInFlight<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        CreateInFlight {
            tally: self,
            succeeded: false,
        }
    }

    /// Succeeded, failed, under way.
    pub(crate) fn read(&self) -> (u64, u64, i64) {
        (
            self.succeeded.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            self.under_way.load(Ordering::Relaxed),
        )
    }
}

impl CreateInFlight<'_> {
    pub(crate) fn succeed(mut self) {
        self.succeeded = true;
    }
}

impl Drop for CreateInFlight<'_> {
    fn drop(&mut self) {
        let counter = if self.succeeded {
            &self.tally.succeeded
        } else {
            &self.tally.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.tally.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

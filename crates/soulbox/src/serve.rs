//! The server: takes its place on the host, adopts what runs, serves until told to end.
//!
//! Starting is a list of steps that each either finish or say what to do; stopping undoes what no running sandbox
//! needs. Sandboxes outlive the server.

mod claim;
mod credentials;
mod templates;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use soulbox_api::{AdminToken, ApiState, NodeIdentity, TeamLimits};
use soulbox_artifacts::Artifacts;
use soulbox_driver::Driver;
use soulbox_driver::route::Route;
use soulbox_driver_linux::NamespaceDriver;
use soulbox_edge::{Edge, EdgeConfig, Routes};
use soulbox_orchestrator::{Sandboxes, Settings};
use soulbox_store::Store;
use soulbox_types::SandboxId;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::embed::PROGRAMS;

pub(crate) use claim::Claim;
use credentials::Credentials;

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    // Asked for first: a signal during the start must not be lost.
    let stop = stop_signal()?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}\nFIX: stop what uses that address, or choose another with --listen", config.listen)
    })?;
    let address = listener.local_addr()?;
    let claim = Claim::take(&config.data_dir, &config.dns_upstreams).await?;
    let driver = Arc::new(claim.driver(config.slots_ready.into(), PROGRAMS)?);
    let server = Server::start(&config, Arc::clone(&driver), address).await?;

    let shutdown = CancellationToken::new();
    let edge = server.serve(&config, listener, &shutdown)?;
    soulbox_fault::point!("start.ready");
    say_ready(&url(&config, address))?;

    stop.await;
    tracing::info!("stopping: requests in flight finish, sandboxes stay");
    soulbox_fault::point!("stop.begun");
    shutdown.cancel();
    edge.await.context("the edge panicked")?;
    soulbox_fault::point!("stop.edge-closed");
    server.sandboxes.shutdown().await;
    soulbox_fault::point!("stop.sandboxes-settled");
    driver.shutdown().await;
    soulbox_fault::point!("stop.driver-stopped");
    server.state.store.close().await;
    soulbox_fault::point!("stop.database-closed");
    if server.sandboxes.running_count() == 0 {
        claim.release()?;
    }
    Ok(())
}

/// The parts of a running server that outlast its listener.
struct Server {
    sandboxes: Sandboxes,
    state: ApiState,
    shutdown: CancellationToken,
}

impl Server {
    async fn start(
        config: &Config,
        driver: Arc<NamespaceDriver>,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        let artifacts = Arc::new(Artifacts::open(data_dir).context("cannot open the templates")?);
        let store = Store::open(&data_dir.join("soulbox.db"))
            .await
            .context("cannot open the database")?;
        soulbox_fault::point!("start.database-open");
        let credentials =
            Credentials::ensure(data_dir, &store, &url(config, address), config).await?;
        templates::register(&store, &artifacts, config.default_limits).await?;
        let settings = Settings {
            max_timeout: config.max_timeout,
            max_concurrent_per_team: usize::try_from(config.max_sandboxes_per_team)?,
            domain: public_domain(config, address),
            ..Settings::new(credentials.token_seed)
        };
        let sandboxes = Sandboxes::start(store.clone(), driver, settings)
            .await
            .context("cannot adopt sandboxes")?;
        let shutdown = CancellationToken::new();
        tokio::spawn(templates::keep_registered(
            store.clone(),
            Arc::clone(&artifacts),
            config.default_limits,
            shutdown.clone(),
        ));
        let state = ApiState {
            sandboxes: sandboxes.clone(),
            store,
            admin_token: AdminToken::new(&credentials.admin_token),
            limits: TeamLimits {
                max_timeout: config.max_timeout,
                max_concurrent: usize::try_from(config.max_sandboxes_per_team)?,
            },
            node: NodeIdentity {
                id: credentials.node_id,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: String::new(),
                data_dir: data_dir.clone(),
            },
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            sandboxes,
            state,
            shutdown,
        })
    }

    fn serve(
        &self,
        config: &Config,
        listener: TcpListener,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<tokio::task::JoinHandle<()>> {
        let tls = config
            .tls
            .as_ref()
            .map(|files| soulbox_edge::tls::server_config_from_files(&files.cert, &files.key))
            .transpose()?;
        let routes = Arc::new(LiveRoutes(self.sandboxes.clone()));
        let edge_config = EdgeConfig {
            domain: config.domain.clone(),
            ..EdgeConfig::default()
        };
        let edge = Edge::new(routes, soulbox_api::router(self.state.clone()), edge_config);
        let (stopping, api) = (shutdown.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            stopping.cancelled().await;
            api.cancel();
        });
        Ok(edge.serve(listener, tls, shutdown.clone()))
    }
}

/// The edge's view of the orchestrator.
struct LiveRoutes(Sandboxes);

impl Routes for LiveRoutes {
    fn route(&self, id: &SandboxId) -> Option<Route> {
        self.0.route(id)
    }
}

/// Where clients reach this server.
fn url(config: &Config, address: SocketAddr) -> String {
    match (public_domain(config, address), &config.tls) {
        (Some(domain), Some(_)) => format!("https://api.{domain}"),
        _ => format!("http://{}", reachable(address)),
    }
}

/// The domain as clients must know it: they put `<port>-<id>.` before it and `https://` before that, so a port that is
/// not the usual one belongs to it.
fn public_domain(config: &Config, address: SocketAddr) -> Option<String> {
    let domain = config.domain.as_ref()?;
    if config.tls.is_some() && address.port() != 443 {
        Some(format!("{domain}:{}", address.port()))
    } else {
        Some(domain.clone())
    }
}

/// An address that a client on this machine can use: "all interfaces" is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}

/// The one line on standard output. Whoever started the server waits for it.
fn say_ready(url: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "READY {url}")?;
    out.flush()?;
    Ok(())
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

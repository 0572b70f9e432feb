//! The server: adopts what runs, serves until told to end.
//!
//! `soulbox serve` is two processes. [`launch`] runs for a moment as root, starts the [`helper`], which takes the place on
//! the host and runs the driver, and becomes the server, which has no privilege at all.
//!
//! Starting is a list of steps that each either finish or say what to do; stopping undoes what no running sandbox
//! needs. Sandboxes outlive the server.

mod acme;
mod certificates;
mod claim;
mod contacts;
mod credentials;
mod dns_command;
mod handover;
pub(crate) mod helper;
mod key_command;
mod launch;
mod operators;
mod reach;
mod reached;
mod secrets;
mod templates;
mod within;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use soulbox_api::{AdminToken, ApiState, NodeIdentity, PortUrls, TeamLimits};
use soulbox_artifacts::Artifacts;
use soulbox_builder::{BuildSettings, Builds};
use soulbox_driver::route::{Route, Woken};
use soulbox_driver::{BoxFuture, Driver};
use soulbox_edge::tls::Certificates;
use soulbox_edge::{Admits, Edge, EdgeConfig, Routes, Secrets};
use soulbox_egress::{Broker, Contact, Gate, proxy, witness};
use soulbox_helper::{Certificate, Channel, RemoteDriver};
use soulbox_linux::spawn::inherited_fd;
use soulbox_net::resolver::{Resolver, ResolverConfig, Upstreams};
use soulbox_orchestrator::{Sandboxes, Settings, Volumes};
use soulbox_outbound::Reach;
use soulbox_registry::{Blobs, Registries, Url};
use soulbox_store::{Expect, Store};
use soulbox_types::SandboxId;
use soulbox_webhooks::{Places, Webhooks};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::failure::Failure;

pub(crate) use acme::Kept as AcmeKept;
pub(crate) use certificates::PREFIX as AUTHORITY_PREFIX;
pub(crate) use claim::Claim;
use credentials::Credentials;
use handover::{Handover, Place, SecretsKey};
use launch::HANDOVER_VARIABLE;
pub(crate) use launch::launch;
use reached::Reached;

/// The isolation that the helper offers.
const TIER: &str = "namespace";

/// Descriptors that every server is left.
const ALWAYS_LEFT: usize = 10;

/// What the server is left by [`launch`]: descriptors and a document.
pub(crate) struct Inherited {
    handover: Handover,
    helper: OwnedFd,
    listener: std::net::TcpListener,
    dns: (std::net::UdpSocket, std::net::TcpListener),
    proxy: Vec<proxy::Listeners>,
    /// For connections of sandboxes to names of this server.
    own_names: std::net::TcpListener,
    told: Told,
    /// For HTTPS, if that has a listener of its own.
    secure: Option<std::net::TcpListener>,
}

/// What the kernel tells of sandboxes.
struct Told {
    refusals: OwnedFd,
    starts: OwnedFd,
}

impl Told {
    /// Hears it until the server ends.
    fn hear(self, gate: &Arc<Gate>) {
        tokio::spawn(witness::hear_refusals(Arc::clone(gate), self.refusals));
        tokio::spawn(witness::hear_starts(Arc::clone(gate), self.starts));
    }
}

impl Inherited {
    /// Takes them, in the process that [`launch`] has become; `None` in any other.
    pub(crate) fn take() -> anyhow::Result<Option<Self>> {
        let Ok(numbers) = std::env::var(HANDOVER_VARIABLE) else {
            return Ok(None);
        };
        let strange = || format!("{HANDOVER_VARIABLE} is for soulbox itself\nFIX: unset it");
        let taken = numbers.split(',').map(|number| {
            let number = number.parse().with_context(strange)?;
            inherited_fd(number).with_context(strange)
        });
        let mut taken: Vec<OwnedFd> = taken.collect::<anyhow::Result<_>>()?;
        let mut more = taken.split_off(ALWAYS_LEFT.min(taken.len())).into_iter();
        let [
            document,
            helper,
            listener,
            udp,
            tcp,
            http,
            tls,
            own_names,
            refusals,
            starts,
        ] = <[OwnedFd; ALWAYS_LEFT]>::try_from(taken).map_err(|_| anyhow::anyhow!(strange()))?;
        let mut document = File::from(document);
        document.rewind()?;
        let handover: Handover = serde_json::from_reader(document).with_context(strange)?;
        let mut proxy = vec![[http.into(), tls.into()]];
        if handover.place.has_ipv6 {
            let (http, tls) = more.next().zip(more.next()).with_context(strange)?;
            proxy.push([http.into(), tls.into()]);
        }
        Ok(Some(Self {
            handover,
            helper,
            listener: listener.into(),
            dns: (udp.into(), tcp.into()),
            proxy,
            own_names: own_names.into(),
            told: Told { refusals, starts },
            secure: more.next().map(Into::into),
        }))
    }

    /// The configuration that was judged before.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        self.handover.settings.load()
    }
}

/// Runs the server until SIGTERM or SIGINT, or until its helper is gone.
pub(crate) async fn run(config: Config, inherited: Inherited) -> anyhow::Result<()> {
    // Asked for first: a signal during the start must not be lost.
    let stop = stop_signal()?;
    let Inherited {
        handover,
        helper,
        listener,
        dns,
        proxy,
        own_names,
        told: heard,
        secure,
    } = inherited;
    let listeners = Listeners::of(listener, own_names, secure)?;
    let (gate, contacts) = Gate::new();
    let driver = RemoteDriver::new(Channel::new(helper)?, TIER, Arc::clone(&gate) as _);
    let driver = Arc::new(driver);
    let keeper = Arc::clone(&gate);
    heard.hear(&gate);
    let network = Network::serve(&handover.place, &config.dns_upstreams, dns, gate, proxy)?;
    let handed = Handed {
        certificate: handover.certificate,
        secrets_key: handover.secrets_key,
        rules_ca: handover.rules_ca,
        acme_ca: handover.acme_ca,
    };
    let config = Config {
        data_dir: handover.place.data_dir,
        ..config
    };
    let told = (keeper, contacts);
    let served = serve_until(stop, &config, handed, listeners, &driver, told).await;
    // Before the block is given back: whoever has it next listens at the same address.
    network.close().await;
    // Last, and after a start that failed, too: with it, the helper gives up the place on the host when no sandbox needs
    // it, and ends.
    driver.shutdown().await;
    served
}

/// What root has read for the server.
struct Handed {
    certificate: Option<Certificate>,
    secrets_key: Option<SecretsKey>,
    rules_ca: Option<Vec<u8>>,
    acme_ca: Option<Vec<u8>>,
}

async fn serve_until(
    stop: impl Future<Output = ()>,
    config: &Config,
    handed: Handed,
    listeners: Listeners,
    driver: &Arc<RemoteDriver>,
    (gate, contacts): (Arc<Gate>, mpsc::Receiver<Contact>),
) -> anyhow::Result<()> {
    let reached = listeners.reached(config)?;
    let shutdown = CancellationToken::new();
    let given = (handed.certificate, handed.acme_ca);
    let certificates = certificates(config, given, driver, &shutdown)?;
    let authority = certificates.as_ref().and_then(Certificates::authority);
    let settings = |seed| sandbox_settings(config, &reached, seed, authority);
    let server = Server::start(
        config,
        handed.secrets_key,
        Arc::clone(driver),
        &reached,
        settings,
    );
    let server = server.await?;
    broker_rules(&gate, &server.state, handed.rules_ca.as_deref());
    let store = server.state.store.clone();
    tokio::spawn(contacts::write_down(
        contacts,
        server.sandboxes.clone(),
        store,
    ));
    let edge = server.serve(config, certificates, listeners, gate, &shutdown);
    soulbox_fault::point!("start.ready");
    say_ready(&reached.url())?;

    tokio::select! {
        () = stop => {}
        () = driver.helper_gone() => return Err(helper_gone().into()),
    }
    tracing::info!("stopping: requests in flight finish, sandboxes stay");
    soulbox_fault::point!("stop.begun");
    shutdown.cancel();
    for serving in edge {
        serving.await.context("the edge panicked")?;
    }
    soulbox_fault::point!("stop.edge-closed");
    server.builds.shutdown().await;
    server.sandboxes.shutdown().await;
    server.webhooks.shutdown().await;
    soulbox_fault::point!("stop.sandboxes-settled");
    server.state.store.close().await;
    soulbox_fault::point!("stop.database-closed");
    Ok(())
}

/// Nothing can be done without it, and a new one cannot be had: only root can start one.
fn helper_gone() -> Failure {
    Failure::internal("the helper has ended; sandboxes stay").fix("start the server again")
}

/// Where clients come in.
struct Listeners {
    main: TcpListener,
    /// For sandboxes that ask for names of this server.
    within: TcpListener,
    /// For HTTPS, if that has one of its own.
    secure: Option<TcpListener>,
}

impl Listeners {
    fn of(
        main: std::net::TcpListener,
        within: std::net::TcpListener,
        secure: Option<std::net::TcpListener>,
    ) -> anyhow::Result<Self> {
        let taken = |listener: std::net::TcpListener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        Ok(Self {
            main: taken(main)?,
            within: taken(within)?,
            secure: secure.map(taken).transpose()?,
        })
    }

    fn reached(&self, config: &Config) -> anyhow::Result<Reached> {
        let secure = self.secure.as_ref().map(TcpListener::local_addr);
        let main = self.main.local_addr()?;
        Ok(Reached::new(
            config,
            &config.data_dir,
            main,
            secure.transpose()?,
        ))
    }
}

/// What clients are shown over HTTPS, if it is served.
fn certificates(
    config: &Config,
    (given, acme_ca): (Option<Certificate>, Option<Vec<u8>>),
    helper: &Arc<RemoteDriver>,
    until: &CancellationToken,
) -> anyhow::Result<Option<Certificates>> {
    let (Some(tls), Some(domain)) = (&config.tls, &config.domain) else {
        return Ok(None);
    };
    let (helper, until) = (Arc::clone(helper), until.clone());
    let made = match (given, tls.acme()) {
        (Some(given), _) => certificates::of_operator(given, helper, until),
        (None, Some(acme)) => {
            let trusted = acme_ca.unwrap_or_default();
            acme::begin(acme, &trusted, domain, &config.data_dir, helper, until)
        }
        (None, None) => certificates::of_authority(&config.data_dir, domain),
    };
    made.map(Some)
}

fn sandbox_settings(
    config: &Config,
    reached: &Reached,
    token_seed: [u8; 32],
    authority: Option<String>,
) -> anyhow::Result<Settings> {
    Ok(Settings {
        max_timeout: config.max_timeout,
        max_concurrent_per_team: usize::try_from(config.max_sandboxes_per_team)?,
        domain: reached.domain.clone(),
        save_paused_after: config.save_paused_after,
        hibernate_after: config.hibernate_after,
        hibernate_on_stop: config.hibernate_on_stop,
        events_kept: config.events_kept,
        authority,
        ..Settings::new(token_seed)
    })
}

/// What each team may have.
fn team_limits(config: &Config) -> anyhow::Result<TeamLimits> {
    Ok(TeamLimits {
        max_timeout: config.max_timeout,
        max_concurrent: usize::try_from(config.max_sandboxes_per_team)?,
        max_vcpu: config.max_vcpu,
        max_memory_mib: config.max_memory_mib,
        max_concurrent_builds: usize::try_from(config.max_builds_per_team)?,
    })
}

/// How clients reach ports of sandboxes.
fn port_urls(reached: &Reached) -> PortUrls {
    let base = reached.sandboxes();
    Arc::new(move |id, port, signed| base.address(id, port, signed))
}

/// Where the images of builds come from.
fn registries(config: &Config, data_dir: &Path) -> anyhow::Result<Registries> {
    let blobs = Blobs::open(data_dir.join("pulls"))
        .context("cannot use the directory of pulled layers\nFIX: remove `pulls` in the data directory; what was in it is pulled again")?;
    let mirrors = config.mirrors.registries.iter().map(|(registry, mirror)| {
        let url = Url::parse(&format!("{mirror}/")).context("mirrors.registries");
        url.map(|url| (registry.clone(), url))
    });
    let mirrors = mirrors.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let network = soulbox_registry::Network::new(config.private_registries.clone(), mirrors);
    Ok(Registries::new(network, config.ecr_endpoint.clone(), blobs))
}

/// Has header rules work. Where this host trusts nobody they do not: nothing is sent to who cannot be verified.
fn broker_rules(gate: &Gate, state: &ApiState, more: Option<&[u8]>) {
    match soulbox_client::trust_also(more.unwrap_or_default()) {
        Ok(upstream) => gate.use_broker(Broker::new(
            state.secrets.clone(),
            state.identity.clone(),
            upstream,
            state.egress_proxies.clone(),
        )),
        Err(error) => tracing::error!(
            %error,
            "requests with header rules, and all through egress proxies, are refused. FIX: install the package ca-certificates, or correct rules_ca_file"
        ),
    }
}

/// Starts the DNS forwarder of the sandboxes.
fn forward_dns(
    place: &Place,
    upstreams: &[SocketAddr],
    sockets: (std::net::UdpSocket, std::net::TcpListener),
    gate: Arc<Gate>,
) -> anyhow::Result<Resolver> {
    let upstreams = if upstreams.is_empty() {
        Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf"))
    } else {
        Upstreams::Fixed(upstreams.to_vec())
    };
    let config = ResolverConfig::for_network(place.gateway, &place.network, upstreams)?;
    Resolver::on(config, Some(gate), sockets.0, sockets.1).context("cannot forward DNS")
}

/// What reads what sandboxes send, in the server, where nothing can be won: the DNS forwarder and the proxy.
struct Network {
    stop: CancellationToken,
    resolver: JoinHandle<()>,
    proxy: JoinHandle<std::io::Result<()>>,
}

impl Network {
    fn serve(
        place: &Place,
        upstreams: &[SocketAddr],
        dns: (std::net::UdpSocket, std::net::TcpListener),
        gate: Arc<Gate>,
        listeners: Vec<proxy::Listeners>,
    ) -> anyhow::Result<Self> {
        let resolver = forward_dns(place, upstreams, dns, Arc::clone(&gate))?;
        let stop = CancellationToken::new();
        let until = stop.clone().cancelled_owned();
        Ok(Self {
            resolver: tokio::spawn(resolver.run(stop.clone().cancelled_owned())),
            proxy: tokio::spawn(proxy::serve(gate, listeners, until)),
            stop,
        })
    }

    /// Ends both. Their sockets are closed when this returns.
    async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.resolver.await {
            tracing::error!(%error, "the DNS forwarder failed");
        }
        let proxied = self
            .proxy
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)));
        if let Err(error) = proxied {
            tracing::error!(%error, "the proxy of the sandboxes failed");
        }
    }
}

/// The parts of a running server that outlast its listener.
struct Server {
    sandboxes: Sandboxes,
    builds: Builds,
    webhooks: Webhooks,
    state: ApiState,
    shutdown: CancellationToken,
}

impl Server {
    async fn start(
        config: &Config,
        secrets_key: Option<SecretsKey>,
        driver: Arc<RemoteDriver>,
        reached: &Reached,
        settings: impl FnOnce([u8; 32]) -> anyhow::Result<Settings>,
    ) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        let artifacts =
            Arc::new(Artifacts::existing(data_dir).context("cannot open the templates")?);
        // Made after the database: where it is, there has been one.
        let used = data_dir.join("token.seed").exists();
        let expect = if used { Expect::Existing } else { Expect::Any };
        let store = Store::open_expecting(&data_dir.join("soulbox.db"), expect)
            .await
            .context("cannot open the database")?;
        soulbox_fault::point!("start.database-open");
        let credentials = Credentials::ensure(data_dir, &store, reached).await?;
        let secrets = secrets::open(data_dir, &store, secrets_key).await?;
        let identity = secrets::identity(data_dir, &secrets, &reached.url())?;
        templates::register(&store, &artifacts, config.default_limits).await?;
        let upload_key = credentials.token_seed;
        let settings = settings(upload_key)?;
        if let Err(reason) = driver.hibernation().await {
            tracing::warn!(reason, "memory of sandboxes cannot be kept on disk");
        }
        let sandboxes = Sandboxes::start(store.clone(), driver.clone(), settings)
            .await
            .context("cannot adopt sandboxes")?;
        let volumes = Volumes::open(store.clone(), driver.clone(), config.volume_size_mib)
            .await
            .context("cannot take over the volumes")?;
        let places = Places::new(config.private_webhooks.clone());
        let webhooks = Webhooks::start(
            store.clone(),
            secrets.clone(),
            soulbox_webhooks::Settings::new(places),
        );
        let registries = registries(config, data_dir)?;
        let building = BuildSettings {
            uploads: data_dir.join("uploads"),
            registries,
            mirrors: config.mirrors.clone(),
            tokens: sandboxes.envd_tokens(),
            longest: config.max_build_time,
        };
        let builds = Builds::open(store.clone(), driver, building)
            .await
            .context("cannot build templates")?;
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
            builds: builds.clone(),
            volumes,
            webhooks: webhooks.clone(),
            secrets,
            identity,
            egress_proxies: Reach::new(config.private_egress_proxies.clone()),
            upload_key,
            public_url: reached.url(),
            port_urls: port_urls(reached),
            admin_token: AdminToken::new(&credentials.admin_token),
            limits: team_limits(config)?,
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
            builds,
            webhooks,
            state,
            shutdown,
        })
    }

    fn serve(
        &self,
        config: &Config,
        certificates: Option<Certificates>,
        listeners: Listeners,
        gate: Arc<Gate>,
        shutdown: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let tls = certificates.map(soulbox_edge::tls::server_config);
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
        let Listeners {
            main,
            within,
            secure,
        } = listeners;
        let mut serving = Vec::new();
        if let (Some(tls), Some(domain)) = (&tls, &config.domain) {
            gate.answers_for(domain.to_ascii_lowercase());
            let within_it = Arc::new(within::Sandboxes(gate));
            serving.push(edge.serve_within(within, Arc::clone(tls), within_it, shutdown.clone()));
        }
        match secure {
            Some(secure) => {
                serving.push(edge.serve(main, None, shutdown.clone()));
                serving.push(edge.serve(secure, tls, shutdown.clone()));
            }
            None => serving.push(edge.serve(main, tls, shutdown.clone())),
        }
        serving
    }
}

/// The edge's view of the orchestrator.
struct LiveRoutes(Sandboxes);

impl Routes for LiveRoutes {
    fn route(&self, id: &SandboxId) -> Option<Arc<Route>> {
        self.0.route(id)
    }

    fn wake<'a>(&'a self, id: &'a SandboxId, admits: Admits) -> BoxFuture<'a, Woken> {
        Box::pin(async move {
            let woken = self.0.wake(id, |view| {
                admits(Secrets {
                    envd: &view.envd_access_token,
                    traffic: view.traffic_access_token.as_deref(),
                })
            });
            woken.await.unwrap_or_else(|error| {
                let error = soulbox_telemetry::chain(&error);
                tracing::warn!(sandbox.id = %id, error, "a paused sandbox is not brought back for a request");
                Woken::Nobody
            })
        })
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

//! The privileged process of a server: it holds the place on the host and runs the driver, and listens to nobody but the
//! server that it was started for.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use soulbox_artifacts::Artifacts;
use soulbox_driver_linux::NamespaceDriver;
use soulbox_egress::proxy;
use soulbox_helper::{Certificate, Channel, Ending, Operator, RecordAct};
use soulbox_linux::socket;
use soulbox_linux::told::started_programs;
use soulbox_net::policy::OWN_NAMES_PORT;
use soulbox_net::{firewall, resolver};
use soulbox_telemetry::logs;

use super::certificates;
use super::claim::Claim;
use super::dns_command::DnsCommand;
use super::handover::{Place, Started, Wanted, texts};
use crate::config::{Config, Tls, TlsFiles};
use crate::embed::PROGRAMS;

/// Most bytes of the server's first word.
const FIRST_WORD_BYTES: usize = 256 * 1024;
/// How long an ending server may hold the gateway's ports, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// Serves the process at the other end of `server` until it is gone.
pub(crate) async fn run(server: OwnedFd) -> anyhow::Result<()> {
    let first = socket::receive(&server, FIRST_WORD_BYTES)?;
    let (bytes, _) = first.context("the server is gone")?;
    match Held::take(&bytes).await {
        Ok(held) => {
            let word = serde_json::to_vec(&Started::Ready(held.place()))?;
            let [http, tls] = &held.sockets.proxy;
            let of_ipv6 = held.sockets.proxy_v6.iter().flatten();
            let (udp, tcp) = &held.sockets.dns;
            let own = held.sockets.own_names.as_fd();
            let [refusals, starts] = held.sockets.told.each_ref().map(AsFd::as_fd);
            let mut handed = vec![
                udp.as_fd(),
                tcp.as_fd(),
                http.as_fd(),
                tls.as_fd(),
                own,
                refusals,
                starts,
            ];
            handed.extend(of_ipv6.map(AsFd::as_fd));
            socket::send(&server, &word, &handed)?;
            held.serve(server).await
        }
        Err(error) => {
            let word = serde_json::to_vec(&Started::Failed(texts(&error)))?;
            Ok(socket::send(&server, &word, &[])?)
        }
    }
}

/// What the helper holds on the host.
struct Held {
    claim: Claim,
    driver: Arc<NamespaceDriver>,
    sockets: Sockets,
    operator: Configured,
}

/// What the operator has configured that only root may do.
struct Configured {
    /// Of the certificate that only root may read.
    tls_files: Option<TlsFiles>,
    dns_command: Option<DnsCommand>,
}

impl Configured {
    fn of(config: &Config) -> std::io::Result<Self> {
        let tls = config.tls.as_ref();
        let acme = tls.and_then(Tls::acme).zip(config.domain.as_deref());
        let dns_command =
            acme.map(|(acme, domain)| DnsCommand::new(acme.dns_command.clone(), domain));
        Ok(Self {
            tls_files: tls.and_then(Tls::files).cloned(),
            dns_command: dns_command.transpose()?,
        })
    }
}

impl Operator for Configured {
    fn certificate(&self) -> std::io::Result<Certificate> {
        match &self.tls_files {
            Some(files) => certificates::read(files).map_err(std::io::Error::other),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    fn challenge_record(&self, act: RecordAct, value: &str) -> std::io::Result<()> {
        match &self.dns_command {
            Some(command) => command.run(act, value).map_err(std::io::Error::other),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    fn stop(&self) {
        self.dns_command.iter().for_each(DnsCommand::stop);
    }
}

/// Where the server hears what sandboxes ask. Only root can open them.
struct Sockets {
    dns: (UdpSocket, TcpListener),
    proxy: proxy::Listeners,
    /// The same for connections of IPv6.
    proxy_v6: Option<proxy::Listeners>,
    own_names: TcpListener,
    /// Packets of sandboxes that were refused, and programs that were started: see [`soulbox_linux::told`]. One that the
    /// kernel does not have has ended.
    told: [OwnedFd; 2],
}

impl Held {
    async fn take(wanted: &[u8]) -> anyhow::Result<Self> {
        let Wanted {
            settings,
            https_port,
        } = serde_json::from_slice(wanted)?;
        let config: Config = settings.load()?;
        logs::init(&config.log_level, config.log_format)?;
        let mut claim = Claim::take(&config.data_dir, config.connections, config.ipv6).await?;
        match Self::prepare(&mut claim, &config, https_port).await {
            Ok((driver, sockets)) => Ok(Self {
                claim,
                driver,
                sockets,
                operator: Configured::of(&config)?,
            }),
            Err(error) => {
                // A start that fails leaves the host as it was.
                if let Err(left) = claim.release_unused() {
                    tracing::warn!(error = format!("{left:#}"), "the place on the host is kept");
                }
                Err(error)
            }
        }
    }

    async fn prepare(
        claim: &mut Claim,
        config: &Config,
        https_port: Option<u16>,
    ) -> anyhow::Result<(Arc<NamespaceDriver>, Sockets)> {
        // Makes what is missing of the layout; the server only reads it.
        Artifacts::open(claim.data_dir()).context("cannot open the templates")?;
        let driver = Arc::new(claim.driver(config.slots_ready.into(), config.disk, PROGRAMS)?);
        claim.share_with_server()?;
        let gateway = claim.block().gateway();
        let dns = bound(|| resolver::sockets(SocketAddr::from((gateway, 53))));
        let dns = dns
            .await
            .with_context(|| format!("cannot forward DNS\nFIX: free port 53 on {gateway}"))?;
        let proxy = proxy_listeners(gateway.into()).await?;
        let proxy_v6 = match claim.has_ipv6() {
            true => Some(proxy_listeners(claim.block().gateway_v6().into()).await?),
            false => None,
        };
        let own_names = bound(|| TcpListener::bind((gateway, OWN_NAMES_PORT)));
        let own_names = own_names.await.with_context(|| {
            format!("cannot listen for connections of sandboxes to each other\nFIX: free port {OWN_NAMES_PORT} on {gateway}")
        })?;
        if let Some(port) = https_port {
            firewall::apply(&firewall::render_own_names(claim.block(), port))
                .context("cannot set up the firewall\nFIX: soulbox doctor")?;
        }
        let refusals = claim.take_refusals().map_or_else(ended, Ok)?;
        let starts = started_programs().or_else(|error| {
            tracing::warn!(%error, "programs that start in sandboxes are not told");
            ended()
        })?;
        let sockets = Sockets {
            dns,
            proxy,
            proxy_v6,
            own_names,
            told: [refusals, starts],
        };
        Ok((driver, sockets))
    }

    fn place(&self) -> Place {
        let block = self.claim.block();
        Place {
            data_dir: self.claim.data_dir().to_owned(),
            server_id: block.server_id(),
            gateway: block.gateway(),
            network: block.cidr(),
            has_ipv6: self.claim.has_ipv6(),
        }
    }

    async fn serve(self, server: OwnedFd) -> anyhow::Result<()> {
        let Self {
            claim,
            driver,
            sockets,
            operator,
        } = self;
        // The server has copies. No socket that hears the network stays open here.
        drop(sockets);
        let channel = Channel::new(server)?;
        let release = async move || claim.release_unused().map_err(std::io::Error::other);
        match soulbox_helper::serve(channel, driver, Arc::new(operator), release).await? {
            Ending::Down => {}
            Ending::ServerGone => tracing::warn!("the server is gone: sandboxes stay for the next"),
        }
        Ok(())
    }
}

async fn proxy_listeners(gateway: IpAddr) -> anyhow::Result<proxy::Listeners> {
    bound(|| proxy::listeners(gateway)).await.with_context(|| {
        let [http, tls] = soulbox_net::policy::PROXY_PORTS;
        format!("cannot listen for connections of sandboxes\nFIX: free the ports {http} and {tls} on {gateway}")
    })
}

/// A socket that has ended.
fn ended() -> std::io::Result<OwnedFd> {
    socket::seqpacket_pair().map(|(one, _other)| one)
}

/// Binds sockets of the gateway. The server that had the block before may still be closing its own.
async fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < patience =>
            {
                tokio::time::sleep(RETRY).await;
            }
            other => return other,
        }
    }
}

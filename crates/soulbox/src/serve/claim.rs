//! The server's place on the host: one server per data directory, one block of slots and addresses per server.

use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use soulbox_driver_linux::cgroup::Hierarchies;
use soulbox_driver_linux::{NamespaceDriver, Programs, Settings};
use soulbox_net::resolver::{Resolver, ResolverConfig, Upstreams};
use soulbox_net::{block, firewall, gateway};
use soulbox_types::slot::Block;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What this server holds on the host while it runs, and longer while sandboxes do.
#[derive(Debug)]
pub(crate) struct Claim {
    data_dir: PathBuf,
    block: Block,
    /// Held, not read: the lock ends with the process.
    _lock: File,
    /// Stops the DNS forwarder when it goes.
    _resolver: DropGuard,
}

impl Claim {
    /// Locks the data directory, claims a block and puts up its network.
    pub(crate) async fn take(
        data_dir: &Path,
        dns_upstreams: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("soulbox serve needs root to make sandboxes\nFIX: run it with sudo");
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        let data_dir = data_dir.canonicalize()?;
        let lock = lock(&data_dir)?;
        soulbox_fault::point!("start.data-dir-locked");
        let block = block::claim(Path::new(block::RUN_DIR), &data_dir)?;
        gateway::ensure(block)
            .context("cannot set up the gateway of the sandboxes' network\nFIX: soulbox doctor")?;
        soulbox_fault::point!("start.gateway-up");
        firewall::apply(&firewall::render(block, true))
            .context("cannot set up the firewall\nFIX: soulbox doctor")?;
        soulbox_fault::point!("start.firewall-up");
        let resolver = forward_dns(block, dns_upstreams).await?;
        Ok(Self {
            data_dir,
            block,
            _lock: lock,
            _resolver: resolver,
        })
    }

    pub(crate) fn driver(
        &self,
        slots_ready: usize,
        programs: Programs<'_>,
    ) -> anyhow::Result<NamespaceDriver> {
        let settings = Settings {
            data_dir: self.data_dir.clone(),
            layers_dir: self.data_dir.join("layers"),
            block: self.block,
            slots_ready,
        };
        NamespaceDriver::new(&settings, programs)
            .context("this host cannot run sandboxes\nFIX: soulbox doctor")
    }

    /// Takes down what no sandbox needs any more.
    pub(crate) fn release(self) -> anyhow::Result<()> {
        firewall::remove(self.block).context("cannot remove the firewall table")?;
        soulbox_fault::point!("stop.firewall-removed");
        gateway::remove(self.block).context("cannot remove the gateway")?;
        soulbox_fault::point!("stop.gateway-removed");
        Hierarchies::detect()?
            .remove_block(&self.block.prefix())
            .context("cannot remove the cgroups")?;
        soulbox_fault::point!("stop.cgroups-removed");
        remove_run_dir(&self.data_dir.join("run"))?;
        block::release(Path::new(block::RUN_DIR), self.block, &self.data_dir)
            .context("cannot release the address block")
    }
}

/// Starts the DNS forwarder on the gateway's address.
async fn forward_dns(block: Block, upstreams: &[SocketAddr]) -> anyhow::Result<DropGuard> {
    let upstreams = if upstreams.is_empty() {
        Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf"))
    } else {
        Upstreams::Fixed(upstreams.to_vec())
    };
    let config = ResolverConfig::for_network(block.gateway(), &block.cidr(), upstreams)?;
    let resolver = Resolver::bind(config).await.with_context(|| {
        format!(
            "cannot forward DNS\nFIX: free port 53 on {}",
            block.gateway()
        )
    })?;
    let stop = CancellationToken::new();
    tokio::spawn(resolver.run(stop.clone().cancelled_owned()));
    Ok(stop.drop_guard())
}

/// Removes what launches use: made again at the next start.
fn remove_run_dir(run: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(run) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", run.display()))
        }
        _ => Ok(()),
    }
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "another server uses {}\nFIX: stop it, or choose another directory with --data-dir",
            data_dir.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

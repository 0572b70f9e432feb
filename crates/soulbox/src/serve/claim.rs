//! The server's place on the host: one server per data directory, one block of slots and addresses per server.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use soulbox_driver_linux::cgroup::Hierarchies;
use soulbox_driver_linux::{DiskSettings, NamespaceDriver, Programs, Settings};
use soulbox_linux::told::logged_packets;
use soulbox_net::ipv6::{self, Ipv6};
use soulbox_net::limits::{self, ConnectionLimits};
use soulbox_net::{block, firewall, gateway, policy, told};
use soulbox_types::slot::Block;

use super::{acme, certificates};

/// How long an ending server may hold what only one can have, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// What the server itself keeps in the data directory. Everything else there is the helper's.
const SERVER_FILES: [&str; 10] = [
    "soulbox.db",
    "soulbox.db-wal",
    "soulbox.db-shm",
    "soulbox.db-boot",
    "client.env",
    "admin.token",
    "token.seed",
    "secrets.key",
    "identity.key",
    "node.id",
];
/// Directories that the server makes for itself, of what can be had again.
const SERVER_CACHES: [&str; 2] = ["uploads", "pulls"];
/// How long a start waits for the lock, and how often it looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// What this server holds on the host while it runs, and longer while sandboxes do.
#[derive(Debug)]
pub(crate) struct Claim {
    data_dir: PathBuf,
    block: Block,
    has_ipv6: bool,
    /// Hears what the kernel refuses by address, where it can tell.
    refusals: Option<OwnedFd>,
    limits: ConnectionLimits,
    /// Held, not read: the lock ends with the process.
    _lock: File,
}

impl Claim {
    /// Locks the data directory, claims a block and puts up its network.
    pub(crate) async fn take(
        data_dir: &Path,
        limits: ConnectionLimits,
        ipv6: Ipv6,
    ) -> anyhow::Result<Self> {
        require_root()?;
        // First: a host that lacks one is refused before anything is put up that would have to be taken down.
        Hierarchies::detect().context("this host cannot run sandboxes")?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        let data_dir = data_dir.canonicalize()?;
        let lock = lock(&data_dir).await?;
        soulbox_fault::point!("start.data-dir-locked");
        let block = block::claim(Path::new(block::RUN_DIR), &data_dir)?;
        gateway::ensure(block)
            .context("cannot set up the gateway of the sandboxes' network\nFIX: soulbox doctor")?;
        soulbox_fault::point!("start.gateway-up");
        let has_ipv6 = prepare_ipv6(ipv6, block)?;
        let refusals = hear_refusals(block).await;
        let tells = refusals.is_some();
        let of_ipv6 = match has_ipv6 {
            true => ipv6::render(block, tells),
            false => ipv6::render_removal(block),
        };
        let tables = [
            firewall::render(block, true, tells),
            of_ipv6,
            policy::render_base(block, tells),
            limits::render(block, limits, tells),
        ];
        firewall::apply(&tables.concat())
            .context("cannot set up the firewall\nFIX: soulbox doctor")?;
        soulbox_fault::point!("start.firewall-up");
        Ok(Self {
            data_dir,
            block,
            has_ipv6,
            refusals,
            limits,
            _lock: lock,
        })
    }

    pub(crate) fn block(&self) -> Block {
        self.block
    }

    /// Whether sandboxes have IPv6.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What hears what the kernel refuses by address. It is given away: from then on nobody else hears it.
    pub(crate) fn take_refusals(&mut self) -> Option<OwnedFd> {
        self.refusals.take()
    }

    /// Lets the server keep its own files in the data directory, and nothing else: the directory stays root's and is
    /// sticky, so the server can neither move nor remove what is not its own.
    pub(crate) fn share_with_server(&self) -> anyhow::Result<()> {
        let id = self.block.server_id();
        let shared = || -> io::Result<()> {
            let directory = File::open(&self.data_dir)?;
            rustix::fs::fchown(&directory, None, Some(Gid::from_raw(id)))?;
            directory.set_permissions(Permissions::from_mode(0o1770))?;
            for name in SERVER_FILES {
                give(&directory, name, id)?;
            }
            for name in made_for_https(&self.data_dir)? {
                give(&directory, &name, id)?;
            }
            SERVER_CACHES
                .iter()
                .try_for_each(|name| drop_of_another(&self.data_dir.join(name), id))
        };
        shared()
            .with_context(|| format!("cannot share {} with the server", self.data_dir.display()))
    }

    pub(crate) fn driver(
        &self,
        slots_ready: usize,
        disk: DiskSettings,
        programs: Programs<'_>,
    ) -> anyhow::Result<NamespaceDriver> {
        let settings = Settings {
            connections_of_team: self.limits.of_team,
            data_dir: self.data_dir.clone(),
            layers_dir: self.data_dir.join("layers"),
            block: self.block,
            has_ipv6: self.has_ipv6,
            slots_ready,
            disk,
            criu_dir: Some(soulbox_driver_linux::criu_dir(&self.data_dir)),
            tells_refusals: self.refusals.is_some(),
        };
        NamespaceDriver::new(&settings, programs)
            .context("this host cannot run sandboxes\nFIX: soulbox doctor")
    }

    /// [`Claim::release`], unless a sandbox may be running: then the next start needs the place as it is.
    pub(crate) fn release_unused(self) -> anyhow::Result<()> {
        if is_empty(&self.data_dir.join("sandboxes"))? {
            self.release()
        } else {
            Ok(())
        }
    }

    /// Takes down what no sandbox needs any more.
    pub(crate) fn release(self) -> anyhow::Result<()> {
        soulbox_fault::point!("stop.driver-stopped");
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

/// Whether sandboxes have IPv6; then the host forwards it, and the gateway has an address of it.
fn prepare_ipv6(ipv6: Ipv6, block: Block) -> anyhow::Result<bool> {
    let wanted = ipv6::is_wanted(ipv6).context("cannot read the host's addresses")?;
    if wanted {
        ipv6::ensure_forwarding()
            .and_then(|()| gateway::ensure_v6(block))
            .context("cannot forward IPv6\nFIX: set ipv6 = \"off\" in the configuration")?;
    }
    Ok(wanted)
}

/// The server that had the block before may still be closing its own.
async fn hear_refusals(block: Block) -> Option<OwnedFd> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match logged_packets(told::group(block), told::BYTES) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < patience =>
            {
                tokio::time::sleep(RETRY).await;
            }
            Ok(socket) => return Some(socket),
            Err(error) => {
                tracing::warn!(%error, "what is refused by address is not told\n  FIX: modprobe nfnetlink_log nft_log, and start again");
                return None;
            }
        }
    }
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

/// Asked before anything else: every later step would fail less clearly.
pub(super) fn require_root() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("soulbox serve needs root to make sandboxes\nFIX: run it with sudo");
    }
    Ok(())
}

/// Whether a directory has no entries, or does not exist.
fn is_empty(directory: &Path) -> io::Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Gives one file to the server. What is no ordinary file, or has a second name somewhere, is not what the server made
/// and is not given away.
/// The files of the server's own certificate authorities and of others that it asks: some for each domain that it has had.
fn made_for_https(data_dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_dir)? {
        let name = entry?.file_name();
        let name = name.to_str().filter(|name| {
            let prefixes = [certificates::PREFIX, acme::PREFIX];
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        });
        found.extend(name.map(str::to_owned));
    }
    Ok(found)
}

fn give(directory: &File, name: &str, id: u32) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => File::from(other?),
    };
    let facts = file.metadata()?;
    if !facts.is_file() || facts.nlink() != 1 {
        return Err(io::Error::other(format!(
            "{name} is not a file of the server"
        )));
    }
    Ok(rustix::fs::fchown(
        &file,
        Some(Uid::from_raw(id)),
        Some(Gid::from_raw(id)),
    )?)
}

/// Removes a directory of the server when the server had another block, and with it another user, that it was for.
/// Trees are not walked to change their owners: what is in them was put there by somebody with fewer rights.
fn drop_of_another(directory: &Path, id: u32) -> io::Result<()> {
    match std::fs::symlink_metadata(directory) {
        Ok(facts) if facts.is_dir() && facts.uid() != id => std::fs::remove_dir_all(directory),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Waits for a server that is just ending: its helper follows it within moments.
async fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "another server uses {}\nFIX: stop it, or choose another directory with --data-dir",
                data_dir.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

//! The seam between "a sandbox" and "how it is isolated".
//!
//! A [`Driver`] creates guests and finds again those that an earlier server left running.
//! A [`Guest`] is one running isolated environment: it can be dialled, measured and killed.
//! Nothing above this crate may know which isolation tier it stands on.
//!
//! The traits use boxed futures so that `Arc<dyn Driver>` and `Arc<dyn Guest>` work;
//! one allocation per call is nothing beside the system calls behind it.

pub mod moments;
pub mod rehearsal;
pub mod route;
#[cfg(feature = "testing")]
pub mod testing;
pub mod volumes;

pub use moments::{Moment, Moments};
pub use rehearsal::rehearse;
pub use route::Route;
pub use volumes::{VolumeAnswer, VolumeError, VolumeRequest};

use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use soulbox_types::{
    ErrorKind, LayerDigest, MemoryId, NetworkMode, SandboxId, SandboxSpec, Timestamp, VolumeId,
};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// A boxed future that borrows from `'a`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A driver operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Every slot of this server is taken.
    #[error("all sandbox slots of this server are in use")]
    NoSlot,
    /// A layer of the template is missing or damaged.
    #[error("template layer {layer} cannot be used")]
    Layer {
        /// Path of the layer.
        layer: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The disk that holds sandboxes is full.
    #[error(
        "no space left for sandbox files\n\
         FIX: free space on the file system of the data directory, or lower disk_reserve_mib"
    )]
    StorageFull,
    /// A launch step failed.
    #[error("launch step {step} failed")]
    Launch {
        /// Name of the step, as printed by `soulbox debug plan`.
        step: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A volume cannot be where the sandbox was to have it.
    #[error("a volume cannot be mounted: {reason}")]
    Volume {
        /// What is known, for whoever asked for the sandbox.
        reason: String,
    },
    /// envd did not answer in time, or said why it could not start.
    #[error("envd did not start: {reason}")]
    Envd {
        /// What is known.
        reason: String,
    },
    /// The memory of a guest cannot be written to disk or brought back from it.
    #[error("the memory of the sandbox cannot be kept on disk: {reason}")]
    Checkpoint {
        /// What is known.
        reason: String,
    },
    /// Anything else the host refused.
    #[error("{operation}")]
    Host {
        /// What was tried, on what.
        operation: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// This driver cannot do that.
    #[error("{operation} is not supported by this isolation tier")]
    Unsupported {
        /// What was asked.
        operation: &'static str,
    },
}

impl DriverError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSlot => ErrorKind::Unavailable,
            Self::StorageFull => ErrorKind::StorageFull,
            Self::Volume { .. } => ErrorKind::InvalidArgument,
            Self::Envd { .. } => ErrorKind::Timeout,
            Self::Unsupported { .. } => ErrorKind::Unimplemented,
            Self::Layer { .. }
            | Self::Launch { .. }
            | Self::Checkpoint { .. }
            | Self::Host { .. } => ErrorKind::Internal,
        }
    }
}

/// Why a port of a guest could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens there (connection refused).
    #[error("port {port} is not open")]
    PortClosed {
        /// The port inside the guest.
        port: u16,
    },
    /// The guest is gone.
    #[error("the sandbox is not running")]
    Gone,
    /// Anything else.
    #[error("cannot connect to port {port}")]
    Io {
        /// The port inside the guest.
        port: u16,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// A reading of what a guest uses, straight from the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStats {
    /// CPU time used since the start, in microseconds, over all CPUs.
    pub cpu_usage_us: u64,
    /// Memory in use without page cache, in bytes.
    pub memory_used_bytes: u64,
    /// Page cache charged to the guest, in bytes.
    pub memory_cache_bytes: u64,
    /// Bytes written to the guest's own layer of the root file system, where known cheaply.
    pub disk_used_bytes: u64,
    /// Processes and threads alive.
    pub pids: u64,
    /// Times the kernel has killed a process of this guest for lack of memory.
    pub oom_kills: u64,
    /// How many of those were told of by [`Guest::oom_kills`] since this server has the guest.
    pub oom_kills_named: u64,
}

/// A process of a guest that the kernel has killed for lack of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomKill {
    /// Its name as the kernel has it: at most 15 bytes, chosen by the program.
    pub name: String,
    /// Its number as seen inside, where it could still be found out.
    pub pid: Option<i32>,
}

/// A layer that was made, or was there already with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLayer {
    /// Its name.
    pub digest: LayerDigest,
    /// Files, directories, links and so on in it.
    pub entries: u64,
    /// Sum of the sizes of its files; one that has several names counts once.
    pub content_bytes: u64,
}

/// A layer that lies on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerHere {
    /// What it holds.
    pub layer: SavedLayer,
    /// When it was made.
    pub made_at: Timestamp,
    /// Whether it belongs to a template that was made without this server.
    pub named: bool,
}

/// What an image that brings everything else is unpacked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BareLayers {
    /// Holds only what a sandbox needs to start: directories that are mounted over, and root's name.
    pub ground: LayerDigest,
    /// Lies on it while something is unpacked: the program at [`TAR`].
    pub tools: LayerDigest,
}

/// The program `soulbox-tar` in a sandbox that stands on [`BareLayers::tools`].
pub const TAR: &str = "/.soulbox/tar";

/// Creates guests and looks after layers; one per isolation tier.
pub trait Driver: Debug + Send + Sync {
    /// Name of the tier: `namespace`, `gvisor`, `microvm`.
    fn tier(&self) -> &'static str;

    /// Creates a guest and returns once its envd accepts connections on port 49983 with the spec's environment,
    /// user and token in force. On error nothing is left behind.
    ///
    /// # Cancel safety
    /// Not cancel-safe: drop of the future may leave a guest that only [`Driver::adopt`] finds. Run it in a task.
    fn create<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>>;

    /// Finds the guests that an earlier process of this server left running, and removes the remains of those
    /// that have died since. Called once, before the first create.
    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Arc<dyn Guest>>, DriverError>>;

    /// Sandboxes that ran under an earlier process of this server and were not found again by [`Driver::adopt`], and why,
    /// in words that go on from "the sandbox was lost: ". As far as it is known.
    fn lost(&self) -> Vec<(SandboxId, String)> {
        Vec::new()
    }

    /// Whether the memory of guests can be written to disk; otherwise why not, and what to do.
    fn hibernation(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("this isolation tier cannot".to_owned()) })
    }

    /// Makes a guest whose processes go on where [`Guest::capture`] has seen them, on a clock that stood still meanwhile. Its
    /// layers must hold the files of that moment. Connections to the outside are broken. Its envd knows nothing of `spec` but
    /// the limits: it has the token, the variables and the name of the guest that was captured. The memory stays where it is;
    /// any number of guests can be made from it, also at the same time. On error nothing is left behind.
    ///
    /// # Cancel safety
    /// Not cancel-safe: drop of the future may leave a guest that only [`Driver::adopt`] finds. Run it in a task.
    fn wake<'a>(
        &'a self,
        spec: &'a SandboxSpec,
        memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        let _not_used = (spec, memory);
        Box::pin(async {
            Err(DriverError::Unsupported {
                operation: "bringing memory back from disk",
            })
        })
    }

    /// Makes memory durable that [`Guest::capture`] has written; without it, it is gone with this server.
    fn keep_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        let _not_used = memory;
        Box::pin(async {
            Err(DriverError::Unsupported {
                operation: "keeping memory on disk",
            })
        })
    }

    /// What [`Driver::keep_memory`] was told to keep and nobody has forgotten. After [`Driver::adopt`].
    fn memories(&self) -> BoxFuture<'_, Result<Vec<MemoryId>, DriverError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Removes memory from disk. Nothing is fine.
    fn forget_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        let _not_used = memory;
        Box::pin(async { Ok(()) })
    }

    /// Whether this host runs out of memory.
    fn memory_is_short(&self) -> BoxFuture<'_, Result<bool, DriverError>> {
        Box::pin(async { Ok(false) })
    }

    /// Makes one layer of several that lie on each other, topmost first. In a stack it takes the place of all of them.
    /// Content is shared with them, not copied.
    ///
    /// # Cancel safety
    /// Drop of the future does not stop the work; the layer may then be there without anybody who knows it.
    fn squash<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<SavedLayer, DriverError>>;

    /// Removes layers that nobody needs any more. Those that a guest stands on, or that are not there, are left out.
    /// Returns what was removed. Every layer is whole or gone afterwards, also when the host dies meanwhile.
    fn remove_layers<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<Vec<LayerDigest>, DriverError>>;

    /// Every layer on this host that is whole; of very many, some.
    fn all_layers(&self) -> BoxFuture<'_, Result<Vec<LayerHere>, DriverError>>;

    /// The layers that an image is unpacked on. Made when they are not there; they may be removed like any other.
    fn bare_layers(&self) -> BoxFuture<'_, Result<BareLayers, DriverError>>;

    /// Carries out one request on one volume. Some answers come with an open file.
    ///
    /// # Cancel safety
    /// Drop of the future does not stop the work.
    fn volume<'a>(
        &'a self,
        volume: &'a VolumeId,
        request: VolumeRequest,
    ) -> BoxFuture<'a, Result<(VolumeAnswer, Option<OwnedFd>), VolumeError>>;

    /// Releases what is only prepared (free slots). Guests stay.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// Who wants to know which sandbox an address belongs to, and what it may reach.
pub trait Doorkeeper: Debug + Send + Sync {
    /// A sandbox has this address, and may reach this. Said again when that changes.
    fn enters(&self, address: Ipv4Addr, sandbox: &SandboxId, network: &NetworkMode);

    /// It has it no longer.
    fn leaves(&self, address: Ipv4Addr, sandbox: &SandboxId);
}

/// One running isolated environment.
pub trait Guest: Debug + Send + Sync {
    /// What it was created from.
    fn spec(&self) -> &SandboxSpec;

    /// What it may reach now: as it was created, or as [`Guest::set_network`] has changed it.
    fn network(&self) -> NetworkMode {
        self.spec().network.clone()
    }

    /// Changes what the guest may reach. It is in force when this returns, for connections that begin from then on; those
    /// that are open go on. On error it is as it was. It outlives this server, like the guest.
    fn set_network<'a>(
        &'a self,
        network: &'a NetworkMode,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        let _not_used = network;
        Box::pin(async {
            Err(DriverError::Unsupported {
                operation: "changing the network of a sandbox that runs",
            })
        })
    }

    /// The address that the host's side of the network sees it under; none without a network.
    fn address(&self) -> Option<Ipv4Addr> {
        None
    }

    /// Connects to a TCP port on the guest's loopback, from inside the guest's network.
    fn dial(&self, port: u16) -> BoxFuture<'_, Result<TcpStream, DialError>>;

    /// When each step of its making was done, as far as that is known.
    fn moments(&self) -> BoxFuture<'_, Result<Vec<Moment>, DriverError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Reads what the guest uses.
    fn stats(&self) -> BoxFuture<'_, Result<GuestStats, DriverError>>;

    /// Tells of each process of the guest that the kernel kills for lack of memory, from now on. At its best: a host
    /// that lets nobody read its kernel's messages tells nothing, and of very many in a row some are left out.
    /// [`GuestStats::oom_kills`] counts all of them.
    fn oom_kills(&self) -> broadcast::Receiver<OomKill>;

    /// Resolves when the guest has ended, by itself or by [`Guest::kill`]. May be awaited any number of times.
    fn ended(&self) -> BoxFuture<'_, ()>;

    /// Ends every process of the guest and returns when all are dead; files, mounts, cgroups and network are
    /// released then or soon after. Doing it twice is fine.
    fn kill(&self) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Stops every process of the guest where it is; memory is kept. Returns when all stand still. Doing it twice is fine.
    fn freeze(&self) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Lets the processes go on. Fine for a guest that is not frozen.
    fn thaw(&self) -> BoxFuture<'_, Result<(), DriverError>>;

    /// Makes a layer of what the guest has written so far, as [`Guest::save`] does, and leaves it as it is. Somebody must
    /// have frozen it, and keep it so meanwhile: files that change are not saved as they ever were.
    ///
    /// # Cancel safety
    /// Drop of the future does not stop the work; the layer may then be there without anybody who knows it.
    fn snapshot(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>>;

    /// Does of [`Guest::capture`] what needs no standing still, so that it takes less of the guest's time. Undone when that
    /// does not follow within half a minute.
    fn get_ready_to_capture<'a>(
        &'a self,
        _memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async { Ok(()) })
    }

    /// Writes the memory of a frozen guest to disk and leaves the guest as it is, frozen. [`Driver::wake`] makes guests of it,
    /// together with the files that [`Guest::snapshot`] has saved in the same pause. On error nothing is left behind;
    /// [`DriverError::Checkpoint`] says by name what is in the way. Returns its size in bytes.
    ///
    /// # Cancel safety
    /// Drop of the future does not stop the work; what is written then is removed at the next start.
    fn capture<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<u64, DriverError>> {
        let _not_used = memory;
        Box::pin(async {
            Err(DriverError::Unsupported {
                operation: "writing memory to disk",
            })
        })
    }

    /// Ends every process of the guest, and makes a layer of what it has written: together with the layers that it stood
    /// on, a sandbox sees what this one saw. The guest is gone afterwards, however it went. `None` when it has written
    /// nothing; the files that the driver itself furnishes do not count.
    ///
    /// At most one save of a guest succeeds; one that comes too late, after the remains were removed, fails. When it
    /// fails, what was written is lost.
    ///
    /// # Cancel safety
    /// Not cancel-safe: drop of the future may lose what was written. Run it in a task.
    fn save(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>>;
}

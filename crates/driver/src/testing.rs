//! A driver without a kernel, for tests of what stands above the seam.
//!
//! It is a fake of a process boundary, not a mock: guests have a life of their own, survive the "server" (another handle
//! on the same [`FakeDriver`] adopts them), and what tests turn are the things a real host does: be slow, fail, exit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use soulbox_types::{
    LayerDigest, MemoryId, NetworkMode, SandboxId, SandboxSpec, Timestamp, VolumeId,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    BareLayers, BoxFuture, DialError, Driver, DriverError, Guest, GuestStats, LayerHere, OomKill,
    SavedLayer, VolumeAnswer, VolumeError, VolumeRequest,
};

/// The fake host. A copy is another handle on the same one.
#[derive(Debug, Clone)]
pub struct FakeDriver {
    host: Arc<Host>,
}

#[derive(Debug)]
struct Host {
    guests: Mutex<BTreeMap<SandboxId, Arc<FakeGuest>>>,
    begun: Mutex<Vec<SandboxId>>,
    failures: Mutex<VecDeque<DriverError>>,
    create_delay: Mutex<Duration>,
    open: watch::Sender<bool>,
    /// Whether a guest that goes on can be saved now.
    saving: watch::Sender<bool>,
    /// What saves have made and nobody has removed.
    layers: Mutex<BTreeSet<LayerDigest>>,
    layers_made: AtomicU64,
    saves: Mutex<VecDeque<Result<Option<SavedLayer>, DriverError>>>,
    volumes: Mutex<BTreeSet<VolumeId>>,
    /// Memory on disk, and whether it is durable.
    memories: Mutex<BTreeMap<MemoryId, bool>>,
    /// How the next captures of these guests fail.
    captures: Mutex<BTreeMap<SandboxId, DriverError>>,
    memory_is_short: AtomicBool,
}

impl Host {
    /// A layer like no other.
    fn new_layer(&self) -> SavedLayer {
        let number = self.layers_made.fetch_add(1, Ordering::SeqCst) + 1;
        let mut bytes = [0xfa; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        SavedLayer {
            digest: LayerDigest::from_bytes(bytes),
            entries: 2,
            content_bytes: 1,
        }
    }
}

impl Host {
    /// What is next told of a save.
    fn save(&self) -> Result<Option<SavedLayer>, DriverError> {
        let told = self.saves.lock().pop_front();
        let saved = told.unwrap_or_else(|| Ok(Some(self.new_layer())))?;
        self.layers
            .lock()
            .extend(saved.iter().map(|layer| layer.digest));
        Ok(saved)
    }
}

fn not_on_disk() -> DriverError {
    DriverError::Checkpoint {
        reason: "it is not on disk".into(),
    }
}

impl Default for FakeDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDriver {
    /// A host without guests.
    #[must_use]
    pub fn new() -> Self {
        Self {
            host: Arc::new(Host {
                guests: Mutex::default(),
                begun: Mutex::default(),
                failures: Mutex::default(),
                create_delay: Mutex::default(),
                open: watch::Sender::new(true),
                saving: watch::Sender::new(true),
                layers: Mutex::default(),
                layers_made: AtomicU64::new(0),
                saves: Mutex::default(),
                volumes: Mutex::default(),
                memories: Mutex::default(),
                captures: Mutex::default(),
                memory_is_short: AtomicBool::new(false),
            }),
        }
    }

    /// Every later create takes this long.
    pub fn set_create_delay(&self, delay: Duration) {
        *self.host.create_delay.lock() = delay;
    }

    /// The next capture of this guest fails.
    pub fn refuse_capture_of(&self, id: &SandboxId, error: DriverError) {
        self.host.captures.lock().insert(id.clone(), error);
    }

    /// Whether the host runs out of memory from now on.
    pub fn set_memory_is_short(&self, short: bool) {
        self.host.memory_is_short.store(short, Ordering::SeqCst);
    }

    /// Memory that is on disk, kept or not.
    #[must_use]
    pub fn memories_there(&self) -> usize {
        self.host.memories.lock().len()
    }

    /// Every later create waits until [`FakeDriver::release_creates`].
    pub fn hold_creates(&self) {
        self.host.open.send_replace(false);
    }

    /// Lets the waiting creates go on.
    pub fn release_creates(&self) {
        self.host.open.send_replace(true);
    }

    /// Every later save of a guest that goes on waits until [`FakeDriver::release_saves`].
    pub fn hold_saves(&self) {
        self.host.saving.send_replace(false);
    }

    /// Lets the waiting saves go on.
    pub fn release_saves(&self) {
        self.host.saving.send_replace(true);
    }

    /// The next create fails like this, leaving nothing.
    pub fn fail_next_create(&self, error: DriverError) {
        self.host.failures.lock().push_back(error);
    }

    /// The next save of any guest goes like this. Without a word, a save makes a layer like no other.
    pub fn next_save(&self, result: Result<Option<SavedLayer>, DriverError>) {
        self.host.saves.lock().push_back(result);
    }

    /// The layers that were saved or squashed, and not removed.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerDigest> {
        self.host.layers.lock().iter().copied().collect()
    }

    /// The volumes there are. They have no files.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.host.volumes.lock().iter().cloned().collect()
    }

    /// Ids of all creates that were begun, in order.
    #[must_use]
    pub fn begun(&self) -> Vec<SandboxId> {
        self.host.begun.lock().clone()
    }

    /// The guests that run.
    #[must_use]
    pub fn guests(&self) -> Vec<Arc<FakeGuest>> {
        self.host.guests.lock().values().cloned().collect()
    }

    /// The running guest of a sandbox.
    #[must_use]
    pub fn guest(&self, id: &SandboxId) -> Option<Arc<FakeGuest>> {
        self.host.guests.lock().get(id).cloned()
    }

    /// Puts a guest there that no server knows of.
    pub fn add_guest(&self, spec: SandboxSpec) -> Arc<FakeGuest> {
        let guest = Arc::new(FakeGuest {
            host: Arc::downgrade(&self.host),
            reach: Mutex::new(spec.network.clone()),
            stats: Mutex::default(),
            oom_kills: broadcast::Sender::new(16),
            ended: CancellationToken::new(),
            frozen: AtomicBool::new(false),
            kill_fails: AtomicBool::new(false),
            kills: AtomicUsize::new(0),
            kill_delay: Mutex::default(),
            listener: OnceCell::new(),
            spec,
        });
        self.host
            .guests
            .lock()
            .insert(guest.spec.id.clone(), guest.clone());
        guest
    }
}

impl Driver for FakeDriver {
    fn tier(&self) -> &'static str {
        "fake"
    }

    fn create<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        Box::pin(async move {
            self.host.begun.lock().push(spec.id.clone());
            let failure = self.host.failures.lock().pop_front();
            let delay = *self.host.create_delay.lock();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let mut open = self.host.open.subscribe();
            open.wait_for(|open| *open)
                .await
                .map_err(|_| DriverError::NoSlot)?;
            match failure {
                Some(error) => Err(error),
                None => Ok(self.add_guest(spec.clone()) as Arc<dyn Guest>),
            }
        })
    }

    fn hibernation(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn wake<'a>(
        &'a self,
        spec: &'a SandboxSpec,
        memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        Box::pin(async move {
            if let Some(error) = self.host.failures.lock().pop_front() {
                return Err(error);
            }
            if !self.host.memories.lock().contains_key(memory) {
                return Err(not_on_disk());
            }
            Ok(self.add_guest(spec.clone()) as Arc<dyn Guest>)
        })
    }

    fn keep_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async move {
            let mut memories = self.host.memories.lock();
            let kept = memories.get_mut(memory).ok_or_else(not_on_disk)?;
            *kept = true;
            Ok(())
        })
    }

    fn memories(&self) -> BoxFuture<'_, Result<Vec<MemoryId>, DriverError>> {
        Box::pin(async move {
            let memories = self.host.memories.lock();
            let kept = memories.iter().filter(|(_, kept)| **kept);
            Ok(kept.map(|(id, _)| id.clone()).collect())
        })
    }

    fn forget_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async move {
            self.host.memories.lock().remove(memory);
            Ok(())
        })
    }

    fn memory_is_short(&self) -> BoxFuture<'_, Result<bool, DriverError>> {
        Box::pin(async { Ok(self.host.memory_is_short.load(Ordering::SeqCst)) })
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Arc<dyn Guest>>, DriverError>> {
        Box::pin(async move {
            if let Some(error) = self.host.failures.lock().pop_front() {
                return Err(error);
            }
            Ok(self
                .guests()
                .into_iter()
                .map(|guest| guest as Arc<dyn Guest>)
                .collect())
        })
    }

    fn squash<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<SavedLayer, DriverError>> {
        Box::pin(async move {
            let mut there = self.host.layers.lock();
            if let Some(missing) = layers.iter().find(|layer| !there.contains(layer)) {
                return Err(DriverError::Layer {
                    layer: missing.to_string(),
                    source: std::io::ErrorKind::NotFound.into(),
                });
            }
            let made = self.host.new_layer();
            there.insert(made.digest);
            Ok(made)
        })
    }

    fn all_layers(&self) -> BoxFuture<'_, Result<Vec<LayerHere>, DriverError>> {
        Box::pin(async move {
            let here = |digest| LayerHere {
                layer: SavedLayer {
                    digest,
                    entries: 2,
                    content_bytes: 1,
                },
                made_at: Timestamp(0),
                named: false,
            };
            Ok(self.layers().into_iter().map(here).collect())
        })
    }

    fn remove_layers<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<Vec<LayerDigest>, DriverError>> {
        Box::pin(async move {
            let guests = self.guests();
            let used = |layer: &LayerDigest| {
                let mut stacks = guests.iter().map(|guest| &guest.spec.image.layers);
                stacks.any(|stack| stack.contains(layer))
            };
            let mut there = self.host.layers.lock();
            let removed = layers
                .iter()
                .filter(|layer| !used(layer) && there.remove(layer));
            Ok(removed.copied().collect())
        })
    }

    fn bare_layers(&self) -> BoxFuture<'_, Result<BareLayers, DriverError>> {
        Box::pin(async {
            let bare = BareLayers {
                ground: LayerDigest::from_bytes([0xba; 32]),
                tools: LayerDigest::from_bytes([0xbb; 32]),
            };
            self.host.layers.lock().extend([bare.ground, bare.tools]);
            Ok(bare)
        })
    }

    fn volume<'a>(
        &'a self,
        volume: &'a VolumeId,
        request: VolumeRequest,
    ) -> BoxFuture<'a, Result<(VolumeAnswer, Option<OwnedFd>), VolumeError>> {
        Box::pin(async move {
            let mut there = self.host.volumes.lock();
            match request {
                VolumeRequest::Make { .. } => {
                    there.insert(volume.clone());
                }
                VolumeRequest::Destroy => {
                    there.remove(volume);
                }
                _ if !there.contains(volume) => return Err(VolumeError::NoVolume),
                _ => return Err(VolumeError::Unsupported),
            }
            Ok((VolumeAnswer::Done, None))
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A fake guest. It has no processes; every port is the same listener on the loopback.
#[derive(Debug)]
pub struct FakeGuest {
    spec: SandboxSpec,
    reach: Mutex<NetworkMode>,
    host: Weak<Host>,
    stats: Mutex<GuestStats>,
    oom_kills: broadcast::Sender<OomKill>,
    ended: CancellationToken,
    frozen: AtomicBool,
    kill_fails: AtomicBool,
    kills: AtomicUsize,
    kill_delay: Mutex<Duration>,
    listener: OnceCell<TcpListener>,
}

impl FakeGuest {
    /// Ends it as if its first process had exited.
    pub fn exit(&self) {
        if let Some(host) = self.host.upgrade() {
            host.guests.lock().remove(&self.spec.id);
        }
        self.ended.cancel();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// What the next readings say.
    pub fn set_stats(&self, stats: GuestStats) {
        *self.stats.lock() = stats;
    }

    /// Tells that the kernel has killed one of its processes for lack of memory.
    pub fn tell_oom_kill(&self, kill: OomKill) {
        // Nobody listens to a guest that no server has taken over.
        let _listeners = self.oom_kills.send(kill);
    }

    /// Whether kills fail from now on.
    pub fn set_kill_fails(&self, fails: bool) {
        self.kill_fails.store(fails, Ordering::SeqCst);
    }

    /// Every later kill takes this long.
    pub fn set_kill_delay(&self, delay: Duration) {
        *self.kill_delay.lock() = delay;
    }

    /// Whether its processes stand still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// How often somebody tried to kill it.
    #[must_use]
    pub fn kills(&self) -> usize {
        self.kills.load(Ordering::SeqCst)
    }

    /// The guest's side of the next connection that is dialled.
    ///
    /// # Errors
    /// When the loopback cannot be used.
    pub async fn accept(&self) -> std::io::Result<TcpStream> {
        Ok(self.listener().await?.accept().await?.0)
    }

    /// The host, as long as it has the guest's files.
    fn host_of_files(&self) -> Result<Arc<Host>, DriverError> {
        let host = self.host.upgrade().filter(|_| !self.has_ended());
        host.ok_or_else(|| DriverError::Host {
            operation: "save the guest".into(),
            source: std::io::Error::other("its files are gone"),
        })
    }

    async fn listener(&self) -> std::io::Result<&TcpListener> {
        self.listener
            .get_or_try_init(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .await
    }
}

impl Guest for FakeGuest {
    fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    fn network(&self) -> NetworkMode {
        self.reach.lock().clone()
    }

    fn set_network<'a>(
        &'a self,
        network: &'a NetworkMode,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        *self.reach.lock() = network.clone();
        Box::pin(async { Ok(()) })
    }

    fn dial(&self, port: u16) -> BoxFuture<'_, Result<TcpStream, DialError>> {
        Box::pin(async move {
            if self.has_ended() {
                return Err(DialError::Gone);
            }
            let io = |source| DialError::Io { port, source };
            let address = self
                .listener()
                .await
                .map_err(io)?
                .local_addr()
                .map_err(io)?;
            TcpStream::connect(address).await.map_err(io)
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<GuestStats, DriverError>> {
        Box::pin(async move { Ok(*self.stats.lock()) })
    }

    fn oom_kills(&self) -> broadcast::Receiver<OomKill> {
        self.oom_kills.subscribe()
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.ended.cancelled())
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move {
            self.kills.fetch_add(1, Ordering::SeqCst);
            let delay = *self.kill_delay.lock();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if self.kill_fails.load(Ordering::SeqCst) {
                let source = std::io::Error::other("told to fail");
                return Err(DriverError::Host {
                    operation: "kill the guest".into(),
                    source,
                });
            }
            self.exit();
            Ok(())
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move {
            self.frozen.store(true, Ordering::SeqCst);
            Ok(())
        })
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move {
            self.frozen.store(false, Ordering::SeqCst);
            Ok(())
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        Box::pin(async move {
            let host = self.host_of_files()?;
            let mut saving = host.saving.subscribe();
            // The host lives as long as the guest.
            let _open = saving.wait_for(|open| *open).await;
            host.save()
        })
    }

    fn capture<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<u64, DriverError>> {
        Box::pin(async move {
            let host = self.host_of_files()?;
            let refused = host.captures.lock().remove(&self.spec.id);
            if let Some(error) = refused {
                return Err(error);
            }
            if !self.is_frozen() {
                return Err(DriverError::Checkpoint {
                    reason: "it is not frozen".into(),
                });
            }
            host.memories.lock().insert(memory.clone(), false);
            Ok(1)
        })
    }

    fn save(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        Box::pin(async move {
            let host = self.host_of_files()?;
            self.exit();
            host.save()
        })
    }
}

//! The server's side: a driver whose work is done by the helper.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use soulbox_driver::{
    BareLayers, BoxFuture, DialError, Doorkeeper, Driver, DriverError, Guest, GuestStats,
    LayerHere, Moment, OomKill, SavedLayer, VolumeAnswer, VolumeError, VolumeRequest,
};
use soulbox_types::{LayerDigest, MemoryId, NetworkMode, SandboxId, SandboxSpec, VolumeId};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::channel::Channel;
use crate::message::{
    Answer, Call, Certificate, GuestNumber, RecordAct, Refusal, Request, Word, decode, encode,
};

/// Names of killed processes that a slow listener may be behind.
const OOM_KILLS_KEPT: usize = 64;

/// What comes back from a call: its answer, and the guests that it named, made before anything later is read.
struct Reply {
    answer: Answer,
    guests: Vec<Arc<RemoteGuest>>,
    fd: Option<OwnedFd>,
}

/// An open call. A create keeps what it asked for: the guest is made from it.
struct Waiting {
    reply: oneshot::Sender<Result<Reply, Refusal>>,
    spec: Option<SandboxSpec>,
}

#[derive(Default)]
struct Tables {
    calls: HashMap<u64, Waiting>,
    guests: HashMap<GuestNumber, Arc<RemoteGuest>>,
    gone: bool,
}

struct Link {
    channel: Channel,
    ids: AtomicU64,
    tables: Mutex<Tables>,
    doorkeeper: Arc<dyn Doorkeeper>,
    gone: CancellationToken,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link(…)")
    }
}

/// The driver that asks the helper.
#[derive(Debug, Clone)]
pub struct RemoteDriver {
    link: Arc<Link>,
    tier: &'static str,
    lost: Arc<Mutex<Vec<(SandboxId, String)>>>,
}

impl RemoteDriver {
    /// Talks to the helper at the other end of `channel`, which isolates as `tier`. The `doorkeeper` learns of the addresses
    /// of all guests, before anybody else learns of the guests.
    #[must_use]
    pub fn new(channel: Channel, tier: &'static str, doorkeeper: Arc<dyn Doorkeeper>) -> Self {
        let link = Arc::new(Link {
            channel,
            ids: AtomicU64::new(1),
            tables: Mutex::default(),
            doorkeeper,
            gone: CancellationToken::new(),
        });
        tokio::spawn(read(Arc::clone(&link)));
        Self {
            link,
            tier,
            lost: Arc::default(),
        }
    }

    /// Resolves when the helper has ended. Without it, nothing can be done for sandboxes any more.
    pub async fn helper_gone(&self) {
        self.link.gone.cancelled().await;
    }

    /// The certificate that the operator has configured, as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn certificate(&self) -> Result<Certificate, DriverError> {
        match self
            .ask(Request::Certificate, "read the certificate")
            .await?
        {
            Answer::Certificate(certificate) => Ok(certificate),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the operator's command make or remove a record of the challenge.
    ///
    /// # Errors
    /// When it has failed, with what it has said last.
    pub async fn challenge_record(&self, act: RecordAct, value: &str) -> Result<(), DriverError> {
        let value = value.to_owned();
        let request = Request::ChallengeRecord { act, value };
        match self.ask(request, "run acme_dns_command").await? {
            Answer::ChallengeRecordDone => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn make_guest(
        &self,
        request: Request,
        operation: &'static str,
    ) -> Result<Arc<dyn Guest>, DriverError> {
        let reply = self.link.call(request).await;
        let mut reply = reply.map_err(|refusal| refusal.into_driver_error(operation))?;
        match reply.guests.pop() {
            Some(guest) => Ok(guest),
            None => Err(unexpected(&reply.answer)),
        }
    }

    async fn ask(&self, request: Request, operation: &'static str) -> Result<Answer, DriverError> {
        let reply = self.link.call(request).await;
        let reply = reply.map_err(|refusal| refusal.into_driver_error(operation))?;
        Ok(reply.answer)
    }

    async fn adopt_guests(&self) -> Result<Vec<Arc<dyn Guest>>, DriverError> {
        let reply = self.link.call(Request::Adopt).await;
        let reply = reply.map_err(|refusal| refusal.into_driver_error("adopt"))?;
        let lost = self.link.call(Request::Lost).await;
        let lost = lost.map_err(|refusal| refusal.into_driver_error("adopt"))?;
        if let Answer::Lost { sandboxes } = lost.answer {
            *self.lost.lock() = sandboxes;
        }
        Ok(reply
            .guests
            .into_iter()
            .map(|g| g as Arc<dyn Guest>)
            .collect())
    }
}

impl Driver for RemoteDriver {
    fn tier(&self) -> &'static str {
        self.tier
    }

    fn create<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        Box::pin(self.make_guest(Request::Create(Box::new(spec.clone())), "create"))
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Arc<dyn Guest>>, DriverError>> {
        Box::pin(self.adopt_guests())
    }

    fn lost(&self) -> Vec<(SandboxId, String)> {
        self.lost.lock().clone()
    }

    fn wake<'a>(
        &'a self,
        spec: &'a SandboxSpec,
        memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        let (spec, memory) = (Box::new(spec.clone()), memory.clone());
        Box::pin(self.make_guest(Request::Wake { spec, memory }, "wake"))
    }

    fn hibernation(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            match self.ask(Request::Memories, "look at the disk").await {
                Ok(Answer::Memories { able, .. }) => able,
                Ok(other) => Err(unexpected(&other).to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn keep_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        let memory = memory.clone();
        Box::pin(async move {
            match self.ask(Request::KeepMemory { memory }, "keep").await? {
                Answer::MemoryKept => Ok(()),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn memories(&self) -> BoxFuture<'_, Result<Vec<MemoryId>, DriverError>> {
        Box::pin(async {
            match self.ask(Request::Memories, "look at the disk").await? {
                Answer::Memories { kept, .. } => Ok(kept),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn forget_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        let memory = memory.clone();
        Box::pin(async move {
            match self.ask(Request::ForgetMemory { memory }, "forget").await? {
                Answer::MemoryForgotten => Ok(()),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn memory_is_short(&self) -> BoxFuture<'_, Result<bool, DriverError>> {
        Box::pin(async {
            match self.ask(Request::IsMemoryShort, "look at memory").await? {
                Answer::MemoryIsShort(short) => Ok(short),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn squash<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<SavedLayer, DriverError>> {
        Box::pin(async move {
            let layers = layers.to_vec();
            match self.ask(Request::Squash { layers }, "squash").await? {
                Answer::Squashed(layer) => Ok(layer),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn remove_layers<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<Vec<LayerDigest>, DriverError>> {
        Box::pin(async move {
            let layers = layers.to_vec();
            let request = Request::RemoveLayers { layers };
            match self.ask(request, "remove layers").await? {
                Answer::Removed(layers) => Ok(layers),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn all_layers(&self) -> BoxFuture<'_, Result<Vec<LayerHere>, DriverError>> {
        Box::pin(async move {
            match self.ask(Request::AllLayers, "list layers").await? {
                Answer::Layers(layers) => Ok(layers),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn bare_layers(&self) -> BoxFuture<'_, Result<BareLayers, DriverError>> {
        Box::pin(async move {
            match self
                .ask(Request::BareLayers, "make the layers for images")
                .await?
            {
                Answer::Bare(layers) => Ok(layers),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn volume<'a>(
        &'a self,
        volume: &'a VolumeId,
        request: VolumeRequest,
    ) -> BoxFuture<'a, Result<(VolumeAnswer, Option<OwnedFd>), VolumeError>> {
        Box::pin(async move {
            let volume = volume.clone();
            let reply = self.link.call(Request::Volume { volume, request }).await;
            let reply = reply.map_err(|refusal| of_volume(&refusal.into_driver_error("ask")))?;
            match reply.answer {
                Answer::Volume(answer) => Ok((answer?, reply.fd)),
                other => Err(of_volume(&unexpected(&other))),
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.link.gone.is_cancelled() {
                return;
            }
            if let Err(refusal) = self.link.call(Request::Shutdown).await {
                let error = refusal.into_driver_error("release");
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the helper could not release everything"
                );
            }
            self.helper_gone().await;
        })
    }
}

impl Link {
    async fn call(&self, request: Request) -> Result<Reply, Refusal> {
        let unasked = |error: io::Error| Refusal::Host("ask the helper".to_owned(), error.into());
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let call = Call { id, request };
        let bytes = encode(&call).map_err(unasked)?;
        let spec = match call.request {
            Request::Create(spec) | Request::Wake { spec, .. } => Some(*spec),
            _ => None,
        };
        let (reply, answered) = oneshot::channel();
        {
            let mut tables = self.tables.lock();
            if tables.gone {
                return Err(helper_gone());
            }
            tables.calls.insert(id, Waiting { reply, spec });
        }
        let sent = self.channel.send(&bytes, &[]).await;
        if let Err(error) = sent {
            self.tables.lock().calls.remove(&id);
            return Err(unasked(error));
        }
        answered.await.unwrap_or_else(|_| Err(helper_gone()))
    }

    fn hear(self: &Arc<Self>, word: Word, fd: Option<OwnedFd>) {
        match word {
            Word::Answer { id, result } => {
                let mut tables = self.tables.lock();
                let Some(Waiting { reply, spec }) = tables.calls.remove(&id) else {
                    return;
                };
                let result = result.map(|answer| {
                    let guests = self.guests_of(&answer, spec, &mut tables);
                    Reply { answer, guests, fd }
                });
                if let Err(Ok(unheard)) = reply.send(result) {
                    discard(unheard);
                }
            }
            Word::Ended { guest } => {
                if let Some(guest) = self.tables.lock().guests.remove(&guest) {
                    if let Some(address) = guest.address {
                        self.doorkeeper.leaves(address, &guest.spec.id);
                    }
                    guest.ended.send_replace(true);
                }
            }
            Word::OomKill { guest, kill } => {
                if let Some(guest) = self.tables.lock().guests.get(&guest) {
                    // Nobody may be listening.
                    let _listeners = guest.oom_kills.send(kill);
                }
            }
        }
    }

    /// Makes the guests that an answer names, before the next word about them is read.
    fn guests_of(
        self: &Arc<Self>,
        answer: &Answer,
        spec: Option<SandboxSpec>,
        tables: &mut Tables,
    ) -> Vec<Arc<RemoteGuest>> {
        let named = match (answer, spec) {
            (Answer::Created { guest, address }, Some(spec)) => vec![(*guest, *address, spec)],
            (Answer::Adopted { guests }, _) => guests.clone(),
            _ => Vec::new(),
        };
        let make = |(number, address, spec): (GuestNumber, Option<Ipv4Addr>, SandboxSpec)| {
            if let Some(address) = address {
                self.doorkeeper.enters(address, &spec.id, &spec.network);
            }
            let guest = Arc::new(RemoteGuest {
                number,
                address,
                reach: Mutex::new(spec.network.clone()),
                spec,
                link: Arc::clone(self),
                ended: watch::Sender::new(false),
                oom_kills: broadcast::Sender::new(OOM_KILLS_KEPT),
            });
            tables.guests.insert(number, Arc::clone(&guest));
            guest
        };
        named.into_iter().map(make).collect()
    }

    /// The helper is gone: open calls fail. Guests do not end: they run on, and the next server finds them.
    fn close(&self) {
        let mut tables = self.tables.lock();
        tables.gone = true;
        tables.calls.clear();
        tables.guests.clear();
        drop(tables);
        self.gone.cancel();
    }
}

async fn read(link: Arc<Link>) {
    loop {
        let heard = match link.channel.receive().await {
            Ok(None) => break,
            Ok(Some((bytes, fds))) => decode::<Word>(&bytes).map(|word| (word, fds)),
            Err(error) => Err(error),
        };
        match heard {
            Ok((word, fds)) => link.hear(word, fds.into_iter().next()),
            Err(error) => {
                tracing::error!(%error, "the helper cannot be understood");
                break;
            }
        }
    }
    link.close();
}

/// The caller has given up: a guest that nobody knows of must not stay.
fn discard(reply: Reply) {
    if !matches!(reply.answer, Answer::Created { .. }) {
        return;
    }
    for guest in reply.guests {
        tokio::spawn(async move {
            if let Err(error) = guest.end().await {
                tracing::error!(error = &error as &dyn std::error::Error, sandbox.id = %guest.spec.id, "a sandbox that nobody waits for cannot be ended");
            }
        });
    }
}

fn helper_gone() -> Refusal {
    let error = io::Error::new(io::ErrorKind::BrokenPipe, "the helper has ended");
    Refusal::Host("ask the helper".to_owned(), error.into())
}

/// The helper itself could not be asked.
fn of_volume(error: &DriverError) -> VolumeError {
    let mut reason = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        reason = format!("{reason}: {source}");
    }
    VolumeError::Host {
        operation: "ask the helper".to_owned(),
        reason,
    }
}

fn unexpected(answer: &Answer) -> DriverError {
    DriverError::Host {
        operation: "ask the helper".to_owned(),
        source: io::Error::other(format!("an answer to something else: {answer:?}")),
    }
}

/// A guest that the helper holds.
#[derive(Debug)]
struct RemoteGuest {
    number: GuestNumber,
    address: Option<Ipv4Addr>,
    /// What it may reach now.
    reach: Mutex<NetworkMode>,
    spec: SandboxSpec,
    link: Arc<Link>,
    ended: watch::Sender<bool>,
    oom_kills: broadcast::Sender<OomKill>,
}

impl RemoteGuest {
    async fn connect(&self, port: u16) -> Result<TcpStream, DialError> {
        if *self.ended.borrow() {
            return Err(DialError::Gone);
        }
        let guest = self.number;
        let reply = self.link.call(Request::Dial { guest, port }).await;
        let reply = reply.map_err(|refusal| refusal.into_dial_error(port))?;
        let io = |source| DialError::Io { port, source };
        let socket = reply
            .fd
            .ok_or_else(|| io(io::Error::other("no socket came with the answer")))?;
        TcpStream::from_std(std::net::TcpStream::from(socket)).map_err(io)
    }

    async fn read_stats(&self) -> Result<GuestStats, DriverError> {
        let guest = self.number;
        let reply = self.link.call(Request::Stats { guest }).await;
        match reply
            .map_err(|refusal| refusal.into_driver_error("stats"))?
            .answer
        {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(&other)),
        }
    }

    async fn end(&self) -> Result<(), DriverError> {
        let guest = self.number;
        let reply = self.link.call(Request::Kill { guest }).await;
        match reply
            .map_err(|refusal| refusal.into_driver_error("kill"))?
            .answer
        {
            Answer::Killed => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn read_moments(&self) -> Result<Vec<Moment>, DriverError> {
        let guest = self.number;
        let reply = self.link.call(Request::Moments { guest }).await;
        match reply
            .map_err(|refusal| refusal.into_driver_error("ask for the moments of a create"))?
            .answer
        {
            Answer::Moments(moments) => Ok(moments),
            other => Err(unexpected(&other)),
        }
    }

    async fn change_network(&self, network: NetworkMode) -> Result<(), DriverError> {
        let request = Request::SetNetwork {
            guest: self.number,
            network: network.clone(),
        };
        let reply = self.link.call(request).await;
        match reply
            .map_err(|refusal| refusal.into_driver_error("change the network"))?
            .answer
        {
            Answer::NetworkSet => {}
            other => return Err(unexpected(&other)),
        }
        if let Some(address) = self.address {
            (self.link.doorkeeper).enters(address, &self.spec.id, &network);
        }
        *self.reach.lock() = network;
        Ok(())
    }

    async fn set_frozen(&self, frozen: bool) -> Result<(), DriverError> {
        let (guest, operation) = (self.number, if frozen { "freeze" } else { "thaw" });
        let reply = self.link.call(Request::SetFrozen { guest, frozen }).await;
        match reply
            .map_err(|refusal| refusal.into_driver_error(operation))?
            .answer
        {
            Answer::FrozenSet => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn make_layer(&self, request: Request) -> Result<Option<SavedLayer>, DriverError> {
        let reply = self.link.call(request).await;
        match reply
            .map_err(|refusal| refusal.into_driver_error("save"))?
            .answer
        {
            Answer::Saved(layer) => Ok(layer),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the end of a guest, which the helper has brought about, is told here, too.
    async fn end_told(&self, operation: &'static str) -> Result<(), DriverError> {
        tokio::select! {
            () = self.ended() => Ok(()),
            () = self.link.gone.cancelled() => Err(helper_gone().into_driver_error(operation)),
        }
    }
}

impl Guest for RemoteGuest {
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
        Box::pin(self.change_network(network.clone()))
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    fn dial(&self, port: u16) -> BoxFuture<'_, Result<TcpStream, DialError>> {
        Box::pin(self.connect(port))
    }

    fn moments(&self) -> BoxFuture<'_, Result<Vec<Moment>, DriverError>> {
        Box::pin(self.read_moments())
    }

    fn stats(&self) -> BoxFuture<'_, Result<GuestStats, DriverError>> {
        Box::pin(self.read_stats())
    }

    fn oom_kills(&self) -> broadcast::Receiver<OomKill> {
        self.oom_kills.subscribe()
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        let mut ended = self.ended.subscribe();
        Box::pin(async move {
            // The sender lives in this guest, which the caller holds.
            let _closed = ended.wait_for(|ended| *ended).await;
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move {
            self.end().await?;
            self.end_told("kill").await
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.set_frozen(true))
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.set_frozen(false))
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        let guest = self.number;
        Box::pin(self.make_layer(Request::Snapshot { guest }))
    }

    fn get_ready_to_capture<'a>(
        &'a self,
        memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        let (guest, memory) = (self.number, memory.clone());
        Box::pin(async move {
            let request = Request::GetReadyToCapture { guest, memory };
            let reply = self.link.call(request).await;
            let reply = reply.map_err(|refusal| refusal.into_driver_error("capture"))?;
            match reply.answer {
                Answer::ReadyToCapture => Ok(()),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn capture<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<u64, DriverError>> {
        let (guest, memory) = (self.number, memory.clone());
        Box::pin(async move {
            let reply = self.link.call(Request::Capture { guest, memory }).await;
            let reply = reply.map_err(|refusal| refusal.into_driver_error("capture"))?;
            match reply.answer {
                Answer::Captured(bytes) => Ok(bytes),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn save(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        let guest = self.number;
        Box::pin(async move {
            let saved = self.make_layer(Request::Save { guest }).await?;
            self.end_told("save").await?;
            Ok(saved)
        })
    }
}

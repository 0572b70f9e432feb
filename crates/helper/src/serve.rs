//! The helper's side: one client, many requests at a time, each judged and then carried to the driver.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use soulbox_driver::{Driver, DriverError, Guest, VolumeRequest};
use soulbox_types::{LayerDigest, MemoryId, NetworkMode, SandboxId, SandboxSpec, VolumeId};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

use crate::channel::Channel;
use crate::check;
use crate::message::{
    Answer, Call, Certificate, GuestNumber, RecordAct, Refusal, Request, Word, decode, encode,
};

/// Requests at a time. What is above waits in the socket.
const OPEN_CALLS: usize = 4096;
/// Nothing was asked yet; what runs is being found; it was found.
const START: u8 = 0;
const STARTING: u8 = 1;
const STARTED: u8 = 2;
/// Lost sandboxes that the server is told the reason of: as many as fit into a message.
const LOST_TOLD: usize = 500;
/// Layers that the server is told of at once: as many as it may ask to be removed.
const LAYERS_TOLD: usize = 10_000;

/// Why the helper has nothing more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The server is gone without a word. Sandboxes stay for the next one.
    ServerGone,
    /// The server asked for it, and everything is released.
    Down,
}

/// What the operator has configured that only root may do. Both take their time.
pub trait Operator: Send + Sync {
    /// Reads the one certificate that the server may have.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    fn certificate(&self) -> io::Result<Certificate>;

    /// Makes or removes a record of the challenge.
    ///
    /// # Errors
    /// When there is no command for it, or it has failed.
    fn challenge_record(&self, act: RecordAct, value: &str) -> io::Result<()>;

    /// Has [`Operator::challenge_record`] fail at once, now and from now on.
    fn stop(&self);
}

/// Carries out what the server asks until it is gone or says that it is done. A shutdown is answered after `release`
/// has given up what no guest needs.
///
/// # Errors
/// When the socket fails, or the server says something that is no request: then it is not to be trusted any more.
pub async fn serve(
    channel: Channel,
    driver: Arc<dyn Driver>,
    operator: Arc<dyn Operator>,
    release: impl AsyncFnOnce() -> io::Result<()>,
) -> io::Result<Ending> {
    let channel = Arc::new(channel);
    let (queue, waiting) = mpsc::unbounded_channel();
    tokio::spawn(write(Arc::clone(&channel), waiting));
    let helper = Arc::new(Helper {
        driver,
        operator,
        one_record: tokio::sync::Mutex::default(),
        guests: Mutex::default(),
        ids: Mutex::default(),
        start: AtomicU8::new(START),
        numbers: AtomicU64::new(1),
        queue,
    });
    let ending = listen(&channel, &helper, release).await;
    helper.stop_operator().await;
    ending
}

async fn listen(
    channel: &Channel,
    helper: &Arc<Helper>,
    release: impl AsyncFnOnce() -> io::Result<()>,
) -> io::Result<Ending> {
    let open = Arc::new(Semaphore::new(OPEN_CALLS));
    loop {
        let permit = Arc::clone(&open).acquire_owned().await;
        let Some((bytes, _fds)) = channel.receive().await? else {
            return Ok(Ending::ServerGone);
        };
        let Call { id, request } = decode(&bytes)?;
        let helper = Arc::clone(helper);
        if request == Request::Shutdown {
            let result = helper.shut_down(release).await;
            helper.answer(id, result.map(|()| (Answer::Down, None)));
            helper.flushed().await;
            return Ok(Ending::Down);
        }
        tokio::spawn(async move {
            helper.carry_out(id, request).await;
            drop(permit);
        });
    }
}

/// What waits to be sent.
enum Outgoing {
    Word(Word, Option<OwnedFd>),
    /// Tells when all before it has been sent.
    Flush(oneshot::Sender<()>),
}

async fn write(channel: Arc<Channel>, mut waiting: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(next) = waiting.recv().await {
        let (word, fd) = match next {
            Outgoing::Word(word, fd) => (word, fd),
            Outgoing::Flush(done) => {
                // Whoever asked may have given up.
                let _asked = done.send(());
                continue;
            }
        };
        let sent = match encode(&word) {
            Ok(bytes) => {
                let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                channel.send(&bytes, &fds).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            // The reader sees the end of the server, too, and ends the helper.
            tracing::debug!(%error, "cannot answer the server");
        }
    }
}

type Done = Result<(Answer, Option<OwnedFd>), Refusal>;

struct Helper {
    driver: Arc<dyn Driver>,
    operator: Arc<dyn Operator>,
    /// One record at a time: however much is asked for, one command of the operator runs.
    one_record: tokio::sync::Mutex<()>,
    guests: Mutex<HashMap<GuestNumber, Arc<dyn Guest>>>,
    /// Sandboxes that run or are being created.
    ids: Mutex<HashSet<SandboxId>>,
    /// How far the start is: what runs is found once, and before anything new is made.
    start: AtomicU8,
    numbers: AtomicU64,
    queue: mpsc::UnboundedSender<Outgoing>,
}

impl Helper {
    async fn carry_out(self: &Arc<Self>, id: u64, request: Request) {
        match request {
            Request::Create(spec) => {
                let made = self.make(&spec, self.driver.create(&spec)).await;
                self.present(id, made);
            }
            Request::Wake { spec, memory } => {
                let made = self.make(&spec, self.driver.wake(&spec, &memory)).await;
                self.present(id, made);
            }
            Request::GetReadyToCapture { guest, memory } => {
                self.answer(id, self.get_ready_to_capture(guest, &memory).await);
            }
            Request::Capture { guest, memory } => {
                self.answer(id, self.capture(guest, &memory).await);
            }
            Request::KeepMemory { memory } => self.answer(id, self.keep(&memory).await),
            Request::Memories => self.answer(id, self.memories().await),
            Request::ForgetMemory { memory } => self.answer(id, self.forget(&memory).await),
            Request::IsMemoryShort => self.answer(id, self.is_memory_short().await),
            Request::Adopt => self.adopt(id).await,
            Request::Lost => {
                let mut sandboxes = self.driver.lost();
                sandboxes.truncate(LOST_TOLD);
                self.answer(id, Ok((Answer::Lost { sandboxes }, None)));
            }
            Request::Dial { guest, port } => self.answer(id, self.dial(guest, port).await),
            Request::Stats { guest } => self.answer(id, self.stats(guest).await),
            Request::Moments { guest } => self.answer(id, self.moments(guest).await),
            Request::Kill { guest } => self.answer(id, self.kill(guest).await),
            Request::SetNetwork { guest, network } => {
                self.answer(id, self.set_network(guest, &network).await);
            }
            Request::SetFrozen { guest, frozen } => {
                self.answer(id, self.set_frozen(guest, frozen).await);
            }
            Request::Snapshot { guest } => self.answer(id, self.snapshot(guest).await),
            Request::Save { guest } => self.answer(id, self.save(guest).await),
            Request::Squash { layers } => self.answer(id, self.squash(&layers).await),
            Request::BareLayers => self.answer(id, self.bare_layers().await),
            Request::AllLayers => self.answer(id, self.all_layers().await),
            Request::RemoveLayers { layers } => {
                self.answer(id, self.remove_layers(&layers).await);
            }
            Request::Volume { volume, request } => {
                self.answer(id, self.volume(&volume, request).await);
            }
            Request::Certificate => self.answer(id, self.certificate().await),
            Request::ChallengeRecord { act, value } => {
                self.answer(id, self.challenge_record(act, value).await);
            }
            Request::Shutdown => unreachable!("handled by the reader"),
        }
    }

    fn present(self: &Arc<Self>, id: u64, made: Result<Arc<dyn Guest>, Refusal>) {
        match made {
            Ok(guest) => {
                let (number, address) = (self.register(&guest), guest.address());
                let made = Answer::Created {
                    guest: number,
                    address,
                };
                self.answer(id, Ok((made, None)));
                self.watch(number, guest);
            }
            Err(refusal) => self.answer(id, Err(refusal)),
        }
    }

    /// `made` is asked only for what is acceptable.
    async fn make(
        &self,
        spec: &SandboxSpec,
        made: impl Future<Output = Result<Arc<dyn Guest>, DriverError>>,
    ) -> Result<Arc<dyn Guest>, Refusal> {
        check::spec(spec).map_err(Refusal::Unacceptable)?;
        self.started()?;
        if !self.ids.lock().insert(spec.id.clone()) {
            let why = "there is a sandbox of this id".to_owned();
            return Err(Refusal::Unacceptable(why));
        }
        let created = made.await;
        if created.is_err() {
            self.ids.lock().remove(&spec.id);
        }
        Ok(created?)
    }

    fn started(&self) -> Result<(), Refusal> {
        if self.start.load(Ordering::Acquire) == STARTED {
            Ok(())
        } else {
            let why = "what runs must be found first".to_owned();
            Err(Refusal::Unacceptable(why))
        }
    }

    async fn adopt(self: &Arc<Self>, id: u64) {
        let first =
            self.start
                .compare_exchange(START, STARTING, Ordering::AcqRel, Ordering::Acquire);
        if first.is_err() {
            let why = "what runs was found already".to_owned();
            return self.answer(id, Err(Refusal::Unacceptable(why)));
        }
        let guests = match self.driver.adopt().await {
            Ok(guests) => guests,
            Err(error) => {
                self.start.store(START, Ordering::Release);
                return self.answer(id, Err(error.into()));
            }
        };
        let ids = guests.iter().map(|guest| guest.spec().id.clone());
        self.ids.lock().extend(ids);
        self.start.store(STARTED, Ordering::Release);
        let numbered: Vec<_> = guests
            .into_iter()
            .map(|guest| (self.register(&guest), guest))
            .collect();
        let told = numbered
            .iter()
            .map(|(number, guest)| (*number, guest.address(), guest.spec().clone()))
            .collect();
        self.answer(id, Ok((Answer::Adopted { guests: told }, None)));
        for (number, guest) in numbered {
            self.watch(number, guest);
        }
    }

    async fn dial(&self, guest: GuestNumber, port: u16) -> Done {
        let stream = self.guest(guest)?.dial(port).await?;
        let socket = stream.into_std().map_err(|source| DriverError::Host {
            operation: "hand over a connection".to_owned(),
            source,
        })?;
        Ok((Answer::Dialled, Some(socket.into())))
    }

    async fn stats(&self, guest: GuestNumber) -> Done {
        Ok((Answer::Stats(self.guest(guest)?.stats().await?), None))
    }

    async fn moments(&self, guest: GuestNumber) -> Done {
        let moments = self.guest(guest)?.moments().await?;
        Ok((Answer::Moments(moments), None))
    }

    async fn kill(&self, guest: GuestNumber) -> Done {
        match self.guest(guest) {
            Ok(guest) => guest.kill().await?,
            // Ended meanwhile: what was asked for is so.
            Err(Refusal::Gone) => {}
            Err(refusal) => return Err(refusal),
        }
        Ok((Answer::Killed, None))
    }

    async fn set_network(&self, guest: GuestNumber, network: &NetworkMode) -> Done {
        check::network(network).map_err(Refusal::Unacceptable)?;
        self.guest(guest)?.set_network(network).await?;
        Ok((Answer::NetworkSet, None))
    }

    async fn set_frozen(&self, guest: GuestNumber, frozen: bool) -> Done {
        let guest = self.guest(guest)?;
        if frozen {
            guest.freeze().await?;
        } else {
            guest.thaw().await?;
        }
        Ok((Answer::FrozenSet, None))
    }

    async fn get_ready_to_capture(&self, guest: GuestNumber, memory: &MemoryId) -> Done {
        self.guest(guest)?.get_ready_to_capture(memory).await?;
        Ok((Answer::ReadyToCapture, None))
    }

    async fn capture(&self, guest: GuestNumber, memory: &MemoryId) -> Done {
        let bytes = self.guest(guest)?.capture(memory).await?;
        Ok((Answer::Captured(bytes), None))
    }

    async fn keep(&self, memory: &MemoryId) -> Done {
        self.driver.keep_memory(memory).await?;
        Ok((Answer::MemoryKept, None))
    }

    async fn memories(&self) -> Done {
        let able = self.driver.hibernation().await;
        let kept = self.driver.memories().await?;
        Ok((Answer::Memories { able, kept }, None))
    }

    async fn forget(&self, memory: &MemoryId) -> Done {
        self.driver.forget_memory(memory).await?;
        Ok((Answer::MemoryForgotten, None))
    }

    async fn is_memory_short(&self) -> Done {
        let short = self.driver.memory_is_short().await?;
        Ok((Answer::MemoryIsShort(short), None))
    }

    async fn snapshot(&self, guest: GuestNumber) -> Done {
        Ok((Answer::Saved(self.guest(guest)?.snapshot().await?), None))
    }

    /// Unlike after a kill, a guest that has ended is not what was asked for: the layer is.
    async fn save(&self, guest: GuestNumber) -> Done {
        Ok((Answer::Saved(self.guest(guest)?.save().await?), None))
    }

    async fn squash(&self, layers: &[LayerDigest]) -> Done {
        check::squash(layers).map_err(Refusal::Unacceptable)?;
        Ok((Answer::Squashed(self.driver.squash(layers).await?), None))
    }

    async fn bare_layers(&self) -> Done {
        Ok((Answer::Bare(self.driver.bare_layers().await?), None))
    }

    async fn all_layers(&self) -> Done {
        let mut layers = self.driver.all_layers().await?;
        layers.truncate(LAYERS_TOLD);
        Ok((Answer::Layers(layers), None))
    }

    /// Not before it is known what runs: the layers that it stands on must stay.
    async fn remove_layers(&self, layers: &[LayerDigest]) -> Done {
        check::removal(layers).map_err(Refusal::Unacceptable)?;
        self.started()?;
        let removed = self.driver.remove_layers(layers).await?;
        Ok((Answer::Removed(removed), None))
    }

    async fn volume(&self, volume: &VolumeId, request: VolumeRequest) -> Done {
        check::volume(&request).map_err(Refusal::Unacceptable)?;
        let (answer, file) = match self.driver.volume(volume, request).await {
            Ok((answer, file)) => (Ok(answer), file),
            Err(error) => (Err(error), None),
        };
        Ok((Answer::Volume(answer), file))
    }

    async fn certificate(&self) -> Done {
        let operator = Arc::clone(&self.operator);
        let read = tokio::task::spawn_blocking(move || operator.certificate()).await;
        let certificate = read
            .map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(|error| Refusal::Host("read the certificate".to_owned(), error.into()))?;
        Ok((Answer::Certificate(certificate), None))
    }

    /// No command of the operator runs when this returns.
    async fn stop_operator(&self) {
        self.operator.stop();
        drop(self.one_record.lock().await);
    }

    async fn challenge_record(&self, act: RecordAct, value: String) -> Done {
        check::record(&value).map_err(Refusal::Unacceptable)?;
        let alone = self.one_record.lock().await;
        let operator = Arc::clone(&self.operator);
        let (told, done) = oneshot::channel();
        // Not one of the runtime's threads: an end of the helper would wait for the command.
        let run = move || {
            // Whoever asked may be gone.
            let _asked = told.send(operator.challenge_record(act, &value));
        };
        let started = std::thread::Builder::new().spawn(run);
        let done = match started {
            Ok(_) => done.await.map_err(io::Error::other).and_then(|done| done),
            Err(error) => Err(error),
        };
        drop(alone);
        done.map_err(|error| Refusal::Host("run acme_dns_command".to_owned(), error.into()))?;
        Ok((Answer::ChallengeRecordDone, None))
    }

    async fn shut_down(
        &self,
        release: impl AsyncFnOnce() -> io::Result<()>,
    ) -> Result<(), Refusal> {
        // A server whose start has failed asks for this first of all. The driver has nothing prepared then, and does
        // not know yet what runs.
        if self.start.load(Ordering::Acquire) == STARTED {
            self.driver.shutdown().await;
        }
        release()
            .await
            .map_err(|error| Refusal::Host("release the host".to_owned(), error.into()))
    }

    fn guest(&self, number: GuestNumber) -> Result<Arc<dyn Guest>, Refusal> {
        self.guests
            .lock()
            .get(&number)
            .cloned()
            .ok_or(Refusal::Gone)
    }

    fn register(&self, guest: &Arc<dyn Guest>) -> GuestNumber {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.guests.lock().insert(number, Arc::clone(guest));
        number
    }

    /// Tells what happens to a guest. Started after the answer that names the guest, so that nothing of it comes first.
    fn watch(self: &Arc<Self>, number: GuestNumber, guest: Arc<dyn Guest>) {
        let helper = Arc::clone(self);
        let mut kills = guest.oom_kills();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    kill = kills.recv() => match kill {
                        Ok(kill) => helper.say(Word::OomKill { guest: number, kill }, None),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => {
                            guest.ended().await;
                            break;
                        }
                    },
                    () = guest.ended() => break,
                }
            }
            helper.guests.lock().remove(&number);
            helper.ids.lock().remove(&guest.spec().id);
            helper.say(Word::Ended { guest: number }, None);
        });
    }

    fn answer(&self, id: u64, done: Done) {
        let (result, fd) = match done {
            Ok((answer, fd)) => (Ok(answer), fd),
            Err(refusal) => (Err(refusal), None),
        };
        self.say(Word::Answer { id, result }, fd);
    }

    fn say(&self, word: Word, fd: Option<OwnedFd>) {
        // The writer lives as long as the helper; when both end, nobody is left to be told.
        let _written = self.queue.send(Outgoing::Word(word, fd));
    }

    async fn flushed(&self) {
        let (done, flushed) = oneshot::channel();
        let _queued = self.queue.send(Outgoing::Flush(done));
        // An error means that the writer is gone, and with it everything that could be flushed.
        let _sent = flushed.await;
    }
}

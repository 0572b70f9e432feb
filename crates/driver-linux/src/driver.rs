//! Creating sandboxes and finding again those that an earlier server left running.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use soulbox_driver::{
    BareLayers, BoxFuture, Driver, DriverError, Guest, LayerHere, Moments, SavedLayer,
    VolumeAnswer, VolumeError, VolumeRequest,
};
use soulbox_envd_proto::{Boot, InitBody};
use soulbox_fault as fault;
use soulbox_launch_plan::{LaunchPlan, LaunchStep, MOUNT_VOLUME};
use soulbox_linux::{exec, process};
use soulbox_net::limits::TeamLimits;
use soulbox_types::slot::Block;
use soulbox_types::{
    LayerDigest, MemoryId, SandboxId, SandboxSpec, SlotIndex, Timestamp, VolumeId,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::adopt;
use crate::cgroup::SlotCgroup;
use crate::dial::Dialer;
use crate::disk::{self, Disk, DiskSettings};
use crate::guest::NamespaceGuest;
use crate::host::{Host, Programs};
use crate::jail::{JailError, Launched};
use crate::layers::Standing;
use crate::lock::locked;
use crate::memory::{self, Wake};
use crate::oom::{Guests, KernelLog};
use crate::plan::{SandboxFiles, launch_plan};
use crate::slot::{Pool, Slot, SlotError};
use crate::state;
use crate::undo::undo;
use crate::view::View;
use crate::volumes;

/// envd starts in milliseconds; on a machine that is overloaded a hundredfold it still starts within this.
const ENVD_START: Duration = Duration::from_secs(30);
/// Removing the files of a sandbox takes long only when there are very many.
const CLEANUP: Duration = Duration::from_secs(20);
/// Launches at the same time, per CPU. More only makes all of them slower.
const LAUNCHES_PER_CPU: usize = 2;

/// What a namespace driver is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where sandboxes keep their files.
    pub data_dir: PathBuf,
    /// Where layers are, each in a directory named by its digest.
    pub layers_dir: PathBuf,
    /// The block of slots of this server.
    pub block: Block,
    /// Whether sandboxes with a cable have IPv6. The host's rules must be there then.
    pub has_ipv6: bool,
    /// Slots to keep ready.
    pub slots_ready: usize,
    /// Connections that all sandboxes of a team may have at a time, if that is bounded.
    pub connections_of_team: TeamLimits,
    /// How disks are limited.
    pub disk: DiskSettings,
    /// Where CRIU is: Debian's package and those that it needs, unpacked. Without it no sandbox is written to disk.
    pub criu_dir: Option<PathBuf>,
    /// Whether somebody hears what policies refuse, see [`soulbox_net::told`].
    pub tells_refusals: bool,
}

type Present = HashMap<SandboxId, watch::Receiver<()>>;

/// The namespace tier.
#[derive(Debug)]
pub struct NamespaceDriver {
    host: Arc<Host>,
    dialer: Dialer,
    launches: Semaphore,
    slots_ready: usize,
    pool: OnceLock<Arc<Pool>>,
    cleanups: TaskTracker,
    /// Sandboxes that adoption found gone, and why. Read by whoever forgets them.
    lost: Mutex<Vec<(SandboxId, String)>>,
    guests: Arc<Guests>,
    /// Sandboxes of which something is there. A channel closes when nothing is left.
    present: Arc<Mutex<Present>>,
    /// Held, not read: it ends with the driver.
    _kernel_log: Option<KernelLog>,
}

impl NamespaceDriver {
    /// Prepares the host: directories, cgroups, the sealed programs. Call [`Driver::adopt`] before the first create.
    ///
    /// # Errors
    /// When the host lacks something; the text says what to do.
    pub fn new(settings: &Settings, programs: Programs<'_>) -> io::Result<Self> {
        let host = Host::prepare(settings, programs)?;
        let guests = Arc::<Guests>::default();
        let kernel_log = KernelLog::follow(settings.block, Arc::clone(&guests))
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot read /dev/kmsg: processes killed for lack of memory are counted, not named");
            })
            .ok();
        let launches = Semaphore::new(host.facts.cpus.len().max(1) * LAUNCHES_PER_CPU);
        Ok(Self {
            host: Arc::new(host),
            dialer: Dialer::start()?,
            launches,
            slots_ready: settings.slots_ready,
            pool: OnceLock::new(),
            cleanups: TaskTracker::new(),
            lost: Mutex::default(),
            guests,
            present: Arc::default(),
            _kernel_log: kernel_log,
        })
    }

    /// Waits until nothing is left of guests that have ended.
    pub async fn settle(&self) {
        self.cleanups.close();
        if tokio::time::timeout(CLEANUP, self.cleanups.wait())
            .await
            .is_err()
        {
            tracing::warn!("remains of ended sandboxes stay until the next start");
        }
    }

    fn pool(&self) -> &Arc<Pool> {
        self.pool
            .get_or_init(|| Pool::start(Arc::clone(&self.host), self.slots_ready, &HashSet::new()))
    }

    async fn create_guest(&self, spec: &SandboxSpec) -> Result<Arc<dyn Guest>, DriverError> {
        let closed = || DriverError::Envd {
            reason: "the server is stopping".to_owned(),
        };
        let _permit = self.launches.acquire().await.map_err(|_| closed())?;
        let (host, pool, spec) = (
            Arc::clone(&self.host),
            Arc::clone(self.pool()),
            spec.clone(),
        );
        self.gone(&spec.id).await;
        let launched = tokio::task::spawn_blocking(move || Launch { host, pool, spec }.run());
        let finished = launched.await.map_err(|_| closed())??;
        let pid = finished.pid;
        let guest = self.start_guest(finished);
        separate_envd(guest.cgroup.clone(), pid);
        Ok(guest)
    }

    async fn wake_guest(
        &self,
        spec: &SandboxSpec,
        memory: &MemoryId,
    ) -> Result<Arc<dyn Guest>, DriverError> {
        let closed = || DriverError::Envd {
            reason: "the server is stopping".to_owned(),
        };
        let _permit = self.launches.acquire().await.map_err(|_| closed())?;
        self.gone(&spec.id).await;
        let wake = Wake {
            host: Arc::clone(&self.host),
            pool: Arc::clone(self.pool()),
            spec: spec.clone(),
            memory: memory.clone(),
        };
        let woken = tokio::task::spawn_blocking(move || wake.run());
        let finished = woken.await.map_err(|_| closed())??;
        let pid = finished.pid;
        let guest = self.start_guest(finished);
        separate_envd(guest.cgroup.clone(), pid);
        Ok(guest)
    }

    /// Runs what works on memory on disk where it may block.
    async fn on_memory<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Host) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let host = Arc::clone(&self.host);
        let done = tokio::task::spawn_blocking(move || work(&host));
        let done = done.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|source| host_error(operation, source))
    }

    fn start_guest(&self, finished: Finished) -> Arc<NamespaceGuest> {
        let limits = finished.spec.limits;
        let cpus = self.host.visible_cpus(limits.vcpu_count);
        let view = View::of(finished.pid, &finished.place.2, limits, cpus);
        let guest = Arc::new(NamespaceGuest::new(
            finished,
            view,
            self.dialer.clone(),
            Arc::clone(&self.host),
        ));
        self.guests.enter(&guest);
        tokio::spawn(Arc::clone(&guest).tell_envd());
        tokio::spawn(Arc::clone(&guest).keep_view());
        let (held, left) = watch::channel(());
        let (id, present) = (guest.spec.id.clone(), Arc::clone(&self.present));
        locked(&present).insert(id.clone(), left);
        let watching = Arc::clone(&guest).watch(Arc::clone(self.pool()), self.cleanups.clone());
        tokio::spawn(async move {
            watching.await;
            locked(&present).remove(&id);
            drop(held);
        });
        guest
    }

    /// Waits until nothing is left of an earlier guest of this sandbox: it may be resumed right after it has ended.
    async fn gone(&self, id: &SandboxId) {
        let left = locked(&self.present).get(id).cloned();
        if let Some(mut left) = left {
            // Nothing is ever sent: an error says that it is closed.
            let _closed = left.changed().await;
        }
    }

    async fn adopt_guests(&self) -> Result<Vec<Arc<dyn Guest>>, DriverError> {
        let host = Arc::clone(&self.host);
        let found = tokio::task::spawn_blocking(move || adopt::find(&host))
            .await
            .map_err(|e| DriverError::Host {
                operation: "adopt sandboxes".to_owned(),
                source: io::Error::other(e),
            })?
            .map_err(|source| DriverError::Host {
                operation: "adopt sandboxes".to_owned(),
                source,
            })?;
        let mut lost = locked(&self.lost);
        lost.extend(
            found
                .lost
                .into_iter()
                .filter_map(|lost| Some((lost.id?, lost.reason))),
        );
        drop(lost);
        let policies = found.running.iter();
        let policies = policies.map(|finished| (finished.place.0, &finished.spec));
        let restored = self.host.policies.restore(policies);
        restored.map_err(|error| {
            host_error(
                "put the policies of sandboxes in force",
                io::Error::other(error),
            )
        })?;
        // The pool starts only now, when it is known which slots are taken.
        self.pool
            .get_or_init(|| Pool::start(Arc::clone(&self.host), self.slots_ready, &found.taken));
        let running = found.running.into_iter();
        Ok(running
            .map(|finished| self.start_guest(finished) as Arc<dyn Guest>)
            .collect())
    }
}

impl Driver for NamespaceDriver {
    fn tier(&self) -> &'static str {
        "namespace"
    }

    fn create<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        Box::pin(self.create_guest(spec))
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Arc<dyn Guest>>, DriverError>> {
        Box::pin(self.adopt_guests())
    }

    fn lost(&self) -> Vec<(SandboxId, String)> {
        let lost = locked(&self.lost);
        lost.clone()
    }

    fn hibernation(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.host.criu.as_ref().map(drop).map_err(Clone::clone) })
    }

    fn wake<'a>(
        &'a self,
        spec: &'a SandboxSpec,
        memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<Arc<dyn Guest>, DriverError>> {
        Box::pin(self.wake_guest(spec, memory))
    }

    fn keep_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        let memory = memory.clone();
        Box::pin(self.on_memory("keep memory of a sandbox", move |host| {
            memory::keep(host, &memory)
        }))
    }

    fn memories(&self) -> BoxFuture<'_, Result<Vec<MemoryId>, DriverError>> {
        Box::pin(self.on_memory("look for memory of sandboxes", memory::all))
    }

    fn forget_memory<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<(), DriverError>> {
        let memory = memory.clone();
        Box::pin(self.on_memory("remove memory of a sandbox", move |host| {
            memory::forget(host, &memory)
        }))
    }

    fn memory_is_short(&self) -> BoxFuture<'_, Result<bool, DriverError>> {
        // One small read of a kernel file.
        Box::pin(async {
            memory::is_short().map_err(|source| host_error("read /proc/meminfo", source))
        })
    }

    fn squash<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<SavedLayer, DriverError>> {
        Box::pin(self.host.layers.squash(layers))
    }

    fn remove_layers<'a>(
        &'a self,
        layers: &'a [LayerDigest],
    ) -> BoxFuture<'a, Result<Vec<LayerDigest>, DriverError>> {
        Box::pin(self.host.layers.remove(layers))
    }

    fn all_layers(&self) -> BoxFuture<'_, Result<Vec<LayerHere>, DriverError>> {
        Box::pin(self.host.layers.all())
    }

    fn bare_layers(&self) -> BoxFuture<'_, Result<BareLayers, DriverError>> {
        Box::pin(self.host.layers.bare())
    }

    fn volume<'a>(
        &'a self,
        volume: &'a VolumeId,
        request: VolumeRequest,
    ) -> BoxFuture<'a, Result<(VolumeAnswer, Option<OwnedFd>), VolumeError>> {
        let (host, volume) = (Arc::clone(&self.host), volume.clone());
        Box::pin(on_volumes(move || {
            host.volumes.carry_out(&volume, request, &host.disks)
        }))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.launches.close();
            self.settle().await;
            let pool = Arc::clone(self.pool());
            if tokio::task::spawn_blocking(move || pool.stop())
                .await
                .is_err()
            {
                tracing::error!("stopping the slot pool panicked");
            }
        })
    }
}

/// Runs what works on volumes where it may block.
async fn on_volumes<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(VolumeError::Host {
            operation: "work on a volume".to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Off the path of the create: the kernel makes the mover wait for milliseconds.
fn separate_envd(cgroup: SlotCgroup, pid: i32) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = cgroup.separate_envd(pid) {
            // Killed already, most likely. If not, envd shares the user's memory limit: weaker, not unsafe.
            tracing::debug!(%error, pid, "envd stays in the user's cgroup");
        }
        fault::point!("create.envd-moved");
    });
}

/// A sandbox whose envd listens.
pub(crate) struct Finished {
    pub(crate) spec: SandboxSpec,
    pub(crate) place: (SlotIndex, SlotCgroup, SandboxFiles),
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) network: OwnedFd,
    pub(crate) disk: Disk,
    pub(crate) standing: Standing,
    pub(crate) moments: Moments,
}

/// Leases a slot, makes the disk of a sandbox, and has `fill` make its processes there: the number of the first one, and a
/// descriptor of it. On error nothing is left. Blocking.
pub(crate) fn in_a_slot(
    host: &Arc<Host>,
    pool: &Pool,
    spec: &SandboxSpec,
    moments: &Moments,
    fill: impl FnOnce(&mut Slot, &SandboxFiles, &Disk) -> Result<(i32, OwnedFd), DriverError>,
) -> Result<Finished, DriverError> {
    let full = host.disks.host_is_full();
    if full.map_err(|source| host_error("look at the host's free space", source))? {
        return Err(DriverError::StorageFull);
    }
    let standing = host.layers.stand_on(&spec.image.layers);
    moments.mark("disk-space");
    let mut slot = pool.lease(&spec.network).map_err(slot_error)?;
    moments.mark("lease-slot");
    fault::point!("create.slot-leased");
    let files = host.files(spec.id.as_str());
    // Before there is anybody who could send something.
    if let Err(error) = host.policies.enter(slot.index, spec) {
        undo(pool, slot, &files, &spec.id, None);
        return Err(host_error(
            "put the network policy of a sandbox in force",
            io::Error::other(error),
        ));
    }
    moments.mark("policy");
    let disk = match disk::make(host, &mut slot, &files, spec) {
        Ok(disk) => disk,
        Err(error) => {
            undo(pool, slot, &files, &spec.id, None);
            return Err(host_error("make the disk of a sandbox", error));
        }
    };
    moments.mark("make-disk");
    match fill(&mut slot, &files, &disk) {
        Ok((pid, pidfd)) => {
            let Slot {
                index,
                cgroup,
                network,
                ..
            } = slot;
            Ok(Finished {
                spec: spec.clone(),
                place: (index, cgroup, files),
                pid,
                pidfd,
                network,
                disk,
                standing,
                moments: moments.clone(),
            })
        }
        Err(error) => {
            undo(pool, slot, &files, &spec.id, Some(disk));
            Err(error)
        }
    }
}

/// One create, on a blocking thread.
struct Launch {
    host: Arc<Host>,
    pool: Arc<Pool>,
    spec: SandboxSpec,
}

impl Launch {
    fn run(self) -> Result<Finished, DriverError> {
        let moments = Moments::kept();
        let (host, pool, spec) = (&self.host, &self.pool, &self.spec);
        in_a_slot(host, pool, spec, &moments, |slot, files, disk| {
            let launched = self.fill(slot, files, disk, &moments)?;
            Ok((launched.pid, launched.pidfd))
        })
    }

    fn fill(
        &self,
        slot: &mut Slot,
        files: &SandboxFiles,
        disk: &Disk,
        moments: &Moments,
    ) -> Result<Launched, DriverError> {
        let host = |operation: &'static str| move |source: io::Error| host_error(operation, source);
        let places = self
            .host
            .places(self.spec.limits.vcpu_count)
            .map_err(host("make /sys of a sandbox"))?;
        for layer in places.layer_paths(&self.spec) {
            fs::metadata(&layer).map_err(|source| DriverError::Layer {
                layer: layer.display().to_string(),
                source,
            })?;
        }
        disk::furnish(disk, &self.spec, slot.index)
            .and_then(|()| fault::point!("create.files-made", fallible))
            .map_err(host("make the files of a sandbox"))?;
        moments.mark("files");
        slot.cgroup
            .set_limits(&self.spec.limits)
            .and_then(|()| fault::point!("create.limits-set", fallible))
            .map_err(host("set the limits of a sandbox"))?;
        moments.mark("limits");
        let boot = self
            .boot_document()
            .map_err(host("write the boot document of a sandbox"))?;
        let (status_read, status_write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| host("make a pipe")(e.into()))?;
        moments.mark("boot-document");
        let volumes = volumes::attach(&self.host, files, &self.spec)?;
        let envd = self
            .host
            .mount_envd()
            .map_err(host("show envd to a sandbox"))?;
        let (facts, filter) = (&self.host.facts, &self.host.seccomp);
        let plan = launch_plan(&self.spec, slot.index, files, &places, facts, filter);
        moments.mark("plan");
        let launched = slot
            .jail
            .launch(
                &plan,
                [&envd, &boot, &status_write],
                disk.mount().into_iter().chain(&volumes),
            )
            .map_err(jail_error)?;
        drop((status_write, volumes, envd));
        let finished = self.finish(slot, files, &launched, status_read);
        moments.mark("envd-ready");
        match finished.and_then(|()| told_by_jail(slot, &plan, moments)) {
            Ok(()) => Ok(launched),
            Err(error) => {
                end(&launched);
                Err(error)
            }
        }
    }

    /// The record is written before envd listens: from then on the next server finds the sandbox.
    fn finish(
        &self,
        slot: &mut Slot,
        files: &SandboxFiles,
        launched: &Launched,
        status: OwnedFd,
    ) -> Result<(), DriverError> {
        fault::point!("create.process-cloned", fallible)
            .and_then(|()| state::record(&self.host, &self.spec, slot.index, files, launched.pid))
            .map_err(|source| host_error("record a sandbox", source))?;
        let word = wait_for_envd(status).map_err(|source| host_error("wait for envd", source))?;
        match word.as_str() {
            "ready\n" => fault::point!("create.envd-ready", fallible)
                .map_err(|source| host_error("go on with a sandbox", source)),
            "" => Err(silent_end(slot.jail.failure())),
            reason => Err(DriverError::Envd {
                reason: reason.trim().to_owned(),
            }),
        }
    }

    fn boot_document(&self) -> io::Result<OwnedFd> {
        let spec = &self.spec;
        let boot = Boot {
            sandbox_id: spec.id.to_string(),
            template_id: spec.image.template_id.to_string(),
            init: InitBody {
                env_vars: Some(spec.env_vars.clone()),
                access_token: Some(spec.envd_access_token.clone()),
                default_user: Some(spec.image.default_user.clone()),
                default_workdir: spec.image.default_workdir.clone(),
                timestamp: Some(Timestamp::now().to_string()),
                // They stand in the document itself.
                sandbox_id: None,
                template_id: None,
            },
        };
        let memory = exec::sealed_memfd("boot", &serde_json::to_vec(&boot)?, false)?;
        rustix::fs::seek(&memory, rustix::fs::SeekFrom::Start(0))?;
        Ok(memory)
    }
}

/// Adds what the jail says of its steps. The first moment is that at which it had the plan.
fn told_by_jail(slot: &mut Slot, plan: &LaunchPlan, moments: &Moments) -> Result<(), DriverError> {
    let told = slot.jail.moments().map_err(jail_error)?;
    let names = ["plan-arrived"].into_iter();
    let names = names.chain(plan.steps.iter().map(LaunchStep::name));
    moments.add(told.into_iter().zip(names.map(Cow::Borrowed)));
    Ok(())
}

/// Kills what a failed launch has started and waits until it is dead.
fn end(launched: &Launched) {
    if let Err(error) = process::kill(&launched.pidfd) {
        tracing::warn!(%error, pid = launched.pid, "cannot kill a sandbox that failed to start");
        return;
    }
    let mut fds = [PollFd::new(&launched.pidfd, PollFlags::IN)];
    let _dead = poll(&mut fds, Some(&timespec(ENVD_START)));
    process::reap(&launched.pidfd);
}

/// Reads what envd says when it listens. Nothing at all means that it, or the jail before it, has ended.
fn wait_for_envd(status: OwnedFd) -> io::Result<String> {
    let mut fds = [PollFd::new(&status, PollFlags::IN)];
    if poll(&mut fds, Some(&timespec(ENVD_START)))? == 0 {
        return Ok(format!("no answer within {} s", ENVD_START.as_secs()));
    }
    let mut word = String::new();
    File::from(status).take(1024).read_to_string(&mut word)?;
    Ok(word)
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}

pub(crate) fn slot_error(error: SlotError) -> DriverError {
    match error {
        SlotError::Exhausted => DriverError::NoSlot,
        SlotError::Cgroup(source) => host_error("make the cgroups of a sandbox", source),
        SlotError::Disk(source) => host_error("make the disk of a sandbox", source),
        SlotError::Jail(error) => jail_error(error),
    }
}

fn jail_error(error: JailError) -> DriverError {
    match error {
        JailError::Step { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            DriverError::StorageFull
        }
        JailError::Step { step, source } if step == MOUNT_VOLUME => DriverError::Volume {
            reason: source.to_string(),
        },
        JailError::Step { step, source } => DriverError::Launch { step, source },
        JailError::Talk { operation, source } => {
            host_error(&format!("{operation} the jail"), source)
        }
    }
}

/// Nobody said a word on the status pipe. Nobody on the jail's socket either: then every step was done, and envd ended.
fn silent_end(error: JailError) -> DriverError {
    match error {
        JailError::Talk { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
            DriverError::Envd {
                reason: "it ended before it listened".to_owned(),
            }
        }
        other => jail_error(other),
    }
}

pub(crate) fn host_error(operation: &str, source: io::Error) -> DriverError {
    if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded
    {
        return DriverError::StorageFull;
    }
    DriverError::Host {
        operation: operation.to_owned(),
        source,
    }
}

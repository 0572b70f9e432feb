//! One running sandbox of the namespace tier.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use soulbox_driver::{
    BoxFuture, DialError, DriverError, Guest, GuestStats, Moment, Moments, OomKill, SavedLayer,
};
use soulbox_fault as fault;
use soulbox_linux::{filesystem, process};
use soulbox_types::{MemoryId, NetworkMode, SandboxSpec, SlotIndex};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio_util::task::TaskTracker;

use crate::cgroup::{CpuMeter, SlotCgroup};
use crate::dial::Dialer;
use crate::disk::{self, Disk};
use crate::driver::{Finished, host_error};
use crate::host::Host;
use crate::layers::Standing;
use crate::lock::locked;
use crate::memory::{Capture, Readied};
use crate::oom::Victim;
use crate::plan::SandboxFiles;
use crate::report::Reports;
use crate::slot::Pool;
use crate::state;
use crate::view::{self, Usage, View};

/// How often the kernel is asked again whether a cgroup is empty, and how many times. Processes are dead by then; what
/// is waited for is their last accounting.
const CGROUP_RETRY: Duration = Duration::from_millis(5);
const CGROUP_TRIES: u32 = 400;

/// How often the kernel is asked again whether all processes stand still, and how many times: one may be in the middle of
/// a long system call.
const FREEZE_RETRY: Duration = Duration::from_micros(250);
const FREEZE_TRIES: u32 = 40_000;

/// How old what a busy sandbox reads in its `/proc` may be.
const VIEW_REFRESH: Duration = Duration::from_secs(1);
/// How long one that does nothing is left alone, at most: a thousand of them are then looked at 250 times a second.
const VIEW_REST: Duration = Duration::from_secs(4);
/// They are looked at in moments that are so far apart, so that this process wakes up once for all whose time has come.
const VIEW_MOMENTS: Duration = Duration::from_millis(250);
static VIEWS_BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How old the statistics of a sandbox that has not run since may be. What can change meanwhile is what the kernel takes
/// back of its cache.
const STATS_KEPT: Duration = Duration::from_secs(60);

/// A sandbox whose envd is (or was) process `pid`.
#[derive(Debug)]
pub(crate) struct NamespaceGuest {
    pub(crate) spec: SandboxSpec,
    pub(crate) slot: SlotIndex,
    pub(crate) cgroup: SlotCgroup,
    pub(crate) files: SandboxFiles,
    pub(crate) pidfd: OwnedFd,
    /// envd's number on the host.
    pid: i32,
    pub(crate) network: Arc<OwnedFd>,
    pub(crate) dialer: Dialer,
    /// Taken when it is ended.
    disk: Mutex<Option<Disk>>,
    /// Held by who reads its files after its end, or removes them.
    remains: tokio::sync::Mutex<()>,
    /// Given up when nothing is left of it.
    standing: Mutex<Option<Standing>>,
    host: Arc<Host>,
    saved: AtomicBool,
    /// Waits for it to stand still.
    readied: Mutex<Option<Readied>>,
    reports: Reports,
    /// Of its making.
    moments: Moments,
    /// As they were read last, and when.
    last_usage: Mutex<Option<(Instant, Usage)>>,
    view: View,
    ended: watch::Sender<bool>,
    /// What it may reach now.
    reach: Mutex<NetworkMode>,
    /// Held by who changes that.
    changing: tokio::sync::Mutex<()>,
}

impl NamespaceGuest {
    pub(crate) fn new(finished: Finished, view: View, dialer: Dialer, host: Arc<Host>) -> Self {
        let Finished {
            spec,
            place: (slot, cgroup, files),
            pid,
            pidfd,
            network,
            disk,
            standing,
            moments,
        } = finished;
        Self {
            reach: Mutex::new(spec.network.clone()),
            changing: tokio::sync::Mutex::default(),
            spec,
            slot,
            cgroup,
            files,
            pidfd,
            pid,
            network: Arc::new(network),
            dialer,
            disk: Mutex::new(Some(disk)),
            remains: tokio::sync::Mutex::default(),
            standing: Mutex::new(Some(standing)),
            host,
            saved: AtomicBool::new(false),
            readied: Mutex::default(),
            reports: Reports::default(),
            moments,
            last_usage: Mutex::default(),
            view,
            ended: watch::Sender::new(false),
        }
    }

    /// Waits for the end and then removes everything that is left. One task per guest, started when the guest is made;
    /// it is the only one that cleans up.
    pub(crate) async fn watch(self: Arc<Self>, pool: Arc<Pool>, cleanups: TaskTracker) {
        self.wait_for_end().await;
        process::reap(&self.pidfd);
        fault::point!("kill.process-ended");
        // Taken before anybody learns of the end: who waits for the cleanups then waits for this one.
        let _cleaning = cleanups.token();
        self.ended.send_replace(true);
        self.clean_up(&pool).await;
    }

    /// The kernel has killed one of its processes. Called by the thread that reads the kernel's log.
    pub(crate) fn killed_for_memory(&self, victim: Victim) {
        self.reports.take(victim);
    }

    /// Carries what is reported to envd, as long as the guest lives.
    pub(crate) async fn tell_envd(self: Arc<Self>) {
        tokio::select! {
            () = self.ended() => {}
            () = self.reports.carry(&*self) => {}
        }
    }

    /// Keeps what it sees of itself up to date, as long as it lives: every second while it does something, else as often
    /// as somebody asks for its statistics. One that does nothing is looked at less and less often.
    pub(crate) async fn keep_view(self: Arc<Self>) {
        let mut ended = self.ended.subscribe();
        let (mut wait, mut meter) = (VIEW_REFRESH, None);
        loop {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return,
                () = tokio::time::sleep_until(moment_after(wait)) => {}
            }
            wait = match self.refresh_if_busy(&mut meter) {
                Ok(true) => VIEW_REFRESH,
                Ok(false) => (wait * 2).min(VIEW_REST),
                Err(error) => {
                    // On its way out, most likely; otherwise its statistics will fail, too, and be reported.
                    tracing::debug!(%error, sandbox.id = %self.spec.id, "/proc of a sandbox is not up to date");
                    VIEW_REFRESH
                }
            };
        }
    }

    fn refresh_if_busy(&self, meter: &mut Option<CpuMeter>) -> io::Result<bool> {
        let meter = match meter {
            Some(meter) => meter,
            None => meter.insert(self.cgroup.cpu_meter()?),
        };
        let busy = meter.usage_us()? != self.view.seen_us();
        if busy {
            self.view.refresh(&Usage::read(&self.cgroup)?)?;
        }
        Ok(busy)
    }

    async fn wait_for_end(&self) {
        // A pidfd becomes readable when the process ends; envd being the first of its PID namespace, all others have
        // ended before it.
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; a borrowed descriptor cannot close under it"
        )]
        let watched = AsyncFd::with_interest(self.pidfd.as_fd(), Interest::READABLE);
        match watched {
            Ok(fd) => {
                if let Err(error) = fd.readable().await {
                    tracing::error!(%error, sandbox.id = %self.spec.id, "cannot wait for a sandbox");
                }
            }
            Err(error) => {
                tracing::error!(%error, sandbox.id = %self.spec.id, "cannot watch a sandbox");
            }
        }
    }

    async fn clean_up(self: &Arc<Self>, pool: &Arc<Pool>) {
        let guest = Arc::clone(self);
        let removed = {
            let _remains = self.remains.lock().await;
            tokio::task::spawn_blocking(move || guest.remove_files()).await
        };
        drop(locked(&self.standing).take());
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, sandbox.id = %self.spec.id, "files of a sandbox stay until the next start");
        }
        fault::point!("kill.files-removed");
        for _ in 0..CGROUP_TRIES {
            match self.cgroup.remove() {
                Ok(()) => {
                    fault::point!("kill.cgroups-removed");
                    pool.release(self.slot);
                    fault::point!("kill.slot-released");
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(CGROUP_RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(%error, sandbox.id = %self.spec.id, "cgroups of a sandbox stay until the next start");
                    return;
                }
            }
        }
        tracing::warn!(sandbox.id = %self.spec.id, "cgroups of a sandbox stay busy; its slot is given up");
    }

    fn remove_files(&self) -> io::Result<()> {
        let removed = disk::remove(&self.files.directory);
        let disk = locked(&self.disk).take();
        let removed = removed.and(view::remove(&self.files));
        removed.and(disk.map_or(Ok(()), Disk::discard))
    }

    /// Nothing, once it has ended. What was deleted since the last look is given back to the host.
    fn disk_used_bytes(&self) -> io::Result<u64> {
        let disk = locked(&self.disk);
        let Some(disk) = disk.as_ref() else {
            return Ok(0);
        };
        let used = disk.used_bytes()?;
        if let Some(directory) = disk.worth_trimming(used)? {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = filesystem::trim(directory) {
                    tracing::warn!(%error, "deleted files of a sandbox still take space on the host");
                }
            });
        }
        Ok(used)
    }

    async fn set_frozen(&self, frozen: bool) -> Result<(), DriverError> {
        let operation = if frozen { "freeze" } else { "thaw" };
        let failed = |source| host_error(&format!("{operation} sandbox {}", self.spec.id), source);
        for _ in 0..FREEZE_TRIES {
            if self.cgroup.set_frozen(frozen).map_err(failed)? {
                return Ok(());
            }
            tokio::time::sleep(FREEZE_RETRY).await;
        }
        Err(failed(io::ErrorKind::TimedOut.into()))
    }

    /// Whoever has `remains` keeps [`NamespaceGuest::clean_up`] waiting.
    async fn save_frozen(&self) -> Result<Option<SavedLayer>, DriverError> {
        let failed = |source| host_error(&format!("save sandbox {}", self.spec.id), source);
        let _remains = self.remains.lock().await;
        let upper = self.upper_to_save().map_err(failed)?;
        if !self.cgroup.is_frozen().map_err(failed)? {
            return Err(failed(io::Error::other("it is not frozen")));
        }
        self.refuse_on_full_host()?;
        self.host.layers.save(upper, &self.spec, self.slot).await
    }

    /// What it has written is copied: there must be room for that.
    fn refuse_on_full_host(&self) -> Result<(), DriverError> {
        let failed = |source| host_error(&format!("save sandbox {}", self.spec.id), source);
        let used = self.disk_used_bytes().map_err(failed)?;
        let full = self.host.disks.host_is_too_full_for(used);
        if full.map_err(failed)? {
            return Err(DriverError::StorageFull);
        }
        Ok(())
    }

    /// Whoever has `remains` keeps [`NamespaceGuest::clean_up`] waiting, from before the end until the layer is made.
    async fn end_and_save(&self) -> Result<Option<SavedLayer>, DriverError> {
        let failed = |source| host_error(&format!("save sandbox {}", self.spec.id), source);
        let _remains = self.remains.lock().await;
        let upper = self.upper_to_save().map_err(failed)?;
        self.kill_all().map_err(failed)?;
        self.ended().await;
        fault::point!("save.process-ended");
        self.refuse_on_full_host()?;
        let layers = &self.host.layers;
        let saved = layers.save(upper, &self.spec, self.slot).await;
        self.saved.store(saved.is_ok(), Ordering::Release);
        saved
    }

    fn to_capture(&self) -> Capture {
        Capture {
            host: Arc::clone(&self.host),
            spec: self.spec.clone(),
            slot: self.slot,
            cgroup: self.cgroup.clone(),
            pid: self.pid,
        }
    }

    async fn get_ready(&self, id: &MemoryId) -> Result<(), DriverError> {
        let readied = Readied::start(self.to_capture(), id).await?;
        *locked(&self.readied) = Some(readied);
        Ok(())
    }

    /// Whoever has `remains` keeps [`NamespaceGuest::clean_up`] waiting.
    async fn write_memory(&self, id: &MemoryId) -> Result<u64, DriverError> {
        let failed =
            |source| host_error(&format!("write memory of sandbox {}", self.spec.id), source);
        let _remains = self.remains.lock().await;
        if !self.cgroup.is_frozen().map_err(failed)? {
            return Err(DriverError::Checkpoint {
                reason: "it is not frozen".to_owned(),
            });
        }
        let memory = self.cgroup.stats().map_err(failed)?.memory_used_bytes;
        let full = self.host.disks.host_is_too_full_for(memory);
        if full.map_err(failed)? {
            return Err(DriverError::StorageFull);
        }
        let mut readied = locked(&self.readied).take();
        let waits = readied.as_mut().is_some_and(|one| one.waits_for(id));
        let readied = match readied.filter(|_| waits) {
            Some(readied) => Ok(readied),
            None => Readied::start(self.to_capture(), id).await,
        };
        let written = match readied {
            Ok(readied) => readied.go_on().await,
            Err(error) => Err(error),
        };
        // CRIU may have let it go on for a moment.
        let frozen = self.set_frozen(true).await;
        let bytes = written?;
        frozen.map(|()| bytes)
    }

    /// What it was created from, with what it may reach now.
    fn spec_now(&self) -> SandboxSpec {
        SandboxSpec {
            network: locked(&self.reach).clone(),
            ..self.spec.clone()
        }
    }

    /// The record first: the next server puts in force what it says.
    async fn change_network(&self, network: NetworkMode) -> Result<(), DriverError> {
        let failed = |source| {
            host_error(
                &format!("change the network of sandbox {}", self.spec.id),
                source,
            )
        };
        if network.has_cable() != self.spec.network.has_cable() {
            return Err(DriverError::Unsupported {
                operation: "connecting a sandbox that was created without a network",
            });
        }
        let _changing = self.changing.lock().await;
        let (before, host) = (self.spec_now(), Arc::clone(&self.host));
        let after = SandboxSpec {
            network: network.clone(),
            ..before.clone()
        };
        let (slot, files, pid) = (self.slot, self.files.clone(), self.pid);
        let changed = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let record = |spec| state::record(&host, spec, slot, &files, pid);
            record(&after)?;
            let put = fault::point!("network.state-written", fallible).and_then(|()| {
                host.policies
                    .put(slot, &after.network)
                    .map_err(io::Error::other)
            });
            put.or_else(|error| record(&before).and(Err(error)))
        });
        let changed = changed.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        changed.map_err(failed)?;
        *locked(&self.reach) = network;
        Ok(())
    }

    /// What is frozen takes no signal on hosts with the legacy freezer: it is thawed to die. By then every process has its
    /// signal, because one that waits for the end of the first would go on until that: what it does after its memory was
    /// written, it would do again.
    fn kill_all(&self) -> io::Result<()> {
        process::kill(&self.pidfd)?;
        if self.cgroup.is_frozen().unwrap_or_default() {
            for pid in self.cgroup.processes()? {
                let found = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
                if let Some(Ok(found)) = found {
                    process::kill(&found)?;
                }
            }
        }
        match self.cgroup.set_frozen(false) {
            // Ended meanwhile, and cleaned up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Where its files are, unless somebody was here before.
    fn upper_to_save(&self) -> io::Result<OwnedFd> {
        if self.saved.load(Ordering::Acquire) {
            return Err(io::Error::other("somebody else has saved it"));
        }
        match locked(&self.disk).as_ref() {
            Some(disk) => disk.upper(),
            None => Err(io::Error::other("it has ended, and its files are gone")),
        }
    }

    fn read_stats(&self) -> Result<GuestStats, DriverError> {
        let host = |operation: &'static str| {
            move |source| DriverError::Host {
                operation: operation.to_owned(),
                source,
            }
        };
        if let Some(stats) = self
            .stats_as_before()
            .map_err(host("read the cgroup of a sandbox"))?
        {
            return Ok(stats);
        }
        let mut usage = Usage::read(&self.cgroup).map_err(host("read the cgroup of a sandbox"))?;
        self.view
            .refresh(&usage)
            .map_err(host("refresh /proc of a sandbox"))?;
        usage.stats.oom_kills_named = self.reports.named();
        usage.stats.disk_used_bytes = self
            .disk_used_bytes()
            .map_err(host("measure the disk of a sandbox"))?;
        *locked(&self.last_usage) = Some((Instant::now(), usage));
        Ok(usage.stats)
    }

    /// What was read last, if nothing in the sandbox has run since. One small file is read instead of ten, and of what it
    /// sees only its age is written.
    fn stats_as_before(&self) -> io::Result<Option<GuestStats>> {
        let last = *locked(&self.last_usage);
        let Some((_, usage)) = last.filter(|(at, _)| at.elapsed() < STATS_KEPT) else {
            return Ok(None);
        };
        if self.cgroup.cpu_usage_us()? != usage.stats.cpu_usage_us {
            return Ok(None);
        }
        self.view.refresh_age(&usage)?;
        Ok(Some(GuestStats {
            oom_kills_named: self.reports.named(),
            ..usage.stats
        }))
    }
}

/// The first moment that is so far away, or a little further.
fn moment_after(wait: Duration) -> tokio::time::Instant {
    let far = VIEWS_BEGAN.elapsed() + wait;
    let moments = far.as_millis().div_ceil(VIEW_MOMENTS.as_millis());
    let moments = u32::try_from(moments).unwrap_or(u32::MAX);
    (*VIEWS_BEGAN + VIEW_MOMENTS * moments).into()
}

impl Guest for NamespaceGuest {
    fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    fn network(&self) -> NetworkMode {
        locked(&self.reach).clone()
    }

    fn set_network<'a>(
        &'a self,
        network: &'a NetworkMode,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(self.change_network(network.clone()))
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.spec.network.has_cable().then(|| self.slot.address())
    }

    fn dial(&self, port: u16) -> BoxFuture<'_, Result<TcpStream, DialError>> {
        Box::pin(async move {
            if *self.ended.borrow() {
                return Err(DialError::Gone);
            }
            self.dialer.dial(&self.network, port).await
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<GuestStats, DriverError>> {
        // A few small reads of kernel files: shorter than handing them to another thread.
        Box::pin(async move { self.read_stats() })
    }

    fn moments(&self) -> BoxFuture<'_, Result<Vec<Moment>, DriverError>> {
        Box::pin(async { Ok(self.moments.all()) })
    }

    fn oom_kills(&self) -> broadcast::Receiver<OomKill> {
        self.reports.subscribe()
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
            self.kill_all().map_err(|source| DriverError::Host {
                operation: format!("kill sandbox {}", self.spec.id),
                source,
            })?;
            fault::point!("kill.signal-sent");
            self.ended().await;
            Ok(())
        })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.set_frozen(true))
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(self.set_frozen(false))
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        Box::pin(self.save_frozen())
    }

    fn get_ready_to_capture<'a>(
        &'a self,
        memory: &'a MemoryId,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(self.get_ready(memory))
    }

    fn capture<'a>(&'a self, memory: &'a MemoryId) -> BoxFuture<'a, Result<u64, DriverError>> {
        Box::pin(self.write_memory(memory))
    }

    fn save(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        Box::pin(self.end_and_save())
    }
}

//! What every test stands on: a place on the host that is its own, and a driver in it.
//!
//! [`Place`] owns the data directory and the address block, and clears both whatever happens. [`Stage`] adds a driver.
//! Nothing here knows what is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use soulbox_driver::{Driver, DriverError, Guest};
use soulbox_driver_linux::cgroup::{Hierarchies, SlotCgroup};
use soulbox_driver_linux::{DiskSettings, NamespaceDriver, Programs, Settings};
use soulbox_net::limits::{self, ConnectionLimits, TeamLimits};
use soulbox_net::{block, firewall, gateway};
use soulbox_types::slot::{Block, SLOTS_PER_BLOCK, UIDS_PER_SLOT};
use soulbox_types::{
    LayerDigest, Limits, NetworkMode, SandboxId, SandboxSpec, SlotIndex, TemplateId, TemplateImage,
};

use crate::commands::Sandbox;

/// Blocks are unique on the machine, so the claims are the ones that servers use.
const RUN_DIR: &str = "/run/soulbox";
/// Begins the name of every data directory; the number of the process that made it follows.
const DATA_PREFIX: &str = "privileged-";
/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// What the tests need of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    pub(crate) jail: Vec<u8>,
    pub(crate) envd: Vec<u8>,
    pub(crate) layers_dir: PathBuf,
    pub(crate) layers: Vec<LayerDigest>,
}

impl Needs {
    /// Everything, or what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let default = format!(
            "target/guest/{}-unknown-linux-gnu/guest",
            std::env::consts::ARCH
        );
        let guests =
            std::env::var_os("SOULBOX_TEST_GUESTS").map_or(workspace.join(default), PathBuf::from);
        let read = |name: &str| {
            let path = guests.join(name);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let base =
            std::env::var_os("SOULBOX_TEST_BASE").map_or(workspace.join(".soulbox"), PathBuf::from);
        if !base.is_dir() {
            return Err(format!("no data directory {}", base.display()));
        }
        let artifacts =
            soulbox_artifacts::Artifacts::open(&base).map_err(|error| error.to_string())?;
        let manifest = artifacts
            .manifest("base")
            .map_err(|error| error.to_string())?;
        let manifest = manifest.ok_or_else(|| format!("no template base in {}", base.display()))?;
        Ok(Self {
            jail: read("soulbox-jail")?,
            envd: read("soulbox-envd")?,
            layers_dir: artifacts.layers_dir(),
            layers: manifest.layers,
        })
    }

    /// The same, or a skip that nobody can overlook.
    fn or_skip() -> Option<Self> {
        match Self::find() {
            Ok(needs) => Some(needs),
            Err(missing) => {
                let strict = std::env::var("SOULBOX_TEST_STRICT").is_ok_and(|value| value == "1");
                assert!(!strict, "cannot run: {missing}");
                let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
                let name = std::thread::current().name().unwrap_or("?").to_owned();
                // Past the test program's capture, which shows output of failures only.
                let mut stderr = std::io::stderr();
                writeln!(stderr, "SKIPPED {name}: {missing} ({count} skipped)").unwrap();
                None
            }
        }
    }
}

/// Runs a test on a stage of its own and checks that it leaves nothing.
pub(crate) fn on_stage(test: impl AsyncFnOnce(&Stage)) {
    let Some(needs) = Needs::or_skip() else {
        return;
    };
    in_runtime(async {
        let stage = Stage::new(Place::new(), needs, 0).await;
        test(&stage).await;
        stage.finish().await;
    });
}

/// Runs a test that makes its drivers itself.
pub(crate) fn in_place(test: impl AsyncFnOnce(Place, Needs)) {
    let Some(needs) = Needs::or_skip() else {
        return;
    };
    in_runtime(async { test(Place::new(), needs).await });
}

/// Runs a test that needs no driver.
pub(crate) fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// Waits until `found` gives a value, asking again until it does.
pub(crate) async fn eventually<T>(what: &str, mut found: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match found() {
            Ok(value) => return value,
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(still) => panic!("waited too long for {what}: {still}"),
        }
    }
}

/// Bounds a future that should be quick.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// A data directory and an address block. Dropping it ends and removes everything in them.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) block: Block,
    pub(crate) hierarchies: Hierarchies,
    /// How the drivers of this place limit disks.
    pub(crate) disk: DiskSettings,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{DATA_PREFIX}{}-{number}", std::process::id());
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&data_dir).unwrap();
        Self::at(data_dir)
    }

    /// The place of a data directory that exists, as another process of the same server would find it.
    pub(crate) fn at(data_dir: PathBuf) -> Self {
        let block = block::claim(Path::new(RUN_DIR), &data_dir).unwrap();
        gateway::ensure(block).unwrap();
        let limits = ConnectionLimits {
            // What tests begin at once is to meet the other limit.
            new_per_second: 1_000_000,
            ..ConnectionLimits::default()
        };
        let tables = firewall::render(block, true, true) + &limits::render(block, limits, true);
        firewall::apply(&tables).unwrap();
        Self {
            data_dir,
            block,
            hierarchies: Hierarchies::detect().unwrap(),
            disk: DiskSettings {
                reserve_mib: 0,
                ..DiskSettings::default()
            },
        }
    }

    pub(crate) fn driver(&self, needs: &Needs, slots_ready: usize) -> NamespaceDriver {
        self.driver_of(&self.data_dir, needs, slots_ready)
    }

    /// A driver of this place's block, on any data directory.
    pub(crate) fn driver_of(
        &self,
        data_dir: &Path,
        needs: &Needs,
        slots_ready: usize,
    ) -> NamespaceDriver {
        let settings = Settings {
            connections_of_team: TeamLimits::default(),
            data_dir: data_dir.to_owned(),
            layers_dir: needs.layers_dir.clone(),
            block: self.block,
            slots_ready,
            disk: self.disk,
            has_ipv6: false,
            criu_dir: std::env::var_os("SOULBOX_TEST_CRIU").map(PathBuf::from),
            tells_refusals: true,
        };
        let programs = Programs {
            jail: &needs.jail,
            envd: &needs.envd,
            tar: b"",
        };
        NamespaceDriver::new(&settings, programs).unwrap()
    }

    /// The cgroups of every slot that has some.
    pub(crate) fn slots(&self) -> Vec<SlotCgroup> {
        let numbers = self.hierarchies.slots_of(&self.block.prefix()).unwrap();
        let slots = numbers
            .into_iter()
            .filter_map(|number| SlotIndex::new(self.block, number));
        slots
            .map(|slot| SlotCgroup::new(self.hierarchies.clone(), slot))
            .collect()
    }

    /// Everything on the host that is there because of this place: processes, cgroups, links, mounts, directories.
    pub(crate) fn remains(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for slot in self.slots() {
            found.insert(format!("{slot:?}"));
            found.extend(
                slot.processes()
                    .unwrap()
                    .iter()
                    .map(|pid| format!("process {pid} in {slot:?}")),
            );
        }
        found.extend(
            self.processes()
                .into_iter()
                .map(|(pid, what)| format!("process {pid}: {what}")),
        );
        let cable = format!("{}v", self.block.prefix());
        found.extend(
            names_in(Path::new("/sys/class/net"))
                .into_iter()
                .filter(|name| name.starts_with(&cable)),
        );
        let sandboxes = self.data_dir.join("sandboxes");
        found.extend(
            names_in(&sandboxes)
                .into_iter()
                .map(|name| format!("{}/{name}", sandboxes.display())),
        );
        let views = Path::new(RUN_DIR).join("views").join(self.block.prefix());
        found.extend(
            names_in(&views)
                .into_iter()
                .filter(|name| !name.starts_with('.'))
                .map(|name| format!("{}/{name}", views.display())),
        );
        let disks = self.data_dir.join("disks");
        found.extend(
            names_in(&disks)
                .into_iter()
                .map(|name| format!("{}/{name}", disks.display())),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.data_dir.display().to_string();
        found.extend(
            loop_devices()
                .into_iter()
                .filter(|(_, file)| file.starts_with(&ours))
                .map(|(name, file)| format!("{name} on {file}")),
        );
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&format!("{ours}/")))
                .map(str::to_owned),
        );
        found
    }

    /// Processes whose user is one of the block's, wherever they stand.
    fn processes(&self) -> BTreeMap<i32, String> {
        let ids = self.ids();
        let mut found = BTreeMap::new();
        for pid in names_in(Path::new("/proc"))
            .iter()
            .filter_map(|name| name.parse::<i32>().ok())
        {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uids = status
                .lines()
                .find_map(|line| line.strip_prefix("Uid:"))
                .unwrap_or_default();
            if uids
                .split_ascii_whitespace()
                .filter_map(|uid| uid.parse().ok())
                .any(|uid: u32| ids.contains(&uid))
            {
                found.insert(pid, status.lines().next().unwrap_or_default().to_owned());
            }
        }
        found
    }

    /// The host's user ids that sandboxes of this block may have.
    fn ids(&self) -> std::ops::Range<u32> {
        let slot = |number| SlotIndex::new(self.block, number).unwrap().uid_base();
        slot(0)..slot(SLOTS_PER_BLOCK - 1) + UIDS_PER_SLOT
    }

    /// Waits until nothing is left; panics with what is.
    pub(crate) async fn expect_empty(&self) {
        eventually("nothing to be left", || {
            let remains = self.remains();
            remains
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("{remains:#?}"))
        })
        .await;
    }

    fn clear(&self) {
        for slot in self.slots() {
            let deadline = Instant::now() + PATIENCE;
            while slot.remove().is_err() && Instant::now() < deadline {
                slot.processes()
                    .unwrap_or_default()
                    .into_iter()
                    .for_each(kill_process);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let done = [
            self.hierarchies.remove_block(&self.block.prefix()),
            firewall::remove(self.block).map_err(std::io::Error::other),
            gateway::remove(self.block),
            remove_tree(&self.data_dir),
            block::release(Path::new(RUN_DIR), self.block, &self.data_dir)
                .map_err(std::io::Error::other),
        ];
        for error in done.into_iter().filter_map(Result::err) {
            writeln!(
                std::io::stderr(),
                "cannot clear {}: {error}",
                self.data_dir.display()
            )
            .unwrap();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// By a program that copes with any depth; the standard library's function does not.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let status = std::process::Command::new("rm")
        .arg("-rf")
        .arg("--")
        .arg(path)
        .status()?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| std::io::Error::other("rm failed"))
}

/// Clears the places of test programs that were killed.
fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for name in names_in(parent) {
            let owner = name
                .strip_prefix(DATA_PREFIX)
                .and_then(|rest| rest.split('-').next());
            let dead = owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if dead {
                drop(Place::at(parent.join(name)));
            }
        }
    });
}

pub(crate) fn kill_process(pid: i32) {
    let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = pidfd {
        // Gone already is fine.
        let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

/// Loop devices that are bound, and to which files.
pub(crate) fn loop_devices() -> BTreeMap<String, String> {
    let file =
        |name: &String| fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok();
    names_in(Path::new("/sys/block"))
        .into_iter()
        .filter_map(|name| Some((name.clone(), file(&name)?.trim_end().to_owned())))
        .collect()
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(directory).map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>());
    let names = entries.unwrap_or_default().into_iter();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// A place with a driver in it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) driver: NamespaceDriver,
    pub(crate) needs: Needs,
    pub(crate) place: Place,
}

impl Stage {
    pub(crate) async fn new(place: Place, needs: Needs, slots_ready: usize) -> Self {
        let driver = place.driver(&needs, slots_ready);
        assert!(driver.adopt().await.unwrap().is_empty());
        Self {
            driver,
            needs,
            place,
        }
    }

    /// What a sandbox of the base template is made from.
    pub(crate) fn spec(&self) -> SandboxSpec {
        spec(&self.needs)
    }

    pub(crate) async fn try_create(
        &self,
        spec: &SandboxSpec,
    ) -> Result<Arc<dyn Guest>, DriverError> {
        soon("create", self.driver.create(spec)).await
    }

    /// A sandbox like any other.
    pub(crate) async fn create(&self) -> Sandbox {
        self.create_as(&self.spec()).await
    }

    pub(crate) async fn create_as(&self, spec: &SandboxSpec) -> Sandbox {
        let guest = self.try_create(spec).await.unwrap();
        Sandbox::new(guest, &self.place)
    }

    /// Ends what still runs, stops the driver, and checks that nothing is left.
    pub(crate) async fn finish(self) {
        let Self { driver, place, .. } = self;
        let running = names_in(&place.data_dir.join("sandboxes"));
        for id in running {
            if let Some(pid) = recorded_pid(&place, &id) {
                kill_process(pid);
            }
        }
        driver.shutdown().await;
        drop(driver);
        place.expect_empty().await;
    }
}

pub(crate) fn spec(needs: &Needs) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        image: TemplateImage {
            template_id: TemplateId::random(),
            layers: needs.layers.clone(),
            default_user: "user".to_owned(),
            default_workdir: None,
        },
        limits: Limits::STANDARD,
        network: NetworkMode::Internet,
        env_vars: BTreeMap::new(),
        envd_access_token: "a-token-of-a-test".to_owned(),
        volumes: Vec::new(),
        team: None,
    }
}

/// envd's number on the host, from the sandbox's record.
pub(crate) fn recorded_pid(place: &Place, id: &str) -> Option<i32> {
    record(place, id)?["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
}

pub(crate) fn record(place: &Place, id: &str) -> Option<serde_json::Value> {
    let path = place.data_dir.join("sandboxes").join(id).join("state.json");
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

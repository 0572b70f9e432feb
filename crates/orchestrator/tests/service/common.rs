//! What the tests of the orchestrator share: a node of its own for each test, over a fake driver, with a clock that only
//! the test turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use soulbox_driver::testing::FakeDriver;
use soulbox_orchestrator::{Clock, NewSandbox, Sandboxes, Settings};
use soulbox_store::{Direction, ListQuery, LogLevel, LogQuery, Store, Team};
use soulbox_types::{
    BuildId, LayerDigest, Limits, NetworkMode, OnTimeout, SandboxId, TeamId, TemplateId,
    TemplateImage, Timestamp,
};
use tokio::time::Instant;

/// A wall clock that goes with tokio's clock and can be set.
#[derive(Debug)]
pub(crate) struct TestClock {
    begun: Instant,
    offset_us: AtomicI64,
    broken: AtomicBool,
}

impl TestClock {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            offset_us: AtomicI64::new(1_750_000_000_000_000),
            broken: AtomicBool::new(false),
        }
    }

    /// From now on whoever asks for the time panics, as a bug would.
    pub(crate) fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Sets the clock forward, or back.
    pub(crate) fn jump(&self, seconds: i64) {
        self.offset_us
            .fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        assert!(!self.broken.load(Ordering::SeqCst), "on purpose");
        Timestamp(self.offset_us.load(Ordering::SeqCst)).plus(self.begun.elapsed())
    }
}

/// One server's sandboxes and what they stand on.
pub(crate) struct World {
    pub(crate) sandboxes: Sandboxes,
    pub(crate) store: Store,
    pub(crate) driver: FakeDriver,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) team: Team,
    pub(crate) settings: Settings,
    _dir: tempfile::TempDir,
    /// Keeps tokio's paused clock where it is while the database works in threads of its own.
    _hold: mpsc::Sender<()>,
}

pub(crate) async fn world() -> World {
    world_with(|_| {}).await
}

pub(crate) async fn world_with(adjust: impl FnOnce(&mut Settings)) -> World {
    // A paused clock jumps to the next timer whenever all tasks wait, also when they wait for the database.
    // It does not while a blocking task runs (tokio::time::advance, "Auto-advance").
    let (hold, held) = mpsc::channel::<()>();
    drop(tokio::task::spawn_blocking(move || held.recv()));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("soulbox.db")).await.unwrap();
    let clock = Arc::new(TestClock::new());
    let mut settings = Settings {
        clock: clock.clone(),
        ..Settings::new([7; 32])
    };
    adjust(&mut settings);
    let driver = FakeDriver::new();
    let sandboxes = Sandboxes::start(store.clone(), Arc::new(driver.clone()), settings.clone())
        .await
        .unwrap();
    let team = store.default_team().await.unwrap();
    World {
        sandboxes,
        store,
        driver,
        clock,
        team,
        settings,
        _dir: dir,
        _hold: hold,
    }
}

impl World {
    /// Stops the server and starts the next one on what is left: guests and records.
    pub(crate) async fn restart(&mut self) {
        self.sandboxes.shutdown().await;
        self.sandboxes = Sandboxes::start(
            self.store.clone(),
            Arc::new(self.driver.clone()),
            self.settings.clone(),
        )
        .await
        .unwrap();
    }

    pub(crate) fn new_sandbox(&self, timeout_seconds: u64) -> NewSandbox {
        new_sandbox(&self.team.id, timeout_seconds)
    }

    /// Creates a sandbox and returns its id.
    pub(crate) async fn create(&self, timeout_seconds: u64) -> SandboxId {
        self.sandboxes
            .create(self.new_sandbox(timeout_seconds))
            .await
            .unwrap()
            .record
            .id
    }

    pub(crate) async fn kill(&self, id: &SandboxId) -> bool {
        self.sandboxes.kill(&self.team.id, id).await.unwrap()
    }

    pub(crate) async fn end_at(&self, id: &SandboxId) -> Timestamp {
        let shown = self
            .sandboxes
            .get(&self.team.id, id)
            .await
            .unwrap()
            .record
            .end_at;
        let written = self
            .store
            .get_sandbox(&self.team.id, id)
            .await
            .unwrap()
            .unwrap()
            .end_at;
        assert_eq!(shown, written, "what is shown is what is recorded");
        shown
    }

    pub(crate) async fn listed(&self) -> Vec<SandboxId> {
        let page = self
            .sandboxes
            .list(&ListQuery::all(self.team.id.clone()))
            .await
            .unwrap();
        page.items.into_iter().map(|view| view.record.id).collect()
    }

    /// Messages of the sandbox's log, oldest first.
    pub(crate) async fn log(&self, id: &SandboxId) -> Vec<String> {
        let query = LogQuery {
            team: self.team.id.clone(),
            sandbox: id.clone(),
            start: Timestamp(0),
            end: Timestamp(i64::MAX),
            limit: 1000,
            direction: Direction::Forward,
            min_level: LogLevel::Debug,
            search: None,
        };
        self.sandboxes
            .logs(&query)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.message)
            .collect()
    }

    /// Waits until nothing is left of a sandbox.
    pub(crate) async fn wait_gone(&self, id: &SandboxId) {
        wait_for("the sandbox to be gone", async || {
            self.driver.guest(id).is_none()
                && self.sandboxes.route(id).is_none()
                && self.sandboxes.get(&self.team.id, id).await.is_err()
                && self
                    .store
                    .get_sandbox(&self.team.id, id)
                    .await
                    .unwrap()
                    .is_none()
        })
        .await;
    }
}

pub(crate) fn new_sandbox(team: &TeamId, timeout_seconds: u64) -> NewSandbox {
    NewSandbox {
        team: team.clone(),
        image: TemplateImage {
            template_id: TemplateId::random(),
            layers: vec![LayerDigest::from_bytes([0xa1; 32])],
            default_user: "user".into(),
            default_workdir: None,
        },
        build_id: BuildId::random(),
        alias: Some("base".into()),
        limits: Limits::STANDARD,
        envd_version: "0.6.0".into(),
        start: None,
        timeout: Duration::from_secs(timeout_seconds),
        on_timeout: OnTimeout::Kill,
        auto_pause_memory: true,
        auto_resume: false,
        auto_resume_timeout_seconds: 300,
        metadata: Some(BTreeMap::from([("k".into(), "v".into())])),
        env_vars: BTreeMap::from([("A".into(), "1".into())]),
        network: NetworkMode::Internet,
        allow_internet_access: None,
        network_json: None,
        allow_public_traffic: true,
        mask_request_host: None,
        https_ports: vec![],
        volumes: Vec::new(),
        volume_mounts: serde_json::json!([]),
        memory: None,
        forked_from: None,
    }
}

/// Waits in real time until `condition` holds; the paused clock stands still.
pub(crate) async fn wait_for(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition().await {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_micros(200));
        tokio::task::yield_now().await;
    }
}

/// Turns the clock in small steps, so that everything due on the way happens at its time.
pub(crate) async fn pass(seconds: u64) {
    for _ in 0..seconds * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        settle().await;
    }
}

/// Lets time pass until `condition` holds.
pub(crate) async fn pass_until(what: &str, condition: impl AsyncFn() -> bool) {
    for _ in 0..60 {
        if condition().await {
            return;
        }
        pass(1).await;
    }
    panic!("a minute has passed without {what}");
}

/// Gives the tasks, and the database behind them, a moment to do what they can.
pub(crate) async fn settle() {
    for _ in 0..3 {
        std::thread::sleep(Duration::from_micros(300));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

//! Pause and resume as callers see them, over a fake driver.

use std::time::Duration;

use crate::common::{World, pass, settle, wait_for, world, world_with};
use soulbox_driver::route::Woken;
use soulbox_driver::{DriverError, Guest as _};
use soulbox_orchestrator::SandboxError;
use soulbox_store::{PauseMode, RecordState};
use soulbox_types::{ErrorKind, OnTimeout, SandboxId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HOUR: Duration = Duration::from_hours(1);

/// An envd in the sandbox that answers.
pub(crate) fn envd(world: &World, id: &SandboxId) {
    let Some(guest) = world.driver.guest(id) else {
        return;
    };
    tokio::spawn(async move {
        loop {
            let mut stream = guest.accept().await.unwrap();
            let mut request = [0; 1024];
            let _asked = stream.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
}

pub(crate) async fn pause(
    world: &World,
    id: &SandboxId,
    mode: PauseMode,
) -> Result<(), SandboxError> {
    envd(world, id);
    world.sandboxes.pause(&world.team.id, id, mode, false).await
}

async fn state(world: &World, id: &SandboxId) -> RecordState {
    let view = world.sandboxes.get(&world.team.id, id).await.unwrap();
    view.record.state
}

#[tokio::test(start_paused = true)]
async fn with_memory_the_guest_stays_and_stands_still() {
    let world = world().await;
    let id = world.create(300).await;
    let before = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    pass(10).await;
    pause(&world, &id, PauseMode::Full).await.unwrap();
    let guest = world.driver.guest(&id).unwrap();
    assert!(guest.is_frozen() && world.sandboxes.route(&id).is_none());
    assert_eq!(world.sandboxes.running_count(), 0);
    let view = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    assert_eq!(view.record.state, RecordState::Paused);
    assert_eq!(view.record.started_at, before.record.started_at);
    assert!(view.record.end_at < before.record.end_at);
    assert_eq!(view.envd_access_token, before.envd_access_token);
    let error = pause(&world, &id, PauseMode::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    let started = world
        .sandboxes
        .connect(&world.team.id, &id, HOUR, true)
        .await
        .unwrap();
    assert!(started.resumed && !guest.is_frozen());
    assert_eq!(started.view.envd_access_token, before.envd_access_token);
    assert_eq!(
        started.view.record.end_at,
        started.view.record.started_at.plus(HOUR)
    );
    assert_ne!(started.view.record.execution_id, before.record.execution_id);
    assert!(world.sandboxes.route(&id).is_some());
    let again = world
        .sandboxes
        .connect(&world.team.id, &id, Duration::from_secs(1), true)
        .await
        .unwrap();
    assert!(!again.resumed);
    assert_eq!(again.view.record.end_at, started.view.record.end_at);
}

#[tokio::test(start_paused = true)]
async fn without_memory_only_a_layer_is_left() {
    let world = world().await;
    let id = world.create(300).await;
    pause(&world, &id, PauseMode::Filesystem).await.unwrap();
    assert!(world.driver.guests().is_empty());
    let [layer] = world.driver.layers()[..] else {
        panic!("one layer")
    };
    assert_eq!(state(&world, &id).await, RecordState::Paused);
    let error = pause(&world, &id, PauseMode::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let resumed = world
        .sandboxes
        .resume(&world.team.id, &id, HOUR, Some(OnTimeout::Pause), true)
        .await
        .unwrap();
    assert_eq!(resumed.record.on_timeout, OnTimeout::Pause);
    let guest = world.driver.guest(&id).unwrap();
    assert_eq!(guest.spec().image.layers[0], layer);
    assert_eq!(guest.spec().env_vars["A"], "1");
    assert_eq!(guest.spec().envd_access_token, resumed.envd_access_token);
    let error = world
        .sandboxes
        .resume(&world.team.id, &id, HOUR, None, true)
        .await
        .unwrap_err();
    assert_eq!(
        error.user_message(),
        format!("Sandbox {id} is already running")
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_runs_on() {
    let world = world().await;
    let id = world.create(300).await;
    world.driver.next_save(Err(DriverError::StorageFull));
    let error = pause(&world, &id, PauseMode::Filesystem).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(error.user_message().contains("FIX: "), "{error}");
    assert_eq!(state(&world, &id).await, RecordState::Running);
    assert!(!world.driver.guest(&id).unwrap().is_frozen());
    assert!(world.sandboxes.route(&id).is_some());
    let said = world.log(&id).await;
    assert!(
        said.last().unwrap().contains("runs on: no space left"),
        "{said:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn many_callers_are_one_pause_and_one_resume() {
    let world = world().await;
    let id = world.create(300).await;
    envd(&world, &id);
    let pauses = (0..5).map(|_| {
        let pausing = &world.sandboxes;
        pausing.pause(&world.team.id, &id, PauseMode::Full, false)
    });
    let outcomes = futures_util::future::join_all(pauses).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let connects = (0..5).map(|_| world.sandboxes.connect(&world.team.id, &id, HOUR, true));
    let outcomes = futures_util::future::join_all(connects).await;
    let resumed = outcomes
        .iter()
        .filter(|started| started.as_ref().unwrap().resumed);
    assert_eq!(resumed.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_one_takes_no_place_and_needs_one_to_come_back() {
    let world = world_with(|settings| settings.max_concurrent_per_team = 1).await;
    let id = world.create(300).await;
    pause(&world, &id, PauseMode::Filesystem).await.unwrap();
    let other = world.create(300).await;
    let error = world
        .sandboxes
        .connect(&world.team.id, &id, HOUR, true)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(world.kill(&other).await);
    let started = world.sandboxes.connect(&world.team.id, &id, HOUR, true);
    assert!(started.await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn the_next_server_finds_it_as_it_was() {
    let mut world = world().await;
    let (full, files) = (world.create(300).await, world.create(300).await);
    pause(&world, &full, PauseMode::Full).await.unwrap();
    pause(&world, &files, PauseMode::Filesystem).await.unwrap();
    // The last one died between the two halves of a resume.
    let guest = world.driver.guest(&full).unwrap();
    guest.thaw().await.unwrap();
    world.restart().await;
    assert!(guest.is_frozen() && !guest.has_ended());
    for id in [&full, &files] {
        assert_eq!(state(&world, id).await, RecordState::Paused);
        let started = world.sandboxes.connect(&world.team.id, id, HOUR, true);
        assert!(started.await.unwrap().resumed);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_memory_costs_only_the_memory_once_the_files_are_saved() {
    let mut world = world().await;
    let (early, late) = (world.create(300).await, world.create(300).await);
    pause(&world, &late, PauseMode::Full).await.unwrap();
    pass(31).await;
    wait_for("the files to be saved", async || {
        !world.driver.layers().is_empty()
    })
    .await;
    settle().await;
    pause(&world, &early, PauseMode::Full).await.unwrap();
    world.sandboxes.shutdown().await;
    for guest in world.driver.guests() {
        guest.exit();
    }
    world.restart().await;
    let gone = world
        .sandboxes
        .get(&world.team.id, &early)
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let view = world.sandboxes.get(&world.team.id, &late).await.unwrap();
    assert_eq!(view.record.pause.unwrap().mode, PauseMode::Filesystem);
    let started = world.sandboxes.connect(&world.team.id, &late, HOUR, true);
    assert!(started.await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn its_time_may_end_in_a_pause_and_traffic_brings_it_back() {
    let world = world().await;
    let mut new = world.new_sandbox(10);
    new.on_timeout = OnTimeout::Pause;
    new.auto_resume = true;
    new.auto_resume_timeout_seconds = 420;
    let id = world.sandboxes.create(new).await.unwrap().record.id;
    envd(&world, &id);
    pass(11).await;
    settle().await;
    assert_eq!(state(&world, &id).await, RecordState::Paused);
    let denied = world.sandboxes.wake(&id, |_| false).await.unwrap();
    assert!(matches!(denied, Woken::Denied));
    let woken = world.sandboxes.wake(&id, |_| true).await.unwrap();
    assert!(matches!(woken, Woken::Open(_)));
    let record = world
        .sandboxes
        .get(&world.team.id, &id)
        .await
        .unwrap()
        .record;
    assert_eq!(
        record.end_at,
        record.started_at.plus(Duration::from_secs(420))
    );
    let nobody = world.sandboxes.wake(&SandboxId::random(), |_| true).await;
    assert!(matches!(nobody.unwrap(), Woken::Nobody));
}

#[tokio::test(start_paused = true)]
async fn a_kill_ends_what_is_paused() {
    let world = world().await;
    for mode in [PauseMode::Full, PauseMode::Filesystem] {
        let id = world.create(300).await;
        pause(&world, &id, mode).await.unwrap();
        assert!(world.kill(&id).await);
        assert!(!world.kill(&id).await);
        assert!(world.driver.guests().is_empty());
        let error = pause(&world, &id, mode).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_team_keeps_no_longer_goes() {
    let world = world().await;
    let (old, back) = (world.create(300).await, world.create(300).await);
    for id in [&old, &back] {
        pause(&world, id, PauseMode::Filesystem).await.unwrap();
    }
    let two_days = soulbox_store::Keeping {
        paused_days: Some(2),
        snapshot_days: None,
    };
    let set = world.store.set_keeping(&world.team.id, two_days).await;
    assert!(set.unwrap());
    pass(700).await;
    assert_eq!(state(&world, &old).await, RecordState::Paused);
    world.clock.jump(3 * 24 * 3600);
    let resumed = world
        .sandboxes
        .resume(&world.team.id, &back, HOUR, None, true)
        .await;
    resumed.unwrap();
    pass(700).await;
    wait_for("the old one is gone", async || {
        world.sandboxes.get(&world.team.id, &old).await.is_err()
    })
    .await;
    assert_eq!(state(&world, &back).await, RecordState::Running);
    let said = world.log(&old).await;
    assert!(
        said.last().unwrap().contains("keeps them no longer"),
        "{said:?}"
    );
}

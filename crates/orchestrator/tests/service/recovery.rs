//! What the next server makes of what the last one left, and how records and guests come to agree again.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{pass, settle, wait_for, world};
use soulbox_driver::{DriverError, Guest as _};
use soulbox_orchestrator::{SandboxError, Sandboxes};
use soulbox_store::{Pause, PauseMode, RecordState, SandboxRecord};
use soulbox_types::{
    EndReason, ErrorKind, Limits, NetworkMode, SandboxId, SandboxSpec, TemplateId, TemplateImage,
    Timestamp,
};

fn stray_spec() -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::random(),
        image: TemplateImage {
            template_id: TemplateId::random(),
            layers: vec![],
            default_user: "user".into(),
            default_workdir: None,
        },
        limits: Limits::STANDARD,
        network: NetworkMode::Offline,
        env_vars: [].into(),
        envd_access_token: "secret".into(),
        volumes: Vec::new(),
        team: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_server_adopts() {
    let mut world = world().await;
    let (keep, expire) = (world.create(300).await, world.create(20).await);
    let before = world.sandboxes.get(&world.team.id, &keep).await.unwrap();
    let old_route = world.sandboxes.route(&keep).unwrap();
    let guest = world.driver.guest(&keep).unwrap();
    world.settings.token_seed = [9; 32];
    world.restart().await;
    assert!(!guest.has_ended() && guest.kills() == 0);
    assert!(!old_route.closed.is_cancelled());

    let after = world.sandboxes.get(&world.team.id, &keep).await.unwrap();
    assert_eq!(after.record, before.record);
    // The token is the one that its envd knows, whatever the seed is now.
    assert_eq!(after.envd_access_token, before.envd_access_token);
    assert!(world.sandboxes.route(&keep).is_some());
    assert_eq!(world.sandboxes.running_count(), 2);
    // Its time goes on.
    pass(21).await;
    world.wait_gone(&expire).await;
    assert_eq!(world.listed().await, std::slice::from_ref(&keep));
    assert!(world.kill(&keep).await);
    assert!(guest.has_ended());
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_no_server_ran_ends_now() {
    let mut world = world().await;
    let (expired, dead) = (world.create(10).await, world.create(300).await);
    world.sandboxes.shutdown().await;
    tokio::time::advance(Duration::from_secs(60)).await;
    world.driver.guest(&dead).unwrap().exit();
    world.restart().await;
    assert_eq!(
        world.log(&dead).await.last().unwrap(),
        "Sandbox was lost and is removed: nothing of it is running"
    );
    assert!(!world.listed().await.contains(&dead));
    world.wait_gone(&expired).await;
}

#[tokio::test(start_paused = true)]
async fn guests_that_nobody_knows_are_killed() {
    let mut world = world().await;
    let known = world.create(300).await;
    let stray = world.driver.add_guest(stray_spec());
    let stubborn = world.driver.add_guest(stray_spec());
    stubborn.set_kill_fails(true);
    world.restart().await;
    wait_for("the stray to end", async || stray.has_ended()).await;
    wait_for("the first try", async || stubborn.kills() == 1).await;
    stubborn.set_kill_fails(false);
    pass(2).await;
    wait_for("the second try", async || stubborn.has_ended()).await;
    assert_eq!(world.listed().await, [known]);
}

#[tokio::test(start_paused = true)]
async fn end_times_come_after_a_panic_of_the_timer() {
    let world = world().await;
    let id = world.create(30).await;
    world.clock.break_down(true);
    pass(5).await;
    world.clock.break_down(false);
    assert!(world.driver.guest(&id).is_some());
    pass(30).await;
    world.wait_gone(&id).await;
}

/// A guest that runs and is in no table would be seen by the next server only: it cannot come to that.
#[tokio::test(start_paused = true)]
async fn a_guest_has_an_owner_whatever_breaks() {
    let world = world().await;
    // The create breaks after the guest is made.
    world.driver.hold_creates();
    let create = tokio::spawn({
        let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
        async move { sandboxes.create(new).await }
    });
    wait_for("the create to begin", async || {
        !world.driver.begun().is_empty()
    })
    .await;
    world.clock.break_down(true);
    world.driver.release_creates();
    assert!(create.await.unwrap().is_err());
    world.clock.break_down(false);
    wait_for("the guest to end", async || {
        world.driver.guests().is_empty()
    })
    .await;

    // The actor breaks while it has a guest.
    let id = world.create(300).await;
    let guest = world.driver.guest(&id).unwrap();
    guest.set_kill_fails(true);
    world.clock.break_down(true);
    let minute = Duration::from_secs(60);
    assert!(
        world
            .sandboxes
            .set_timeout(&world.team.id, &id, minute)
            .await
            .is_err()
    );
    world.clock.break_down(false);
    wait_for("the first try", async || guest.kills() > 0).await;
    // For as long as it takes.
    pass(600).await;
    assert!(guest.kills() > 8 && !guest.has_ended());
    guest.set_kill_fails(false);
    pass(61).await;
    world.wait_gone(&id).await;
    assert_eq!(world.sandboxes.running_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_paused_record_needs_no_guest() {
    let mut world = world().await;
    let view = world
        .sandboxes
        .create(world.new_sandbox(300))
        .await
        .unwrap();
    let paused = SandboxRecord {
        id: SandboxId::random(),
        state: RecordState::Paused,
        pause: Some(Pause {
            memory: None,
            mode: PauseMode::Filesystem,
            guest_unresponsive: false,
            files_saved: true,
            spec: world.driver.guests()[0].spec().clone(),
        }),
        ..view.record
    };
    world.store.insert_sandbox(&paused).await.unwrap();
    world.restart().await;
    pass(31).await;
    let (team, id) = (&world.team.id, &paused.id);
    assert_eq!(world.sandboxes.get(team, id).await.unwrap().record, paused);
    assert!(world.sandboxes.route(id).is_none());
    let error = world
        .sandboxes
        .set_timeout(team, id, Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(world.kill(id).await);
    assert!(!world.kill(id).await);
}

#[tokio::test(start_paused = true)]
async fn records_and_guests_come_to_agree() {
    let world = world().await;
    let view = world
        .sandboxes
        .create(world.new_sandbox(300))
        .await
        .unwrap();
    let (healthy, unrecorded) = (view.record.id.clone(), world.create(300).await);
    let phantom = SandboxRecord {
        id: SandboxId::random(),
        ..view.record
    };
    world.store.insert_sandbox(&phantom).await.unwrap();
    world
        .store
        .end_sandbox(&unrecorded, EndReason::Request, Timestamp(1))
        .await
        .unwrap();
    world.sandboxes.reconcile_soon();
    world.wait_gone(&unrecorded).await;
    world.wait_gone(&phantom.id).await;
    assert_eq!(
        world.log(&unrecorded).await.last().unwrap(),
        "Sandbox had no record and was killed"
    );
    for _ in 0..3 {
        world.sandboxes.reconcile_soon();
        settle().await;
    }
    assert_eq!(world.listed().await, [healthy]);
}

#[tokio::test(start_paused = true)]
async fn nobody_needs_to_ask_for_a_comparison() {
    let world = world().await;
    let id = world.create(300).await;
    world
        .store
        .end_sandbox(&id, EndReason::Request, Timestamp(1))
        .await
        .unwrap();
    pass(31).await;
    world.wait_gone(&id).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_that_finds_no_record_brings_the_end() {
    let world = world().await;
    let id = world.create(300).await;
    world
        .store
        .end_sandbox(&id, EndReason::Request, Timestamp(1))
        .await
        .unwrap();
    let error = world
        .sandboxes
        .set_timeout(&world.team.id, &id, Duration::from_secs(9))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world.wait_gone(&id).await;
}

#[tokio::test(start_paused = true)]
async fn comparing_during_creates_and_kills_does_no_harm() {
    let world = world().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (sandboxes, team, new) = (
            world.sandboxes.clone(),
            world.team.id.clone(),
            world.new_sandbox(300),
        );
        tasks.spawn(async move {
            sandboxes.reconcile_soon();
            let id = sandboxes.create(new).await.unwrap().record.id;
            sandboxes.reconcile_soon();
            if n % 2 == 0 {
                assert!(sandboxes.kill(&team, &id).await.unwrap());
            }
        });
    }
    tasks.join_all().await;
    world.sandboxes.reconcile_soon();
    settle().await;
    assert_eq!(world.sandboxes.running_count(), 100);
    assert_eq!(world.driver.guests().len(), 100);
    assert_eq!(world.listed().await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_creates_finish() {
    let world = world().await;
    let idle = world.create(300).await;
    world.driver.hold_creates();
    let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
    let create = tokio::spawn(async move { sandboxes.create(new).await });
    wait_for("the create to begin", async || {
        world.driver.begun().len() == 2
    })
    .await;
    let sandboxes = world.sandboxes.clone();
    let stop = tokio::spawn(async move { sandboxes.shutdown().await });
    settle().await;
    assert!(!stop.is_finished());
    let refused = world.sandboxes.create(world.new_sandbox(300)).await;
    assert!(matches!(refused, Err(SandboxError::ShuttingDown)));
    world.driver.release_creates();
    assert!(create.await.unwrap().is_ok());
    stop.await.unwrap();
    let error = world
        .sandboxes
        .kill(&world.team.id, &idle)
        .await
        .unwrap_err();
    assert!(matches!(error, SandboxError::ShuttingDown));
    assert_eq!(world.driver.guests().len(), 2);
    // Nothing that was noted is lost.
    assert_eq!(world.log(&idle).await, ["Sandbox created"]);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_cannot_adopt_stops_the_start() {
    let world = world().await;
    world.sandboxes.shutdown().await;
    world.driver.fail_next_create(DriverError::StorageFull);
    let driver = Arc::new(world.driver.clone());
    let started = Sandboxes::start(world.store.clone(), driver, world.settings.clone()).await;
    assert!(matches!(started, Err(SandboxError::Adopt(_))));
}

//! Memory on disk as callers see it, over a fake driver.

use std::time::Duration;

use crate::common::{World, pass, pass_until, settle, wait_for, world, world_with};
use crate::pause::{envd, pause};
use soulbox_driver::{DriverError, Guest as _};
use soulbox_orchestrator::Started;
use soulbox_store::{PauseMode, RecordState};
use soulbox_types::{ErrorKind, SandboxId};

const HOUR: Duration = Duration::from_hours(1);

/// Pausing saves after ten seconds and goes to disk after a minute more.
async fn quick_world() -> World {
    world_with(|settings| {
        settings.save_paused_after = Duration::from_secs(10);
        settings.hibernate_after = Duration::from_mins(1);
    })
    .await
}

async fn paused(world: &World) -> SandboxId {
    let id = world.create(300).await;
    pause(world, &id, PauseMode::Full).await.unwrap();
    id
}

async fn on_disk(world: &World, id: &SandboxId) -> bool {
    let record = world.store.find_sandbox(id).await.unwrap().unwrap();
    record.pause.is_some_and(|pause| pause.memory.is_some())
}

/// Its guest has ended, and its memory is there.
async fn put_away(world: &World, id: &SandboxId) {
    pass_until("its memory on disk", async || {
        on_disk(world, id).await && world.driver.guest(id).is_none()
    })
    .await;
    pass(1).await;
    assert_eq!(world.driver.memories_there(), 1);
}

async fn connect(world: &World, id: &SandboxId, memory: bool) -> Started {
    let started = world
        .sandboxes
        .connect(&world.team.id, id, HOUR, memory)
        .await;
    started.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_long_enough_goes_to_disk_and_comes_back() {
    let world = quick_world().await;
    let id = paused(&world).await;
    pass(60).await;
    assert!(
        world.driver.guest(&id).unwrap().is_frozen(),
        "not before its time"
    );
    put_away(&world, &id).await;
    let view = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    assert_eq!(view.record.state, RecordState::Paused);

    let started = connect(&world, &id, true).await;
    assert!(started.resumed);
    let guest = world.driver.guest(&id).unwrap();
    assert!(
        world
            .driver
            .layers()
            .contains(&guest.spec().image.layers[0])
    );
    assert_eq!(guest.spec().envd_access_token, view.envd_access_token);
    assert_eq!(world.driver.memories_there(), 0);
    assert!(!on_disk(&world, &id).await);
}

#[tokio::test(start_paused = true)]
async fn it_survives_the_server() {
    let mut world = quick_world().await;
    let id = paused(&world).await;
    pass(15).await;
    put_away(&world, &id).await;
    world.restart().await;
    assert_eq!(world.driver.memories_there(), 1);
    assert!(connect(&world, &id, true).await.resumed);
    assert_eq!(world.driver.memories_there(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_resumes_before_that_finds_it_in_memory() {
    let world = quick_world().await;
    let id = paused(&world).await;
    pass(30).await;
    assert!(connect(&world, &id, true).await.resumed);
    pass(120).await;
    assert!(!world.driver.guest(&id).unwrap().is_frozen());
    assert_eq!(world.driver.memories_there(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_go_stays_and_says_why() {
    let world = quick_world().await;
    let id = paused(&world).await;
    // The rehearsal goes first; it is another one's.
    world.driver.refuse_capture_of(
        &id,
        DriverError::Checkpoint {
            reason: "there are files in its /dev/shm".into(),
        },
    );
    pass(75).await;
    assert!(world.driver.guest(&id).unwrap().is_frozen());
    assert!(!on_disk(&world, &id).await);
    assert_eq!(world.driver.memories_there(), 0);
    let said = world.log(&id).await;
    let said = said.last().unwrap();
    assert!(
        said.contains("stays in memory") && said.contains("/dev/shm"),
        "{said}"
    );
    assert!(connect(&world, &id, true).await.resumed);
}

#[tokio::test(start_paused = true)]
async fn short_memory_sends_what_is_paused_to_disk_at_once() {
    let world = world().await;
    let id = paused(&world).await;
    pass(20).await;
    assert!(!on_disk(&world, &id).await);
    world.driver.set_memory_is_short(true);
    put_away(&world, &id).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_may_wait_until_everything_is_on_disk() {
    let mut world = world_with(|settings| {
        settings.hibernate_on_stop = Duration::from_mins(2);
    })
    .await;
    let goes = paused(&world).await;
    let stays = paused(&world).await;
    world.driver.refuse_capture_of(
        &stays,
        DriverError::Checkpoint {
            reason: "it has made /dev/x".into(),
        },
    );
    let runs = world.create(300).await;
    let begun = tokio::time::Instant::now();
    tokio::join!(world.sandboxes.shutdown(), async {
        while !on_disk(&world, &goes).await {
            pass(1).await;
        }
        pass(5).await;
    });
    assert!(
        begun.elapsed() < Duration::from_mins(1),
        "who stays is not waited for"
    );
    assert!(world.driver.guest(&stays).unwrap().is_frozen());
    assert!(!world.driver.guest(&runs).unwrap().is_frozen());
    assert!(world.driver.guest(&goes).is_none());
    world.restart().await;
    assert!(connect(&world, &goes, true).await.resumed);
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_not_wanted_is_removed() {
    let world = quick_world().await;
    let id = paused(&world).await;
    pass(15).await;
    put_away(&world, &id).await;
    assert!(connect(&world, &id, false).await.resumed);
    assert_eq!(world.driver.memories_there(), 0);
    pause(&world, &id, PauseMode::Full).await.unwrap();
    pass(15).await;
    put_away(&world, &id).await;
    assert!(world.kill(&id).await);
    assert_eq!(world.driver.memories_there(), 0);
    assert!(!world.kill(&id).await);
}

/// Answers for every guest there is and will be, as long as it is polled.
async fn answer_for_all(world: &World) {
    let mut known = Vec::new();
    loop {
        for guest in world.driver.guests() {
            let id = guest.spec().id.clone();
            if !known.contains(&id) {
                envd(world, &id);
                known.push(id);
            }
        }
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn forks_and_snapshots_with_memory_go_on_from_it() {
    let world = world().await;
    let id = world.create(300).await;
    let forks = tokio::select! {
        forks = world.sandboxes.fork(&world.team, &id, 3, HOUR, true) => forks.unwrap(),
        () = answer_for_all(&world) => unreachable!("it goes on for ever"),
    };
    assert_eq!(
        forks.iter().filter(|fork| fork.is_ok()).count(),
        3,
        "{forks:?}"
    );
    assert_eq!(world.driver.memories_there(), 0, "forks have it now");
    assert!(!world.driver.guest(&id).unwrap().is_frozen());

    let name = Some("with-memory".parse().unwrap());
    let snapshot = world
        .sandboxes
        .snapshot(&world.team, &id, name, true)
        .await
        .unwrap();
    assert_eq!(world.driver.memories_there(), 1);
    let build = world
        .store
        .find_build(&snapshot.template, &snapshot.build)
        .await;
    let memory = build.unwrap().unwrap().memory.unwrap();
    assert_eq!(memory.of, id);
    let needed = world.store.memory_in_use().await.unwrap();
    assert!(needed.contains(&memory.id));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_captured_runs_on_and_is_told_why() {
    let world = world().await;
    let id = world.create(300).await;
    world.driver.refuse_capture_of(
        &id,
        DriverError::Checkpoint {
            reason: "it has made /dev/x".into(),
        },
    );
    let refused = world
        .sandboxes
        .fork(&world.team, &id, 1, HOUR, true)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let told = refused.user_message();
    assert!(told.contains("/dev/x") && told.contains("FIX: "), "{told}");
    wait_for("the thaw", async || {
        !world.driver.guest(&id).unwrap().is_frozen()
    })
    .await;
}

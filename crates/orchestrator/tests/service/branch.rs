//! Snapshots and forks as callers see them, over a fake driver.

use std::time::Duration;

use crate::common::{World, settle, world, world_with};
use soulbox_driver::{DriverError, Guest as _};
use soulbox_orchestrator::{SandboxError, SandboxView};
use soulbox_store::{PageRequest, RecordState, Snapshot, SnapshotFilter, Team};
use soulbox_types::{ErrorKind, SandboxId};

const HOUR: Duration = Duration::from_hours(1);

async fn snapshot(
    world: &World,
    id: &SandboxId,
    name: Option<&str>,
) -> Result<Snapshot, SandboxError> {
    let name = name.map(|name| name.parse().unwrap());
    world.sandboxes.snapshot(&world.team, id, name, false).await
}

async fn fork(
    world: &World,
    id: &SandboxId,
    count: usize,
) -> Vec<Result<SandboxView, SandboxError>> {
    let forks = world
        .sandboxes
        .fork(&world.team, id, count, HOUR, false)
        .await;
    forks.unwrap()
}

async fn snapshots(world: &World, team: &Team) -> Vec<Snapshot> {
    let page = world
        .store
        .list_snapshots(team, &SnapshotFilter::default(), &PageRequest::first(100))
        .await;
    page.unwrap().items
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_a_build_and_its_sandbox_goes_on() {
    let world = world().await;
    let id = world.create(300).await;
    let before = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    let taken = snapshot(&world, &id, Some("work:v1")).await.unwrap();
    assert_eq!(
        snapshots(&world, &world.team).await,
        std::slice::from_ref(&taken)
    );
    let guest = world.driver.guest(&id).unwrap();
    assert!(!guest.is_frozen() && world.sandboxes.route(&id).is_some());
    let after = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    assert_eq!(after.record, before.record);
    let reference = "work:v1".parse().unwrap();
    let resolved = world.store.resolve_template(&world.team, &reference).await;
    let build = resolved.unwrap().build;
    assert_eq!(build.layers[0], world.driver.layers()[0].to_string());
    assert_eq!(build.id, taken.build);
    let said = world.log(&id).await;
    assert_eq!(said.last().unwrap(), "Snapshot taken");
}

#[tokio::test(start_paused = true)]
async fn forks_have_all_but_the_id() {
    let world = world().await;
    let id = world.create(300).await;
    let source = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    let forks = fork(&world, &id, 3).await;
    assert_eq!(world.sandboxes.running_count(), 4);
    let layer = world.driver.layers()[0];
    for fork in forks {
        let view = fork.unwrap();
        assert_eq!(view.record.forked_from.as_ref(), Some(&id));
        assert_eq!(view.record.metadata, source.record.metadata);
        assert_eq!(view.record.template_id, source.record.template_id);
        assert_eq!(view.record.end_at, view.record.started_at.plus(HOUR));
        assert_ne!(view.envd_access_token, source.envd_access_token);
        let guest = world.driver.guest(&view.record.id).unwrap();
        assert_eq!(guest.spec().image.layers[0], layer);
        assert_eq!(guest.spec().env_vars["A"], "1");
    }
}

#[tokio::test(start_paused = true)]
async fn each_fork_needs_a_place() {
    let world = world_with(|settings| settings.max_concurrent_per_team = 3).await;
    let id = world.create(300).await;
    let forks = fork(&world, &id, 4).await;
    let kinds: Vec<_> = forks
        .iter()
        .map(|fork| fork.as_ref().err().map(SandboxError::kind))
        .collect();
    let full = Some(ErrorKind::LimitExceeded);
    assert_eq!(kinds.iter().filter(|kind| kind.is_none()).count(), 2);
    assert_eq!(kinds.iter().filter(|kind| **kind == full).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_saved_runs_on() {
    let world = world().await;
    let id = world.create(300).await;
    world.driver.next_save(Err(DriverError::StorageFull));
    let error = snapshot(&world, &id, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(error.user_message().contains("FIX: "), "{error}");
    assert!(!world.driver.guest(&id).unwrap().is_frozen());
    let view = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    assert_eq!(view.record.state, RecordState::Running);
    assert!(snapshots(&world, &world.team).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_what_runs_is_branched() {
    let world = world().await;
    let nothing = SandboxId::random();
    let error = snapshot(&world, &nothing, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let id = world.create(300).await;
    crate::pause::pause(&world, &id, soulbox_store::PauseMode::Full)
        .await
        .unwrap();
    let error = snapshot(&world, &id, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = world.sandboxes.fork(&world.team, &id, 1, HOUR, false).await;
    assert_eq!(
        error.unwrap_err().user_message(),
        format!("Sandbox '{id}' is paused and cannot be forked; resume it first")
    );
}

#[tokio::test(start_paused = true)]
async fn a_kill_waits_for_the_snapshot() {
    let world = world().await;
    let id = world.create(300).await;
    world.driver.hold_saves();
    let taking = snapshot(&world, &id, None);
    let killing = async {
        settle().await;
        let seen = world.sandboxes.get(&world.team.id, &id).await.unwrap();
        assert_eq!(seen.record.state, RecordState::Running);
        let again = snapshot(&world, &id, None).await.unwrap_err();
        assert_eq!(
            again.user_message(),
            format!("Sandbox '{id}' cannot be snapshotted while in 'snapshotting' state")
        );
        let killed = async { world.sandboxes.kill(&world.team.id, &id).await };
        let release = async {
            settle().await;
            world.driver.release_saves();
        };
        tokio::join!(killed, release).0
    };
    let (taken, killed) = tokio::join!(taking, killing);
    assert!(taken.is_ok() && killed.unwrap());
    assert!(world.driver.guest(&id).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_whose_time_comes_meanwhile_ends_afterwards() {
    let world = world().await;
    let id = world.create(60).await;
    world.driver.hold_saves();
    let taking = snapshot(&world, &id, None);
    let meanwhile = async {
        settle().await;
        crate::common::pass(61).await;
        settle().await;
        assert!(world.driver.guest(&id).is_some());
        world.driver.release_saves();
    };
    let (taken, ()) = tokio::join!(taking, meanwhile);
    taken.unwrap();
    crate::common::wait_for("its end", async || world.driver.guest(&id).is_none()).await;
}

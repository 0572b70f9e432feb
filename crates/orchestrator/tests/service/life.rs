//! The life of sandboxes as callers see it, over a fake driver.

use std::time::Duration;

use crate::common::{new_sandbox, pass, pass_until, settle, wait_for, world, world_with};
use soulbox_driver::{DriverError, GuestStats, OomKill};
use soulbox_orchestrator::SandboxError;
use soulbox_store::{ListQuery, RecordState};
use soulbox_types::{ErrorKind, SandboxId, TeamId};

#[tokio::test(start_paused = true)]
async fn a_created_sandbox_is_there_for_its_team() {
    let world = world().await;
    let mut new = world.new_sandbox(300);
    new.allow_public_traffic = false;
    new.https_ports = vec![8443];
    let view = world.sandboxes.create(new).await.unwrap();
    let id = view.record.id.clone();
    assert_eq!(view.record.state, RecordState::Running);
    assert_eq!(
        view.record.end_at,
        view.record.started_at.plus(Duration::from_secs(300))
    );
    assert_eq!(
        view.traffic_access_token.as_ref().map(String::len),
        Some(64)
    );

    let got = world.sandboxes.get(&world.team.id, &id).await.unwrap();
    assert_eq!(got.record, view.record);
    assert_eq!(got.envd_access_token, view.envd_access_token);
    assert_eq!(world.listed().await, std::slice::from_ref(&id));
    assert_eq!(world.sandboxes.running_count(), 1);

    let route = world.sandboxes.route(&id).unwrap();
    assert_eq!(route.envd_access_token, view.envd_access_token);
    assert_eq!(route.traffic_access_token, view.traffic_access_token);
    assert_eq!(route.https_ports, [8443]);
    assert_eq!(route.guest.spec().env_vars["A"], "1");

    let stranger = TeamId::random();
    let error = world.sandboxes.get(&stranger, &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let message = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    assert_eq!(error.user_message(), message);
    assert!(!world.sandboxes.kill(&stranger, &id).await.unwrap());
    let error = world
        .sandboxes
        .set_timeout(&stranger, &id, Duration::ZERO)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(world.listed().await, [id]);
}

#[tokio::test(start_paused = true)]
async fn time_runs_from_the_moment_it_is_usable() {
    let world = world().await;
    world.driver.hold_creates();
    let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(10));
    let create = tokio::spawn(async move { sandboxes.create(new).await.unwrap() });
    wait_for("the create to begin", async || {
        world.driver.begun().len() == 1
    })
    .await;
    tokio::time::advance(Duration::from_secs(5)).await;
    world.driver.release_creates();
    let usable = soulbox_orchestrator::Clock::now(&*world.clock);
    assert_eq!(create.await.unwrap().record.started_at, usable);
}

#[tokio::test(start_paused = true)]
async fn kill_removes_everything_and_once() {
    let world = world().await;
    let id = world.create(300).await;
    let route = world.sandboxes.route(&id).unwrap();
    let guest = world.driver.guest(&id).unwrap();
    assert!(world.kill(&id).await);
    assert!(route.closed.is_cancelled() && guest.has_ended());
    assert!(world.sandboxes.route(&id).is_none());
    assert_eq!(world.listed().await, []);
    assert!(!world.kill(&id).await);
    assert_eq!(world.sandboxes.running_count(), 0);
    assert_eq!(world.log(&id).await, ["Sandbox created", "Sandbox killed"]);
    assert!(!world.kill(&SandboxId::random()).await);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_killed() {
    let world = world().await;
    let id = world.create(300).await;
    let guest = world.driver.guest(&id).unwrap();
    guest.set_kill_delay(Duration::from_secs(1));
    let kill = || {
        let (sandboxes, team, id) = (world.sandboxes.clone(), world.team.id.clone(), id.clone());
        tokio::spawn(async move { sandboxes.kill(&team, &id).await.unwrap() })
    };
    let first = kill();
    wait_for("the kill to begin", async || guest.kills() == 1).await;
    let second = kill();
    settle().await;
    // Nobody can see or use it any more.
    assert!(world.sandboxes.route(&id).is_none());
    let (team, hour) = (&world.team.id, Duration::from_secs(3600));
    assert_eq!(
        world.sandboxes.get(team, &id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    wait_for("the record to go", async || world.listed().await.is_empty()).await;
    let being_killed = format!("Sandbox \"{id}\" is being killed");
    for error in [
        world
            .sandboxes
            .set_timeout(team, &id, hour)
            .await
            .unwrap_err(),
        world.sandboxes.refresh(team, &id, hour).await.unwrap_err(),
        world
            .sandboxes
            .connect(team, &id, hour, true)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            (error.kind(), error.user_message()),
            (ErrorKind::Conflict, being_killed.clone())
        );
    }
    assert!(!first.is_finished() && !second.is_finished());
    tokio::time::advance(Duration::from_secs(1)).await;
    // Both wanted the same and both got it; it was done once.
    assert!(first.await.unwrap() && second.await.unwrap());
    assert_eq!(guest.kills(), 1);
    assert!(!world.kill(&id).await);
}

#[tokio::test(start_paused = true)]
async fn of_many_killers_at_once_none_fails() {
    let world = world().await;
    let id = world.create(300).await;
    let guest = world.driver.guest(&id).unwrap();
    let mut killers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (sandboxes, team, id) = (world.sandboxes.clone(), world.team.id.clone(), id.clone());
        killers.spawn(async move { sandboxes.kill(&team, &id).await.unwrap() });
    }
    assert!(killers.join_all().await.contains(&true));
    assert_eq!(guest.kills(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_its_time_has_come() {
    let world = world().await;
    let (short, long) = (world.create(3).await, world.create(60).await);
    pass(2).await;
    assert_eq!(world.listed().await.len(), 2);
    pass(2).await;
    world.wait_gone(&short).await;
    assert_eq!(world.listed().await, [long]);
    assert_eq!(
        world.log(&short).await,
        [
            "Sandbox created",
            "Sandbox reached its end time and was killed"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_put_off_does_not_come() {
    let world = world().await;
    let id = world.create(5).await;
    pass(3).await;
    world
        .sandboxes
        .set_timeout(&world.team.id, &id, Duration::from_secs(10))
        .await
        .unwrap();
    pass(9).await;
    assert_eq!(world.listed().await, std::slice::from_ref(&id));
    // And one that was brought forward does.
    world
        .sandboxes
        .set_timeout(&world.team.id, &id, Duration::ZERO)
        .await
        .unwrap();
    world.wait_gone(&id).await;
}

#[tokio::test(start_paused = true)]
async fn end_times() {
    let world = world_with(|settings| settings.max_timeout = Duration::from_secs(3600)).await;
    let (team, seconds) = (&world.team.id, Duration::from_secs);
    let view = world
        .sandboxes
        .create(world.new_sandbox(300))
        .await
        .unwrap();
    let (id, started_at) = (view.record.id, view.record.started_at);
    pass(1).await;

    // Not extended: the same to the bit.
    let same = world
        .sandboxes
        .connect(team, &id, seconds(60), true)
        .await
        .unwrap();
    assert_eq!(same.view.record.end_at, view.record.end_at);
    world
        .sandboxes
        .refresh(team, &id, seconds(10))
        .await
        .unwrap();
    assert_eq!(world.end_at(&id).await, view.record.end_at);

    let extended = world
        .sandboxes
        .connect(team, &id, seconds(600), true)
        .await
        .unwrap();
    assert_eq!(extended.view.record.end_at, started_at.plus(seconds(601)));
    world
        .sandboxes
        .refresh(team, &id, seconds(1000))
        .await
        .unwrap();
    assert_eq!(world.end_at(&id).await, started_at.plus(seconds(1001)));
    world
        .sandboxes
        .set_timeout(team, &id, seconds(5))
        .await
        .unwrap();
    assert_eq!(world.end_at(&id).await, started_at.plus(seconds(6)));
    // At least fifteen seconds, whatever is asked for.
    world
        .sandboxes
        .refresh(team, &id, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(world.end_at(&id).await, started_at.plus(seconds(16)));
    // The longest run clamps without a word.
    world
        .sandboxes
        .set_timeout(team, &id, seconds(86_400))
        .await
        .unwrap();
    assert_eq!(world.end_at(&id).await, started_at.plus(seconds(3600)));
    let nobody = SandboxId::random();
    let error = world
        .sandboxes
        .connect(team, &nobody, seconds(1), true)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn the_wall_clock_may_jump() {
    let world = world().await;
    let (a, b) = (world.create(60).await, world.create(600).await);
    world.clock.jump(-3600);
    pass(70).await;
    assert_eq!(
        world.listed().await.len(),
        2,
        "an hour back: nothing ends early"
    );
    world.clock.jump(3600);
    pass(2).await;
    world.wait_gone(&a).await;
    assert_eq!(world.listed().await, std::slice::from_ref(&b));
    world.clock.jump(3600);
    pass(2).await;
    world.wait_gone(&b).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_by_itself_leaves_nothing() {
    let world = world().await;
    let (id, other) = (world.create(300).await, world.create(300).await);
    let route = world.sandboxes.route(&id).unwrap();
    world.driver.guest(&id).unwrap().exit();
    world.wait_gone(&id).await;
    assert!(route.closed.is_cancelled());
    // A kill that comes in time joins the one that clears up.
    wait_for("nothing to kill", async || !world.kill(&id).await).await;
    assert_eq!(world.listed().await, [other]);
    assert_eq!(
        world.log(&id).await,
        ["Sandbox created", "Sandbox ended by itself"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_leaves_nothing() {
    let world = world_with(|settings| settings.max_concurrent_per_team = 1).await;
    world.driver.fail_next_create(DriverError::NoSlot);
    let error = world
        .sandboxes
        .create(world.new_sandbox(300))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.error_code(), Some("sandbox_capacity_unavailable"));
    let text = "Failed to place sandbox: not enough capacity for the requested resources right now, please retry shortly";
    assert_eq!(error.user_message(), text);
    assert!(world.listed().await.is_empty() && world.driver.guests().is_empty());
    // Its place is free again.
    world.create(300).await;
}

#[tokio::test(start_paused = true)]
async fn a_create_that_cannot_be_recorded_kills_the_guest() {
    let world = world().await;
    world.driver.hold_creates();
    let (sandboxes, new) = (world.sandboxes.clone(), new_sandbox(&TeamId::random(), 300));
    // No such team: the database refuses the record.
    let create = tokio::spawn(async move { sandboxes.create(new).await });
    wait_for("the create to begin", async || {
        world.driver.begun().len() == 1
    })
    .await;
    world.driver.release_creates();
    let error = create.await.unwrap().unwrap_err();
    assert!(matches!(error, SandboxError::Store { .. }));
    assert_eq!(
        (error.kind(), error.user_message().as_str()),
        (ErrorKind::Internal, "internal error")
    );
    assert!(world.driver.guests().is_empty());
    assert_eq!(world.sandboxes.running_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_a_whole_sandbox() {
    let world = world().await;
    world.driver.hold_creates();
    let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
    let create = tokio::spawn(async move { sandboxes.create(new).await });
    wait_for("the create to begin", async || {
        world.driver.begun().len() == 1
    })
    .await;
    create.abort();
    assert!(create.await.unwrap_err().is_cancelled());
    world.driver.release_creates();
    let id = world.driver.begun().remove(0);
    wait_for("the sandbox", async || world.sandboxes.route(&id).is_some()).await;
    assert_eq!(world.listed().await, std::slice::from_ref(&id));
    assert!(world.kill(&id).await);
}

#[tokio::test(start_paused = true)]
async fn a_kill_during_the_create_wins() {
    let world = world().await;
    world.driver.hold_creates();
    let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
    let create = tokio::spawn(async move { sandboxes.create(new).await });
    wait_for("the create to begin", async || {
        world.driver.begun().len() == 1
    })
    .await;
    let id = world.driver.begun().remove(0);
    assert!(
        world.sandboxes.get(&world.team.id, &id).await.is_err(),
        "it is not shown yet"
    );
    let (sandboxes, team, killed) = (world.sandboxes.clone(), world.team.id.clone(), id.clone());
    let kill = tokio::spawn(async move { sandboxes.kill(&team, &killed).await.unwrap() });
    settle().await;
    assert!(!kill.is_finished());
    world.driver.release_creates();
    assert!(kill.await.unwrap());
    assert!(matches!(
        create.await.unwrap(),
        Err(SandboxError::EndedInCreate { .. })
    ));
    world.wait_gone(&id).await;
}

#[tokio::test(start_paused = true)]
async fn a_create_that_takes_too_long_is_killed_when_it_is_done() {
    let world = world().await;
    world.driver.hold_creates();
    let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
    let create = tokio::spawn(async move { sandboxes.create(new).await });
    wait_for("the create to begin", async || {
        world.driver.begun().len() == 1
    })
    .await;
    tokio::time::advance(Duration::from_secs(31)).await;
    let error = create.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.error_code(), Some("sandbox_placement_timeout"));
    world.driver.release_creates();
    let id = world.driver.begun().remove(0);
    world.wait_gone(&id).await;
    world.create(300).await;
}

#[tokio::test(start_paused = true)]
async fn a_team_has_so_many_places() {
    let world = world_with(|settings| settings.max_concurrent_per_team = 2).await;
    world.driver.hold_creates();
    let mut creates = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
        creates.spawn(async move { sandboxes.create(new).await });
    }
    wait_for("the creates to begin", async || {
        world.driver.begun().len() == 2
    })
    .await;
    world.driver.release_creates();
    let (made, refused): (Vec<_>, Vec<_>) = creates
        .join_all()
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (2, 3));
    for error in refused.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        let text = "you have reached the maximum number of concurrent E2B sandboxes (2). \
                    If you need more, please visit 'https://e2b.dev/docs/billing'";
        assert_eq!(error.user_message(), text);
    }
    // A place is free as soon as a kill has begun, and whichever way the sandbox ends.
    let ids = world.listed().await;
    assert!(world.kill(&ids[0]).await);
    world.driver.guest(&ids[1]).unwrap().exit();
    world.wait_gone(&ids[1]).await;
    world.create(300).await;
    world.create(300).await;
    assert!(
        world
            .sandboxes
            .create(world.new_sandbox(300))
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_fails_is_tried_again() {
    let world = world().await;
    let id = world.create(300).await;
    let guest = world.driver.guest(&id).unwrap();
    guest.set_kill_fails(true);
    let error = world.sandboxes.kill(&world.team.id, &id).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.user_message().as_str()),
        (ErrorKind::Internal, "Error killing sandbox")
    );
    // For its owner it is gone all the same.
    assert!(world.sandboxes.route(&id).is_none() && world.listed().await.is_empty());
    guest.set_kill_fails(false);
    pass(31).await;
    world.wait_gone(&id).await;
    assert_eq!(guest.kills(), 2);
}

#[tokio::test(start_paused = true)]
async fn readings_every_five_seconds() {
    let world = world().await;
    let id = world.create(300).await;
    let guest = world.driver.guest(&id).unwrap();
    pass(1).await;
    guest.set_stats(GuestStats {
        cpu_usage_us: 5_000_000,
        memory_used_bytes: 1000,
        memory_cache_bytes: 200,
        disk_used_bytes: 30,
        pids: 3,
        oom_kills: 2,
        oom_kills_named: 0,
    });
    let team = &world.team.id;
    let samples = async || {
        world
            .sandboxes
            .metrics(team, &id, None, None)
            .await
            .unwrap()
    };
    pass_until("three readings", async || samples().await.len() >= 3).await;
    let samples = samples().await;
    let (first, second, third) = (&samples[0], &samples[1], &samples[2]);
    assert_eq!(
        [first, second, third].map(|sample| sample.mem_used_bytes),
        [0, 1000, 1000]
    );
    // Five seconds of one of two CPUs; a turn is late when the database is.
    let gap = second.at.since(first.at);
    assert!((4.7..5.9).contains(&gap.as_secs_f64()), "{gap:?}");
    assert!(
        (second.cpu_used_pct - 250.0 / gap.as_secs_f64()).abs() < 0.01,
        "{second:?}"
    );
    assert_eq!(
        [first.cpu_used_pct, third.cpu_used_pct].map(f64::to_bits),
        [0, 0]
    );
    assert_eq!((third.mem_total_bytes, third.cpu_count), (512 << 20, 2));
    let latest = world
        .sandboxes
        .latest_metrics(team, std::slice::from_ref(&id))
        .await
        .unwrap();
    assert_eq!(latest, samples[samples.len() - 1..]);
    let log = world.log(&id).await;
    assert_eq!(
        log[1..],
        ["Out of memory: the kernel killed a process of the sandbox"]
    );
    guest.tell_oom_kill(OomKill {
        name: "python3".into(),
        pid: Some(12),
    });
    pass_until("the name in the log", async || {
        world.log(&id).await.get(2).map(String::as_str)
            == Some("Out of memory: the kernel killed python3 (process 12)")
    })
    .await;

    let stranger = TeamId::random();
    assert_eq!(
        world
            .sandboxes
            .metrics(&stranger, &id, None, None)
            .await
            .unwrap(),
        []
    );
    // They outlive the sandbox.
    assert!(world.kill(&id).await);
    let kept = world
        .sandboxes
        .metrics(team, &id, None, None)
        .await
        .unwrap();
    assert_eq!(kept.len(), samples.len());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_sandboxes() {
    let world = world().await;
    let mut creates = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (sandboxes, new) = (world.sandboxes.clone(), world.new_sandbox(300));
        creates.spawn(async move { sandboxes.create(new).await.unwrap().record.id });
    }
    let ids = creates.join_all().await;
    assert_eq!(world.sandboxes.running_count(), 1000);
    let page = world
        .sandboxes
        .list(&ListQuery::all(world.team.id.clone()))
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.total_running), (100, 1000));
    pass_until("a reading of each", async || {
        world
            .sandboxes
            .latest_metrics(&world.team.id, &ids)
            .await
            .unwrap()
            .len()
            == 1000
    })
    .await;
    let mut kills = tokio::task::JoinSet::new();
    for id in ids {
        let (sandboxes, team) = (world.sandboxes.clone(), world.team.id.clone());
        kills.spawn(async move { sandboxes.kill(&team, &id).await.unwrap() });
    }
    assert!(kills.join_all().await.into_iter().all(|killed| killed));
    assert_eq!(world.sandboxes.running_count(), 0);
    assert!(world.driver.guests().is_empty() && world.listed().await.is_empty());
}

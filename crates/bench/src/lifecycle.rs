//! Pausing and bringing back, with a Python of 50 MB inside, and branching: what each costs its caller.

use std::time::{Duration, Instant};

use soulbox_api_types::sandbox::{
    AutoResume, ConnectSandbox, ForkSandbox, NewSandbox, NewSnapshot, PauseSandbox,
};
use soulbox_client::Api;
use soulbox_client::envd::Envd;
use tokio::task::JoinSet;

use crate::Report;
use crate::report::{Bound, Target};
use crate::run::{
    BenchError, Created, Options, WARM_UP, create_usable, kill_all, reason, request, run_shell,
    run_true,
};
use crate::stats::Samples;

const ROUNDS: u32 = 30;
/// Forks of one call.
const MANY: i32 = 100;
/// How long a sandbox that is saved is watched.
const WATCHED: Duration = Duration::from_millis(700);
const TIMEOUT_SECONDS: i32 = 3600;
/// Holds 50 MB that are not zero, and goes on working.
const PYTHON: &str = "nohup python3 -c 'import os,time\nx=os.urandom(50*1000*1000)\nopen(\"/tmp/up\",\"w\")\nwhile True: time.sleep(0.01)' \
                      > /dev/null 2>&1 & while [ ! -e /tmp/up ]; do sleep 0.01; done";

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let mut report = Report::new("lifecycle");
    let rounds = options.count.unwrap_or(ROUNDS);
    let mut new = request(&options.template);
    new.auto_pause = Some(true);
    new.auto_resume = Some(AutoResume { enabled: true });
    let created = create_usable(api, &new).await?;
    let outcome = async {
        run_shell(&created.envd, PYTHON).await?;
        with_memory(api, &created, rounds, &mut report).await?;
        for memory in [false, true] {
            branches(api, &created, rounds, memory, &mut report).await?;
        }
        without_memory(api, &created, rounds, &mut report).await?;
        many(api, options, &created, &mut report).await
    };
    let outcome = outcome.await;
    api.kill(&created.sandbox.sandbox_id).await?;
    outcome.map(|()| report)
}

async fn pause(api: &Api, created: &Created, memory: bool) -> Result<Duration, BenchError> {
    let wanted = PauseSandbox {
        memory: (!memory).then_some(false),
        require_healthy_guest: None,
    };
    let begun = Instant::now();
    api.pause(&created.sandbox.sandbox_id, &wanted).await?;
    Ok(begun.elapsed())
}

async fn connect(api: &Api, created: &Created) -> Result<Duration, BenchError> {
    let wanted = ConnectSandbox {
        timeout: Some(TIMEOUT_SECONDS),
        memory: None,
    };
    let begun = Instant::now();
    api.connect(&created.sandbox.sandbox_id, &wanted).await?;
    Ok(begun.elapsed())
}

/// One small request to envd; it wakes a sandbox that is paused.
async fn ask(envd: &Envd) -> Result<Duration, BenchError> {
    let begun = Instant::now();
    envd.health().await?;
    Ok(begun.elapsed())
}

async fn with_memory(
    api: &Api,
    created: &Created,
    rounds: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    let [mut pauses, mut connects, mut asks, mut wakes] = [(); 4].map(|()| Samples::new());
    for round in 0..rounds + WARM_UP {
        let paused = pause(api, created, true).await?;
        let connected = connect(api, created).await?;
        let asked = ask(&created.envd).await?;
        pause(api, created, true).await?;
        let woken = ask(&created.envd).await?;
        if round >= WARM_UP {
            pauses.add(paused);
            connects.add(connected);
            asks.add(asked);
            wakes.add(woken);
        }
    }
    report.timing("pause, memory kept", &pauses, None);
    report.timing("connect to it", &connects, None);
    report.timing("request to a running one", &asks, None);
    report.timing("request that wakes a paused one", &wakes, None);
    let added = wakes.distribution().p50_ms - asks.distribution().p50_ms;
    report.figure(
        "waking adds to a request (p50)",
        added,
        "ms",
        Some(Bound::AtMost(10.0)),
    );
    Ok(())
}

async fn branches(
    api: &Api,
    created: &Created,
    rounds: u32,
    memory: bool,
    report: &mut Report,
) -> Result<(), BenchError> {
    let id = &created.sandbox.sandbox_id;
    let wanted = NewSnapshot {
        name: None,
        memory: Some(memory),
    };
    let [mut snapshots, mut creates, mut forks, mut gaps] = [(); 4].map(|()| Samples::new());
    for round in 0..rounds + WARM_UP {
        let snapshot = async {
            let begun = Instant::now();
            let taken = api.snapshot(id, &wanted).await?;
            Ok::<_, BenchError>((taken, begun.elapsed()))
        };
        let (snapshot, gap) = tokio::join!(snapshot, longest_gap(&created.envd));
        let (taken, took) = snapshot?;
        let begun = Instant::now();
        let made = api.create(&request(&taken.snapshot_id)).await?;
        let created = begun.elapsed();
        api.kill(&made.sandbox_id).await?;
        api.delete_template(&taken.snapshot_id).await?;
        let begun = Instant::now();
        let made = fork(api, id, 1, memory).await?;
        let forked = begun.elapsed();
        kill_all(api, made.into_iter().flatten()).await;
        if round >= WARM_UP {
            snapshots.add(took);
            gaps.add(gap?);
            creates.add(created);
            forks.add(forked);
        }
    }
    let what = if memory { "files and memory" } else { "files" };
    // The time without an answer holds a request's own, and that of others who want this machine.
    let gap = memory.then(|| Target::p50(50.0));
    report.timing(format!("snapshot of {what}"), &snapshots, None);
    report.timing("  its sandbox answers nobody for", &gaps, gap);
    report.timing("create from it", &creates, None);
    report.timing(format!("fork of {what}"), &forks, None);
    Ok(())
}

/// Asks envd over and over for a while, and says how long the longest answer took.
async fn longest_gap(envd: &Envd) -> Result<Duration, BenchError> {
    let end = Instant::now() + WATCHED;
    let mut longest = Duration::ZERO;
    while Instant::now() < end {
        longest = longest.max(ask(envd).await?);
    }
    Ok(longest)
}

/// The ids of the forks, and why there is none.
async fn fork(
    api: &Api,
    id: &str,
    count: i32,
    memory: bool,
) -> Result<Vec<Result<String, String>>, BenchError> {
    let wanted = ForkSandbox {
        timeout: Some(TIMEOUT_SECONDS),
        count: Some(count),
        memory: Some(memory),
    };
    let forks = api.fork(id, &wanted).await?;
    let outcome = |fork: soulbox_api_types::sandbox::ForkResult| match fork.sandbox {
        Some(sandbox) => Ok(sandbox.sandbox_id),
        None => Err(fork.error.map(|error| error.message).unwrap_or_default()),
    };
    Ok(forks.into_iter().map(outcome).collect())
}

async fn without_memory(
    api: &Api,
    created: &Created,
    rounds: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    let (mut pauses, mut connects) = (Samples::new(), Samples::new());
    for _ in 0..rounds {
        pauses.add(pause(api, created, false).await?);
        connects.add(connect(api, created).await?);
        run_true(&created.envd).await?;
    }
    report.timing("pause, files kept", &pauses, None);
    report.timing("connect to it", &connects, None);
    Ok(())
}

/// A fork into many, beside as many creates at once.
async fn many(
    api: &Api,
    options: &Options,
    created: &Created,
    report: &mut Report,
) -> Result<(), BenchError> {
    let creates = create_many(api, &request(&options.template)).await;
    let begun = Instant::now();
    let made = fork(api, &created.sandbox.sandbox_id, MANY, false).await?;
    let took = begun.elapsed();
    let mut forks = Samples::new();
    for one in &made {
        match one {
            Ok(_) => forks.add(took),
            Err(error) => forks.fail(error),
        }
    }
    kill_all(api, made.into_iter().flatten()).await;
    let what = format!("fork of files into {MANY}, until the answer");
    report.timing(what, &forks, Some(Target::p50(500.0)));
    report.timing(
        format!("{MANY} creates at once, until each answer"),
        &creates,
        None,
    );
    Ok(())
}

async fn create_many(api: &Api, new: &NewSandbox) -> Samples {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..MANY {
        let (api, new) = (api.clone(), new.clone());
        tasks.spawn(async move {
            let made = api.create(&new).await.map_err(BenchError::from);
            (made, start.elapsed())
        });
    }
    let (mut samples, mut ids) = (Samples::new(), Vec::new());
    for (made, elapsed) in tasks.join_all().await {
        match made {
            Ok(sandbox) => {
                samples.add(elapsed);
                ids.push(sandbox.sandbox_id);
            }
            Err(error) => samples.fail(&reason(&error)),
        }
    }
    kill_all(api, ids.into_iter()).await;
    samples
}

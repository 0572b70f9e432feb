//! Create and kill as fast as a number of workers can, for a while; then at half of that rate, steadily.

use std::time::{Duration, Instant};

use soulbox_client::Api;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::report::Bound;
use crate::run::{BenchError, Options, request, warm_up};
use crate::stats::Samples;
use crate::{Report, ratio};

#[derive(Default)]
struct Work {
    create: Samples,
    kill: Samples,
}

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    warm_up(api, options).await?;
    let mut report = Report::new("sustained");
    let start = Instant::now();
    let all = as_fast_as_it_goes(api, options, start).await;
    let elapsed = start.elapsed().as_secs_f64();
    let pairs = u32::try_from(all.kill.len()).map_or(f64::INFINITY, f64::from);
    report.figure(
        format!(
            "create + kill with {} workers over {elapsed:.0} s",
            options.workers
        ),
        pairs / elapsed,
        "per second",
        Some(Bound::AtLeast(150.0)),
    );
    report.timing("create (answer)", &all.create, None);
    report.timing("kill", &all.kill, None);
    if pairs > 0.0 {
        let rate = pairs / elapsed / 2.0;
        let steady = steadily(api, options, rate).await;
        report.timing(
            format!("create (answer) at a steady {rate:.0} per second"),
            &steady.create,
            None,
        );
        report.timing("  kill of those", &steady.kill, None);
        report.ratio(
            "create at half of the maximal rate, p99 / p50",
            ratio::of_percentiles((&steady.create, 99), (&steady.create, 50)),
            Some(4.0),
        );
    }
    Ok(report)
}

async fn as_fast_as_it_goes(api: &Api, options: &Options, start: Instant) -> Work {
    let end = start + options.duration;
    let mut workers = JoinSet::new();
    for _ in 0..options.workers {
        let api = api.clone();
        let template = options.template.clone();
        workers.spawn(async move {
            let mut work = Work::default();
            while Instant::now() < end {
                create_and_kill(&api, &template, Instant::now(), &mut work).await;
            }
            work
        });
    }
    together(workers).await
}

/// One after the other at its time, whether those before have been answered or not. Each is timed from the moment
/// that it was due: one that had to wait for a slow one is slow, too.
async fn steadily(api: &Api, options: &Options, per_second: f64) -> Work {
    let end = Instant::now() + options.duration;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    loop {
        let due = ticks.tick().await.into_std();
        if due >= end {
            break;
        }
        let (api, template) = (api.clone(), options.template.clone());
        requests.spawn(async move {
            let mut work = Work::default();
            create_and_kill(&api, &template, due, &mut work).await;
            work
        });
    }
    together(requests).await
}

async fn together(tasks: JoinSet<Work>) -> Work {
    let mut all = Work::default();
    for work in tasks.join_all().await {
        all.create.merge(work.create);
        all.kill.merge(work.kill);
    }
    all
}

async fn create_and_kill(api: &Api, template: &str, due: Instant, work: &mut Work) {
    let sandbox = match api.create(&request(template)).await {
        Ok(sandbox) => sandbox,
        Err(error) => return work.create.fail(&error),
    };
    work.create.add(due.elapsed());
    let start = Instant::now();
    match api.kill(&sandbox.sandbox_id).await {
        Ok(true) => work.kill.add(start.elapsed()),
        Ok(false) => work.kill.fail(&"the sandbox was gone before it was killed"),
        Err(error) => work.kill.fail(&error),
    }
}

//! Create and kill as fast as a number of workers can, for a while.

use std::time::Instant;

use soulbox_client::Api;
use tokio::task::JoinSet;

use crate::Report;
use crate::report::Bound;
use crate::run::{BenchError, Options, WARM_UP, create_usable, request};
use crate::stats::Samples;

#[derive(Default)]
struct Work {
    create: Samples,
    kill: Samples,
}

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    for _ in 0..WARM_UP {
        let created = create_usable(api, &request(&options.template)).await?;
        api.kill(&created.sandbox.sandbox_id).await?;
    }
    let start = Instant::now();
    let end = start + options.duration;
    let mut workers = JoinSet::new();
    for _ in 0..options.workers {
        let api = api.clone();
        let template = options.template.clone();
        workers.spawn(async move { work(&api, &template, end).await });
    }
    let mut all = Work::default();
    for work in workers.join_all().await {
        all.create.merge(work.create);
        all.kill.merge(work.kill);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let pairs = u32::try_from(all.kill.len()).map_or(f64::INFINITY, f64::from);
    let mut report = Report::new("sustained");
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
    Ok(report)
}

async fn work(api: &Api, template: &str, end: Instant) -> Work {
    let mut work = Work::default();
    while Instant::now() < end {
        let start = Instant::now();
        let sandbox = match api.create(&request(template)).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                work.create.fail(&error);
                continue;
            }
        };
        work.create.add(start.elapsed());
        let start = Instant::now();
        match api.kill(&sandbox.sandbox_id).await {
            Ok(true) => work.kill.add(start.elapsed()),
            Ok(false) => work.kill.fail(&"the sandbox was gone before it was killed"),
            Err(error) => work.kill.fail(&error),
        }
    }
    work
}

//! Many creates at once. The time of each runs from the common start to the end of its first command.

use std::time::Instant;

use soulbox_client::Api;
use tokio::task::JoinSet;

use crate::Report;
use crate::report::Target;
use crate::run::{BenchError, Options, WARM_UP, create_usable, kill_all, reason, request};
use crate::stats::Samples;

const SANDBOXES: u32 = 100;

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let count = options.count.unwrap_or(SANDBOXES);
    for _ in 0..WARM_UP {
        let created = create_usable(api, &request(&options.template)).await?;
        api.kill(&created.sandbox.sandbox_id).await?;
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let api = api.clone();
        let request = request(&options.template);
        tasks.spawn(async move {
            let created = create_usable(&api, &request).await;
            (created, start.elapsed())
        });
    }
    let (mut usable, mut answer) = (Samples::new(), Samples::new());
    let mut ids = Vec::new();
    for (created, elapsed) in tasks.join_all().await {
        match created {
            Ok(created) => {
                usable.add(elapsed);
                answer.add(created.create);
                ids.push(created.sandbox.sandbox_id);
            }
            Err(error) => usable.fail(&reason(&error)),
        }
    }
    let all = start.elapsed();
    kill_all(api, ids.into_iter()).await;
    let mut report = Report::new("burst");
    // The target is stated for a hundred.
    let target = (count == SANDBOXES).then(|| Target::p95(600.0));
    report.timing(
        format!("{count} at once: create + first command"),
        &usable,
        target,
    );
    report.timing(format!("{count} at once: create (answer)"), &answer, None);
    report.figure(
        "until all were usable",
        all.as_secs_f64() * 1000.0,
        "ms",
        None,
    );
    Ok(report)
}

//! Many creates at once. The time of each runs from the common start to the end of its first command.

use std::time::Instant;

use soulbox_client::Api;
use tokio::task::JoinSet;

use crate::bare::Reference;
use crate::report::Target;
use crate::run::{BenchError, Options, create_usable, kill_all, reason, request, warm_up};
use crate::stats::{Samples, millis};
use crate::{Report, ratio};

/// How many at once, when nothing else is wanted.
const SIZES: [u32; 4] = [10, 50, 100, 500];
/// The size that the target is stated for.
const STATED: u32 = 100;
/// How many sandboxes are made of bare system calls, to know what one costs.
const BARE_ROUNDS: u32 = 20;

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let sizes = options.count.map_or(SIZES.to_vec(), |count| vec![count]);
    warm_up(api, options).await?;
    let mut report = Report::new("burst");
    let mut bare = Reference::start(&options.rootfs, true).await;
    for _ in 0..BARE_ROUNDS {
        bare.round().await;
    }
    report.timing("the bare system calls of a sandbox", &bare.whole, None);
    bare.remark()
        .into_iter()
        .for_each(|remark| report.note(remark));
    for count in sizes {
        burst(api, options, count, &bare, &mut report).await;
    }
    Ok(report)
}

async fn burst(api: &Api, options: &Options, count: u32, bare: &Reference, report: &mut Report) {
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
    let target = (count == STATED).then(|| Target::p95(600.0));
    report.timing(
        format!("{count} at once: create + first command"),
        &usable,
        target,
    );
    report.timing(format!("{count} at once: create (answer)"), &answer, None);
    report.ratio(
        format!("{count} at once: p95 / ({count} × bare system calls / processors)"),
        ratio::of_percentiles((&usable, 95), (&shared_out(&bare.whole, count), 50)),
        (count == STATED).then_some(1.5),
    );
    report.figure(
        format!("{count} at once: until all were usable"),
        millis(all),
        "ms",
        None,
    );
}

/// How long so many sandboxes take in bare system calls, when all processors work on them.
fn shared_out(bare: &Samples, count: u32) -> Samples {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = u32::try_from(processors).map_or(1.0, f64::from);
    bare.times_as_long(f64::from(count) / processors)
}

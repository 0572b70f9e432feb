//! Commands on one running sandbox, over the wire.

use std::time::Instant;

use soulbox_client::Api;

use crate::Report;
use crate::report::Target;
use crate::run::{BenchError, Options, WARM_UP, create_usable, reason, request, run_true};
use crate::stats::Samples;

const ROUNDS: u32 = 200;

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let created = create_usable(api, &request(&options.template)).await?;
    let mut samples = Samples::new();
    for _ in 0..WARM_UP {
        run_true(&created.envd).await?;
    }
    for _ in 0..options.count.unwrap_or(ROUNDS) {
        let start = Instant::now();
        let outcome = run_true(&created.envd).await;
        samples.record(
            outcome
                .map(|()| start.elapsed())
                .map_err(|error| reason(&error)),
        );
    }
    api.kill(&created.sandbox.sandbox_id).await?;
    let mut report = Report::new("exec");
    report.timing("commands.run(\"true\")", &samples, Some(Target::p50(4.0)));
    Ok(report)
}

//! `soulbox bench`: runs the measurements and prints them beside what has to be reached.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use soulbox_bench::report::{Bound, Figure, Report, Timing};
use soulbox_bench::run::Bench;
use soulbox_bench::{BenchError, Options, measure, sweep};
use soulbox_client::Api;

use crate::args::BenchCommand;
use crate::failure::Failure;
use crate::output::{Output, line, note, table};
use crate::session::failure;

/// Runs what was asked for. Whatever happens, an interrupt included, no sandbox is left behind.
pub(crate) async fn run(
    api: &Api,
    command: BenchCommand,
    rootfs: Option<PathBuf>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let args = command.args();
    let options = Options {
        count: args.count,
        template: args.template.clone(),
        workers: args.workers,
        duration: Duration::from_secs(args.seconds.into()),
        size_mib: args.size_mib,
        peers_rootfs: rootfs,
    };
    let benches = benches(&command);
    let measured = tokio::select! {
        measured = measure_all(api, &benches, &options, output) => measured,
        _ = tokio::signal::ctrl_c() => Err(Failure::user("interrupted")),
    };
    let swept = sweep(api).await;
    let reports = measured?;
    swept.map_err(|error| failure(&error, None))?;
    if output == Output::Json {
        output.json(&reports)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn benches(command: &BenchCommand) -> Vec<Bench> {
    match command {
        BenchCommand::Create(_) => vec![Bench::Create],
        BenchCommand::Exec(_) => vec![Bench::Exec],
        BenchCommand::Burst(_) => vec![Bench::Burst],
        BenchCommand::Idle(_) => vec![Bench::Idle],
        BenchCommand::Transfer(_) => vec![Bench::Transfer],
        BenchCommand::Sustained(_) => vec![Bench::Sustained],
        BenchCommand::Lifecycle(_) => vec![Bench::Lifecycle],
        BenchCommand::Template(_) => vec![Bench::Template],
        BenchCommand::Interpreter(_) => vec![Bench::Interpreter],
        BenchCommand::All(_) => Bench::ALL.into(),
    }
}

async fn measure_all(
    api: &Api,
    benches: &[Bench],
    options: &Options,
    output: Output,
) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    for bench in benches {
        // The size of one bench is not that of another: -n is for a single one.
        let options = if benches.len() > 1 {
            Options {
                count: None,
                ..options.clone()
            }
        } else {
            options.clone()
        };
        let report = measure(api, *bench, &options).await.map_err(broken)?;
        if output == Output::Text {
            line(&render(&report))?;
        }
        reports.push(report);
    }
    if output == Output::Text && !reports.iter().all(Report::all_reached) {
        note("some numbers are behind their targets");
    }
    Ok(reports)
}

fn broken(error: BenchError) -> Failure {
    match error {
        BenchError::Client(error) => failure(&error, None),
        error @ (BenchError::Command { .. } | BenchError::Build(_) | BenchError::Corrupt(_)) => {
            Failure::internal(error.to_string())
        }
        error @ BenchError::Bundle(_) => Failure::user("cannot prepare the peers").because(error),
    }
}

fn render(report: &Report) -> String {
    let mut blocks = vec![format!("{}:", report.bench)];
    if !report.timings.is_empty() {
        let header = [
            "  TIME", "N", "FAILED", "P50", "P95", "P99", "MAX", "TARGET",
        ];
        blocks.push(table(header, report.timings.iter().map(timing_row)));
    }
    if !report.figures.is_empty() {
        blocks.push(table(
            ["  FIGURE", "VALUE", "TARGET"],
            report.figures.iter().map(figure_row),
        ));
    }
    let failures = report.timings.iter().filter_map(|timing| {
        Some(format!(
            "  first failure of {}: {}",
            timing.what,
            timing.times.first_failure.as_ref()?
        ))
    });
    blocks.extend(failures);
    blocks.extend(report.notes.iter().map(|note| format!("  {note}")));
    blocks.join("\n") + "\n"
}

fn timing_row(timing: &Timing) -> [String; 8] {
    let times = &timing.times;
    let ms = |value: f64| {
        if times.count == 0 {
            "-".to_owned()
        } else {
            format!("{value:.2} ms")
        }
    };
    let target = timing
        .target
        .map(|target| format!("p{} ≤ {} ms", target.percentile, target.at_most_ms));
    [
        format!("  {}", timing.what),
        times.count.to_string(),
        times.failures.to_string(),
        ms(times.p50_ms),
        ms(times.p95_ms),
        ms(times.p99_ms),
        ms(times.max_ms),
        verdict(target, timing.reached),
    ]
}

fn figure_row(figure: &Figure) -> [String; 3] {
    let bound = figure.bound.map(|bound| match bound {
        Bound::AtMost(most) => format!("≤ {most}"),
        Bound::AtLeast(least) => format!("≥ {least}"),
    });
    [
        format!("  {}", figure.what),
        format!("{:.2} {}", figure.value, figure.unit),
        verdict(bound, figure.reached),
    ]
}

fn verdict(target: Option<String>, reached: Option<bool>) -> String {
    match (target, reached) {
        (Some(target), Some(true)) => format!("{target}  ok"),
        (Some(target), _) => format!("{target}  MISSED"),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use soulbox_bench::report::Target;
    use soulbox_bench::stats::Samples;

    use super::*;

    #[test]
    fn a_report() {
        let mut report = Report::new("create");
        let mut samples = Samples::new();
        for ms in [4, 5, 6] {
            samples.add(Duration::from_millis(ms));
        }
        report.timing("create (answer)", &samples, Some(Target::p50(8.0)));
        samples.fail(&"create a sandbox: full (503)");
        report.timing("kill", &samples, Some(Target::p95(5.0)));
        report.timing("nothing", &Samples::new(), None);
        report.figure(
            "our create / crun run (p50)",
            0.5,
            "x",
            Some(Bound::AtMost(1.0)),
        );
        report.note("runsc is not installed");
        insta::assert_snapshot!(render(&report), @r"
        create:
          TIME              N   FAILED   P50       P95       P99       MAX       TARGET
          create (answer)   3   0        5.00 ms   6.00 ms   6.00 ms   6.00 ms   p50 ≤ 8 ms  ok
          kill              3   1        5.00 ms   6.00 ms   6.00 ms   6.00 ms   p95 ≤ 5 ms  MISSED
          nothing           0   0        -         -         -         -
          FIGURE                        VALUE    TARGET
          our create / crun run (p50)   0.50 x   ≤ 1  ok
          first failure of kill: create a sandbox: full (503)
          runsc is not installed
        ");
    }
}

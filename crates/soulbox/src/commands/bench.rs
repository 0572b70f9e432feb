//! `soulbox bench`: runs the measurements and prints them beside what has to be reached.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use soulbox_bench::host::{Facts, facts};
use soulbox_bench::plot;
use soulbox_bench::report::{Bound, Figure, Ratio, Report, Timing};
use soulbox_bench::run::Bench;
use soulbox_bench::{BenchError, Options, measure, sweep};
use soulbox_client::Api;

use crate::args::BenchCommand;
use crate::failure::Failure;
use crate::output::{Output, line, note, table};
use crate::session::failure;

/// What a run says, as JSON.
#[derive(Serialize)]
struct Results {
    host: Facts,
    reports: Vec<Report>,
}

/// Runs what was asked for. Whatever happens, an interrupt included, no sandbox is left behind.
pub(crate) async fn run(
    api: &Api,
    command: BenchCommand,
    rootfs: Result<PathBuf, String>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let args = command.args();
    let options = Options {
        count: args.count,
        template: args.template.clone(),
        workers: args.workers,
        duration: Duration::from_secs(args.seconds.into()),
        size_mib: args.size_mib,
        rootfs,
        peers: args.peers,
        trace: args.trace,
        cold: args.cold,
        far_pem: args.far_pem.clone(),
    };
    let benches = benches(&command);
    // Before the first measurement: the load afterwards is our own.
    let host = facts();
    if output == Output::Text {
        line(&machine(&host))?;
    }
    let measured = tokio::select! {
        measured = measure_all(api, &benches, &options, output) => measured,
        _ = tokio::signal::ctrl_c() => Err(Failure::user("interrupted")),
    };
    let swept = sweep(api).await;
    let reports = measured?;
    swept.map_err(|error| failure(&error, None))?;
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&reports)).map_err(|error| {
            Failure::user(format!("cannot write {}", path.display())).because(error)
        })?;
    }
    if output == Output::Json {
        output.json(&Results { host, reports })?;
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
        BenchCommand::Files(_) => vec![Bench::Files],
        BenchCommand::Sustained(_) => vec![Bench::Sustained],
        BenchCommand::Lifecycle(_) => vec![Bench::Lifecycle],
        BenchCommand::Template(_) => vec![Bench::Template],
        BenchCommand::Interpreter(_) => vec![Bench::Interpreter],
        BenchCommand::Edge(_) => vec![Bench::Edge],
        BenchCommand::Growth(_) => vec![Bench::Growth],
        BenchCommand::Network(_) => vec![Bench::Network],
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
        error @ (BenchError::Command { .. }
        | BenchError::Build(_)
        | BenchError::Corrupt(_)
        | BenchError::Reference(_)) => Failure::internal(error.to_string()),
        error @ BenchError::Bundle(_) => Failure::user("cannot prepare the peers").because(error),
    }
}

fn machine(host: &Facts) -> String {
    format!(
        "Linux {}, {} × {}, {} MiB, load {:.2}\n",
        host.kernel, host.processors, host.processor, host.memory_mib, host.load
    )
}

fn render(report: &Report) -> String {
    let mut blocks = vec![format!("{}:", report.bench)];
    if !report.timings.is_empty() {
        let header = [
            "  TIME", "N", "FAILED", "P50", "P95", "P99", "MAX", "TARGET",
        ];
        blocks.push(table(header, report.timings.iter().map(timing_row)));
    }
    if !report.ratios.is_empty() {
        blocks.push(table(
            ["  RATIO", "VALUE", "95 % BETWEEN", "TARGET"],
            report.ratios.iter().map(ratio_row),
        ));
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

fn ratio_row(ratio: &Ratio) -> [String; 4] {
    let interval = ratio.interval;
    [
        format!("  {}", ratio.what),
        format!("{:.2} x", interval.value),
        format!("{:.2} … {:.2}", interval.low, interval.high),
        verdict(ratio.at_most.map(|most| format!("≤ {most}")), ratio.reached),
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
    use soulbox_bench::ratio::Interval;
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
        let interval = Interval {
            value: 0.5,
            low: 0.42,
            high: 0.571,
        };
        report.ratio("our create / crun run (p50)", Some(interval), Some(0.6));
        report.figure("memory", 3.0, "MB", Some(Bound::AtMost(2.0)));
        report.note("runsc is not installed");
        insta::assert_snapshot!(render(&report), @r"
        create:
          TIME              N   FAILED   P50       P95       P99       MAX       TARGET
          create (answer)   3   0        5.00 ms   6.00 ms   6.00 ms   6.00 ms   p50 ≤ 8 ms  ok
          kill              3   1        5.00 ms   6.00 ms   6.00 ms   6.00 ms   p95 ≤ 5 ms  MISSED
          nothing           0   0        -         -         -         -
          RATIO                         VALUE    95 % BETWEEN   TARGET
          our create / crun run (p50)   0.50 x   0.42 … 0.57    ≤ 0.6  ok
          FIGURE   VALUE     TARGET
          memory   3.00 MB   ≤ 2  MISSED
          first failure of kill: create a sandbox: full (503)
          runsc is not installed
        ");
    }
}

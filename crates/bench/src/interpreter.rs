//! Code in the code interpreter: from nothing to the first result, warm runs, new contexts, memory; beside a plain
//! `jupyter_client` that does the same on this host.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use soulbox_client::interpreter::{Interpreter, Within};
use soulbox_client::{Api, ClientError};

use crate::Report;
use crate::report::{Bound, Target};
use crate::run::{BenchError, Options, request};
use crate::stats::Samples;

/// The template that has an interpreter.
const TEMPLATE: &str = "code-interpreter-v1";
const ROUNDS: u32 = 20;
const WARM_ROUNDS: u32 = 100;
const CONTEXTS: u32 = 10;
const PYTHON: Within<'static> = Within::Language("python");
/// What the peer runs: a kernel from nothing, its first value, and values after that, as JSON.
const PEER: &str = include_str!("interpreter_peer.py");
/// A peer that takes longer than this is broken.
const PEER_PATIENCE: Duration = Duration::from_secs(180);

/// What the peer has measured, in milliseconds.
#[derive(Debug, Deserialize)]
struct Peer {
    first: Vec<f64>,
    warm: Vec<f64>,
}

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let template = match options.template.as_str() {
        // Every other bench's default has no interpreter.
        "base" => TEMPLATE,
        other => other,
    };
    let rounds = options.count.unwrap_or(ROUNDS);
    let mut report = Report::new("interpreter");
    first_results(api, template, rounds, &mut report).await?;
    let sandbox = api.create(&request(template)).await?;
    let interpreter = api.interpreter(&sandbox);
    let measured = warm(&interpreter, &mut report).await;
    api.kill(&sandbox.sandbox_id).await?;
    measured?;
    if options.peers {
        peer(rounds.min(10), &mut report).await;
    }
    Ok(report)
}

/// From a create request to the first value, each in a sandbox of its own.
async fn first_results(
    api: &Api,
    template: &str,
    rounds: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    let [mut creates, mut firsts] = [(); 2].map(|()| Samples::new());
    // The first one warms caches.
    for round in 0..=rounds {
        let begun = Instant::now();
        let sandbox = api.create(&request(template)).await?;
        let created = begun.elapsed();
        let outcome = two(&api.interpreter(&sandbox)).await;
        let first = begun.elapsed();
        api.kill(&sandbox.sandbox_id).await?;
        if round > 0 {
            creates.add(created);
            firsts.record(outcome.map(|()| first));
        }
    }
    report.timing("create", &creates, None);
    report.timing("create and first result", &firsts, Some(Target::p50(60.0)));
    Ok(())
}

/// Runs in a context that is warm, and contexts that are new.
async fn warm(interpreter: &Interpreter, report: &mut Report) -> Result<(), BenchError> {
    two(interpreter).await.map_err(BenchError::Corrupt)?;
    let own = own_memory(interpreter).await?;
    let [mut runs, mut contexts] = [(); 2].map(|()| Samples::new());
    for _ in 0..WARM_ROUNDS {
        let begun = Instant::now();
        let outcome = two(interpreter).await;
        runs.record(outcome.map(|()| begun.elapsed()));
    }
    for _ in 0..CONTEXTS {
        let begun = Instant::now();
        let made = interpreter.create_context("python").await;
        let took = begun.elapsed();
        contexts.record(made.map(|_| took).map_err(|error| error.to_string()));
    }
    report.timing("1+1 in a warm context", &runs, Some(Target::p50(5.0)));
    report.timing("new context", &contexts, Some(Target::p50(30.0)));
    report.figure(
        "memory of its own, all processes",
        own,
        "MB",
        Some(Bound::AtMost(25.0)),
    );
    Ok(())
}

/// One run whose value is known.
async fn two(interpreter: &Interpreter) -> Result<(), String> {
    let execution = interpreter.run("1+1", PYTHON).await;
    let execution = execution.map_err(|error: ClientError| error.to_string())?;
    let value = execution
        .results
        .first()
        .and_then(|shown| shown.text.as_deref());
    match value {
        Some("2") => Ok(()),
        other => Err(format!("1+1 is {other:?}, {:?}", execution.error)),
    }
}

/// What the sandbox's processes have that nobody shares.
async fn own_memory(interpreter: &Interpreter) -> Result<f64, BenchError> {
    let code = "import glob, re\ntotal = 0\nfor name in glob.glob('/proc/[0-9]*/smaps_rollup'):\n    try:\n        text = open(name).read()\n    \
                except OSError:\n        continue\n    total += sum(int(n) for n in re.findall(r'Private_Dirty: +(\\d+)', text))\nprint(total)";
    let execution = interpreter.run(code, PYTHON).await?;
    let kilobytes: f64 = execution
        .stdout
        .trim()
        .parse()
        .map_err(|_| BenchError::Corrupt(format!("{:?}", execution.error)))?;
    Ok(kilobytes / 1024.0)
}

/// The peer, where Python and its packages are there.
async fn peer(rounds: u32, report: &mut Report) {
    match measured_peer(Path::new("python3"), rounds).await {
        Ok(peer) => {
            report.timing("peer: kernel and first result", &samples(&peer.first), None);
            report.timing("peer: 1+1 in a warm kernel", &samples(&peer.warm), None);
        }
        Err(reason) => report.note(format!(
            "jupyter_client was not measured: {reason}. FIX: put a python3 with jupyter_client and ipykernel first in PATH"
        )),
    }
}

async fn measured_peer(python: &Path, rounds: u32) -> Result<Peer, String> {
    let run = tokio::process::Command::new(python)
        .args(["-c", PEER, &rounds.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PEER_PATIENCE, run)
        .await
        .map_err(|_| "it takes too long".to_owned())?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().last().unwrap_or("it says nothing").to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn samples(milliseconds: &[f64]) -> Samples {
    let mut samples = Samples::new();
    for one in milliseconds {
        samples.add(Duration::from_secs_f64(one / 1000.0));
    }
    samples
}

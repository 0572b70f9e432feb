//! Files of every size up and down through the edge, and many small ones: how long each takes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use soulbox_client::Api;
use soulbox_client::envd::Envd;
use tokio::task::JoinSet;

use crate::Report;
use crate::run::{BenchError, Options, WARM_UP, create_usable, reason, request};
use crate::stats::Samples;
use crate::transfer::{Repeat, length, pattern};

/// Bytes, how they are called, and how often each is carried.
const SIZES: [(u64, &str, u32); 6] = [
    (1 << 10, "1 KiB", 200),
    (32 << 10, "32 KiB", 200),
    (1 << 20, "1 MiB", 50),
    (32 << 20, "32 MiB", 10),
    (256 << 20, "256 MiB", 3),
    (1 << 30, "1 GiB", 1),
];
const SMALL: u64 = 1 << 10;
/// How many small files in a row, and by how many at once.
const MANY: u32 = 2000;
const AT_ONCE: u32 = 8;

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let created = create_usable(api, &request(&options.template)).await?;
    let mut report = Report::new("files");
    let outcome = measure(&created.envd, options, &mut report).await;
    api.kill(&created.sandbox.sandbox_id).await?;
    outcome.map(|()| report)
}

async fn measure(envd: &Envd, options: &Options, report: &mut Report) -> Result<(), BenchError> {
    let piece = Bytes::from(pattern());
    for _ in 0..WARM_UP {
        up(envd, "warm-up", &piece, SMALL).await?;
        down(envd, "warm-up", SMALL).await?;
    }
    for (size, name, rounds) in SIZES {
        let (mut ups, mut downs) = (Samples::new(), Samples::new());
        for _ in 0..options.count.map_or(rounds, |count| count.min(rounds)) {
            record(&mut ups, up(envd, "file", &piece, size).await);
            record(&mut downs, down(envd, "file", size).await);
        }
        report.timing(format!("upload of {name}"), &ups, None);
        report.timing(format!("download of {name}"), &downs, None);
    }
    many(envd, &piece, options.count.unwrap_or(MANY), report).await;
    Ok(())
}

fn record(samples: &mut Samples, outcome: Result<Duration, BenchError>) {
    samples.record(outcome.map_err(|error| reason(&error)));
}

async fn up(envd: &Envd, path: &str, piece: &Bytes, size: u64) -> Result<Duration, BenchError> {
    let start = Instant::now();
    envd.upload(path, None, Repeat::new(piece.clone(), size))
        .await?;
    Ok(start.elapsed())
}

async fn down(envd: &Envd, path: &str, size: u64) -> Result<Duration, BenchError> {
    let start = Instant::now();
    let mut file = envd.download(path, None).await?;
    let mut received = 0;
    while let Some(piece) = file.next().await? {
        received += length(&piece);
    }
    if received == size {
        Ok(start.elapsed())
    } else {
        Err(BenchError::Corrupt(format!(
            "{received} bytes instead of {size}"
        )))
    }
}

/// Small files, each of its own name, by several at once.
async fn many(envd: &Envd, piece: &Bytes, count: u32, report: &mut Report) {
    let start = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..AT_ONCE {
        let (envd, piece) = (envd.clone(), piece.clone());
        writers.spawn(async move {
            let mut times = Samples::new();
            for number in (0..count).filter(|number| number % AT_ONCE == writer) {
                let path = format!("many/{number}");
                record(&mut times, up(&envd, &path, &piece, SMALL).await);
            }
            times
        });
    }
    let mut all = Samples::new();
    for times in writers.join_all().await {
        all.merge(times);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let worked = u32::try_from(all.len()).map_or(f64::INFINITY, f64::from);
    report.timing(
        format!("upload of 1 KiB, {count} files, {AT_ONCE} at once"),
        &all,
        None,
    );
    report.figure(
        format!("small files, {AT_ONCE} at once"),
        worked / elapsed,
        "per second",
        None,
    );
}

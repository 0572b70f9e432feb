//! Many sandboxes that do nothing: what each costs, what the server costs, and how fast the API still answers.

use std::time::{Duration, Instant};

use soulbox_client::Api;
use soulbox_client::api::ListQuery;
use tokio::task::JoinSet;

use crate::report::{Bound, Target};
use crate::run::{BenchError, Options, create_usable, kill_all, reason, request};
use crate::stats::{Samples, percentile};
use crate::transfer::server_pid;
use crate::{Report, host};

const SANDBOXES: u32 = 100;
/// The number of sandboxes that the targets for API and server are stated for.
const TARGET_SANDBOXES: u32 = 1000;
const MAKERS: u32 = 8;
const QUESTIONS: usize = 200;
/// Time for the commands' leftovers to end before memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// After this time nothing happens any more: connections that nobody uses are closed after 90 seconds, which envd notices, and
/// a minute later the server looks at a sandbox more seldom.
const UNTIL_IDLE: Duration = Duration::from_secs(180);
/// How long the processors are watched.
const WATCHED: Duration = Duration::from_secs(10);

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let count = options.count.unwrap_or(SANDBOXES);
    let server = server_pid(api);
    let server_before = server.and_then(host::rss_kib);
    let mut report = Report::new("idle");
    // A server that cannot create at all is an error, not a hundred failures.
    let first = create_usable(api, &request(&options.template)).await?;
    api.kill(&first.sandbox.sandbox_id).await?;
    let (ids, made) = fill(api, &options.template, count).await;
    tokio::time::sleep(SETTLE).await;
    let stated = count >= TARGET_SANDBOXES;
    let young = busy(&ids, server).await;
    let idle = match stated {
        true => {
            tokio::time::sleep(UNTIL_IDLE).await;
            busy(&ids, server).await
        }
        false => young,
    };
    let (look, list) = ask(api, &ids).await;
    let server_after = server.and_then(host::rss_kib);
    let memory = sandbox_memory(&ids);
    kill_all(api, ids.into_iter()).await;

    report.timing(
        format!("create + first command, {MAKERS} at a time"),
        &made,
        None,
    );
    match memory {
        Some(mut pss_kib) => {
            pss_kib.sort_unstable();
            let mb = |kib: u64| kilobytes(kib) / 1000.0;
            report.figure("memory of an idle sandbox (PSS), p50", mb(percentile(&pss_kib, 50)), "MB", Some(Bound::AtMost(1.5)));
            report.figure("memory of an idle sandbox (PSS), max", mb(percentile(&pss_kib, 100)), "MB", None);
        }
        None => report.note("processes of sandboxes are not visible from here: memory needs root on the server's machine"),
    }
    processors(&mut report, count, idle, young.filter(|_| stated));
    match (server_before, server_after) {
        (Some(before), Some(after)) => {
            report.figure(
                "server's memory before (RSS)",
                kilobytes(before) / 1000.0,
                "MB",
                None,
            );
            let bound = stated.then_some(Bound::AtMost(100.0));
            report.figure(
                format!("server's memory with {count} sandboxes (RSS)"),
                kilobytes(after) / 1000.0,
                "MB",
                bound,
            );
        }
        _ => report.note("the server's memory is not visible from here"),
    }
    let target = stated.then(|| Target::p95(50.0));
    report.timing(
        format!("GET /sandboxes/{{id}} with {count} sandboxes"),
        &look,
        target,
    );
    report.timing(
        format!("GET /v2/sandboxes with {count} sandboxes"),
        &list,
        target,
    );
    if !stated {
        report.note(format!("the targets for API and server are stated for {TARGET_SANDBOXES} sandboxes: -n {TARGET_SANDBOXES}"));
    }
    Ok(report)
}

/// Processor time of the sandboxes, and of server and helper, as shares of one processor: of idle ones, and of the same at
/// first.
fn processors(
    report: &mut Report,
    count: u32,
    idle: Option<(f64, f64)>,
    young: Option<(f64, f64)>,
) {
    let Some((inside, outside)) = idle else {
        return report.note(
            "processor time is not visible from here: it needs root on the server's machine",
        );
    };
    let both = |(inside, outside)| (inside + outside) * 100.0;
    let bound = (count >= TARGET_SANDBOXES).then_some(Bound::AtMost(1.0));
    let what = format!("processor time of {count} sandboxes, of one processor");
    report.figure(what, inside * 100.0, "%", None);
    report.figure(
        "  with server and helper",
        both((inside, outside)),
        "%",
        bound,
    );
    if let Some(young) = young {
        report.figure("  the same at first", both(young), "%", None);
    }
}

pub(crate) async fn fill(api: &Api, template: &str, count: u32) -> (Vec<String>, Samples) {
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let share = count / MAKERS + u32::from(maker < count % MAKERS);
        let (api, template) = (api.clone(), template.to_owned());
        makers.spawn(async move {
            let (mut ids, mut made) = (Vec::new(), Samples::new());
            for _ in 0..share {
                match create_usable(&api, &request(&template)).await {
                    Ok(created) => {
                        made.add(created.usable);
                        ids.push(created.sandbox.sandbox_id);
                    }
                    Err(error) => made.fail(&reason(&error)),
                }
            }
            (ids, made)
        });
    }
    let (mut ids, mut made) = (Vec::new(), Samples::new());
    for (some, times) in makers.join_all().await {
        ids.extend(some);
        made.merge(times);
    }
    (ids, made)
}

/// How fast the API answers meanwhile: one sandbox, and a page of the list.
async fn ask(api: &Api, ids: &[String]) -> (Samples, Samples) {
    let (mut look, mut list) = (Samples::new(), Samples::new());
    for id in ids.iter().cycle().take(QUESTIONS) {
        let start = Instant::now();
        look.record(api.get_sandbox(id).await.map(|_| start.elapsed()));
        let start = Instant::now();
        list.record(
            api.list(&ListQuery::default())
                .await
                .map(|_| start.elapsed()),
        );
    }
    (look, list)
}

/// The shares of one processor that sandboxes, and server and helper, use while nobody asks for anything.
async fn busy(ids: &[String], server: Option<u32>) -> Option<(f64, f64)> {
    let server = server?;
    let servers: Vec<u32> = host::children(server).into_iter().chain([server]).collect();
    let by_sandbox = host::processes_by_sandbox(ids);
    if by_sandbox.len() != ids.len() {
        return None;
    }
    let inside = || host::running_time(by_sandbox.values().flatten().copied());
    // Threads of these come and go, and take along what they have used.
    let outside = || host::used_time(&servers);
    let (start, before) = (Instant::now(), (inside()?, outside()?));
    tokio::time::sleep(WATCHED).await;
    let (inside, outside) = (inside()?, outside()?);
    let elapsed = start.elapsed().as_secs_f64();
    let share = |after: Duration, before: Duration| {
        Some(after.checked_sub(before)?.as_secs_f64() / elapsed)
    };
    Some((share(inside, before.0)?, share(outside, before.1)?))
}

/// PSS of each sandbox in KiB; None when their processes cannot be seen.
fn sandbox_memory(ids: &[String]) -> Option<Vec<u64>> {
    let by_sandbox = host::processes_by_sandbox(ids);
    let sums: Vec<u64> = by_sandbox
        .values()
        .filter_map(|pids| {
            pids.iter()
                .map(|pid| host::memory(*pid).map(|memory| memory.pss_kib))
                .sum()
        })
        .collect();
    // Half a picture would flatter.
    (!sums.is_empty() && sums.len() == ids.len()).then_some(sums)
}

/// KiB in thousands of bytes.
fn kilobytes(kib: u64) -> f64 {
    u32::try_from(kib).map_or(f64::INFINITY, f64::from) * 1.024
}

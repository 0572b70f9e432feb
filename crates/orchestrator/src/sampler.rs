//! Reads what every running sandbox uses, every few seconds, and writes it down in batches.
//!
//! One task for all: ten times in each interval it takes the sandboxes whose turn has come, at most
//! [`MOST_PER_TURN`] of them, so that a thousand sandboxes created at once do not stay in step for ever and a create
//! never waits for more than a small batch to be written. A new sandbox's turn is at once. One in which nothing has run for
//! a minute is read more seldom, until something has: most sandboxes of a full server are idle, and so the server is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use soulbox_driver::GuestStats;
use soulbox_store::{MetricSample, SandboxRecord};
use soulbox_types::{SandboxId, Timestamp};
use tokio::time::Instant;

use crate::instruments;
use crate::journal::{self, About};
use crate::live::RunningSandbox;
use crate::node::Node;

/// Turns in each interval.
const TURNS: u32 = 10;
/// All slots of a server in one interval, with some to spare.
const MOST_PER_TURN: usize = 250;
/// So many readings that are like the one before make a sandbox an idle one.
const UNTIL_IDLE: u32 = 12;
/// An idle one is read once in so many intervals.
const IDLE_INTERVALS: u32 = 6;
/// Readings at the same time; each is a few small files.
const AT_ONCE: usize = 16;
/// A reading that takes longer would be worth nothing.
const READ_DEADLINE: Duration = Duration::from_secs(2);

/// What is remembered of a sandbox's last reading.
#[derive(Debug, Clone, Copy)]
struct Last {
    read_at: Instant,
    at: Timestamp,
    cpu_usage_us: u64,
    /// How many readings before it found that nothing had run.
    idle: u32,
    oom: Unnamed,
}

impl Last {
    /// After how long it is read again.
    fn rest(self, interval: Duration) -> Duration {
        match self.idle < UNTIL_IDLE {
            true => interval,
            false => interval * IDLE_INTERVALS,
        }
    }
}

/// Processes that were killed for lack of memory and that nobody has named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Unnamed {
    /// As of the last reading.
    seen: u64,
    /// Of those, how many are in the log, or were before this server began to look.
    logged: u64,
}

impl Unnamed {
    /// What a reading adds to the log, and what is known after it. A kill that has only just been counted may still be
    /// named, so it waits for the next reading.
    fn read(last: Option<Self>, seen: u64) -> (u64, Self) {
        let Some(last) = last else {
            return (0, Self { seen, logged: seen });
        };
        let sure = seen.min(last.seen);
        let logged = last.logged.max(sure);
        (logged - last.logged, Self { seen, logged })
    }
}

/// Reads until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let turn = (node.settings.sample_interval / TURNS).max(Duration::from_millis(1));
    let mut seen: HashMap<SandboxId, Last> = HashMap::new();
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(turn) => {}
        }
        let due = due(&node, &mut seen, turn);
        if !due.is_empty() {
            take(&node, &mut seen, due).await;
        }
    }
}

/// The sandboxes whose turn it is, those first that have waited longest. Forgets the ones that are gone.
fn due(node: &Node, seen: &mut HashMap<SandboxId, Last>, turn: Duration) -> Vec<RunningSandbox> {
    let now = Instant::now();
    let running: Vec<RunningSandbox> = node
        .live
        .all()
        .iter()
        .filter_map(|handle| handle.running())
        .collect();
    if seen.len() > running.len() {
        let ids: std::collections::HashSet<&SandboxId> =
            running.iter().map(|run| &run.record.id).collect();
        seen.retain(|id, _| ids.contains(id));
    }
    // Half a turn of tolerance: timers are late by a little, and a little late must not mean a turn later.
    let interval = node.settings.sample_interval;
    let is_due = |last: &Last| now.duration_since(last.read_at) + turn / 2 >= last.rest(interval);
    let mut due: Vec<(Option<Instant>, RunningSandbox)> = running
        .into_iter()
        .map(|run| (seen.get(&run.record.id), run))
        .filter(|(last, _)| last.is_none_or(is_due))
        .map(|(last, run)| (last.map(|last| last.read_at), run))
        .collect();
    due.sort_by_key(|(read_at, _)| *read_at);
    due.truncate(MOST_PER_TURN);
    due.into_iter().map(|(_, run)| run).collect()
}

async fn take(node: &Node, seen: &mut HashMap<SandboxId, Last>, due: Vec<RunningSandbox>) {
    let count = due.len();
    let readings: Vec<_> = futures_util::stream::iter(due)
        .map(|run| read(node, run))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut samples = Vec::with_capacity(readings.len());
    for (record, read_at, at, stats) in readings {
        let last = seen.get(&record.id).copied();
        let next = |cpu_usage_us, oom| Last {
            read_at,
            at,
            cpu_usage_us,
            idle: last
                .filter(|last| last.cpu_usage_us == cpu_usage_us)
                .map_or(0, |last| last.idle.saturating_add(1)),
            oom,
        };
        match stats {
            Some(stats) => {
                let oom = note_oom(node, &record, at, last, stats);
                samples.push(sample(&record, at, last, stats));
                seen.insert(record.id.clone(), next(stats.cpu_usage_us, oom));
            }
            // Its turn comes again with the others'; the next reading is measured from the last one that was taken.
            None => {
                let (usage, oom) = last.map_or((0, Unnamed::default()), |last| {
                    (last.cpu_usage_us, last.oom)
                });
                let at = last.map_or(record.started_at, |last| last.at);
                seen.insert(
                    record.id.clone(),
                    Last {
                        at,
                        ..next(usage, oom)
                    },
                );
            }
        }
    }
    instruments::sampled(samples.len(), count.saturating_sub(samples.len()));
    if let Err(error) = node.store.append_metrics(&samples).await {
        tracing::error!(error = %soulbox_telemetry::chain(&error), "readings not written");
    }
}

async fn read(
    node: &Node,
    run: RunningSandbox,
) -> (Arc<SandboxRecord>, Instant, Timestamp, Option<GuestStats>) {
    let stats = match tokio::time::timeout(READ_DEADLINE, run.guest.stats()).await {
        Ok(Ok(stats)) => Some(stats),
        Ok(Err(error)) => {
            // A guest that ends while it is read is nothing to report.
            tracing::debug!(sandbox.id = %run.record.id, error = %soulbox_telemetry::chain(&error), "no reading");
            None
        }
        Err(_) => {
            tracing::warn!(sandbox.id = %run.record.id, "no reading within {READ_DEADLINE:?}");
            None
        }
    };
    (run.record, Instant::now(), node.now(), stats)
}

fn note_oom(
    node: &Node,
    record: &SandboxRecord,
    at: Timestamp,
    last: Option<Last>,
    stats: GuestStats,
) -> Unnamed {
    let unnamed = stats.oom_kills.saturating_sub(stats.oom_kills_named);
    let (fresh, known) = Unnamed::read(last.map(|last| last.oom), unnamed);
    if fresh > 0 {
        node.store.log(journal::out_of_memory(
            About {
                id: &record.id,
                team: &record.team,
            },
            at,
            fresh,
        ));
    }
    known
}

fn sample(
    record: &SandboxRecord,
    at: Timestamp,
    last: Option<Last>,
    stats: GuestStats,
) -> MetricSample {
    // The first reading speaks of the time since the start.
    let (since, before) = last.map_or((record.started_at, 0), |last| (last.at, last.cpu_usage_us));
    let used = stats.cpu_usage_us.saturating_sub(before);
    MetricSample {
        sandbox: record.id.clone(),
        team: record.team.clone(),
        at,
        cpu_count: record.limits.vcpu_count,
        cpu_used_pct: cpu_used_pct(used, at.since(since), record.limits.vcpu_count),
        mem_used_bytes: stats.memory_used_bytes,
        mem_total_bytes: record.limits.memory_bytes(),
        mem_cache_bytes: stats.memory_cache_bytes,
        disk_used_bytes: stats.disk_used_bytes,
        disk_total_bytes: u64::from(record.limits.disk_mib) * 1024 * 1024,
    }
}

/// Percent of all CPUs together, 0 to 100, two decimals.
fn cpu_used_pct(used_us: u64, elapsed: Duration, cpus: u32) -> f64 {
    let available_us = elapsed.as_micros() * u128::from(cpus);
    if available_us == 0 {
        return 0.0;
    }
    let hundredths = (u128::from(used_us) * 10_000 + available_us / 2) / available_us;
    f64::from(u32::try_from(hundredths.min(10_000)).unwrap_or(10_000)) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_ones_are_read_more_seldom() {
        let interval = Duration::from_secs(5);
        let rest = |idle| {
            let last = Last {
                read_at: Instant::now(),
                at: Timestamp(0),
                cpu_usage_us: 1,
                idle,
                oom: Unnamed::default(),
            };
            last.rest(interval)
        };
        assert_eq!((rest(0), rest(11)), (interval, interval));
        assert_eq!(rest(12), Duration::from_secs(30));
    }

    #[test]
    fn unnamed_kills_are_logged_once_and_a_reading_later() {
        let mut known = None;
        let mut log = Vec::new();
        // Five from before; then two more, of which one is named in the meantime; then three at once.
        for seen in [5, 5, 7, 6, 6, 9, 9, 9] {
            let (fresh, next) = Unnamed::read(known, seen);
            log.push(fresh);
            known = Some(next);
        }
        assert_eq!(log, [0, 0, 0, 1, 0, 0, 3, 0]);
    }

    #[test]
    fn percent_of_all_cpus() {
        let check = |used_us: u64, elapsed_ms: u64, cpus: u32, want: f64| {
            let got = cpu_used_pct(used_us, Duration::from_millis(elapsed_ms), cpus);
            assert!(
                (got - want).abs() < 1e-9,
                "{used_us} us in {elapsed_ms} ms on {cpus}: {got}, wanted {want}"
            );
        };
        check(0, 5000, 2, 0.0);
        check(5_000_000, 5000, 2, 50.0);
        check(10_000_000, 5000, 2, 100.0);
        check(12_000_000, 5000, 2, 100.0);
        check(333_333, 5000, 2, 3.33);
        check(333_500, 5000, 2, 3.34);
        check(1, 0, 2, 0.0);
        check(1, 5000, 0, 0.0);
        check(u64::MAX, 1, 64, 100.0);
    }
}

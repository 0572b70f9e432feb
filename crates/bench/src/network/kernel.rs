//! Connections that the kernel alone judges: bytes and connects, beside plain NAT.

use super::inside::{Inside, Work};
use super::{DIRECT, median, rate};
use crate::report::Bound;
use crate::stats::Samples;
use crate::{Report, ratio};

const MIB: u64 = 512;
const CONNECTS: u32 = 100;

struct Path {
    name: &'static str,
    inside: Inside,
    times: Times,
}

#[derive(Default)]
struct Times {
    down: Samples,
    up: Samples,
    connect: Samples,
}

/// The first is what the others are compared with.
pub(super) async fn measure(paths: [(&'static str, Inside); 3], rounds: u32, report: &mut Report) {
    let mut paths = paths.map(|(name, inside)| Path {
        name,
        inside,
        times: Times::default(),
    });
    for round in 0..=rounds {
        for path in &mut paths {
            let times = one_round(&path.inside).await;
            // The first round warms caches.
            if round > 0 {
                path.times.down.merge(times.down);
                path.times.up.merge(times.up);
                path.times.connect.merge(times.connect);
            }
        }
    }
    tell(&paths.map(|path| (path.name, path.times)), report);
}

async fn one_round(inside: &Inside) -> Times {
    let work = |what, port, bytes, times| Work {
        what,
        name: "-",
        address: DIRECT,
        port,
        bytes,
        times,
    };
    let mut times = Times::default();
    let bytes = MIB << 20;
    inside
        .measure(&work("down", 5001, bytes, 1), &mut times.down)
        .await;
    inside
        .measure(&work("up", 5001, bytes, 1), &mut times.up)
        .await;
    inside
        .measure(&work("connect", 5002, 0, CONNECTS), &mut times.connect)
        .await;
    times
}

fn tell(paths: &[(&str, Times); 3], report: &mut Report) {
    for (name, times) in paths {
        report.timing(format!("{MIB} MiB down, {name}"), &times.down, None);
        report.timing(format!("{MIB} MiB up, {name}"), &times.up, None);
        report.timing(format!("connect, {name}"), &times.connect, None);
    }
    let [(plain, theirs), ours @ ..] = paths;
    for (name, times) in ours {
        let ways = [
            ("down", &times.down, &theirs.down),
            ("up", &times.up, &theirs.up),
        ];
        for (way, ours, theirs) in ways {
            report.ratio(
                format!("{MIB} MiB {way}, {name} / {plain} (p50)"),
                ratio::of_medians(ours, theirs),
                Some(1.05),
            );
        }
        report.figure(
            format!("added to a connect, {name} (p50)"),
            median(&times.connect) - median(&theirs.connect),
            "ms",
            Some(Bound::AtMost(0.2)),
        );
    }
    for (name, times) in paths {
        let carried = rate(MIB, &times.down);
        report.figure(format!("{name} carries"), carried, "GB/s", None);
    }
}

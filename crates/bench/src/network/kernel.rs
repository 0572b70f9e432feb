//! Connections that the kernel alone judges: bytes and connects, beside plain NAT.

use super::inside::{Inside, Work};
use super::{DIRECT, rate};
use crate::report::Bound;
use crate::stats::{Samples, millis, percentile};
use crate::{Report, ratio};

const MIB: u64 = 512;
const CONNECTS: u32 = 100;

struct Path {
    name: &'static str,
    inside: Inside,
    down: Samples,
    up: Samples,
    connect: Samples,
}

/// The first is what the others are compared with.
pub(super) async fn measure(paths: [(&'static str, Inside); 3], rounds: u32, report: &mut Report) {
    let mut paths = paths.map(|(name, inside)| Path {
        name,
        inside,
        down: Samples::new(),
        up: Samples::new(),
        connect: Samples::new(),
    });
    for round in 0..=rounds {
        for path in &mut paths {
            let mut turn = Path {
                name: path.name,
                inside: path.inside.clone(),
                down: Samples::new(),
                up: Samples::new(),
                connect: Samples::new(),
            };
            turn.round().await;
            // The first round warms caches.
            if round > 0 {
                path.down.merge(turn.down);
                path.up.merge(turn.up);
                path.connect.merge(turn.connect);
            }
        }
    }
    tell(&paths, report);
}

impl Path {
    async fn round(&mut self) {
        let work = |what, port, bytes, times| Work {
            what,
            name: "-",
            address: DIRECT,
            port,
            bytes,
            times,
        };
        let bytes = MIB << 20;
        self.inside
            .measure(&work("down", 5001, bytes, 1), &mut self.down)
            .await;
        self.inside
            .measure(&work("up", 5001, bytes, 1), &mut self.up)
            .await;
        self.inside
            .measure(&work("connect", 5002, 0, CONNECTS), &mut self.connect)
            .await;
    }
}

fn tell(paths: &[Path; 3], report: &mut Report) {
    for path in paths {
        report.timing(format!("{MIB} MiB down, {}", path.name), &path.down, None);
        report.timing(format!("{MIB} MiB up, {}", path.name), &path.up, None);
        report.timing(format!("connect, {}", path.name), &path.connect, None);
    }
    let [plain, ours @ ..] = paths;
    for path in ours {
        let name = path.name;
        for (way, ours, theirs) in [
            ("down", &path.down, &plain.down),
            ("up", &path.up, &plain.up),
        ] {
            report.ratio(
                format!("{MIB} MiB {way}, {name} / {} (p50)", plain.name),
                ratio::of_medians(ours, theirs),
                Some(1.05),
            );
        }
        let at = |samples: &Samples| millis(percentile(&samples.sorted(), 50));
        report.figure(
            format!("added to a connect, {name} (p50)"),
            at(&path.connect) - at(&plain.connect),
            "ms",
            Some(Bound::AtMost(0.2)),
        );
    }
    for path in paths {
        report.figure(
            format!("{} carries", path.name),
            rate(MIB, &path.down),
            "GB/s",
            None,
        );
    }
}

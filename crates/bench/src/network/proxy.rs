//! Connections that the server itself judges by name: bytes, and what a request takes longer than without.

use super::inside::{Inside, Work};
use super::{DIRECT, MIDDLE, STREAMED, rate};
use crate::report::{Bound, Report};
use crate::stats::{Samples, millis, percentile};

const MIB: u64 = 256;
const REQUESTS: u32 = 100;
const FRESH: u32 = 20;

/// Who takes part.
pub(super) struct Parties {
    /// A sandbox without a policy: the kernel's way.
    pub(super) open: Inside,
    /// One with names in its policy.
    pub(super) named: Inside,
    /// One with a header rule, if the server trusts the far side.
    pub(super) ruled: Option<Inside>,
    /// The plain namespace with mitmproxy before it, if that is there.
    pub(super) middle: Option<Inside>,
}

/// One way to one server.
struct Way {
    label: &'static str,
    /// The label of the same without a proxy, and whether what is added must stay below the target.
    beside: Option<(&'static str, bool)>,
    inside: Inside,
    name: &'static str,
    address: &'static str,
    protocol: Protocol,
    bytes: Samples,
    kept: Samples,
    fresh: Samples,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Https,
    /// What begins like TLS, and is then carried as it is.
    Streamed,
}

fn ways(parties: Parties) -> Vec<Way> {
    let Parties {
        open,
        named,
        ruled,
        middle,
    } = parties;
    let way = |label, beside, inside: &Inside, name, address, protocol| Way {
        label,
        beside,
        inside: inside.clone(),
        name,
        address,
        protocol,
        bytes: Samples::new(),
        kept: Samples::new(),
        fresh: Samples::new(),
    };
    use Protocol::{Http, Https, Streamed};
    let (direct, streamed, ruled_name) = (
        "direct.bench.test",
        "streamed.bench.test",
        "ruled.bench.test",
    );
    let mut ways = vec![
        way("HTTP, no policy", None, &open, direct, DIRECT, Http),
        way(
            "HTTP by name",
            Some(("HTTP, no policy", true)),
            &named,
            direct,
            "-",
            Http,
        ),
        way(
            "stream after a TLS greeting, no policy",
            None,
            &open,
            streamed,
            STREAMED,
            Streamed,
        ),
        way(
            "stream after a TLS greeting, by name",
            None,
            &named,
            streamed,
            "-",
            Streamed,
        ),
        way("TLS, no policy", None, &open, direct, DIRECT, Https),
        way(
            "TLS by name",
            Some(("TLS, no policy", true)),
            &named,
            direct,
            "-",
            Https,
        ),
    ];
    if let Some(ruled) = &ruled {
        ways.push(way(
            "TLS with a header rule",
            Some(("TLS, no policy", true)),
            ruled,
            ruled_name,
            "-",
            Https,
        ));
    }
    if let Some(middle) = &middle {
        ways.push(way(
            "HTTP, mitmproxy",
            Some(("HTTP, no policy", false)),
            middle,
            direct,
            MIDDLE,
            Http,
        ));
        ways.push(way(
            "TLS, mitmproxy adds a header",
            Some(("TLS, no policy", false)),
            middle,
            ruled_name,
            MIDDLE,
            Https,
        ));
    }
    ways
}

pub(super) async fn measure(parties: Parties, rounds: u32, report: &mut Report) {
    let mut ways = ways(parties);
    for round in 0..=rounds {
        for way in &mut ways {
            let (mut bytes, mut kept, mut fresh) = (Samples::new(), Samples::new(), Samples::new());
            way.round(&mut bytes, &mut kept, &mut fresh).await;
            // The first round warms caches.
            if round > 0 {
                way.bytes.merge(bytes);
                way.kept.merge(kept);
                way.fresh.merge(fresh);
            }
        }
    }
    tell(&ways, report);
}

impl Way {
    async fn round(&self, bytes: &mut Samples, kept: &mut Samples, fresh: &mut Samples) {
        let (on_kept, on_fresh, port) = match self.protocol {
            Protocol::Http => ("http", "fresh-http", 80),
            Protocol::Https => ("https", "fresh-https", 443),
            Protocol::Streamed => ("streamed", "streamed", 443),
        };
        let work = |what, bytes, times| Work {
            what,
            name: self.name,
            address: self.address,
            port,
            bytes,
            times,
        };
        self.inside
            .measure(&work(on_kept, MIB << 20, 1), bytes)
            .await;
        if self.protocol != Protocol::Streamed {
            self.inside.measure(&work(on_kept, 0, REQUESTS), kept).await;
            self.inside.measure(&work(on_fresh, 0, FRESH), fresh).await;
        }
    }

    /// Whether its bytes go through the server without a cipher of its own.
    fn carries_plain(&self) -> bool {
        matches!(
            self.label,
            "HTTP by name" | "stream after a TLS greeting, by name"
        )
    }
}

fn tell(ways: &[Way], report: &mut Report) {
    for way in ways {
        report.timing(format!("{MIB} MiB, {}", way.label), &way.bytes, None);
    }
    for way in ways.iter().filter(|way| way.protocol != Protocol::Streamed) {
        report.timing(format!("request, {}", way.label), &way.kept, None);
        report.timing(
            format!("connect and request, {}", way.label),
            &way.fresh,
            None,
        );
    }
    for way in ways {
        let bound = way.carries_plain().then_some(Bound::AtLeast(1.0));
        report.figure(
            format!("{} carries", way.label),
            rate(MIB, &way.bytes),
            "GB/s",
            bound,
        );
    }
    let at = |samples: &Samples| millis(percentile(&samples.sorted(), 50));
    for way in ways {
        let Some((label, is_ours)) = way.beside else {
            continue;
        };
        let Some(without) = ways.iter().find(|other| other.label == label) else {
            continue;
        };
        let bound = is_ours.then_some(Bound::AtMost(1.0));
        report.figure(
            format!("added to a request, {} (p50)", way.label),
            at(&way.kept) - at(&without.kept),
            "ms",
            bound,
        );
        report.figure(
            format!("added to a connect and request, {} (p50)", way.label),
            at(&way.fresh) - at(&without.fresh),
            "ms",
            None,
        );
    }
}

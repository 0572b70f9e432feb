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

/// Asked for by the peers and by names without a rule.
const PLAIN: &str = "direct.bench.test";
const GREETING: &str = "streamed.bench.test";
/// Has a rule in one of the sandboxes.
const RULED: &str = "ruled.bench.test";
const HTTP: &str = "HTTP, no policy";
const STREAM: &str = "stream after a TLS greeting, no policy";
const TLS: &str = "TLS, no policy";

impl Way {
    fn new(
        label: &'static str,
        inside: &Inside,
        (name, address): (&'static str, &'static str),
        protocol: Protocol,
    ) -> Self {
        Self {
            label,
            beside: None,
            inside: inside.clone(),
            name,
            address,
            protocol,
            bytes: Samples::new(),
            kept: Samples::new(),
            fresh: Samples::new(),
        }
    }

    /// Compared with another one, within the target or only to be seen.
    fn beside(mut self, label: &'static str, has_target: bool) -> Self {
        self.beside = Some((label, has_target));
        self
    }
}

fn ways(parties: &Parties) -> Vec<Way> {
    use Protocol::{Http, Https, Streamed};

    let (open, named) = (&parties.open, &parties.named);
    let mut ways = vec![
        Way::new(HTTP, open, (PLAIN, DIRECT), Http),
        Way::new("HTTP by name", named, (PLAIN, "-"), Http).beside(HTTP, true),
        Way::new(STREAM, open, (GREETING, STREAMED), Streamed),
        Way::new(
            "stream after a TLS greeting, by name",
            named,
            (GREETING, "-"),
            Streamed,
        )
        .beside(STREAM, true),
        Way::new(TLS, open, (PLAIN, DIRECT), Https),
        Way::new("TLS by name", named, (PLAIN, "-"), Https).beside(TLS, true),
    ];
    if let Some(ruled) = &parties.ruled {
        let way = Way::new("TLS with a header rule", ruled, (RULED, "-"), Https);
        ways.push(way.beside(TLS, true));
    }
    if let Some(middle) = &parties.middle {
        let http = Way::new("HTTP, mitmproxy", middle, (PLAIN, MIDDLE), Http);
        ways.push(http.beside(HTTP, false));
        let label = "TLS, mitmproxy adds a header";
        let tls = Way::new(label, middle, (RULED, MIDDLE), Https);
        ways.push(tls.beside(TLS, false));
    }
    ways
}

pub(super) async fn measure(parties: Parties, rounds: u32, report: &mut Report) {
    let mut ways = ways(&parties);
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

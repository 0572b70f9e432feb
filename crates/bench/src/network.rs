//! The network of sandboxes: what the kernel's part costs beside plain NAT, what the proxy's part carries and adds, and
//! whether many policies slow down creates.
//!
//! The servers are in a network namespace of the bench's own, so it needs root on the server's machine. The clients are
//! one program ([`inside`]), and things that are compared take turns in every round.

mod ground;
mod inside;
mod kernel;
mod policies;
mod proxy;

use std::collections::BTreeMap;

use soulbox_api_types::network::{NetworkRule, NetworkTransform, SandboxNetworkConfig};
use soulbox_api_types::secret::NewSecret;
use soulbox_client::Api;

use crate::Report;
use crate::run::{BenchError, Options, create_usable, request_with};
use crate::stats::{Samples, percentile};
use crate::transfer::gigabytes;
use ground::Ground;
use inside::Inside;
use proxy::Parties;

const ROUNDS: u32 = 15;
/// Addresses that no sandbox is kept from: those of the far side, and last the host's end of its cable.
const FAR: [&str; 5] = [DIRECT, STREAMED, MIDDLE, RESOLVER, "11.251.77.1"];
const DIRECT: &str = "11.251.77.2";
const STREAMED: &str = "11.251.77.3";
/// What is behind mitmproxy for the plain namespace.
const MIDDLE: &str = "11.251.77.4";
const RESOLVER: &str = "11.251.77.5";

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let mut report = Report::new("network");
    let mut ground = Ground::open(options.far_pem.as_deref())?;
    let rounds = ROUNDS;
    let open = sandbox(api, options, SandboxNetworkConfig::default()).await?;
    let policed = sandbox(api, options, by_address()).await?;
    let plain = Inside::Namespace(ground.plain());
    let paths = [
        ("plain NAT", plain.clone()),
        ("no policy", open.clone()),
        ("an address policy", policed),
    ];
    kernel::measure(paths, rounds, &mut report).await;

    let named = sandbox(api, options, by_name()).await?;
    let secret = options
        .far_pem
        .is_some()
        .then(|| format!("soulbox-bench-{}", std::process::id()));
    let ruled = match &secret {
        Some(secret) => Some(with_rule(api, options, secret).await?),
        None => {
            report.note("header rules are left out: the server does not trust the far side\n  FIX: start it with `rules_ca_file`, and name certificate and key with --far-pem (scripts/bench does both)");
            None
        }
    };
    let middle = match ground.start_middle() {
        Ok(()) => Some(plain),
        Err(reason) => {
            report.note(format!("mitmproxy is left out: {reason}\n  FIX: pip install mitmproxy, and have mitmdump in PATH"));
            None
        }
    };
    let parties = Parties {
        open,
        named,
        ruled,
        middle,
    };
    proxy::measure(parties, rounds, &mut report).await;
    if let Some(secret) = secret {
        api.remove_secret(&secret).await?;
    }
    drop(ground);
    policies::measure(api, options, &mut report).await?;
    Ok(report)
}

async fn sandbox(
    api: &Api,
    options: &Options,
    network: SandboxNetworkConfig,
) -> Result<Inside, BenchError> {
    let created = create_usable(api, &request_with(&options.template, network)).await?;
    Inside::sandbox(&created.envd).await
}

fn by_address() -> SandboxNetworkConfig {
    SandboxNetworkConfig {
        allow_out: Some(vec![format!("{DIRECT}/32"), "11.1.0.0/16".to_owned()]),
        deny_out: Some(vec!["0.0.0.0/0".to_owned()]),
        ..SandboxNetworkConfig::default()
    }
}

fn by_name() -> SandboxNetworkConfig {
    SandboxNetworkConfig {
        allow_out: Some(vec!["*.bench.test".to_owned(), "pypi.org".to_owned()]),
        deny_out: Some(vec!["0.0.0.0/0".to_owned()]),
        dns_servers: Some(vec![RESOLVER.to_owned()]),
        ..SandboxNetworkConfig::default()
    }
}

/// A sandbox whose requests to one name get a header with a secret, which the answers are searched for.
async fn with_rule(api: &Api, options: &Options, secret: &str) -> Result<Inside, BenchError> {
    let new = NewSecret {
        name: secret.to_owned(),
        value: "0123456789abcdef".to_owned(),
        metadata: None,
    };
    api.create_secret(&new).await?;
    let headers = BTreeMap::from([("X-Bench".to_owned(), format!("${{e2b.secrets.{secret}}}"))]);
    let rule = NetworkRule {
        transform: Some(NetworkTransform {
            headers: Some(headers),
        }),
    };
    let network = SandboxNetworkConfig {
        rules: Some(BTreeMap::from([(
            "ruled.bench.test".to_owned(),
            vec![rule],
        )])),
        dns_servers: Some(vec![RESOLVER.to_owned()]),
        ..SandboxNetworkConfig::default()
    };
    sandbox(api, options, network).await
}

/// Gigabytes per second, by the median.
fn rate(mib: u64, samples: &Samples) -> f64 {
    let time = percentile(&samples.sorted(), 50);
    if time.is_zero() {
        0.0
    } else {
        gigabytes(mib << 20) / time.as_secs_f64()
    }
}

//! Requests to one sandbox through the edge, beside nginx in front of the same servers in the same sandbox: small ones on
//! few and on many connections, large answers, streams of small pieces, and messages of WebSockets.

use std::net::SocketAddr;
use std::time::Duration;

use soulbox_api_types::sandbox::Sandbox;
use soulbox_client::Api;
use soulbox_client::endpoint::SandboxAddress;

use crate::Report;
use crate::report::Bound;
use crate::run::{BenchError, Options, create_usable, request, run_shell};
use crate::stats::Samples;

mod echo;
mod inside;
mod load;
mod nginx;

use inside::Inside;
use load::{Answered, Load, Work};
use nginx::Nginx;

const ENVD_PORT: u16 = 49_983;
/// How many ask at once, each the next when the last was answered.
const ASKING: [u32; 3] = [1, 64, 1000];
/// How many fetch the large file at once.
const FETCHING: u32 = 4;
/// How many WebSockets, each with one message on its way.
const MESSAGING: [u32; 2] = [1, 64];
const LARGE: &str = "/tmp/large";
const LARGE_MIB: u32 = 32;
/// Each side's turns, and how long one lasts.
const TURNS: u32 = 5;
const TURN: Duration = Duration::from_secs(1);
/// Of what nginx does.
const TARGET: f64 = 0.8;

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let address = address(api).ok_or_else(|| {
        BenchError::Reference("the edge is measured on plain HTTP at an address".to_owned())
    })?;
    let created = create_usable(api, &request(&options.template)).await?;
    let command = format!("head -c {LARGE_MIB}M /dev/zero >{LARGE}");
    let measured = match run_shell(&created.envd, &command).await {
        Ok(_) => Ok(measure(address, &created.sandbox, options).await),
        Err(error) => Err(error),
    };
    api.kill(&created.sandbox.sandbox_id).await?;
    measured
}

async fn measure(address: SocketAddr, sandbox: &Sandbox, options: &Options) -> Report {
    let mut report = Report::new("edge");
    let nginx = match Nginx::start(&sandbox.sandbox_id, ENVD_PORT) {
        Ok(nginx) => Some(nginx),
        Err(reason) => {
            report.note(format!("nginx is not beside it: {reason}"));
            None
        }
    };
    let sides = Sides { address, nginx };
    let inside = Inside::start(&sandbox.sandbox_id);
    let turns = options.count.unwrap_or(TURNS);
    for connections in ASKING {
        let request = get("/health", ENVD_PORT, sandbox);
        let small = sides
            .turns(Work::Answer, &request, connections, turns)
            .await;
        small.tell(
            &format!("small requests on {connections}"),
            "per second",
            Answered::requests_per_second,
            &mut report,
        );
    }
    let request = get(&format!("/files?path={LARGE}"), ENVD_PORT, sandbox);
    let large = sides.turns(Work::Answer, &request, FETCHING, turns).await;
    large.tell(
        &format!("files of {LARGE_MIB} MiB on {FETCHING}"),
        "MB/s",
        Answered::megabytes_per_second,
        &mut report,
    );
    match inside {
        Ok(_serving) => streams_and_messages(&sides, sandbox, turns, &mut report).await,
        Err(reason) => report.note(format!(
            "streams and WebSockets were not measured: {reason}"
        )),
    }
    report
}

async fn streams_and_messages(sides: &Sides, sandbox: &Sandbox, turns: u32, report: &mut Report) {
    let request = get("/stream", echo::PORT, sandbox);
    let work = Work::Stream(echo::STREAM_BYTES);
    let streams = sides.turns(work, &request, FETCHING, turns).await;
    streams.tell(
        &format!("streams of 1 KiB pieces on {FETCHING}"),
        "MB/s",
        Answered::megabytes_per_second,
        report,
    );
    let upgrade = "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let request = get("/echo", echo::PORT, sandbox).replacen("\r\n\r\n", upgrade, 1);
    for connections in MESSAGING {
        let messages = sides.turns(Work::Echo, &request, connections, turns).await;
        messages.tell(
            &format!("WebSocket messages on {connections}"),
            "per second",
            Answered::requests_per_second,
            report,
        );
    }
}

/// Where the edge listens, when all goes to one address.
fn address(api: &Api) -> Option<SocketAddr> {
    let SandboxAddress::Url(url) = &api.endpoint().sandboxes else {
        return None;
    };
    url.strip_prefix("http://")?.parse().ok()
}

/// The same request for both: the edge reads the headers that name the sandbox, nginx passes them on.
fn get(path: &str, port: u16, sandbox: &Sandbox) -> String {
    let id = &sandbox.sandbox_id;
    let token = sandbox.envd_access_token.as_deref().unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: {port}\r\n\
         X-Access-Token: {token}\r\nAccept-Encoding: identity\r\n\r\n"
    )
}

struct Sides {
    address: SocketAddr,
    nginx: Option<Nginx>,
}

/// What each turn brought.
#[derive(Default)]
struct Turns {
    ours: Vec<Answered>,
    theirs: Vec<Answered>,
}

impl Sides {
    /// One turn each that does not count, then in turns.
    async fn turns(&self, work: Work, request: &str, connections: u32, turns: u32) -> Turns {
        let mut all = Turns::default();
        for turn in 0..=turns {
            let load = |address| Load {
                address,
                work,
                request: request.to_owned(),
                connections,
                lasting: TURN,
            };
            let ours = carry(load(self.address)).await;
            let theirs = match &self.nginx {
                Some(nginx) => nginx.carry(load(Nginx::ADDRESS)).await,
                None => None,
            };
            if turn > 0 {
                all.ours.extend(ours);
                all.theirs.extend(theirs);
            }
        }
        all
    }
}

/// On a thread with a runtime of its own, as nginx is asked.
async fn carry(load: Load) -> Option<Answered> {
    let work = move || Some(nginx::one_thread().ok()?.block_on(load.run()));
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

impl Turns {
    fn tell(
        &self,
        what: &str,
        unit: &'static str,
        rate: impl Fn(&Answered) -> f64,
        report: &mut Report,
    ) {
        let what = format!("{what} connections");
        let median = |side: &[Answered]| {
            let mut rates: Vec<f64> = side.iter().map(&rate).collect();
            rates.sort_unstable_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied()
        };
        let sides = [("the edge", &self.ours), ("nginx", &self.theirs)];
        for (side, turns) in sides {
            if let Some(rate) = median(turns) {
                report.timing(format!("{what}, {side}"), &all(turns), None);
                report.figure(format!("{what}, {side}"), rate, unit, None);
            }
        }
        if let (Some(ours), Some(theirs)) = (median(&self.ours), median(&self.theirs)) {
            report.figure(
                format!("{what}, the edge / nginx"),
                ours / theirs,
                "x",
                Some(Bound::AtLeast(TARGET)),
            );
        }
    }
}

fn all(turns: &[Answered]) -> Samples {
    let mut all = Samples::new();
    turns.iter().for_each(|turn| all.merge(turn.times.clone()));
    all
}

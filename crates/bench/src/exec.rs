//! Commands on one running sandbox, over the wire, beside what a command costs without us: the same program started by
//! a process that is in the sandbox already, and one byte to and fro over the loopback.

use std::time::{Duration, Instant};

use soulbox_client::Api;
use soulbox_client::envd::Envd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::report::Target;
use crate::run::{
    BenchError, Options, WARM_UP, create_usable, reason, request, run_shell, run_true,
};
use crate::stats::Samples;
use crate::{Report, ratio};

const ROUNDS: u32 = 200;
/// The reference inside is taken in turn with ours, this many at a time: it has a process of its own to start first.
const TURN: u32 = 20;

#[derive(Default)]
struct Measured {
    wire: Samples,
    bare: Samples,
    loopback: Samples,
}

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let created = create_usable(api, &request(&options.template)).await?;
    let rounds = options.count.unwrap_or(ROUNDS);
    let measured = measure(&created.envd, rounds).await;
    api.kill(&created.sandbox.sandbox_id).await?;
    let measured = measured?;
    let mut report = Report::new("exec");
    report.timing(
        "commands.run(\"true\")",
        &measured.wire,
        Some(Target::p50(4.0)),
    );
    report.timing(
        "the same program, started inside and waited for",
        &measured.bare,
        None,
    );
    report.timing(
        "one byte over the loopback and back",
        &measured.loopback,
        None,
    );
    report.ratio(
        "over the wire / (inside + loopback) (p50)",
        ratio::of_medians(&measured.wire, &together(&measured)),
        Some(1.3),
    );
    Ok(report)
}

/// What a command over the wire cannot do without.
fn together(measured: &Measured) -> Samples {
    let mut sums = Samples::new();
    let pairs = measured.bare.times().iter().zip(measured.loopback.times());
    pairs.for_each(|(bare, loopback)| sums.add(*bare + *loopback));
    sums
}

async fn measure(envd: &Envd, rounds: u32) -> Result<Measured, BenchError> {
    let mut echo = Echo::start().await.map_err(|error| reference(&error))?;
    for _ in 0..WARM_UP {
        run_true(envd).await?;
        echo.round_trip().await.map_err(|error| reference(&error))?;
    }
    inside(envd, WARM_UP).await?;
    let mut measured = Measured::default();
    let mut left = rounds;
    while left > 0 {
        let turn = left.min(TURN);
        left -= turn;
        for _ in 0..turn {
            let start = Instant::now();
            let outcome = run_true(envd).await;
            measured.wire.record(
                outcome
                    .map(|()| start.elapsed())
                    .map_err(|error| reason(&error)),
            );
            measured
                .loopback
                .add(echo.round_trip().await.map_err(|error| reference(&error))?);
        }
        for time in inside(envd, turn).await? {
            measured.bare.add(time);
        }
    }
    Ok(measured)
}

fn reference(error: &std::io::Error) -> BenchError {
    BenchError::Reference(error.to_string())
}

/// Starts what `commands.run("true")` starts, and waits for it, as a process in the sandbox does.
async fn inside(envd: &Envd, count: u32) -> Result<Vec<Duration>, BenchError> {
    let line = format!(
        "python3 -c 'import os, time\n\
         for _ in range({count}):\n\
         \x20 begun = time.perf_counter_ns()\n\
         \x20 child = os.posix_spawn(\"/bin/bash\", [\"/bin/bash\", \"-l\", \"-c\", \"true\"], os.environ)\n\
         \x20 os.waitpid(child, 0)\n\
         \x20 print(time.perf_counter_ns() - begun)'"
    );
    parse(&run_shell(envd, &line).await?, count)
}

fn parse(output: &[u8], count: u32) -> Result<Vec<Duration>, BenchError> {
    let text = String::from_utf8_lossy(output);
    let times: Vec<Duration> = text
        .lines()
        .map_while(|line| line.parse().ok().map(Duration::from_nanos))
        .collect();
    if u32::try_from(times.len()) == Ok(count) {
        Ok(times)
    } else {
        Err(BenchError::Reference(format!("not {count} times: {text}")))
    }
}

/// A connection to a task that sends back what it gets.
struct Echo {
    connection: TcpStream,
}

impl Echo {
    async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (connection, accepted) =
            tokio::try_join!(TcpStream::connect(address), listener.accept())?;
        let mut other = accepted.0;
        connection.set_nodelay(true)?;
        other.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut byte = [0];
            // It ends with the connection.
            while other.read_exact(&mut byte).await.is_ok() && other.write_all(&byte).await.is_ok()
            {
            }
        });
        Ok(Self { connection })
    }

    async fn round_trip(&mut self) -> std::io::Result<Duration> {
        let start = Instant::now();
        self.connection.write_all(&[1]).await?;
        self.connection.read_exact(&mut [0]).await?;
        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_reference() {
        assert_eq!(
            parse(b"1500\n2000\n", 2).unwrap(),
            [Duration::from_nanos(1500), Duration::from_micros(2)]
        );
        assert!(parse(b"1500\nTraceback\n", 2).is_err());
        assert!(parse(b"", 1).is_err());
    }

    #[tokio::test]
    async fn a_byte_comes_back() {
        let mut echo = Echo::start().await.unwrap();
        assert!(echo.round_trip().await.unwrap() > Duration::ZERO);
        assert!(echo.round_trip().await.unwrap() < Duration::from_secs(10));
    }

    #[test]
    fn each_pair_is_summed() {
        let mut measured = Measured::default();
        measured.bare.add(Duration::from_millis(2));
        measured.loopback.add(Duration::from_millis(1));
        assert_eq!(together(&measured).times(), [Duration::from_millis(3)]);
    }
}

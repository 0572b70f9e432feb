//! The client's program, in a sandbox or in a plain network namespace, and the times that it prints.

use std::process::Stdio;
use std::time::Duration;

use soulbox_client::envd::Envd;
use soulbox_client::process::Start;
use tokio::process::Command;
use tokio::time::timeout;

use crate::BenchError;
use crate::stats::Samples;

const PROGRAM: &str = include_str!("inside.py");
const FILE: &str = "/tmp/soulbox-bench.py";
/// One that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where it runs.
#[derive(Debug, Clone)]
pub(super) enum Inside {
    /// A sandbox.
    Sandbox(Box<Envd>),
    /// A network namespace of the host, by name.
    Namespace(String),
}

/// What it does.
#[derive(Debug, Clone)]
pub(super) struct Work {
    /// Which of its ways.
    pub(super) what: &'static str,
    /// The name that it asks for.
    pub(super) name: &'static str,
    /// Where it connects to; `-` for what the name leads to.
    pub(super) address: &'static str,
    pub(super) port: u16,
    /// Bytes each time.
    pub(super) bytes: u64,
    pub(super) times: u32,
}

impl Inside {
    /// A sandbox that has the program.
    pub(super) async fn sandbox(envd: &Envd) -> Result<Self, BenchError> {
        envd.write(FILE, None, PROGRAM).await?;
        Ok(Self::Sandbox(Box::new(envd.clone())))
    }

    /// Does it, and adds what was measured.
    pub(super) async fn measure(&self, work: &Work, samples: &mut Samples) {
        match timeout(PATIENCE, self.output(work)).await {
            Ok(Ok(text)) => times(&text, work.times, samples),
            Ok(Err(reason)) => samples.fail(&reason),
            Err(_) => samples.fail(&"it does not come to an end"),
        }
    }

    async fn output(&self, work: &Work) -> Result<String, String> {
        let arguments = [
            work.what.to_owned(),
            work.name.to_owned(),
            work.address.to_owned(),
            work.port.to_string(),
            work.bytes.to_string(),
            work.times.to_string(),
        ];
        let (success, out, said) = match self {
            Self::Sandbox(envd) => {
                let line = format!("exec python3 {FILE} {}", arguments.join(" "));
                let output = envd.run(&Start::shell(&line)).await;
                let output = output.map_err(|error| error.to_string())?;
                let success = output.end.exited && output.end.exit_code == 0;
                (success, output.stdout, output.stderr)
            }
            Self::Namespace(name) => {
                let output = Command::new("ip")
                    .args(["netns", "exec", name, "python3", "-c", PROGRAM])
                    .args(arguments)
                    .stdin(Stdio::null())
                    .kill_on_drop(true)
                    .output()
                    .await;
                let output = output.map_err(|error| error.to_string())?;
                (output.status.success(), output.stdout, output.stderr)
            }
        };
        if success {
            return Ok(String::from_utf8_lossy(&out).into_owned());
        }
        let said = String::from_utf8_lossy(&said);
        Err(said.lines().last().unwrap_or("it says nothing").to_owned())
    }
}

fn times(text: &str, wanted: u32, samples: &mut Samples) {
    let before = samples.len();
    for line in text.lines() {
        match line.parse() {
            Ok(nanoseconds) => samples.add(Duration::from_nanos(nanoseconds)),
            Err(_) => samples.fail(&line),
        }
    }
    if u32::try_from(samples.len() - before) != Ok(wanted) {
        samples.fail(&format!("not {wanted} times: {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_a_failure() {
        let mut samples = Samples::new();
        times("1500\n2000\n", 2, &mut samples);
        assert_eq!(
            samples.times(),
            [Duration::from_nanos(1500), Duration::from_micros(2)]
        );
        assert_eq!(samples.distribution().failures, 0);
        times("1500\n", 2, &mut samples);
        times("Traceback\n", 0, &mut samples);
        assert_eq!(samples.distribution().failures, 2);
    }
}

//! Processes in a sandbox: what is asked of envd's process service, and the stream of what happens to one.
//!
//! The wire is Connect with JSON (the only encoding E2B's clients use): 64-bit numbers and bytes are texts there,
//! and fields with default values are missing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64_NOPAD};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::envelope::{Decoder, Frame};
use crate::follow::Place;
use crate::{ClientError, Code, http};

/// How long the end of a body is waited for once its last frame is there.
const TAIL_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a stream begins in the output of its process.
const OUTPUT_AT: &str = "soulbox-output-at";
/// Asks for a stream that begins there.
pub(crate) const OUTPUT_FROM: &str = "soulbox-output-from";
/// Which process it is, whatever its number.
pub(crate) const PROCESS: &str = "soulbox-process";

/// A process to start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The program.
    pub cmd: String,
    /// Its arguments, without the program itself.
    pub args: Vec<String>,
    /// Environment on top of the sandbox's.
    pub envs: BTreeMap<String, String>,
    /// Where it runs; the template's directory when absent.
    pub cwd: Option<String>,
    /// As whom; the template's user when absent.
    pub user: Option<String>,
    /// Whether it gets an input that can be written to.
    pub stdin: bool,
    /// With this, it runs on a terminal of this size.
    pub pty: Option<Size>,
    /// It is killed after this long.
    pub timeout: Option<Duration>,
}

impl Start {
    /// A line for a login shell, as the SDKs run commands.
    #[must_use]
    pub fn shell(line: impl Into<String>) -> Self {
        Self {
            cmd: "/bin/bash".to_owned(),
            args: vec!["-l".to_owned(), "-c".to_owned(), line.into()],
            ..Self::default()
        }
    }
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It may clean up.
    Term,
    /// It ends now.
    Kill,
}

/// Something that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It runs, with this id inside the sandbox.
    Started {
        /// The id.
        pid: u32,
    },
    /// It wrote to its standard output.
    Stdout(Bytes),
    /// It wrote to its standard error.
    Stderr(Bytes),
    /// Its terminal shows this.
    Pty(Bytes),
    /// It ended.
    Ended(End),
}

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct End {
    /// Its exit code; -1 when a signal ended it.
    pub exit_code: i32,
    /// Whether it ended by itself.
    pub exited: bool,
    /// In words: `exit status 3`, `signal: killed`.
    pub status: String,
    /// The same, when it is no success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl End {
    /// The exit code a shell would give: 128 and the signal's number for a process that was killed.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        if self.exited || self.exit_code > 0 {
            return u8::try_from(self.exit_code & 0xff).unwrap_or(1);
        }
        let name = self.status.strip_prefix("signal: ").unwrap_or_default();
        let name = name.strip_suffix(" (core dumped)").unwrap_or(name);
        SIGNALS
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(255, |(_, number)| 128 + number)
    }
}

/// The words that envd has for signals, and their numbers on Linux.
const SIGNALS: [(&str, u8); 14] = [
    ("hangup", 1),
    ("interrupt", 2),
    ("quit", 3),
    ("illegal instruction", 4),
    ("trace/breakpoint trap", 5),
    ("aborted", 6),
    ("bus error", 7),
    ("floating point exception", 8),
    ("killed", 9),
    ("user defined signal 1", 10),
    ("segmentation fault", 11),
    ("user defined signal 2", 12),
    ("broken pipe", 13),
    ("terminated", 15),
];

/// A process that envd knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessInfo {
    /// Its id inside the sandbox.
    pub pid: u32,
    /// The label given at its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What was started.
    pub config: ProcessConfig,
}

/// Program, arguments and surroundings of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment on top of the sandbox's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct StartBody {
    process: ProcessConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pty: Option<Pty>,
    stdin: bool,
}

impl StartBody {
    pub(crate) fn new(start: &Start) -> Self {
        let process = ProcessConfig {
            cmd: start.cmd.clone(),
            args: start.args.clone(),
            envs: start.envs.clone(),
            cwd: start.cwd.clone(),
        };
        Self {
            process,
            pty: start.pty.map(|size| Pty { size }),
            stdin: start.stdin,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Pty {
    pub(crate) size: Size,
}

#[derive(Debug, Serialize)]
pub(crate) struct Selector {
    pub(crate) pid: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct ProcessBody {
    pub(crate) process: Selector,
}

impl ProcessBody {
    pub(crate) fn new(pid: u32) -> Self {
        Self {
            process: Selector { pid },
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct UpdateBody {
    pub(crate) process: Selector,
    pub(crate) pty: Pty,
}

#[derive(Debug, Serialize)]
pub(crate) struct SignalBody {
    pub(crate) process: Selector,
    pub(crate) signal: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct InputBody {
    process: Selector,
    input: BTreeMap<&'static str, String>,
}

impl InputBody {
    /// `to` is `stdin` or `pty`.
    pub(crate) fn new(pid: u32, to: &'static str, data: &[u8]) -> Self {
        Self {
            process: Selector { pid },
            input: BTreeMap::from([(to, BASE64.encode(data))]),
        }
    }
}

impl Signal {
    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::Term => "SIGNAL_SIGTERM",
            Self::Kill => "SIGNAL_SIGKILL",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListAnswer {
    pub(crate) processes: Vec<ProcessInfo>,
}

#[derive(Debug, Deserialize)]
struct Message {
    event: Option<WireEvent>,
}

#[derive(Debug, Deserialize)]
struct WireEvent {
    start: Option<WireStart>,
    data: Option<WireData>,
    end: Option<End>,
}

#[derive(Debug, Deserialize)]
struct WireStart {
    #[serde(default)]
    pid: u32,
}

#[derive(Debug, Deserialize)]
struct WireData {
    stdout: Option<String>,
    stderr: Option<String>,
    pty: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    error: Option<OutcomeError>,
}

#[derive(Debug, Deserialize)]
struct OutcomeError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads one message of a stream. None for what only keeps the connection awake.
fn parse_event(message: &[u8]) -> Result<Option<Event>, String> {
    let message: Message = serde_json::from_slice(message).map_err(|error| error.to_string())?;
    let Some(event) = message.event else {
        return Ok(None);
    };
    if let Some(start) = event.start {
        return Ok(Some(Event::Started { pid: start.pid }));
    }
    if let Some(end) = event.end {
        return Ok(Some(Event::Ended(end)));
    }
    let Some(data) = event.data else {
        return Ok(None);
    };
    let (text, kind): (_, fn(Bytes) -> Event) = match (data.stdout, data.stderr, data.pty) {
        (Some(text), _, _) => (text, Event::Stdout),
        (_, Some(text), _) => (text, Event::Stderr),
        (_, _, Some(text)) => (text, Event::Pty),
        (None, None, None) => return Ok(None),
    };
    let bytes = BASE64
        .decode(text.as_bytes())
        .or_else(|_| BASE64_NOPAD.decode(text.as_bytes()))
        .map_err(|error| format!("data is not base64: {error}"))?;
    Ok(Some(kind(Bytes::from(bytes))))
}

/// What the last frame says.
fn parse_outcome(operation: &str, message: &[u8]) -> Result<(), ClientError> {
    let outcome: Outcome = http::json(operation, message)?;
    match outcome.error {
        None => Ok(()),
        Some(error) => Err(ClientError::Refused {
            operation: operation.to_owned(),
            code: Code::Rpc(error.code),
            message: error.message,
            error_code: None,
        }),
    }
}

/// The events of one process. Dropping it closes the connection; the process goes on.
#[derive(Debug)]
pub struct Events {
    operation: String,
    body: Incoming,
    decoder: Decoder,
    /// None when envd does not count.
    place: Option<Place>,
    ended: bool,
}

impl Events {
    /// Takes the answer to Start or Connect.
    pub(crate) async fn of(
        operation: &str,
        response: hyper::Response<Incoming>,
    ) -> Result<Self, ClientError> {
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            let body = http::read_all(operation, body).await?;
            return Err(http::refusal(operation, parts.status, &body));
        }
        Ok(Self {
            operation: operation.to_owned(),
            body,
            decoder: Decoder::default(),
            place: place_of(&parts.headers),
            ended: false,
        })
    }

    /// Where it is in the process's output.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The next event; None after the last one.
    ///
    /// # Errors
    /// When envd reports a failure, the connection breaks or the stream is not one.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        while !self.ended {
            match self
                .decoder
                .next()
                .map_err(|error| ClientError::answer(&self.operation, error))?
            {
                Some(Frame::Message(message)) => {
                    let event = parse_event(&message)
                        .map_err(|reason| ClientError::answer(&self.operation, reason))?;
                    if let Some(event) = event {
                        self.count(&event);
                        return Ok(Some(event));
                    }
                }
                Some(Frame::End(message)) => {
                    self.ended = true;
                    self.drain().await;
                    parse_outcome(&self.operation, &message)?;
                }
                None => self.read_more().await?,
            }
        }
        Ok(None)
    }

    fn count(&mut self, event: &Event) {
        if let (Some(place), Event::Stdout(data) | Event::Stderr(data) | Event::Pty(data)) =
            (&mut self.place, event)
        {
            place.at += u64::try_from(data.len()).unwrap_or_default();
        }
    }

    async fn read_more(&mut self) -> Result<(), ClientError> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.decoder.push(data);
                }
                Ok(())
            }
            Some(Err(error)) => Err(ClientError::broken(&self.operation, error)),
            None => {
                self.decoder
                    .finish()
                    .map_err(|error| ClientError::answer(&self.operation, error))?;
                Err(ClientError::broken(
                    &self.operation,
                    "the stream ended without its last frame",
                ))
            }
        }
    }

    /// Reads what is left of the body, so that the connection can be used again.
    async fn drain(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.frame().await {} };
        // A server that keeps the body open costs us this connection, no more.
        tokio::time::timeout(TAIL_TIMEOUT, rest).await.ok();
    }
}

/// What SoulBox's envd says besides E2B's.
fn place_of(headers: &HeaderMap) -> Option<Place> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    Some(Place {
        at: text(OUTPUT_AT)?.parse().ok()?,
        process: text(PROCESS)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(json: &str) -> End {
        match parse_event(format!(r#"{{"event":{{"end":{json}}}}}"#).as_bytes()).unwrap() {
            Some(Event::Ended(end)) => end,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events() {
        let event = |text: &str| parse_event(text.as_bytes()).unwrap();
        assert_eq!(
            event(r#"{"event":{"start":{"pid":7}}}"#),
            Some(Event::Started { pid: 7 })
        );
        assert_eq!(
            event(r#"{"event":{"data":{"stdout":"aGk="}}}"#),
            Some(Event::Stdout(Bytes::from_static(b"hi")))
        );
        assert_eq!(
            event(r#"{"event":{"data":{"pty":"aGk"}}}"#),
            Some(Event::Pty(Bytes::from_static(b"hi")))
        );
        assert_eq!(event(r#"{"event":{"keepalive":{}}}"#), None);
        assert_eq!(event(r#"{"new":1}"#), None);
        assert!(parse_event(br#"{"event":{"data":{"stdout":"?"}}}"#).is_err());
        assert!(parse_event(b"nonsense").is_err());
    }

    #[test]
    fn exit_codes() {
        assert_eq!(
            end(r#"{"exited":true,"status":"exit status 0"}"#).shell_code(),
            0
        );
        assert_eq!(
            end(r#"{"exitCode":3,"exited":true,"status":"exit status 3","error":"exit status 3"}"#)
                .shell_code(),
            3
        );
        assert_eq!(
            end(r#"{"exitCode":-1,"status":"signal: killed","error":"signal: killed"}"#)
                .shell_code(),
            137
        );
        assert_eq!(
            end(r#"{"exitCode":-1,"status":"signal: segmentation fault (core dumped)"}"#)
                .shell_code(),
            139
        );
        assert_eq!(
            end(r#"{"exitCode":-1,"status":"signal: 40"}"#).shell_code(),
            255
        );
    }

    #[test]
    fn outcomes() {
        assert!(parse_outcome("test", b"{}").is_ok());
        let error = parse_outcome(
            "test",
            br#"{"error":{"code":"not_found","message":"process with pid 5 not found"}}"#,
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "test: process with pid 5 not found (not_found)"
        );
    }

    #[test]
    fn bodies_are_those_of_the_sdks() {
        let json = |value: &dyn erased::Json| value.json();
        let run = StartBody::new(&Start::shell("x"));
        assert_eq!(
            json(&run),
            r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","x"]},"stdin":false}"#
        );
        let pty = Start {
            cmd: "sh".to_owned(),
            pty: Some(Size { cols: 80, rows: 24 }),
            stdin: true,
            ..Start::default()
        };
        assert_eq!(
            json(&StartBody::new(&pty)),
            r#"{"process":{"cmd":"sh"},"pty":{"size":{"cols":80,"rows":24}},"stdin":true}"#
        );
        assert_eq!(
            json(&InputBody::new(5, "stdin", b"hi")),
            r#"{"process":{"pid":5},"input":{"stdin":"aGk="}}"#
        );
        let signal = SignalBody {
            process: Selector { pid: 5 },
            signal: Signal::Kill.wire(),
        };
        assert_eq!(
            json(&signal),
            r#"{"process":{"pid":5},"signal":"SIGNAL_SIGKILL"}"#
        );
    }

    mod erased {
        pub(super) trait Json {
            fn json(&self) -> String;
        }
        impl<T: serde::Serialize> Json for T {
            fn json(&self) -> String {
                serde_json::to_string(self).unwrap()
            }
        }
    }
}

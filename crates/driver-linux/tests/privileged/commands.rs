//! Commands inside a sandbox, through envd and the driver's own way in: Connect over HTTP/1.1, JSON, by hand.
//!
//! By hand, so that nothing between test and envd retries, reconnects or hides a reset.

use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};
use soulbox_driver::Guest;
use soulbox_types::SlotIndex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::{Place, record, recorded_pid, soon};

pub(crate) const ENVD_PORT: u16 = 49983;

/// One sandbox, as tests see it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) guest: Arc<dyn Guest>,
    /// envd's number on the host.
    pub(crate) pid: i32,
    pub(crate) slot: SlotIndex,
    /// `<data>/sandboxes/<id>`.
    pub(crate) directory: PathBuf,
}

/// How a command ended, and what it said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    pub(crate) code: i64,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// In envd's words.
    pub(crate) status: String,
}

impl Sandbox {
    pub(crate) fn new(guest: Arc<dyn Guest>, place: &Place) -> Self {
        let id = guest.spec().id.to_string();
        let slot = serde_json::from_value(record(place, &id).unwrap()["slot"].take()).unwrap();
        Self {
            pid: recorded_pid(place, &id).unwrap(),
            slot,
            directory: place.data_dir.join("sandboxes").join(id),
            guest,
        }
    }

    /// A file of `/proc/<envd>` on the host.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Starts a program and follows it.
    pub(crate) async fn start(&self, user: &str, argv: &[&str]) -> Running {
        let stream = self.guest.dial(ENVD_PORT).await.unwrap();
        let (program, arguments) = argv.split_first().unwrap();
        let body = json!({ "process": { "cmd": program, "args": arguments }, "stdin": false });
        let token = &self.guest.spec().envd_access_token;
        soon(
            "start a command",
            Running::start(stream, user, token, &body),
        )
        .await
    }

    /// Runs a program to its end.
    pub(crate) async fn run(&self, user: &str, argv: &[&str]) -> Output {
        let mut running = self.start(user, argv).await;
        let mut output = Output::default();
        while let Some(event) = soon(&format!("{argv:?}"), running.next()).await {
            output.take(&event);
        }
        output
    }

    /// Output of a shell command of root, which must succeed.
    pub(crate) async fn root(&self, command: &str) -> String {
        let output = self.run("root", &["sh", "-c", command]).await;
        assert_eq!(output.code, 0, "{command}: {output:?}");
        output.stdout
    }

    /// Whether a shell command of this user succeeds.
    pub(crate) async fn succeeds(&self, user: &str, command: &str) -> bool {
        self.run(user, &["sh", "-c", command]).await.code == 0
    }

    /// What a Python program prints, as JSON.
    pub(crate) async fn python(&self, user: &str, program: &str) -> Value {
        let output = self.run(user, &["python3", "-c", program]).await;
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Starts a Python program and waits until it prints its first line.
    pub(crate) async fn serve(&self, user: &str, program: &str) -> Running {
        let mut running = self.start(user, &["python3", "-u", "-c", program]).await;
        let mut output = Output::default();
        while !output.stdout.contains('\n') {
            let event = soon("a server inside", running.next()).await;
            output.take(&event.unwrap_or_else(|| panic!("ended: {output:?}")));
        }
        running
    }

    /// The cgroups of envd, by the host's view.
    pub(crate) fn envd_cgroups(&self) -> String {
        std::fs::read_to_string(self.proc("cgroup")).unwrap_or_default()
    }
}

impl Output {
    pub(crate) fn take(&mut self, event: &Value) {
        let text = |name: &str| {
            let bytes = BASE64
                .decode(event["data"][name].as_str().unwrap_or_default().as_bytes())
                .unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        self.stdout.push_str(&text("stdout"));
        self.stderr.push_str(&text("stderr"));
        if event["end"].is_object() {
            self.code = event["end"]["exitCode"].as_i64().unwrap_or_default();
            let status = event["end"]["status"].as_str().unwrap_or_default();
            status.clone_into(&mut self.status);
        }
    }
}

/// A program inside, for as long as its stream is open.
#[derive(Debug)]
pub(crate) struct Running {
    stream: BufReader<TcpStream>,
    /// Bytes of the body that are not a whole message yet.
    pending: Vec<u8>,
}

impl Running {
    async fn start(mut stream: TcpStream, user: &str, token: &str, body: &Value) -> Self {
        let body = body.to_string();
        let length = u32::try_from(body.len()).unwrap();
        let head = format!(
            "POST /process.Process/Start HTTP/1.1\r\nHost: sandbox\r\nContent-Type: application/connect+json\r\n\
             Connect-Protocol-Version: 1\r\nX-Access-Token: {token}\r\nAuthorization: Basic {}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            BASE64.encode(format!("{user}:").as_bytes()),
            length + 5,
        );
        // A Connect message: flags, length, content.
        let request = [
            head.as_bytes(),
            &[0],
            &length.to_be_bytes(),
            body.as_bytes(),
        ]
        .concat();
        stream.write_all(&request).await.unwrap();
        let mut running = Self {
            stream: BufReader::new(stream),
            pending: Vec::new(),
        };
        let status = running.line().await;
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        while !running.line().await.is_empty() {}
        running
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The next event; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((head, rest)) = self.pending.split_at_checked(5) {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                if let Some((message, rest)) =
                    rest.split_at_checked(usize::try_from(length).unwrap())
                {
                    let (last, event) = (
                        head[0] & 2 != 0,
                        serde_json::from_slice::<Value>(message).unwrap(),
                    );
                    self.pending = rest.to_vec();
                    if last {
                        assert!(event["error"].is_null(), "{event}");
                        return None;
                    }
                    return Some(event["event"].clone());
                }
            }
            self.chunk().await?;
        }
    }

    async fn chunk(&mut self) -> Option<()> {
        let length = usize::from_str_radix(&self.line().await, 16).ok()?;
        let start = self.pending.len();
        self.pending.resize(start + length, 0);
        self.stream
            .read_exact(&mut self.pending[start..])
            .await
            .ok()?;
        self.line().await;
        (length > 0).then_some(())
    }
}

//! envd as a program, and a client that sees every byte: HTTP/1.1 over a plain socket.
//!
//! Written out instead of using a library, because what is tested is the wire itself: frames as they arrive, headers as
//! they are, connections that break.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Far longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Envd {
    child: Option<Child>,
    pub(crate) address: SocketAddr,
    pub(crate) home: tempfile::TempDir,
}

impl Drop for Envd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Envd {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_soulbox-envd"))
            .args(["--listen", "127.0.0.1:0", "--user", &account()])
            .args(args)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .parse()
            .unwrap();
        Self {
            child: Some(child),
            address,
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// One that somebody else has started.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self {
            child: None,
            address,
            home: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// A path below a directory of this test's own.
    pub(crate) fn path(&self, below: &str) -> String {
        self.home.path().join(below).to_str().unwrap().to_owned()
    }

    pub(crate) fn open(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut connection = Connection {
            reader: BufReader::new(stream),
            chunked: false,
            left: None,
        };
        connection.send(head.as_bytes());
        connection
    }

    pub(crate) fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.extend([("Content-Length", length.as_str()), ("Connection", "close")]);
        let mut connection = self.open(method, target, &all);
        connection.send(body);
        connection.answer()
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// A unary call.
    pub(crate) fn call_with(
        &self,
        method: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut all = vec![
            ("Content-Type", "application/json"),
            ("Connect-Protocol-Version", "1"),
        ];
        all.extend(headers);
        let answer = self.request(
            "POST",
            &format!("/{method}"),
            &all,
            body.to_string().as_bytes(),
        );
        (
            answer.status,
            serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        )
    }

    pub(crate) fn call(&self, method: &str, body: Value) -> (u16, Value) {
        self.call_with(method, &body, &[])
    }

    /// The code of a call that must fail.
    pub(crate) fn code(&self, method: &str, body: Value) -> String {
        let (status, value) = self.call(method, body);
        assert_ne!(status, 200, "{value}");
        value["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no Connect error: {value}"))
            .to_owned()
    }

    /// A call that answers with a stream.
    pub(crate) fn stream_with(
        &self,
        method: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Connection {
        self.stream_and_head(method, body, headers).1
    }

    /// The same, with the answer's headers.
    pub(crate) fn stream_and_head(
        &self,
        method: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (Head, Connection) {
        let frame = frame(body);
        let length = frame.len().to_string();
        let mut all = vec![
            ("Content-Type", "application/connect+json"),
            ("Connect-Protocol-Version", "1"),
            ("Content-Length", length.as_str()),
        ];
        all.extend(headers);
        let mut connection = self.open("POST", &format!("/{method}"), &all);
        connection.send(&frame);
        let head = connection.head();
        assert_eq!(head.status, 200);
        (head, connection)
    }

    pub(crate) fn stream(&self, method: &str, body: Value) -> Connection {
        self.stream_with(method, &body, &[])
    }

    /// Starts a program without stdin.
    pub(crate) fn run(&self, cmd: &str, args: &[&str]) -> Connection {
        self.stream(
            "process.Process/Start",
            json!({"process": {"cmd": cmd, "args": args}, "stdin": false}),
        )
    }

    pub(crate) fn sh(&self, script: &str) -> Connection {
        self.run("/bin/sh", &["-c", script])
    }

    pub(crate) fn list(&self) -> Vec<Value> {
        let (status, value) = self.call("process.Process/List", json!({}));
        assert_eq!(status, 200);
        value["processes"].as_array().cloned().unwrap_or_default()
    }
}

/// The account the tests run as.
pub(crate) fn account() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn frame(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let mut frame = vec![0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body.as_bytes());
    frame
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn message(&self) -> String {
        let body = self.json();
        assert_eq!(body["code"], self.status);
        body["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    chunked: bool,
    left: Option<usize>,
}

impl Connection {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// One piece of a chunked request body.
    pub(crate) fn send_chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend(bytes);
        chunk.extend(b"\r\n");
        self.send(&chunk);
    }

    pub(crate) fn end_chunks(&mut self) {
        self.send(b"0\r\n\r\n");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn head(&mut self) -> Head {
        let status = self.line();
        let status = status
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("no status: {status:?}"))
            .parse()
            .unwrap();
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let all: &mut String = headers.entry(name.to_ascii_lowercase()).or_default();
            all.push_str(if all.is_empty() { "" } else { ", " });
            all.push_str(value.trim());
        }
        self.chunked = headers
            .get("transfer-encoding")
            .is_some_and(|v| v == "chunked");
        self.left = headers.get("content-length").map(|v| v.parse().unwrap());
        Head { status, headers }
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let Head { status, headers } = self.head();
        let mut body = Vec::new();
        if !matches!(status, 204 | 304) {
            while let Some(byte) = self.byte() {
                body.push(byte);
                let ready = self.reader.buffer().len().min(self.left.unwrap_or(0));
                let start = body.len();
                body.resize(start + ready, 0);
                self.reader.read_exact(&mut body[start..]).unwrap();
                self.left = self.left.map(|left| left - ready);
            }
        }
        Answer {
            status,
            headers,
            body,
        }
    }

    /// The next byte of the body, or its end.
    fn byte(&mut self) -> Option<u8> {
        if self.chunked && self.left.is_none_or(|left| left == 0) {
            if self.left.is_some() {
                self.line();
            }
            let size = self.line();
            let size =
                usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("broken off: {size:?}"));
            self.left = Some(size);
            if size == 0 {
                self.line();
                self.chunked = false;
                return None;
            }
        }
        match &mut self.left {
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                let mut byte = [0];
                self.reader.read_exact(&mut byte).unwrap();
                Some(byte[0])
            }
            None => {
                let mut byte = [0];
                (self.reader.read(&mut byte).unwrap() == 1).then_some(byte[0])
            }
        }
    }

    /// The next frame of a stream: flags and JSON. `None` at the end of the body.
    pub(crate) fn frame(&mut self) -> Option<(u8, Value)> {
        let flags = self.byte()?;
        let length = [(); 4].map(|()| self.byte().unwrap());
        let length = u32::from_be_bytes(length);
        let body: Vec<u8> = (0..length).map(|_| self.byte().unwrap()).collect();
        Some((flags, serde_json::from_slice(&body).unwrap()))
    }

    /// The next message; an end of stream is a failure here.
    pub(crate) fn event(&mut self) -> Value {
        match self.frame() {
            Some((0, mut message)) => message.get_mut("event").map_or(Value::Null, Value::take),
            other => panic!("no event: {other:?}"),
        }
    }

    /// The error that ends a stream, after any messages.
    pub(crate) fn error(&mut self) -> Value {
        loop {
            match self.frame() {
                Some((0, _)) => {}
                Some((2, end)) => {
                    assert!(self.byte().is_none(), "nothing may follow the end");
                    return end["error"].clone();
                }
                other => panic!("no end of stream: {other:?}"),
            }
        }
    }

    /// The process number that a Start or Connect stream begins with.
    pub(crate) fn pid(&mut self) -> u64 {
        self.event()["start"]["pid"].as_u64().unwrap()
    }

    /// Everything until the end: stdout or pty, stderr, the end event.
    pub(crate) fn finish(&mut self) -> Outcome {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let event = self.event();
            for name in ["stdout", "pty", "stderr"] {
                if let Some(data) = event["data"][name].as_str() {
                    let to = if name == "stderr" { &mut err } else { &mut out };
                    to.extend(data_encoding::BASE64.decode(data.as_bytes()).unwrap());
                }
            }
            if let Some(end) = event.get("end") {
                let end = end.clone();
                assert_eq!(self.frame(), Some((2, json!({}))));
                assert!(self.byte().is_none());
                return Outcome {
                    out: lossy(&out),
                    err: lossy(&err),
                    end,
                };
            }
        }
    }

    /// Reads data until it contains a text.
    pub(crate) fn until(&mut self, wanted: &str) -> String {
        let mut all = Vec::new();
        loop {
            let event = self.event();
            for name in ["stdout", "pty", "stderr"] {
                if let Some(data) = event["data"][name].as_str() {
                    all.extend(data_encoding::BASE64.decode(data.as_bytes()).unwrap());
                }
            }
            assert!(event.get("end").is_none(), "ended: {}", lossy(&all));
            if lossy(&all).contains(wanted) {
                return lossy(&all);
            }
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) end: Value,
}

pub(crate) fn b64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

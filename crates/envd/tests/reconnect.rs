//! Clients that were cut off: what they missed is given to them, and nobody else notices.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a failure of a helper is a failure of the test, and literals read best where they are used"
)]

mod common;

use std::fs;

use common::{Connection, Envd, Head, b64};
use serde_json::{Value, json};

const START: &str = "process.Process/Start";
const CONNECT: &str = "process.Process/Connect";
const RING: usize = 256 * 1024;

/// The stream of one process, with the position that a client counts.
struct Stream {
    connection: Connection,
    pid: u64,
    name: String,
    at: usize,
    out: Vec<u8>,
    err: Vec<u8>,
    end: Option<Value>,
}

impl Stream {
    fn of((head, mut connection): (Head, Connection)) -> Self {
        let pid = connection.pid();
        Self {
            connection,
            pid,
            name: head.headers["soulbox-process"].clone(),
            at: head.headers["soulbox-output-at"].parse().unwrap(),
            out: Vec::new(),
            err: Vec::new(),
            end: None,
        }
    }

    fn sh(envd: &Envd, script: &str) -> Self {
        let process = json!({"cmd": "/bin/sh", "args": ["-c", script]});
        Self::of(envd.stream_and_head(START, &json!({"process": process}), &[]))
    }

    fn again(envd: &Envd, selector: Value, from: &str) -> Self {
        let headers = [("Soulbox-Output-From", from)];
        Self::of(envd.stream_and_head(CONNECT, &json!({"process": selector}), &headers))
    }

    /// The connection breaks; another one goes on where it was.
    fn cut(self, envd: &Envd) -> Self {
        drop(self.connection);
        let next = Self::again(envd, json!({"pid": self.pid}), &self.at.to_string());
        assert_eq!((next.at, &next.name), (self.at, &self.name), "a gap");
        Self {
            out: self.out,
            err: self.err,
            ..next
        }
    }

    /// Takes one event; false at the end.
    fn next(&mut self) -> bool {
        let event = self.connection.event();
        for name in ["stdout", "pty", "stderr"] {
            if let Some(data) = event["data"][name].as_str() {
                let data = data_encoding::BASE64.decode(data.as_bytes()).unwrap();
                self.at += data.len();
                let to = if name == "stderr" {
                    &mut self.err
                } else {
                    &mut self.out
                };
                to.extend(data);
            }
        }
        self.end = event.get("end").cloned();
        if self.end.is_some() {
            assert_eq!(self.connection.frame(), Some((2, json!({}))));
        }
        self.end.is_none()
    }

    fn until(mut self, length: usize) -> Self {
        while self.out.len() + self.err.len() < length {
            assert!(self.next(), "ended early");
        }
        self
    }

    fn finish(mut self) -> Self {
        while self.next() {}
        self
    }

    fn text(&self) -> (&str, &str) {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        (text(&self.out), text(&self.err))
    }
}

fn error(envd: &Envd, selector: Value, headers: &[(&str, &str)]) -> Value {
    envd.stream_with(CONNECT, &json!({"process": selector}), headers)
        .error()
}

fn type_line(envd: &Envd, pid: u64) {
    let body = json!({"process": {"pid": pid}, "input": {"stdin": b64("\n")}});
    assert_eq!(envd.call("process.Process/SendInput", body).0, 200);
}

#[test]
fn output_that_was_missed_comes_first_and_the_rest_follows() {
    let envd = Envd::start();
    let stream = Stream::sh(
        &envd,
        "echo one; echo two >&2; read x; echo three; read x; exit 3",
    );
    assert_eq!(stream.at, 0);
    let stream = stream.until(8);
    let pid = stream.pid;
    drop(stream.connection);
    type_line(&envd, pid);
    let mut middle = Stream::again(&envd, json!({"pid": pid}), "4").until(10);
    assert_eq!((middle.at, middle.text()), (14, ("three\n", "two\n")));
    type_line(&envd, pid);
    while middle.next() {}
    assert_eq!(middle.end.unwrap()["exitCode"], 3);
}

#[test]
fn many_cuts_lose_and_double_nothing() {
    let envd = Envd::start();
    let script = "i=0; while [ $i -lt 4000 ]; do echo out-$i; echo err-$i >&2; i=$((i+1)); done";
    let expected = |name: &str| {
        (0..4000)
            .map(|i| format!("{name}-{i}\n"))
            .collect::<String>()
    };
    let (out, err) = (expected("out"), expected("err"));
    let mut stream = Stream::sh(&envd, script);
    for part in 1..40 {
        stream = stream.until(part * 1601).cut(&envd);
    }
    let stream = stream.finish();
    assert_eq!(stream.text(), (out.as_str(), err.as_str()));
    assert_eq!(stream.at, out.len() + err.len());
    assert_eq!(
        stream.end.unwrap(),
        json!({"exited": true, "status": "exit status 0"})
    );
}

#[test]
fn a_terminal_is_given_back_whole() {
    let envd = Envd::start();
    let process = json!({"cmd": "/bin/sh", "args": ["-c", "stty -onlcr -echo; seq 1000; read x; seq 1000 2000"]});
    let body =
        json!({"process": process, "pty": {"size": {"cols": 80, "rows": 24}}, "tag": "shell"});
    let stream = Stream::of(envd.stream_and_head(START, &body, &[])).until(3893);
    drop(stream.connection);
    let body = json!({"process": {"tag": "shell"}, "input": {"pty": b64("\n")}});
    assert_eq!(envd.call("process.Process/SendInput", body).0, 200);
    let all = Stream::again(&envd, json!({"tag": "shell"}), "oldest").finish();
    let expected: String = (1..=1000)
        .chain(1000..=2000)
        .map(|i| format!("{i}\n"))
        .collect();
    assert_eq!(all.text().0.len(), expected.len());
    assert!(all.text().0 == expected);
}

#[test]
fn a_process_that_ended_gives_its_rest_and_its_exit_code() {
    let envd = Envd::start();
    let stream = Stream::sh(&envd, "echo early; read x; echo late; echo bad >&2; exit 7").until(6);
    let pid = stream.pid;
    drop(stream.connection);
    let mut watcher = envd.stream(CONNECT, json!({"process": {"pid": pid}}));
    watcher.pid();
    type_line(&envd, pid);
    watcher.finish();
    assert!(envd.list().is_empty());

    let rest = Stream::again(&envd, json!({"pid": pid}), "6").finish();
    assert_eq!((rest.at, rest.text()), (15, ("late\n", "bad\n")));
    assert_eq!(rest.end.unwrap()["exitCode"], 7);
    let all = Stream::again(&envd, json!({"pid": pid}), "oldest").finish();
    assert_eq!(all.text().0, "early\nlate\n");
    let ahead = error(&envd, json!({"pid": pid}), &[("Soulbox-Output-From", "16")]);
    assert_eq!(ahead["code"], "invalid_argument");
    // Who does not ask is told the end alone, as ever.
    let (head, mut plain) = envd.stream_and_head(CONNECT, &json!({"process": {"pid": pid}}), &[]);
    assert_eq!(head.headers["soulbox-output-at"], "15");
    plain.pid();
    let plain = plain.finish();
    assert_eq!(
        (plain.out.as_str(), &plain.end["exitCode"]),
        ("", &json!(7))
    );
}

#[test]
fn a_connect_that_does_not_ask_is_what_it_was() {
    let envd = Envd::start();
    let stream = Stream::sh(&envd, "echo before; read x; echo after").until(7);
    let body = json!({"process": {"pid": stream.pid}});
    let (head, mut plain) = envd.stream_and_head(CONNECT, &body, &[]);
    assert_eq!(head.headers["soulbox-output-at"], "7");
    plain.pid();
    type_line(&envd, stream.pid);
    assert_eq!(plain.finish().out, "after\n");
    assert_eq!(stream.finish().text().0, "before\nafter\n");
}

#[test]
fn a_gap_shows_when_the_ring_was_too_small() {
    let envd = Envd::start();
    let done = envd.path("done");
    let script =
        format!("echo first; read x; head -c 1000000 /dev/zero; echo last; touch {done}; read x");
    let stream = Stream::sh(&envd, &script).until(6);
    let pid = stream.pid;
    drop(stream.connection);
    type_line(&envd, pid);
    let mut waiter = envd.sh(&format!("until [ -e {done} ]; do sleep 0.02; done"));
    waiter.pid();
    waiter.finish();
    let again = Stream::again(&envd, json!({"pid": pid}), "6");
    let (first, total) = (again.at, 6 + 1_000_000 + 5);
    assert!(first >= total - RING && first < total - RING / 2, "{first}");
    type_line(&envd, pid);
    let again = again.finish();
    assert_eq!(again.at, total);
    assert!(again.out.ends_with(b"\0last\n") && again.out.len() == total - first);
}

#[test]
fn two_readers_get_the_same() {
    let envd = Envd::start();
    let start = Stream::sh(&envd, "seq 2000; seq 2000 >&2; read x; seq 2000 3000").until(100);
    let pid = start.pid;
    drop(start.connection);
    let one = Stream::again(&envd, json!({"pid": pid}), "oldest");
    let two = Stream::again(&envd, json!({"pid": pid}), "1000");
    type_line(&envd, pid);
    let (one, two) = (one.finish(), two.finish());
    assert_eq!((one.at, &one.err), (two.at, &two.err));
    assert_eq!(one.out[1000..], two.out);
    assert_eq!(one.out.iter().filter(|b| **b == b'\n').count(), 3001);
}

#[test]
fn positions_that_are_none_are_refused() {
    let envd = Envd::start();
    let stream = Stream::sh(&envd, "echo hi; read x").until(3);
    let process = json!({"pid": stream.pid});
    for (from, says) in [
        ("4", "lies ahead: the process has written 3 bytes"),
        ("-1", "is no position"),
        ("newest", "is no position"),
        ("99999999999999999999", "is no position"),
    ] {
        let error = error(&envd, process.clone(), &[("Soulbox-Output-From", from)]);
        let message = error["message"].as_str().unwrap();
        assert_eq!(error["code"], "invalid_argument", "{from}");
        assert!(
            message.contains(says) && message.contains("\nFIX: "),
            "{message}"
        );
    }
    // The process does not notice.
    assert_eq!(Stream::again(&envd, process, "3").at, 3);
}

#[test]
fn another_process_is_not_taken_for_the_one_that_is_meant() {
    let envd = Envd::start();
    let stream = Stream::sh(&envd, "read x; echo end");
    let process = json!({"pid": stream.pid});
    let wrong = error(
        &envd,
        process.clone(),
        &[("Soulbox-Process", "0123456789abcdef")],
    );
    assert_eq!(wrong["code"], "not_found");
    let right = [
        ("Soulbox-Process", stream.name.as_str()),
        ("Soulbox-Output-From", "0"),
    ];
    let again = Stream::of(envd.stream_and_head(CONNECT, &json!({"process": process}), &right));
    type_line(&envd, stream.pid);
    assert_eq!(again.finish().text().0, "end\n");
    assert_ne!(Stream::sh(&envd, "true").name, stream.name);
    let unknown = [("Soulbox-Output-From", "0")];
    assert_eq!(
        error(&envd, json!({"pid": 99_999_999}), &unknown)["code"],
        "not_found"
    );
}

#[test]
fn a_stream_that_takes_the_place_of_another_has_its_deadline() {
    let envd = Envd::start();
    let process = json!({"process": {"cmd": "sleep", "args": ["1000"]}});
    let timeout = [("Connect-Timeout-Ms", "400")];
    let stream = Stream::of(envd.stream_and_head(START, &process, &timeout));
    let pid = json!({"pid": stream.pid});
    drop(stream.connection);
    let from = [("Soulbox-Output-From", "0")];
    assert_eq!(
        error(&envd, pid.clone(), &from)["code"],
        "deadline_exceeded"
    );
    // And so has one that comes too late.
    assert_eq!(error(&envd, pid, &from)["code"], "deadline_exceeded");
}

#[test]
fn all_rings_together_have_a_bound() {
    let envd = Envd::start();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", envd.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let started = resident();
    // Twice the bound, in processes that all go on.
    let streams: Vec<Stream> = (0..128)
        .map(|_| Stream::sh(&envd, "head -c 250000 /dev/zero; read x").until(250_000))
        .collect();
    let grown = resident() - started;
    assert!(grown < 40 * 1024, "{grown} KiB");
    let oldest = |stream: &Stream| Stream::again(&envd, json!({"pid": stream.pid}), "oldest").at;
    assert_eq!(
        oldest(streams.first().unwrap()),
        250_000,
        "the oldest has nothing left"
    );
    let newest = oldest(streams.last().unwrap());
    assert_eq!(newest, 0);
    for stream in streams {
        type_line(&envd, stream.pid);
        stream.finish();
    }
}

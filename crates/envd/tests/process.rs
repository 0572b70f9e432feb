//! `process.Process` as clients meet it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a failure of a helper is a failure of the test, and literals read best where they are used"
)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Envd, b64, frame};
use serde_json::{Value, json};

const START: &str = "process.Process/Start";
const CONNECT: &str = "process.Process/Connect";

fn pid_of(pid: u64) -> Value {
    json!({"process": {"pid": pid}})
}

fn alive(pid: u64) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

#[test]
fn a_command_runs_and_ends() {
    let envd = Envd::start();
    let mut stream = envd.sh("echo out; echo err >&2");
    let pid = stream.pid();
    let outcome = stream.finish();
    assert_eq!(
        (outcome.out.as_str(), outcome.err.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        outcome.end,
        json!({"exited": true, "status": "exit status 0"})
    );
    assert!(!alive(pid));
    assert!(envd.list().is_empty());
}

#[test]
fn ends_are_told_apart() {
    let envd = Envd::start();
    let end = |script: &str| {
        let mut stream = envd.sh(script);
        stream.pid();
        stream.finish().end
    };
    let three =
        json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!(end("exit 3"), three);
    let killed = json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"});
    assert_eq!(end("kill -9 $$"), killed);
    assert_eq!(end("kill -TERM $$")["status"], "signal: terminated");
}

#[test]
fn programs_that_are_missing_or_no_programs() {
    let envd = Envd::start();
    let end = |cmd: &str| {
        let mut stream = envd.run(cmd, &[]);
        stream.pid();
        stream.finish()
    };
    let missing = end("no-such-command");
    assert_eq!(missing.end["exitCode"], 127);
    assert!(
        missing.err.contains("no-such-command: not found"),
        "{}",
        missing.err
    );
    assert_eq!(end("/etc/passwd").end["exitCode"], 126);
    assert_eq!(end("").end["exitCode"], 127);
    let script = envd.path("script");
    fs::write(&script, "echo from $0").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(end(&script).out, format!("from {script}\n"));
}

#[test]
fn what_cannot_start_says_why() {
    let envd = Envd::start();
    let error = |config: Value| envd.stream(START, json!({"process": config})).error();
    let cwd = error(json!({"cmd": "true", "cwd": "/nowhere"}));
    assert_eq!(
        cwd,
        json!({"code": "invalid_argument", "message": "cwd '/nowhere' does not exist"})
    );
    assert_eq!(
        error(json!({"cmd": "true", "cwd": "/etc/passwd"}))["code"],
        "invalid_argument"
    );
    assert_eq!(
        error(json!({"cmd": "true", "cwd": "~other"}))["code"],
        "invalid_argument"
    );
    assert_eq!(error(json!({"cmd": "true\0"}))["code"], "invalid_argument");
    let nobody = [("Authorization", "Basic bm8tc3VjaC11c2VyOg==")];
    let error = envd
        .stream_with(START, &json!({"process": {"cmd": "true"}}), &nobody)
        .error();
    assert_eq!(
        error,
        json!({"code": "unauthenticated", "message": "invalid username: 'no-such-user'"})
    );
}

#[test]
fn environment_is_made_not_inherited() {
    let envd = Envd::start();
    let init = json!({"envVars": {"GLOBAL": "g", "OVER": "global", "E2B_SANDBOX": "forged"}});
    assert_eq!(
        envd.request("POST", "/init", &[], init.to_string().as_bytes())
            .status,
        204
    );
    let config = json!({"cmd": "/usr/bin/env", "envs": {"OWN": "o", "OVER": "own"}, "cwd": "/"});
    let mut stream = envd.stream(START, json!({"process": config, "stdin": false}));
    stream.pid();
    let outcome = stream.finish();
    let mut names: Vec<&str> = outcome
        .out
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "E2B_SANDBOX",
            "GLOBAL",
            "HOME",
            "LOGNAME",
            "OVER",
            "OWN",
            "PATH",
            "USER"
        ]
    );
    assert!(outcome.out.contains("OVER=own\n") && outcome.out.contains("E2B_SANDBOX=false\n"));
    let envs = envd.get("/envs").json();
    assert_eq!(
        envs,
        json!({"E2B_SANDBOX": "false", "GLOBAL": "g", "OVER": "global"})
    );
}

#[test]
fn input_and_its_end() {
    let envd = Envd::start();
    let mut stream = envd.stream(START, json!({"process": {"cmd": "cat"}, "tag": "cat"}));
    let pid = stream.pid();
    let send = |input: Value| {
        envd.call(
            "process.Process/SendInput",
            json!({"process": {"tag": "cat"}, "input": input}),
        )
    };
    assert_eq!(send(json!({"stdin": b64("hello\n")})), (200, json!({})));
    assert_eq!(stream.until("\n"), "hello\n");
    assert_eq!(send(json!({"stdin": ""})), (200, json!({})));
    assert_eq!(send(json!({"pty": b64("x")})).1["code"], "internal");
    assert_eq!(send(json!({})).1["code"], "unimplemented");
    assert_eq!(
        envd.call("process.Process/CloseStdin", pid_of(pid)),
        (200, json!({}))
    );
    assert_eq!(stream.finish().end["status"], "exit status 0");

    let mut stream = envd.sh("read line; sleep 1000");
    let pid = stream.pid();
    let (_, error) = envd.call(
        "process.Process/SendInput",
        json!({"process": {"pid": pid}, "input": {"stdin": "aGk="}}),
    );
    assert_eq!(
        error,
        json!({"code": "internal", "message": "error writing to stdin: stdin not enabled or closed"})
    );
    assert_eq!(envd.call("process.Process/CloseStdin", pid_of(pid)).0, 200);
    assert_eq!(envd.call("process.Process/CloseStdin", pid_of(pid)).0, 200);
}

#[test]
fn input_that_nobody_reads_ends_with_stdin() {
    let envd = Envd::start();
    let mut stream = envd.stream(
        START,
        json!({"process": {"cmd": "sleep", "args": ["1000"]}}),
    );
    let pid = stream.pid();
    let megabyte = "x".repeat(1 << 20);
    let body = json!({"process": {"pid": pid}, "input": {"stdin": b64(&megabyte)}});
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| envd.call("process.Process/SendInput", body));
        // Its pipe takes 64 KiB, so the call above cannot return before this one ends it.
        while envd.call("process.Process/CloseStdin", pid_of(pid)).0 == 200
            && !blocked.is_finished()
        {}
        assert_eq!(blocked.join().unwrap().1["code"], "internal");
    });
    envd.call(
        "process.Process/SendSignal",
        json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}),
    );
    assert_eq!(stream.finish().end["status"], "signal: killed");
}

#[test]
fn large_input_arrives_whole() {
    let envd = Envd::start();
    let mut stream = envd.stream(START, json!({"process": {"cmd": "wc", "args": ["-c"]}}));
    let pid = stream.pid();
    let data = "y".repeat(5 << 20);
    let body = json!({"process": {"pid": pid}, "input": {"stdin": b64(&data)}});
    assert_eq!(envd.call("process.Process/SendInput", body).0, 200);
    envd.call("process.Process/CloseStdin", pid_of(pid));
    assert_eq!(stream.finish().out.trim(), (5 << 20).to_string());
}

#[test]
fn others_may_listen() {
    let envd = Envd::start();
    let mut first = envd.stream(START, json!({"process": {"cmd": "cat"}, "tag": "t"}));
    let pid = first.pid();
    let mut second = envd.stream(CONNECT, pid_of(pid));
    assert_eq!(second.pid(), pid);
    let mut third = envd.stream(CONNECT, json!({"process": {"tag": "t"}}));
    assert_eq!(third.pid(), pid);
    let listed = envd.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        listed[0],
        json!({"config": {"cmd": "cat"}, "pid": pid, "tag": "t"})
    );
    let input = json!({"process": {"pid": pid}, "input": {"stdin": b64("to all\n")}});
    envd.call("process.Process/SendInput", input);
    for stream in [&mut first, &mut second, &mut third] {
        assert_eq!(stream.until("\n"), "to all\n");
    }
    drop(first);
    envd.call("process.Process/CloseStdin", pid_of(pid));
    for mut stream in [second, third] {
        assert_eq!(stream.finish().end["status"], "exit status 0");
    }
    // Ended, and still known.
    let mut late = envd.stream(CONNECT, json!({"process": {"tag": "t"}}));
    assert_eq!(late.pid(), pid);
    let outcome = late.finish();
    assert_eq!(
        (outcome.out.as_str(), &outcome.end["status"]),
        ("", &json!("exit status 0"))
    );
    assert!(envd.list().is_empty());
}

#[test]
fn selectors_that_find_nothing() {
    let envd = Envd::start();
    let error = |selector: Value| envd.stream(CONNECT, json!({"process": selector})).error();
    assert_eq!(
        error(json!({"pid": 99_999_999})),
        json!({"code": "not_found", "message": "process with pid 99999999 not found"})
    );
    assert_eq!(
        error(json!({"tag": "x"})),
        json!({"code": "not_found", "message": "process with tag x not found"})
    );
    assert_eq!(error(json!({}))["code"], "unimplemented");
    for method in ["SendInput", "SendSignal", "CloseStdin", "Update"] {
        let method = format!("process.Process/{method}");
        assert_eq!(
            envd.code(
                &method,
                json!({"process": {"pid": 99_999_999}, "input": {"stdin": ""}})
            ),
            "not_found"
        );
        assert_eq!(envd.code(&method, json!({})), "unimplemented");
    }
}

#[test]
fn the_deadline_ends_stream_and_process() {
    let envd = Envd::start();
    let begun = Instant::now();
    let body = json!({"process": {"cmd": "sleep", "args": ["1000"]}});
    let mut stream = envd.stream_with(START, &body, &[("Connect-Timeout-Ms", "300")]);
    let pid = stream.pid();
    assert_eq!(stream.error()["code"], "deadline_exceeded");
    assert!(
        begun.elapsed() >= Duration::from_millis(290) && begun.elapsed() < Duration::from_secs(5)
    );
    // Its end is told to others, after it has left the list.
    let mut late = envd.stream(CONNECT, pid_of(pid));
    late.pid();
    assert_eq!(late.finish().end["status"], "signal: killed");

    // The client has gone; the process still ends in time.
    let mut stream = envd.stream_with(START, &body, &[("Connect-Timeout-Ms", "300")]);
    let pid = stream.pid();
    drop(stream);
    let mut other = envd.stream(CONNECT, pid_of(pid));
    other.pid();
    assert_eq!(other.finish().end["status"], "signal: killed");
}

#[test]
fn a_connects_deadline_is_only_its_own() {
    let envd = Envd::start();
    let mut stream = envd.stream(START, json!({"process": {"cmd": "cat"}}));
    let pid = stream.pid();
    let mut other = envd.stream_with(CONNECT, &pid_of(pid), &[("Connect-Timeout-Ms", "100")]);
    other.pid();
    assert_eq!(other.error()["code"], "deadline_exceeded");
    assert!(alive(pid));
    envd.call("process.Process/CloseStdin", pid_of(pid));
    assert_eq!(stream.finish().end["status"], "exit status 0");
}

#[test]
fn timeouts_that_are_none() {
    let envd = Envd::start();
    let body = json!({"process": {"cmd": "true"}});
    let mut stream = envd.stream_with(START, &body, &[("Connect-Timeout-Ms", "0")]);
    stream.pid();
    assert_eq!(stream.finish().end["status"], "exit status 0");
    let error = envd
        .stream_with(START, &body, &[("Connect-Timeout-Ms", "soon")])
        .error();
    assert_eq!(error["code"], "invalid_argument");
    let (status, error) = envd.call_with(
        "process.Process/List",
        &json!({}),
        &[("Connect-Timeout-Ms", "soon")],
    );
    assert_eq!((status, &error["code"]), (400, &json!("invalid_argument")));
}

#[test]
fn a_killed_command_does_not_wait_for_its_children() {
    let envd = Envd::start();
    let kill = |pid: u64, signal: &str| {
        envd.call(
            "process.Process/SendSignal",
            json!({"process": {"pid": pid}, "signal": signal}),
        )
    };
    for (signal, status) in [
        ("SIGNAL_SIGKILL", "signal: killed"),
        ("SIGNAL_SIGTERM", "signal: terminated"),
    ] {
        let mut stream = envd.sh("sleep 1000 & echo $!; echo last words; wait");
        let pid = stream.pid();
        let text = stream.until("last words\n");
        assert_eq!(kill(pid, signal), (200, json!({})));
        if signal == "SIGNAL_SIGKILL" {
            assert!(!alive(pid), "gone when the call returns");
        }
        assert_eq!(stream.finish().end["status"], status);
        let child: u64 = text.lines().next().unwrap().parse().unwrap();
        assert!(alive(child), "only the process itself is signalled");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        assert_eq!(kill(pid, signal).1["code"], "not_found");
    }
}

#[test]
fn other_signals_are_refused() {
    let envd = Envd::start();
    let mut stream = envd.stream(START, json!({"process": {"cmd": "cat"}}));
    let pid = stream.pid();
    for signal in [json!("SIGNAL_UNSPECIFIED"), json!(2), json!(null)] {
        let body = json!({"process": {"pid": pid}, "signal": signal});
        assert_eq!(
            envd.code("process.Process/SendSignal", body),
            "unimplemented"
        );
    }
    let by_number = json!({"process": {"pid": pid}, "signal": 9});
    assert_eq!(envd.call("process.Process/SendSignal", by_number).0, 200);
    assert_eq!(stream.finish().end["status"], "signal: killed");
}

#[test]
fn a_background_child_keeps_the_command_running() {
    let envd = Envd::start();
    let mut stream = envd.sh("sleep 1000 & echo $!");
    let pid = stream.pid();
    let child = stream.until("\n").trim().to_owned();
    // The shell itself has ended, its output has not.
    assert_eq!(envd.list().len(), 1);
    let mut stop = envd.run("kill", &["-9", &child]);
    stop.pid();
    stop.finish();
    assert_eq!(
        stream.finish().end,
        json!({"exited": true, "status": "exit status 0"})
    );

    let mut stream = envd.sh("sleep 1000 & echo $!");
    let held = stream.pid();
    let child = stream.until("\n").trim().to_owned();
    let mut waiter = envd.run(
        "tail",
        &["-f", "/dev/null", "--pid", &held.to_string(), "-s", "0.01"],
    );
    waiter.pid();
    waiter.finish();
    let body = json!({"process": {"pid": held}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(envd.call("process.Process/SendSignal", body).0, 200);
    assert_eq!(stream.finish().end["exited"], true);
    let mut stop = envd.run("kill", &["-9", &child]);
    stop.pid();
    stop.finish();
    assert_ne!(pid, held);
}

#[test]
fn output_without_listeners_is_thrown_away() {
    let envd = Envd::start();
    let done = envd.path("done");
    let mut stream = envd.sh(&format!(
        "sleep 0.1; head -c 20000000 /dev/zero; echo yes > {done}"
    ));
    stream.pid();
    drop(stream);
    let mut waiter = envd.sh(&format!("until [ -s {done} ]; do sleep 0.05; done"));
    waiter.pid();
    assert_eq!(waiter.finish().end["status"], "exit status 0");
}

#[test]
fn much_output_arrives_whole_and_bytes_stay_bytes() {
    let envd = Envd::start();
    let mut stream = envd.sh("head -c 3000000 /dev/zero | tr '\\0' x; printf '\\342'");
    stream.pid();
    let outcome = stream.finish();
    assert_eq!(outcome.out.len(), 3_000_000 + '\u{FFFD}'.len_utf8());
    assert!(outcome.out.starts_with("xxx") && outcome.out.ends_with("x\u{FFFD}"));
}

#[test]
fn terminals() {
    let envd = Envd::start();
    let config =
        json!({"cmd": "/bin/sh", "args": ["-c", "tty; stty size; read x; stty size; cat"]});
    let pty = |cols: u32, rows: u32| json!({"size": {"cols": cols, "rows": rows}});
    let mut stream = envd.stream(START, json!({"process": config, "pty": pty(80, 24)}));
    let pid = stream.pid();
    let text = stream.until("24 80");
    assert!(text.starts_with("/dev/pts/"), "{text}");
    let update = |pty: Value| {
        envd.call(
            "process.Process/Update",
            json!({"process": {"pid": pid}, "pty": pty}),
        )
    };
    assert_eq!(update(pty(100, 30)), (200, json!({})));
    let send = |input: Value| {
        envd.call(
            "process.Process/SendInput",
            json!({"process": {"pid": pid}, "input": input}),
        )
    };
    assert_eq!(send(json!({"pty": b64("\r")})).0, 200);
    stream.until("30 100");
    assert_eq!(send(json!({"stdin": b64("x")})).1["code"], "internal");
    assert_eq!(
        envd.code("process.Process/CloseStdin", pid_of(pid)),
        "unknown"
    );
    assert_eq!(send(json!({"pty": b64("\u{4}")})).0, 200);
    assert_eq!(stream.finish().end["status"], "exit status 0");

    let mut plain = envd.stream(START, json!({"process": {"cmd": "cat"}}));
    let plain_pid = plain.pid();
    let body = json!({"process": {"pid": plain_pid}, "pty": pty(1, 1)});
    assert_eq!(envd.code("process.Process/Update", body), "internal");
}

#[test]
fn stream_input_is_full_duplex() {
    let envd = Envd::start();
    let mut stream = envd.stream(START, json!({"process": {"cmd": "cat"}}));
    let pid = stream.pid();
    let headers = [
        ("Content-Type", "application/connect+json"),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut input = envd.open("POST", "/process.Process/StreamInput", &headers);
    input.send_chunk(&frame(&json!({"start": {"process": {"pid": pid}}})));
    for text in ["one\n", "two\n"] {
        input.send_chunk(&frame(&json!({"data": {"input": {"stdin": b64(text)}}})));
        assert_eq!(
            stream.until("\n"),
            text,
            "delivered before the request has ended"
        );
        input.send_chunk(&frame(&json!({"keepalive": {}})));
    }
    input.end_chunks();
    assert_eq!(
        input.head().headers["content-type"],
        "application/connect+json"
    );
    assert_eq!(input.frame(), Some((0, json!({}))));
    assert_eq!(input.frame(), Some((2, json!({}))));
    assert_eq!(input.frame(), None);
    // Its end is not stdin's.
    assert!(alive(pid));
}

#[test]
fn stream_input_fails_early() {
    let envd = Envd::start();
    let headers = [
        ("Content-Type", "application/connect+json"),
        ("Transfer-Encoding", "chunked"),
    ];
    let first = [
        (
            json!({"start": {"process": {"pid": 99_999_999}}}),
            "not_found",
        ),
        (
            json!({"data": {"input": {"stdin": "aGk="}}}),
            "invalid_argument",
        ),
        (json!({}), "unimplemented"),
    ];
    for (message, code) in first {
        let mut input = envd.open("POST", "/process.Process/StreamInput", &headers);
        input.send_chunk(&frame(&message));
        assert_eq!(input.head().status, 200);
        assert_eq!(
            input.error()["code"],
            code,
            "while the request is still open"
        );
    }
}

#[test]
fn quiet_streams_show_life() {
    let envd = Envd::start();
    let mut stream = envd.stream_with(
        START,
        &json!({"process": {"cmd": "cat"}}),
        &[("Keepalive-Ping-Interval", "1")],
    );
    stream.pid();
    assert_eq!(stream.event(), json!({"keepalive": {}}));
}

#[test]
fn malformed_calls_are_refused() {
    let envd = Envd::start();
    let json_type = [("Content-Type", "application/json")];
    let list = "/process.Process/List";
    for body in [b"nonsense".as_slice(), b"7", b"{\"a\":", b"\xff"] {
        let answer = envd.request("POST", list, &json_type, body);
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("invalid_argument"))
        );
    }
    assert_eq!(
        envd.request("POST", list, &[("Content-Type", "text/plain")], b"{}")
            .status,
        415
    );
    let wrong = envd.request("PUT", list, &json_type, b"{}");
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST"));
    let unknown = envd.request("POST", "/process.Process/Nothing", &json_type, b"{}");
    assert_eq!(unknown.json()["code"], "unimplemented");
    let stream_type = [("Content-Type", "application/connect+json")];
    for body in [
        b"".as_slice(),
        b"\0",
        b"\0\0\0\0\x05ab",
        b"\0\xff\xff\xff\xff",
        b"\x01\0\0\0\0",
    ] {
        let answer = envd.request("POST", "/process.Process/Start", &stream_type, body);
        assert_eq!(
            (answer.status, answer.body.first()),
            (200, Some(&2)),
            "{body:?}"
        );
    }
    assert_eq!(envd.get("/health").status, 204);
}

#[test]
fn input_json_is_taken_in_all_its_forms() {
    let envd = Envd::start();
    let forms = [
        json!({"process": {"cmd": "true", "unknown": 1}, "stdin": null, "tag": null}),
        json!({"process": {"cmd": "true", "args": null, "envs": null, "cwd": null}, "more": []}),
    ];
    for form in forms {
        let mut stream = envd.stream(START, form);
        stream.pid();
        assert_eq!(stream.finish().end["status"], "exit status 0");
    }
    let mut stream = envd.stream(START, json!({"process": {"cmd": "cat"}}));
    let pid = stream.pid();
    // URL-safe and unpadded base64 of the same three bytes.
    for data in ["-_8K", "+/8K"] {
        let body = json!({"process": {"pid": pid.to_string().parse::<u64>().unwrap()}, "input": {"stdin": data}});
        assert_eq!(envd.call("process.Process/SendInput", body).0, 200);
    }
    envd.call("process.Process/CloseStdin", pid_of(pid));
    assert_eq!(stream.finish().end["status"], "exit status 0");
}

#[test]
fn the_fork_server_may_die() {
    let envd = Envd::start();
    let children =
        || fs::read_to_string(format!("/proc/{0}/task/{0}/children", envd.pid())).unwrap();
    let Ok(server) = children().trim().parse::<i32>() else {
        println!("SKIPPED: the kernel does not list children");
        return;
    };
    let server = rustix::process::Pid::from_raw(server).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    for _ in 0..3 {
        let mut stream = envd.sh("exit 4");
        stream.pid();
        assert_eq!(stream.finish().end["exitCode"], 4);
    }
}

#[test]
fn many_at_once() {
    let envd = Envd::start();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let envd = &envd;
            scope.spawn(move || {
                for turn in 0..20 {
                    let mut stream = envd.sh(&format!("echo {number} {turn}; exit {turn}"));
                    stream.pid();
                    let outcome = stream.finish();
                    assert_eq!(outcome.out, format!("{number} {turn}\n"));
                    assert_eq!(outcome.end["exitCode"].as_u64().unwrap_or(0), turn);
                }
            });
        }
    });
    assert!(envd.list().is_empty());
    let descriptors = fs::read_dir(format!("/proc/{}/fd", envd.pid())).map(Iterator::count);
    assert!(
        descriptors.is_ok_and(|count| count < 40),
        "descriptors leak"
    );
}

#[test]
fn the_token_guards_calls() {
    let envd = Envd::start_with(&["--token", "secret"]);
    let body = json!({});
    let (status, error) = envd.call_with("process.Process/List", &body, &[]);
    assert_eq!((status, &error["code"]), (401, &json!(401)));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("unauthorized access, please provide")
    );
    let (status, _) = envd.call_with(
        "process.Process/List",
        &body,
        &[("X-Access-Token", "wrong")],
    );
    assert_eq!(status, 401);
    let (status, _) = envd.call_with(
        "process.Process/List",
        &body,
        &[("X-Access-Token", "secret")],
    );
    assert_eq!(status, 200);
}

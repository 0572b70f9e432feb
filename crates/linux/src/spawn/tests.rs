//! The fork server for real: programs are started, fail, and belong to the caller.

use std::fs::File;
use std::io::Read;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, waitpid};

use super::*;

fn request(argv: &[&str]) -> SpawnRequest {
    SpawnRequest {
        argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec(), b"GREETING=hello".to_vec()],
        cwd: b"/".to_vec(),
        ..SpawnRequest::default()
    }
}

fn spawn(server: &ForkServer, request: &SpawnRequest) -> Result<(i32, String, String), SpawnError> {
    let null = File::open("/dev/null").unwrap();
    let (out, out_write) = std::io::pipe().unwrap();
    let (err, err_write) = std::io::pipe().unwrap();
    server.send(
        request,
        Stdio {
            stdin: null.as_fd(),
            stdout: out_write.as_fd(),
            stderr: err_write.as_fd(),
        },
    )?;
    drop((out_write, err_write));
    let pid = loop {
        poll(&mut [PollFd::new(server, PollFlags::IN)], None).unwrap();
        if let Some(reply) = server.receive() {
            break reply?;
        }
    };
    let read = |mut from: std::io::PipeReader| {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    };
    let (out, err) = (read(out), read(err));
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    Ok((status.exit_status().unwrap_or(-1), out, err))
}

#[test]
fn codec_round_trips() {
    let request = SpawnRequest {
        credentials: Some(Credentials {
            uid: 1,
            gid: 2,
            groups: vec![2, 3],
        }),
        controlling_terminal: true,
        oom_score_adj: Some(-5),
        limits: vec![ResourceLimit {
            resource: 7,
            soft: 1,
            hard: 2,
        }],
        ..request(&["a", "", "c"])
    };
    let bytes = request.encode();
    assert_eq!(SpawnRequest::decode(&bytes), Some(request));
    for length in 0..bytes.len() {
        assert_eq!(
            SpawnRequest::decode(&bytes[..length]),
            None,
            "cut at {length}"
        );
    }
}

#[test]
fn programs_are_children_of_the_caller() {
    let server = ForkServer::start(&[]).unwrap();
    let (status, out, err) = spawn(
        &server,
        &request(&["sh", "-c", "echo $PPID $GREETING; exit 3"]),
    )
    .unwrap();
    assert_eq!((status, err.as_str()), (3, ""));
    assert_eq!(out, format!("{} hello\n", std::process::id()));
}

#[test]
fn missing_and_unusable_programs_end_like_in_a_shell() {
    let server = ForkServer::start(&[]).unwrap();
    let (status, _, err) = spawn(&server, &request(&["no-such-program"])).unwrap();
    assert_eq!(
        (status, err.as_str()),
        (127, "sh: 1: exec: no-such-program: not found\n")
    );
    let (status, _, _) = spawn(&server, &request(&["/nowhere/at/all"])).unwrap();
    assert_eq!(status, 127);
    let (status, _, err) = spawn(&server, &request(&["/etc/passwd"])).unwrap();
    assert_eq!(status, 126);
    assert!(err.contains("Permission denied"), "{err}");
}

#[test]
fn a_wrong_directory_is_an_error_and_the_server_lives_on() {
    let server = ForkServer::start(&[]).unwrap();
    let wrong = SpawnRequest {
        cwd: b"/nowhere".to_vec(),
        ..request(&["true"])
    };
    let error = spawn(&server, &wrong).unwrap_err();
    assert!(
        matches!(
            &error,
            SpawnError::Step {
                step: Step::WorkingDirectory,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(spawn(&server, &request(&["true"])).unwrap().0, 0);
}

#[test]
fn large_requests_travel_too() {
    let server = ForkServer::start(&[]).unwrap();
    let long = "x".repeat(100_000);
    let (status, out, _) = spawn(&server, &request(&["echo", &long, &long])).unwrap();
    assert_eq!((status, out.len()), (0, 200_002));
}

#[test]
fn a_dead_server_is_noticed() {
    let server = ForkServer::start(&[]).unwrap();
    server.kill();
    waitpid(Some(server.pid()), WaitOptions::empty()).unwrap();
    assert!(matches!(
        spawn(&server, &request(&["true"])),
        Err(SpawnError::Gone(_))
    ));
}

#[test]
fn identity_limits_and_score_are_applied() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    let server = ForkServer::start(&[]).unwrap();
    let limited = SpawnRequest {
        credentials: Some(Credentials {
            uid: 65534,
            gid: 65534,
            groups: vec![65534, 4],
        }),
        oom_score_adj: Some(100),
        limits: vec![ResourceLimit {
            resource: libc::RLIMIT_NOFILE,
            soft: 77,
            hard: 88,
        }],
        ..request(&[
            "sh",
            "-c",
            "id -u; id -G; ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l",
        ])
    };
    let (_, out, err) = spawn(&server, &limited).unwrap();
    assert_eq!(err, "");
    // 0, 1, 2 and the directory that ls reads.
    assert_eq!(out, "65534\n65534 4\n77\n100\n4\n");
}

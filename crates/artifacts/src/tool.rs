//! Running an external program: its output line by line, its last lines kept, an end in any case.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::ArtifactError;

/// Lines of output that an error shows.
const TAIL_LINES: usize = 20;
/// A build makes the kernel write for seconds; minutes without a line mean that it hangs.
const SILENCE: Duration = Duration::from_mins(10);

/// Runs a program to its end; every line it prints goes to `line`.
pub(crate) fn run(
    mut command: Command,
    deadline: Duration,
    line: &mut dyn FnMut(&str),
) -> Result<(), ArtifactError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |status: String, tail: VecDeque<String>| ArtifactError::Tool {
        program: program.clone(),
        status,
        tail: tail.into(),
    };
    // One pipe for both streams keeps their lines in order.
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|e| ArtifactError::io("create", "a pipe", e))?;
    let second = write
        .try_clone()
        .map_err(|e| ArtifactError::io("create", "a pipe", e))?;
    command.stdin(Stdio::null()).stdout(write).stderr(second);
    let mut child = command
        .spawn()
        .map_err(|e| ArtifactError::io("start", &program, e))?;
    // The command holds our copies of the pipe's write end: without this the reader would never see its end.
    drop(command);
    let (sender, receiver) = sync_channel(256);
    std::thread::spawn(move || read_lines(File::from(read), &sender));

    let end = Instant::now() + deadline;
    let mut tail = VecDeque::new();
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(SILENCE);
        match receiver.recv_timeout(left) {
            Ok(text) => {
                line(&text);
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(text);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                kill(&mut child);
                return Err(fail("took too long".into(), tail));
            }
        }
    }
    let status = child
        .wait()
        .map_err(|e| ArtifactError::io("wait for", &program, e))?;
    if status.success() {
        Ok(())
    } else {
        Err(fail(describe(status), tail))
    }
}

/// Lines end at a newline or, where a terminal is not minded, at a carriage return.
fn read_lines(output: File, sender: &SyncSender<String>) {
    for chunk in BufReader::new(output).split(b'\n') {
        let Ok(chunk) = chunk else { return };
        for piece in chunk.split(|&b| b == b'\r') {
            let text = String::from_utf8_lossy(piece).trim_end().to_owned();
            if !text.is_empty() && sender.send(text).is_err() {
                return;
            }
        }
    }
}

fn kill(child: &mut Child) {
    // Either call fails only when the child is gone already.
    child.kill().ok();
    child.wait().ok();
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: Duration) -> (Result<(), ArtifactError>, Vec<String>) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let result = run(command, deadline, &mut |l| lines.push(l.to_owned()));
        (result, lines)
    }

    #[test]
    fn both_streams_in_order() {
        let (result, lines) = sh(
            "echo one; echo two >&2; printf 'three\\rfour'",
            Duration::from_secs(10),
        );
        result.unwrap();
        assert_eq!(lines, ["one", "two", "three", "four"]);
    }

    #[test]
    fn failure_shows_the_tail() {
        let (result, _) = sh("seq 100; exit 3", Duration::from_secs(10));
        let Err(ArtifactError::Tool { status, tail, .. }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(
            (status.as_str(), tail.len(), tail[0].as_str()),
            ("exit status: 3", TAIL_LINES, "81")
        );
    }

    #[test]
    fn a_hanging_tool_is_killed() {
        let start = Instant::now();
        let (result, _) = sh("echo begun; exec sleep 60", Duration::from_millis(200));
        assert!(
            matches!(result, Err(ArtifactError::Tool { status, .. }) if status == "took too long")
        );
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = run(
            Command::new("/nonexistent/tool"),
            Duration::from_secs(1),
            &mut |_| (),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "cannot start /nonexistent/tool");
    }
}

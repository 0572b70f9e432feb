//! How an end is told to clients: in the words of Go's `os.ProcessState`, which SDKs and their users compare.

use soulbox_envd_proto::process::process_event::EndEvent;

use crate::reaper::Exit;

/// The end event for an exit. What is known about memory stands behind the usual words, in parentheses.
pub(crate) fn end_event(exit: Exit, memory: Option<&str>) -> EndEvent {
    let about_memory = memory.map_or_else(String::new, |memory| format!(" ({memory})"));
    match exit {
        Exit::Code(code) => {
            let status = format!("exit status {code}{about_memory}");
            let error = (code != 0).then(|| status.clone());
            EndEvent {
                exit_code: code,
                exited: true,
                status,
                error,
                ..EndEvent::default()
            }
        }
        Exit::Signal {
            number,
            core_dumped,
        } => {
            let dumped = if core_dumped { " (core dumped)" } else { "" };
            let status = format!("signal: {}{dumped}{about_memory}", signal_name(number));
            EndEvent {
                exit_code: -1,
                exited: false,
                status: status.clone(),
                error: Some(status),
                ..EndEvent::default()
            }
        }
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        16 => "stack fault",
        17 => "child exited",
        18 => "continued",
        19 => "stopped (signal)",
        20 => "stopped",
        21 => "stopped (tty input)",
        22 => "stopped (tty output)",
        23 => "urgent I/O condition",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        26 => "virtual timer expired",
        27 => "profiling timer expired",
        28 => "window changed",
        29 => "I/O possible",
        30 => "power failure",
        31 => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_of_end() {
        let ok = end_event(Exit::Code(0), None);
        assert_eq!(
            (ok.exit_code, ok.exited, ok.status.as_str(), ok.error),
            (0, true, "exit status 0", None)
        );
        let bad = end_event(Exit::Code(3), None);
        assert_eq!(
            (bad.exit_code, bad.error.as_deref()),
            (3, Some("exit status 3"))
        );
        let killed = end_event(
            Exit::Signal {
                number: 9,
                core_dumped: false,
            },
            None,
        );
        assert_eq!(
            (killed.exit_code, killed.exited, killed.error.as_deref()),
            (-1, false, Some("signal: killed"))
        );
        let dumped = end_event(
            Exit::Signal {
                number: 11,
                core_dumped: true,
            },
            None,
        );
        assert_eq!(dumped.status, "signal: segmentation fault (core dumped)");
        assert_eq!(
            end_event(
                Exit::Signal {
                    number: 40,
                    core_dumped: false
                },
                None
            )
            .status,
            "signal: signal 40"
        );
    }
    #[test]
    fn memory_is_told_beside_the_usual_words() {
        let memory = Some("out of memory: killed python3, pid 12");
        let killed = Exit::Signal {
            number: 9,
            core_dumped: false,
        };
        let end = end_event(killed, memory);
        let status = "signal: killed (out of memory: killed python3, pid 12)";
        assert_eq!(
            (end.status.as_str(), end.error.as_deref()),
            (status, Some(status))
        );
        assert_eq!((end.exit_code, end.exited), (-1, false));
        let end = end_event(Exit::Code(0), memory);
        assert_eq!(
            end.status,
            "exit status 0 (out of memory: killed python3, pid 12)"
        );
        assert_eq!((end.exit_code, end.exited, end.error), (0, true, None));
    }
}

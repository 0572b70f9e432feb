//! Processes that the kernel killed for lack of memory: what the end of a command says about them.
//!
//! Two sources that complete each other. The kernel's counter of the user's cgroup is always there and always right,
//! but knows no names. The server outside reads names in the kernel's log and tells them a moment later.
//! A command that ends while the counter has grown waits for that moment; all others wait for nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use rustix::process::Pid;
use soulbox_envd_proto::OomReport;
use tokio::sync::Notify;

use crate::body::collect;
use crate::reaper::Exit;
use crate::reply::{Refusal, Reply, empty, no_store};
use crate::sync::lock;

const BODY_MAX_BYTES: usize = 16 * 1024;
/// Reports remembered: more than can come while a command waits for its own.
const REPORTS_MAX: usize = 256;
/// How long the end of a command waits for a name. The server needs a few milliseconds; on a machine that is out of
/// memory and CPU time, more.
const PATIENCE: Duration = Duration::from_millis(500);
/// Victims that one end names.
const NAMED_MAX: usize = 3;
/// What shells return for a program that was killed.
const KILLED_IN_SHELL: i32 = 128 + 9;

/// All that is known of kills.
#[derive(Debug, Default)]
pub(crate) struct OomKills {
    /// The file with the kernel's counter; absent outside a sandbox.
    counter: Option<File>,
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The latest reports, oldest first.
    reports: VecDeque<OomReport>,
    /// How many have ever come.
    received: u64,
    /// The last wait was in vain: probably nobody can tell names here, and nobody shall wait again until one comes.
    deaf: bool,
}

/// A moment to compare with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    kills: u64,
    received: u64,
}

impl OomKills {
    pub(crate) fn new(counter: Option<OwnedFd>) -> Self {
        Self {
            counter: counter.map(File::from),
            ..Self::default()
        }
    }

    /// To be taken before a command starts.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            kills: self.kills(),
            received: lock(&self.state).received,
        }
    }

    /// Takes a report in.
    pub(crate) fn take(&self, report: OomReport) {
        let mut state = lock(&self.state);
        if state.reports.len() >= REPORTS_MAX {
            state.reports.pop_front();
        }
        state.reports.push_back(report);
        state.received += 1;
        state.deaf = false;
        drop(state);
        self.told.notify_waiters();
    }

    /// What the end of a command adds about memory. `since` was taken before it started.
    pub(crate) async fn note(&self, since: Mark, leader: Pid, exit: Exit) -> Option<String> {
        let kills = self.kills().saturating_sub(since.kills);
        if kills == 0 {
            return None;
        }
        let told = async {
            loop {
                // Asked for before looking: a report between the two is not missed.
                let next = self.told.notified();
                if self.since(since).len() as u64 >= kills || lock(&self.state).deaf {
                    return;
                }
                next.await;
            }
        };
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
            lock(&self.state).deaf = self.since(since).is_empty();
        }
        note(
            &self.since(since),
            kills,
            leader.as_raw_nonzero().get(),
            exit,
        )
    }

    fn since(&self, mark: Mark) -> Vec<OomReport> {
        let state = lock(&self.state);
        let fresh = state.received.saturating_sub(mark.received);
        let fresh = usize::try_from(fresh).unwrap_or(usize::MAX);
        let skip = state.reports.len().saturating_sub(fresh);
        state.reports.iter().skip(skip).cloned().collect()
    }

    fn kills(&self) -> u64 {
        let mut text = [0; 512];
        let Some(counter) = &self.counter else {
            return 0;
        };
        // Without the counter nothing is said about memory; everything else works.
        let length = counter.read_at(&mut text, 0).unwrap_or_default();
        counted(text.get(..length).unwrap_or_default())
    }
}

/// `oom_kill N` in `memory.events` or `memory.oom_control`.
fn counted(text: &[u8]) -> u64 {
    let number = |line: &[u8]| {
        let number = line.strip_prefix(b"oom_kill ")?;
        std::str::from_utf8(number).ok()?.trim().parse().ok()
    };
    text.split(|byte| *byte == b'\n')
        .find_map(number)
        .unwrap_or_default()
}

/// Which of the reports belong to a command, in words. A victim whose family is known belongs to the command that it
/// descends from; one whose family is not known may belong to any command that failed.
fn note(reports: &[OomReport], kills: u64, leader: i32, exit: Exit) -> Option<String> {
    let failed = exit != Exit::Code(0);
    let killed = matches!(
        exit,
        Exit::Signal { number: 9, .. } | Exit::Code(KILLED_IN_SHELL)
    );
    let belongs = |report: &&OomReport| match (&report.ancestors, report.pid) {
        (_, Some(pid)) if pid == leader => true,
        (Some(ancestors), _) => ancestors.contains(&leader),
        (None, _) => failed,
    };
    let own: Vec<&OomReport> = reports.iter().filter(belongs).collect();
    if own.is_empty() {
        // Some kill has not been told of, and it looks like this one.
        let unnamed = kills > reports.len() as u64;
        return (killed && unnamed).then(|| "out of memory".to_owned());
    }
    let mut victims: Vec<String> = own
        .iter()
        .take(NAMED_MAX)
        .map(|report| victim(report))
        .collect();
    if own.len() > NAMED_MAX {
        victims.push(format!("and {} more", own.len() - NAMED_MAX));
    }
    Some(format!("out of memory: killed {}", victims.join("; ")))
}

fn victim(report: &OomReport) -> String {
    match report.pid {
        Some(pid) => format!("{}, pid {pid}", report.name),
        None => report.name.clone(),
    }
}

/// `POST /oom`: the server tells of a kill. It never passes the proxy.
pub(crate) async fn told(kills: &OomKills, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let body = collect(request.into_body(), BODY_MAX_BYTES).await?;
    let report = serde_json::from_slice(&body)
        .map_err(|e| Refusal::bad_request(format!("invalid report: {e}")))?;
    kills.take(report);
    Ok(no_store(empty(StatusCode::NO_CONTENT)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const KILLED: Exit = Exit::Signal {
        number: 9,
        core_dumped: false,
    };

    fn report(name: &str, pid: Option<i32>, ancestors: Option<&[i32]>) -> OomReport {
        OomReport {
            name: name.into(),
            pid,
            ancestors: ancestors.map(Into::into),
        }
    }

    #[test]
    fn counters_of_both_kinds_are_read() {
        assert_eq!(counted(b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(
            counted(b"low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 0\n"),
            2
        );
        assert_eq!(counted(b""), 0);
    }

    #[test]
    fn victims_are_told_to_the_command_they_descend_from() {
        let python = report("python3", Some(12), Some(&[11, 10]));
        let all = [python.clone(), report("other", Some(30), Some(&[29]))];
        let said = Some("out of memory: killed python3, pid 12".to_owned());
        assert_eq!(note(&all, 2, 10, Exit::Code(137)), said);
        assert_eq!(note(&all, 2, 12, KILLED), said);
        // Even when the command then does well.
        assert_eq!(note(&all, 2, 10, Exit::Code(0)), said);
        // A stranger's.
        assert_eq!(note(&all, 2, 99, Exit::Code(1)), None);
        assert_eq!(note(&all, 2, 99, KILLED), None);
    }

    #[test]
    fn without_a_family_whoever_failed_is_told() {
        let all = [report("sh", None, None)];
        assert_eq!(note(&all, 1, 5, Exit::Code(0)), None);
        assert_eq!(
            note(&all, 1, 5, Exit::Code(1)).as_deref(),
            Some("out of memory: killed sh")
        );
        assert_eq!(note(&[], 1, 5, KILLED).as_deref(), Some("out of memory"));
        assert_eq!(
            note(&[], 1, 5, Exit::Code(137)).as_deref(),
            Some("out of memory")
        );
        assert_eq!(note(&[], 1, 5, Exit::Code(1)), None);
        let many: Vec<_> = (1..=5)
            .map(|pid| report("a", Some(pid), Some(&[9])))
            .collect();
        assert_eq!(
            note(&many, 5, 9, Exit::Code(1)).as_deref(),
            Some("out of memory: killed a, pid 1; a, pid 2; a, pid 3; and 2 more")
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_waits_for_the_name_but_not_for_ever() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"oom_kill 0\n").unwrap();
        let kills = OomKills::new(Some(file.try_clone().unwrap().into()));
        let pid = Pid::from_raw(7).unwrap();
        let mark = kills.mark();
        let start = tokio::time::Instant::now();
        assert_eq!(kills.note(mark, pid, KILLED).await, None);
        assert!(start.elapsed() < PATIENCE);

        file.write_all_at(b"oom_kill 1\n", 0).unwrap();
        let start = tokio::time::Instant::now();
        let later = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            kills.take(report("python3", Some(7), Some(&[])));
        };
        let (said, ()) = tokio::join!(kills.note(mark, pid, KILLED), later);
        assert_eq!(
            said.as_deref(),
            Some("out of memory: killed python3, pid 7")
        );
        assert!(start.elapsed() < PATIENCE);

        // Nobody tells: the first end waits in vain, the next one does not wait.
        let (mark, start) = (kills.mark(), tokio::time::Instant::now());
        file.write_all_at(b"oom_kill 2\n", 0).unwrap();
        for _ in 0..2 {
            assert_eq!(
                kills.note(mark, pid, KILLED).await.as_deref(),
                Some("out of memory")
            );
        }
        assert!((PATIENCE..PATIENCE * 2).contains(&start.elapsed()));
    }
}

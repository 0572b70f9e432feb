//! A build in progress: its log as it comes, how it ends, and what an interrupt does to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::json;
use soulbox_api_types::build::{
    BuildLogEntry, BuildStatus, BuildStatusReason, NewTemplateBuild, StartTemplateBuild,
    TemplateBuildInfo, TemplateBuildRequested,
};
use soulbox_api_types::logs::LogLevel;
use soulbox_client::{Api, ClientError};
use soulbox_types::ErrorKind;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::refused;
use crate::failure::Failure;
use crate::output::{Output, note};

const POLL: Duration = Duration::from_millis(200);
/// An answer with as many entries has more behind it.
const PAGE: usize = 100;
/// A server that is being replaced is away for a moment.
const MISSES: u32 = 10;
const AFTER_MISS: Duration = Duration::from_millis(500);
/// Lines of output that a failure repeats.
const LAST_LINES: usize = 10;

/// Shows a build's log and says how it ended. An interrupt cancels it; a second one only leaves.
pub(super) async fn follow(
    api: &Api,
    wanted: &NewTemplateBuild,
    requested: &TemplateBuildRequested,
    output: Output,
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let mut log = Log::new(output);
    let ended = tokio::select! {
        ended = to_the_end(api, requested, &mut log) => ended?,
        () = interrupts.next() => {
            note("cancelling the build; interrupt again to leave it alone");
            return Err(tokio::select! {
                failure = cancelled(api, wanted, requested) => failure,
                () = interrupts.next() => left(requested),
            });
        }
    };
    if let Some(reason) = ended.reason.filter(|_| ended.status == BuildStatus::Error) {
        return Err(log.failure(wanted, &reason));
    }
    if ended.status != BuildStatus::Ready {
        return Err(Failure::user("the build failed").fix("its log above says why"));
    }
    let document = json!({
        "templateID": requested.template_id,
        "buildID": requested.build_id,
        "names": requested.names,
        "tags": requested.tags,
        "status": ended.status,
    });
    output.show(&document, |_| {
        format!("{} is ready: build {}", name(wanted), requested.build_id)
    })
}

fn name(wanted: &NewTemplateBuild) -> &str {
    wanted.name.as_deref().unwrap_or_default()
}

/// What the server says last about a build.
async fn to_the_end(
    api: &Api,
    requested: &TemplateBuildRequested,
    log: &mut Log,
) -> Result<TemplateBuildInfo, Failure> {
    let mut misses = 0;
    loop {
        let asked = api.build_status(&requested.template_id, &requested.build_id, log.seen);
        let info = match asked.await {
            Ok(info) => info,
            Err(error) if misses < MISSES && passes(&error) => {
                misses += 1;
                tokio::time::sleep(AFTER_MISS).await;
                continue;
            }
            Err(error) => return Err(refused(error)),
        };
        misses = 0;
        // The status is older than the entries: an end with no more of them is the end.
        let ended = matches!(info.status, BuildStatus::Ready | BuildStatus::Error);
        if ended && info.log_entries.is_empty() {
            return Ok(info);
        }
        for entry in &info.log_entries {
            log.take(entry);
        }
        if !ended && info.log_entries.len() < PAGE {
            tokio::time::sleep(POLL).await;
        }
    }
}

fn passes(error: &ClientError) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}

/// The wire has no call that cancels one build, but a start cancels the builds that share its tags. So a build is started
/// that is nothing but the present one: it fails, as that is not ready, and should it be ready after all, it is the same.
async fn cancelled(
    api: &Api,
    wanted: &NewTemplateBuild,
    requested: &TemplateBuildRequested,
) -> Failure {
    let TemplateBuildRequested {
        template_id,
        build_id,
        ..
    } = requested;
    let same = StartTemplateBuild {
        from_template: Some(format!("{template_id}:{build_id}")),
        ..StartTemplateBuild::default()
    };
    let replaced = async {
        let other = api.request_build(wanted).await?;
        api.start_build(&other.template_id, &other.build_id, &same)
            .await
    };
    match replaced.await {
        Ok(()) => Failure::user(format!("interrupted: build {build_id} is cancelled")),
        Err(error) => left(requested).because(anyhow::anyhow!("{error}")),
    }
}

fn left(requested: &TemplateBuildRequested) -> Failure {
    let TemplateBuildRequested {
        template_id,
        build_id,
        ..
    } = requested;
    Failure::user(format!("interrupted: build {build_id} goes on"))
        .fix(format!("soulbox template show {template_id}"))
}

struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::internal("cannot listen for signals").because(error))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What the log has said so far, as far as a failure repeats it.
struct Log {
    output: Output,
    seen: usize,
    /// What each step does, by the step.
    headlines: BTreeMap<String, String>,
    /// The last lines that the present step has printed.
    last: VecDeque<String>,
    step: Option<String>,
}

impl Log {
    fn new(output: Output) -> Self {
        Self {
            output,
            seen: 0,
            headlines: BTreeMap::new(),
            last: VecDeque::new(),
            step: None,
        }
    }

    fn take(&mut self, entry: &BuildLogEntry) {
        self.seen += 1;
        if self.step != entry.step {
            self.step.clone_from(&entry.step);
            self.last.clear();
        }
        if let Some(printed) = printed(&entry.message) {
            self.last.push_back(printed.to_owned());
            if self.last.len() > LAST_LINES {
                self.last.pop_front();
            }
        } else if let (Some(step), Some(headline)) = (&entry.step, headline(&entry.message)) {
            self.headlines
                .entry(step.clone())
                .or_insert_with(|| headline.to_owned());
        }
        if self.output == Output::Text {
            match entry.level {
                LogLevel::Debug => {}
                LogLevel::Info => note(&entry.message),
                LogLevel::Warn => note(&format!("warning: {}", entry.message)),
                LogLevel::Error => note(&format!("error: {}", entry.message)),
            }
        }
    }

    /// The step, what it does, why it failed, what it printed last, and the way out.
    fn failure(&self, wanted: &NewTemplateBuild, reason: &BuildStatusReason) -> Failure {
        let (message, fix) = match reason.message.split_once("\nFIX: ") {
            Some((message, fix)) => (message, Some(fix)),
            None => (reason.message.as_str(), None),
        };
        let mut what = format!("template {} was not built", name(wanted));
        if let Some(step) = &reason.step {
            what.push_str(&format!(": step {step}"));
            if let Some(headline) = self.headlines.get(step) {
                what.push_str(&format!(" ({headline})"));
            }
        }
        what.push_str(&format!(": {message}"));
        if self.step == reason.step && !self.last.is_empty() {
            what.push_str("\nlast output:");
            for line in &self.last {
                what.push_str(&format!("\n  {line}"));
            }
        }
        let numbered = |step: &String| step.parse::<usize>().is_ok();
        let fix = match fix {
            Some(fix) => Some(fix),
            None if reason.step.as_ref().is_some_and(numbered) => {
                Some("change this step and build again: the steps before it are kept")
            }
            None => None,
        };
        match fix {
            Some(fix) => Failure::user(what).fix(fix),
            None => Failure::user(what),
        }
    }
}

/// What a command has printed, of `[builder 1/2] [stdout]: hi`.
fn printed(message: &str) -> Option<&str> {
    let rest = behind_bracket(message)?;
    rest.strip_prefix("[stdout]: ")
        .or_else(|| rest.strip_prefix("[stderr]: "))
}

/// What a step does, of `CACHED [builder 1/2] RUN echo hi [0123]`.
fn headline(message: &str) -> Option<&str> {
    let rest = behind_bracket(message.strip_prefix("CACHED ").unwrap_or(message))?;
    let hashed = rest.ends_with(']').then(|| rest.rfind(" [")).flatten();
    Some(hashed.and_then(|at| rest.get(..at)).unwrap_or(rest))
}

fn behind_bracket(message: &str) -> Option<&str> {
    let (_, rest) = message.strip_prefix('[')?.split_once("] ")?;
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(&str, &str)]) -> Log {
        let mut log = Log::new(Output::Json);
        for (step, message) in entries {
            log.take(&BuildLogEntry {
                timestamp: String::new(),
                message: (*message).to_owned(),
                level: LogLevel::Info,
                step: (!step.is_empty()).then(|| (*step).to_owned()),
            });
        }
        log
    }

    fn said(log: &Log, step: Option<&str>, message: &str) -> String {
        let wanted = NewTemplateBuild {
            name: Some("mine".to_owned()),
            ..NewTemplateBuild::default()
        };
        let reason = BuildStatusReason {
            message: message.to_owned(),
            step: step.map(ToOwned::to_owned),
            log_entries: Vec::new(),
        };
        log.failure(&wanted, &reason).render()
    }

    #[test]
    fn a_failure_says_which_step_and_what_it_printed() {
        let log = log(&[
            ("", "Building template t/b"),
            ("base", "CACHED [base] FROM TEMPLATE base [01ab]"),
            ("1", "[builder 1/2] RUN echo one [01ab]"),
            ("1", "[builder 1/2] [stdout]: one"),
            ("2", "[builder 2/2] RUN [ -e /x ] [01ab]"),
            ("2", "[builder 2/2] [stdout]: two"),
            ("2", "[builder 2/2] [stderr]: three"),
        ]);
        assert_eq!(log.seen, 7);
        assert_eq!(
            said(&log, Some("2"), "exit status 1"),
            "error: template mine was not built: step 2 (RUN [ -e /x ]): exit status 1\nlast output:\n  two\n  three\n\
             FIX: change this step and build again: the steps before it are kept"
        );
        assert_eq!(
            said(&log, Some("base"), "no such image\nFIX: log in"),
            "error: template mine was not built: step base (FROM TEMPLATE base): no such image\nFIX: log in"
        );
        assert_eq!(
            said(&log, None, "build was cancelled"),
            "error: template mine was not built: build was cancelled"
        );
    }

    #[test]
    fn only_the_last_lines_are_repeated() {
        let lines: Vec<String> = (0..30)
            .map(|n| format!("[builder 1/1] [stdout]: {n}"))
            .collect();
        let entries: Vec<(&str, &str)> = lines.iter().map(|line| ("1", line.as_str())).collect();
        let log = log(&entries);
        assert_eq!(
            log.last,
            (20..30).map(|n| n.to_string()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn messages() {
        assert_eq!(printed("[stage 1/2] [stderr]: a: b"), Some("a: b"));
        assert_eq!(printed("Template is ready"), None);
        assert_eq!(headline("[builder 1/2] ENV A b"), Some("ENV A b"));
        assert_eq!(headline("Build finished, took 1s"), None);
    }
}

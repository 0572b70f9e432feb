//! `soulbox sandbox metrics|logs`: what is recorded about a sandbox, once or as it comes.

use std::time::Duration;

use soulbox_api_types::logs::{LogLevel, SandboxLogEntry};
use soulbox_api_types::metrics::SandboxMetric;
use soulbox_client::Api;
use soulbox_client::api::LogsQuery;
use soulbox_types::ErrorKind;

use crate::args::{Level, LogsArgs, MetricsArgs};
use crate::failure::Failure;
use crate::output::{Output, line, note, table};
use crate::session::failure;
use crate::text::{moment, size};

/// The server samples every 5 s: asking more often shows nothing new.
const METRICS_POLL: Duration = Duration::from_secs(5);
const LOGS_POLL: Duration = Duration::from_millis(500);
/// Samples shown to people who do not follow.
const RECENT: usize = 12;

/// `sandbox metrics`.
pub(crate) async fn metrics(api: &Api, args: MetricsArgs, output: Output) -> Result<(), Failure> {
    let id = &args.id;
    let mut samples = api
        .metrics(id, None)
        .await
        .map_err(|error| failure(&error, Some(id)))?;
    if samples.is_empty() && !exists(api, id).await? {
        return Err(
            Failure::user(format!("nothing is recorded about sandbox {id}"))
                .fix("soulbox sandbox list"),
        );
    }
    if !args.follow {
        return output.show(&samples, |samples| {
            let from = samples.len().saturating_sub(RECENT);
            let rows = samples.iter().skip(from).map(metrics_row);
            table(["TIME", "CPU", "MEMORY", "CACHE", "DISK"], rows)
        });
    }
    let mut seen = i64::MIN;
    loop {
        for sample in samples.iter().filter(|sample| sample.timestamp_unix > seen) {
            match output {
                Output::Json => output.json_line(sample)?,
                Output::Text => line(&metrics_row(sample).join("   "))?,
            }
        }
        seen = samples
            .iter()
            .map(|sample| sample.timestamp_unix)
            .max()
            .unwrap_or(seen)
            .max(seen);
        if !exists(api, id).await? {
            note(&format!("sandbox {id} has ended"));
            return Ok(());
        }
        tokio::time::sleep(METRICS_POLL).await;
        let since = (seen > 0).then_some(seen);
        samples = api
            .metrics(id, since)
            .await
            .map_err(|error| failure(&error, Some(id)))?;
    }
}

fn metrics_row(sample: &SandboxMetric) -> [String; 5] {
    [
        moment(&sample.timestamp),
        format!("{:5.1} % of {}", sample.cpu_used_pct, sample.cpu_count),
        format!("{} of {}", size(sample.mem_used), size(sample.mem_total)),
        size(sample.mem_cache),
        format!("{} of {}", size(sample.disk_used), size(sample.disk_total)),
    ]
}

/// `sandbox logs`.
pub(crate) async fn logs(api: &Api, args: LogsArgs, output: Output) -> Result<(), Failure> {
    let id = &args.id;
    let mut query = LogsQuery {
        level: args.level.map(Level::as_str),
        ..LogsQuery::default()
    };
    let mut entries = api
        .logs(id, &query)
        .await
        .map_err(|error| failure(&error, Some(id)))?;
    if !args.follow {
        if entries.is_empty() && !exists(api, id).await? {
            return Err(
                Failure::user(format!("nothing is recorded about sandbox {id}"))
                    .fix("soulbox sandbox list"),
            );
        }
        return output.show(&entries, |entries| {
            entries.iter().map(log_line).collect::<Vec<_>>().join("\n")
        });
    }
    let mut shown = Shown::default();
    loop {
        for entry in entries {
            if shown.is_new(&entry) {
                match output {
                    Output::Json => output.json_line(&entry)?,
                    Output::Text => line(&log_line(&entry))?,
                }
            }
        }
        // Asked before the next read, so that what was written last is still shown.
        let alive = exists(api, id).await?;
        if alive {
            tokio::time::sleep(LOGS_POLL).await;
        }
        // Nothing seen yet: the newest entries are asked for again, whenever they were written.
        query.since_millis = (shown.newest_millis > 0).then_some(shown.newest_millis);
        entries = api
            .logs(id, &query)
            .await
            .map_err(|error| failure(&error, Some(id)))?;
        if !alive && entries.iter().all(|entry| !shown.would_be_new(entry)) {
            note(&format!("sandbox {id} has ended"));
            return Ok(());
        }
    }
}

/// What was shown already. Times on the wire are cut to milliseconds when they are asked for, so entries of the
/// newest millisecond come again and must be told apart by themselves.
#[derive(Debug, Default)]
struct Shown {
    newest_millis: i64,
    at_newest: Vec<SandboxLogEntry>,
}

impl Shown {
    fn would_be_new(&self, entry: &SandboxLogEntry) -> bool {
        let millis = millis(entry);
        millis > self.newest_millis
            || (millis == self.newest_millis && !self.at_newest.contains(entry))
    }

    fn is_new(&mut self, entry: &SandboxLogEntry) -> bool {
        if !self.would_be_new(entry) {
            return false;
        }
        if millis(entry) > self.newest_millis {
            self.newest_millis = millis(entry);
            self.at_newest.clear();
        }
        self.at_newest.push(entry.clone());
        true
    }
}

fn millis(entry: &SandboxLogEntry) -> i64 {
    entry
        .timestamp
        .parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_millisecond)
        .unwrap_or_default()
}

fn log_line(entry: &SandboxLogEntry) -> String {
    let level = match entry.level {
        LogLevel::Debug => "DEBUG",
        LogLevel::Info => "INFO ",
        LogLevel::Warn => "WARN ",
        LogLevel::Error => "ERROR",
    };
    let fields: String = entry
        .fields
        .iter()
        .map(|(key, value)| format!(" {key}={value}"))
        .collect();
    format!(
        "{} {level} {}{fields}",
        moment(&entry.timestamp),
        entry.message
    )
}

async fn exists(api: &Api, id: &str) -> Result<bool, Failure> {
    match api.get_sandbox(id).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failure(&error, Some(id))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entry(time: &str, message: &str) -> SandboxLogEntry {
        let fields = BTreeMap::from([("pid".to_owned(), "7".to_owned())]);
        SandboxLogEntry {
            timestamp: time.to_owned(),
            message: message.to_owned(),
            level: LogLevel::Info,
            fields,
        }
    }

    #[test]
    fn entries_of_one_millisecond_are_shown_once() {
        let mut shown = Shown::default();
        let (a, b) = (
            entry("2026-01-02T03:04:05.000100Z", "a"),
            entry("2026-01-02T03:04:05.000200Z", "b"),
        );
        assert!(shown.is_new(&a));
        assert!(!shown.is_new(&a));
        assert!(shown.is_new(&b));
        assert!(!shown.is_new(&a) && !shown.is_new(&b));
        assert!(shown.is_new(&entry("2026-01-02T03:04:05.001Z", "a")));
        assert!(!shown.is_new(&a));
    }

    #[test]
    fn lines() {
        assert_eq!(
            log_line(&entry("2026-01-02T03:04:05Z", "started")),
            "2026-01-02 03:04:05 INFO  started pid=7"
        );
    }
}

//! What a sandbox's own log says about its life.

use std::collections::BTreeMap;

use soulbox_driver::OomKill;
use soulbox_store::{LogEntry, LogLevel, PauseMode, SandboxRecord, Snapshot};
use soulbox_types::{SandboxId, TeamId, Timestamp};

use crate::SandboxError;
use crate::instruments::KillReason;

/// Which sandbox an entry is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) team: &'a TeamId,
}

impl<'a> About<'a> {
    /// The sandbox of this record.
    pub(crate) fn of(record: &'a SandboxRecord) -> Self {
        Self {
            id: &record.id,
            team: &record.team,
        }
    }

    pub(crate) fn entry(
        self,
        at: Timestamp,
        level: LogLevel,
        message: impl Into<String>,
    ) -> LogEntry {
        LogEntry {
            sandbox: self.id.clone(),
            team: self.team.clone(),
            at,
            level,
            message: message.into(),
            fields: BTreeMap::from([("logger".to_owned(), "orchestrator".to_owned())]),
        }
    }
}

/// The sandbox is usable.
pub(crate) fn created(record: &SandboxRecord) -> LogEntry {
    let mut entry = About::of(record).entry(record.started_at, LogLevel::Info, "Sandbox created");
    entry
        .fields
        .insert("templateID".into(), record.template_id.to_string());
    entry
        .fields
        .insert("buildID".into(), record.build_id.to_string());
    entry
}

/// The sandbox stands still.
pub(crate) fn paused(record: &SandboxRecord) -> LogEntry {
    let keeps = match record.pause.as_ref().map(|pause| pause.mode) {
        Some(PauseMode::Full) => "Sandbox paused with its memory",
        _ => "Sandbox paused without its memory",
    };
    About::of(record).entry(record.end_at, LogLevel::Info, keeps)
}

/// It was to be paused and runs on.
pub(crate) fn not_paused(record: &SandboxRecord, at: Timestamp, error: &SandboxError) -> LogEntry {
    let message = format!("Sandbox could not be paused and runs on: {}", error.told());
    About::of(record).entry(at, LogLevel::Error, message)
}

/// Its memory was to go to disk, and could not.
pub(crate) fn stays_in_memory(about: About<'_>, at: Timestamp, reason: &str) -> LogEntry {
    let message = format!("The paused sandbox stays in memory: {reason}");
    about.entry(at, LogLevel::Warn, message)
}

/// Its files are a snapshot now.
pub(crate) fn saved(record: &SandboxRecord, at: Timestamp, snapshot: &Snapshot) -> LogEntry {
    let mut entry = About::of(record).entry(at, LogLevel::Info, "Snapshot taken");
    let fields = [
        ("templateID", snapshot.template.to_string()),
        ("buildID", snapshot.build.to_string()),
    ];
    for (name, value) in fields {
        entry.fields.insert(name.into(), value);
    }
    entry
}

/// The sandbox runs again.
pub(crate) fn resumed(record: &SandboxRecord) -> LogEntry {
    About::of(record).entry(record.started_at, LogLevel::Info, "Sandbox resumed")
}

/// Its memory is lost, its files are kept. The reason goes on from "the sandbox was lost: ".
pub(crate) fn memory_lost(about: About<'_>, at: Timestamp, reason: &str) -> LogEntry {
    let message =
        format!("The memory of the paused sandbox was lost, its files are kept: {reason}");
    about.entry(at, LogLevel::Warn, message)
}

/// The sandbox is gone.
pub(crate) fn ended(about: About<'_>, at: Timestamp, reason: KillReason) -> LogEntry {
    let (level, message) = match reason {
        KillReason::Request => (LogLevel::Info, "Sandbox killed"),
        KillReason::Expired => (
            LogLevel::Info,
            "Sandbox reached its end time and was killed",
        ),
        KillReason::GuestEnded => (LogLevel::Warn, "Sandbox ended by itself"),
        KillReason::Reconciled => (LogLevel::Warn, "Sandbox had no record and was killed"),
        KillReason::KeptLongEnough => (
            LogLevel::Info,
            "Paused sandbox was removed: its team keeps them no longer",
        ),
        KillReason::CreateFailed => (LogLevel::Error, "Sandbox could not be created"),
    };
    about.entry(at, level, message)
}

/// The record is there and the guest is not: it died with the machine, while no server ran, or because what was known
/// of it was damaged. The reason goes on from "the sandbox was lost: ".
pub(crate) fn lost(about: About<'_>, at: Timestamp, reason: &str) -> LogEntry {
    about.entry(
        at,
        LogLevel::Warn,
        format!("Sandbox was lost and is removed: {reason}"),
    )
}

/// The kernel has killed this process of the sandbox for lack of memory.
pub(crate) fn killed_for_memory(about: About<'_>, at: Timestamp, kill: &OomKill) -> LogEntry {
    let OomKill { name, pid } = kill;
    let which = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    let message = format!("Out of memory: the kernel killed {name}{which}");
    let mut entry = about.entry(at, LogLevel::Warn, message);
    entry.fields.insert("process".into(), name.clone());
    if let Some(pid) = pid {
        entry.fields.insert("pid".into(), pid.to_string());
    }
    entry
}

/// The kernel has killed processes of the sandbox for lack of memory, and nobody knows which.
pub(crate) fn out_of_memory(about: About<'_>, at: Timestamp, kills: u64) -> LogEntry {
    let mut entry = about.entry(
        at,
        LogLevel::Warn,
        "Out of memory: the kernel killed a process of the sandbox",
    );
    entry.fields.insert("kills".into(), kills.to_string());
    entry
}

/// Its network policy did not let it do something.
pub(crate) fn refused(
    about: About<'_>,
    at: Timestamp,
    protocol: &str,
    target: &str,
    reason: &str,
) -> LogEntry {
    let message = format!("Network policy: {protocol} to {target} refused: {reason}");
    let mut entry = about.entry(at, LogLevel::Warn, message);
    for (name, value) in [("protocol", protocol), ("target", target), ("rule", reason)] {
        entry.fields.insert(name.into(), value.into());
    }
    entry
}

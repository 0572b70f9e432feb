//! What this crate counts. Every metric and every label value stands here.

use std::time::Duration;

use soulbox_types::{EndReason, ErrorKind};

use crate::SandboxError;

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum KillReason {
    /// Its owner said so.
    Request,
    /// Its end time came.
    Expired,
    /// Its guest ended by itself.
    GuestEnded,
    /// It has no record (any more), or an earlier kill failed.
    Reconciled,
    /// It was paused for as long as its team keeps what is paused.
    KeptLongEnough,
    /// It could not be completed.
    CreateFailed,
}

impl KillReason {
    /// As its owner is told.
    pub(crate) fn told(self) -> EndReason {
        match self {
            Self::Request => EndReason::Request,
            Self::Expired => EndReason::Timeout,
            Self::KeptLongEnough => EndReason::Retention,
            Self::GuestEnded => EndReason::Died,
            Self::Reconciled => EndReason::Reconciled,
            Self::CreateFailed => EndReason::CreateFailed,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Expired => "expired",
            Self::GuestEnded => "guest_ended",
            Self::Reconciled => "reconciled",
            Self::KeptLongEnough => "kept_long_enough",
            Self::CreateFailed => "create_failed",
        }
    }
}

/// A create has ended.
pub(crate) fn create_ended<T>(outcome: &Result<T, SandboxError>) {
    let outcome = match outcome {
        Ok(_) => "ok",
        Err(SandboxError::TooMany { .. }) => "limit",
        Err(SandboxError::EndedInCreate { .. }) => "ended",
        Err(SandboxError::ShuttingDown) => "shutdown",
        Err(error) => match error.kind() {
            ErrorKind::Unavailable => "capacity",
            ErrorKind::Timeout => "timeout",
            _ => "error",
        },
    };
    metrics::counter!("soulbox_orchestrator_creates_total", "outcome" => outcome).increment(1);
}

/// A phase of a create has taken this long: `driver` until the guest is usable, `record` until it is written down,
/// `total` both.
pub(crate) fn create_phase(phase: &'static str, took: Duration) {
    metrics::histogram!("soulbox_orchestrator_create_duration_seconds", "phase" => phase)
        .record(took.as_secs_f64());
}

/// This many sandboxes can be used.
pub(crate) fn running(count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    metrics::gauge!("soulbox_orchestrator_sandboxes_running").set(f64::from(count));
}

/// A sandbox has been killed.
pub(crate) fn killed(reason: KillReason) {
    metrics::counter!("soulbox_orchestrator_kills_total", "reason" => reason.as_str()).increment(1);
}

/// A kill has failed.
pub(crate) fn kill_failed() {
    metrics::counter!("soulbox_orchestrator_kill_failures_total").increment(1);
}

/// This many sandboxes of an earlier server run on.
pub(crate) fn adopted(count: usize) {
    metrics::counter!("soulbox_orchestrator_adopted_total")
        .increment(u64::try_from(count).unwrap_or(u64::MAX));
}

/// A comparison of records and guests has ended.
pub(crate) fn reconciled(outcome: &'static str) {
    metrics::counter!("soulbox_orchestrator_reconcile_runs_total", "outcome" => outcome)
        .increment(1);
}

/// This many readings were taken, and this many could not be.
pub(crate) fn sampled(taken: usize, failed: usize) {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    metrics::counter!("soulbox_orchestrator_samples_total", "outcome" => "ok")
        .increment(count(taken));
    metrics::counter!("soulbox_orchestrator_samples_total", "outcome" => "error")
        .increment(count(failed));
}

//! What happens to sandboxes, as their owners are told. The texts are the wire's.

use std::fmt;
use std::str::FromStr;

/// What has happened to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// It is usable for the first time.
    Created,
    /// Its end time or its network is another one.
    Updated,
    /// It stands still.
    Paused,
    /// It runs again.
    Resumed,
    /// A snapshot of it was taken.
    Checkpointed,
    /// Other sandboxes were made of it. E2B has no such event.
    Forked,
    /// It is gone.
    Killed,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Updated,
        Self::Paused,
        Self::Resumed,
        Self::Checkpointed,
        Self::Forked,
        Self::Killed,
    ];

    /// Its name: `sandbox.lifecycle.created`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "sandbox.lifecycle.created",
            Self::Updated => "sandbox.lifecycle.updated",
            Self::Paused => "sandbox.lifecycle.paused",
            Self::Resumed => "sandbox.lifecycle.resumed",
            Self::Checkpointed => "sandbox.lifecycle.checkpointed",
            Self::Forked => "sandbox.lifecycle.forked",
            Self::Killed => "sandbox.lifecycle.killed",
        }
    }

    /// Its name before there were types with dots, for clients that still read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Created => "create",
            Self::Updated => "update",
            Self::Paused => "pause",
            Self::Resumed => "resume",
            Self::Checkpointed => "checkpoint",
            Self::Forked => "fork",
            Self::Killed => "kill",
        }
    }

    /// Whether this ends a run, so that it can be said how long that was.
    #[must_use]
    pub fn ends_a_run(self) -> bool {
        matches!(self, Self::Paused | Self::Killed)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no event type {0:?}")]
pub struct UnknownEventKind(String);

impl FromStr for EventKind {
    type Err = UnknownEventKind;

    fn from_str(text: &str) -> Result<Self, UnknownEventKind> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownEventKind(text.to_owned()))
    }
}

/// Why a sandbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its owner, or the operator, has asked for it.
    Request,
    /// Its time was over.
    Timeout,
    /// It was paused for as long as its team keeps what is paused.
    Retention,
    /// It has ended by itself.
    Died,
    /// It was recorded and did not run: it has gone with the machine, or while no server ran.
    Lost,
    /// It took too long to become usable.
    CreateFailed,
    /// The server has put an end to what it could not account for.
    Reconciled,
}

impl EndReason {
    /// As it stands in the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Timeout => "timeout",
            Self::Retention => "retention",
            Self::Died => "died",
            Self::Lost => "lost",
            Self::CreateFailed => "create_failed",
            Self::Reconciled => "reconciled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert!(kind.as_str().starts_with("sandbox.lifecycle."));
        }
        for text in [
            "",
            "created",
            "sandbox.lifecycle",
            "sandbox.lifecycle.Created",
        ] {
            assert!(text.parse::<EventKind>().is_err(), "{text}");
        }
    }
}

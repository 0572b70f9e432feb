//! How a command fails: one error type for the command line, its exit code, and its text for people.
//!
//! Separate from the commands so that every failure looks the same: what failed on which thing, then a way out.
//! Exit codes follow `sysexits.h`, because scripts know those: 1, 64 usage or configuration, 69 no server, 70 our fault.

use std::fmt;

/// What kind of failure it is: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request was understood and cannot be done: exit code 1.
    User,
    /// Wrong arguments or configuration: exit code 64.
    Usage,
    /// The server cannot be reached: exit code 69.
    Unavailable,
    /// Whoever read our output is gone: exit code 1, nothing to say.
    BrokenPipe,
    /// A bug, or a machine that does not behave: exit code 70.
    Internal,
}

impl Kind {
    /// The process's exit code.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::User | Self::BrokenPipe => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
        }
    }
}

/// A file that holds what this program never writes: nothing that is tried again will help, so no script should.
#[derive(Debug, thiserror::Error)]
#[error("{what}\nFIX: {fix}")]
pub(crate) struct Damaged {
    /// Which file, in words.
    pub(crate) what: String,
    /// The way out.
    pub(crate) fix: String,
}

/// A command that failed.
///
/// Also travels inside an [`anyhow::Error`], from where [`Failure::from_any`] takes it out again.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    what: String,
    fix: Option<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            fix: None,
            source: None,
        }
    }

    /// The request cannot be done.
    pub(crate) fn user(what: impl Into<String>) -> Self {
        Self::new(Kind::User, what)
    }

    /// Wrong arguments or configuration.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// The server cannot be reached.
    pub(crate) fn unavailable(what: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, what)
    }

    /// Our fault, or the machine's.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, what)
    }

    /// The reader of our output is gone.
    pub(crate) fn broken_pipe() -> Self {
        Self::new(Kind::BrokenPipe, "the reader of the output is gone")
    }

    /// Adds the way out: one command or action.
    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds what caused it.
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Finds the failure in what `serve` and other `anyhow` code return.
    ///
    /// A message there may carry its way out after `\nFIX: `; then a person can help, and it is no bug of ours.
    pub(crate) fn from_any(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(failure) => return failure,
            Err(error) if is_broken_pipe(&error) => return Self::broken_pipe(),
            Err(error) => error,
        };
        let damage = is_damage(&error);
        let mut fix = None;
        let texts: Vec<String> = error
            .chain()
            .map(|cause| match cause.to_string().split_once("\nFIX: ") {
                Some((what, way_out)) => {
                    fix.get_or_insert_with(|| way_out.to_owned());
                    what.to_owned()
                }
                None => cause.to_string(),
            })
            .collect();
        let mut what = String::new();
        for text in texts {
            // Errors of other crates may repeat their source.
            if what.is_empty() {
                what = text;
            } else if !what.ends_with(&text) {
                what = format!("{what}: {text}");
            }
        }
        let kind = if fix.is_some() && !damage {
            Kind::User
        } else {
            Kind::Internal
        };
        Self {
            kind,
            what,
            fix,
            source: None,
        }
    }

    /// The text for standard error, without the last newline. Empty when there is nobody to tell.
    pub(crate) fn render(&self) -> String {
        if self.kind == Kind::BrokenPipe {
            return String::new();
        }
        let mut text = format!("error: {}", soulbox_telemetry::chain(self));
        if let Some(fix) = &self.fix {
            text.push_str("\nFIX: ");
            text.push_str(fix);
        }
        text
    }

    /// The same as a JSON document, for `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": {
                "message": soulbox_telemetry::chain(self),
                "exitCode": self.kind.exit_code(),
                "fix": self.fix,
            }
        })
    }
}

/// Whether what is kept is damaged. A person can help, and it is not the person's request that is wrong.
fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let database = cause.downcast_ref::<soulbox_store::StoreError>();
        cause.is::<Damaged>() || database.is_some_and(soulbox_store::StoreError::is_damage)
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_why_and_the_way_out() {
        let io = std::io::Error::from_raw_os_error(2);
        let failure = Failure::user("cannot read /tmp/x")
            .because(io)
            .fix("create /tmp/x");
        assert_eq!(
            failure.render(),
            "error: cannot read /tmp/x: No such file or directory (os error 2)\nFIX: create /tmp/x"
        );
        assert_eq!(failure.kind().exit_code(), 1);
    }

    #[test]
    fn exit_codes() {
        let codes = [
            Kind::User,
            Kind::Usage,
            Kind::Unavailable,
            Kind::BrokenPipe,
            Kind::Internal,
        ]
        .map(Kind::exit_code);
        assert_eq!(codes, [1, 64, 69, 1, 70]);
    }

    #[test]
    fn survives_the_way_through_anyhow() {
        let any = anyhow::Error::new(Failure::unavailable("no server at http://x").fix("start it"));
        let failure = Failure::from_any(any);
        assert_eq!(failure.kind(), Kind::Unavailable);
        assert_eq!(
            failure.render(),
            "error: no server at http://x\nFIX: start it"
        );
    }

    #[test]
    fn unknown_errors_are_internal_and_keep_their_causes() {
        let any = anyhow::Error::new(std::io::Error::from_raw_os_error(13))
            .context("cannot open the store");
        let failure = Failure::from_any(any);
        assert_eq!(failure.kind(), Kind::Internal);
        assert_eq!(
            failure.render(),
            "error: cannot open the store: Permission denied (os error 13)"
        );
    }

    #[test]
    fn a_way_out_within_the_text() {
        let any = anyhow::Error::new(std::io::Error::from_raw_os_error(98))
            .context("cannot listen on 127.0.0.1:3000\nFIX: choose another with --listen");
        let failure = Failure::from_any(any);
        assert_eq!(failure.kind(), Kind::User);
        assert_eq!(
            failure.render(),
            "error: cannot listen on 127.0.0.1:3000: Address already in use (os error 98)\nFIX: choose another with --listen"
        );
    }

    #[test]
    fn damage_is_not_the_callers_doing() {
        let damaged = Damaged {
            what: "/data/token.seed is damaged".into(),
            fix: "restore it".into(),
        };
        let failure = Failure::from_any(anyhow::Error::new(damaged).context("cannot start"));
        assert_eq!(failure.kind().exit_code(), 70);
        assert_eq!(
            failure.render(),
            "error: cannot start: /data/token.seed is damaged\nFIX: restore it"
        );
    }

    #[test]
    fn a_broken_pipe_is_silent() {
        let any = anyhow::Error::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            .context("cannot print");
        let failure = Failure::from_any(any);
        assert_eq!(
            (failure.kind(), failure.render().as_str()),
            (Kind::BrokenPipe, "")
        );
    }
}

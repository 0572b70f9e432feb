//! Sets up the log output of a program, once, at its start.
//!
//! Logs go to standard error: standard output belongs to data. People get lines, programs get JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Lines for people when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The log output cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not understood.
    #[error("log level {level:?} is not understood")]
    Level {
        /// What was asked for.
        level: String,
        /// Where it is wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody was first.
    #[error("log output is already set up")]
    Twice,
}

/// Whether `level` can be used: `info`, or directives such as `info,soulbox_edge=debug`.
///
/// # Errors
/// When it cannot.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(|_| ())
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(level).map_err(|source| LogError::Level {
        level: level.to_owned(),
        source,
    })
}

/// Sends the logs of this process to standard error from now on.
///
/// # Errors
/// When the level is not understood, or the output was set up before.
pub fn init(level: &str, format: Format) -> Result<(), LogError> {
    let filter = filter(level)?;
    let terminal = std::io::stderr().is_terminal();
    let human = match format {
        Format::Auto => terminal,
        Format::Human => true,
        Format::Json => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let done = if human {
        builder.with_ansi(terminal).with_target(false).try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    };
    done.map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        assert!(check_level("info").is_ok());
        assert!(check_level("warn,soulbox_edge=debug").is_ok());
        assert!(check_level("soulbox_edge=loud").is_err());
    }
}

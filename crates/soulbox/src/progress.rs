//! How long work shows that it goes on: a bar on a terminal, plain lines otherwise. Always on standard error.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;

/// A plain line at most every so many percent.
const PLAIN_STEP: u8 = 10;

/// Shows one piece of work.
pub(crate) enum Display {
    /// On a terminal.
    Bar(ProgressBar),
    /// Anywhere else.
    Plain(Plain),
}

impl Display {
    /// For standard error as it is.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Plain(Plain::default());
        }
        let bar = ProgressBar::new(100);
        let style =
            ProgressStyle::with_template("{spinner} {prefix:10} {bar:25} {pos:>3} %  {wide_msg}")
                .expect("the template is a constant and was tried");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Bar(bar)
    }

    /// One step forward. `phase` is one word; `percent` is of the phase, where it is known.
    pub(crate) fn step(&mut self, phase: &str, percent: Option<u8>, line: &str) {
        match self {
            Self::Bar(bar) => {
                bar.set_prefix(phase.to_owned());
                bar.set_position(percent.unwrap_or_default().into());
                bar.set_message(line.to_owned());
            }
            Self::Plain(plain) => {
                if let Some(text) = plain.line(phase, percent, line) {
                    note(&text);
                }
            }
        }
    }

    /// No more steps.
    pub(crate) fn finish(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Decides which steps are worth a line: a new phase, or enough progress in it.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    phase: String,
    shown_percent: u8,
}

impl Plain {
    fn line(&mut self, phase: &str, percent: Option<u8>, line: &str) -> Option<String> {
        let new_phase = phase != self.phase;
        let enough =
            percent.is_some_and(|percent| percent >= self.shown_percent.saturating_add(PLAIN_STEP));
        if !new_phase && !enough {
            return None;
        }
        phase.clone_into(&mut self.phase);
        self.shown_percent = percent.unwrap_or_default();
        Some(match percent {
            Some(percent) => format!("{phase} {percent} %: {line}"),
            None => format!("{phase}: {line}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lines_say_it_all() {
        let mut plain = Plain::default();
        let mut line = |phase, percent, text| plain.line(phase, percent, text);
        assert_eq!(
            line("building", Some(0), "a").as_deref(),
            Some("building 0 %: a")
        );
        assert_eq!(line("building", Some(9), "b"), None);
        assert_eq!(
            line("building", Some(12), "c").as_deref(),
            Some("building 12 %: c")
        );
        assert_eq!(line("building", Some(21), "d"), None);
        assert_eq!(line("ready", None, "done").as_deref(), Some("ready: done"));
        assert_eq!(line("ready", None, "done"), None);
    }
}

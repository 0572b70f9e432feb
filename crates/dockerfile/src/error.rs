//! What can be wrong with a Dockerfile, and what to do about it.

use std::fmt;

/// What is wrong, on which line, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadDockerfile {
    line: Option<usize>,
    what: String,
    fix: Option<String>,
}

impl BadDockerfile {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            line: None,
            what: what.into(),
            fix: None,
        }
    }

    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same with the line it is about, where it has none yet. [`expand`](crate::expand()) and
    /// [`select`](crate::select()) know no lines; their callers do.
    #[must_use]
    pub fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }

    /// Which line, from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for BadDockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.fix {
            Some(fix) => write!(f, "\nFIX: {fix}"),
            None => Ok(()),
        }
    }
}

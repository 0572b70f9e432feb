//! `.dockerignore`: what does not belong to a context.

use crate::BadDockerfile;
use crate::glob::Glob;

/// A `.dockerignore` that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    glob: Glob,
    /// Begins with `!`: what matches belongs to the context after all.
    exception: bool,
}

impl Ignore {
    /// Reads the file: one pattern to a line, from the root of the context; `#` begins a comment, `!` an exception.
    ///
    /// # Errors
    /// When a pattern means nothing.
    pub fn parse(text: &str) -> Result<Self, BadDockerfile> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let pattern = line.trim();
            if line.starts_with('#') || pattern.is_empty() {
                continue;
            }
            let (exception, pattern) = match pattern.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, pattern),
            };
            let bad = |what: String| {
                BadDockerfile::new(format!(".dockerignore: {what}"))
                    .fix("write \\ before a character that is not meant as part of a pattern")
                    .at(index + 1)
            };
            if pattern.is_empty() {
                return Err(bad("! is not followed by a pattern".to_owned()));
            }
            let parts = components(pattern);
            if parts.is_empty() {
                continue;
            }
            let glob = Glob::path(&parts.join("/"))
                .map_err(|_| bad(format!("{pattern} is no pattern")))?;
            rules.push(Rule { glob, exception });
        }
        Ok(Self { rules })
    }

    /// Whether a file or directory does not belong to the context. The path is relative to its root. The last pattern
    /// that matches it or a directory above it decides.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let parts = components(path);
        let mut excluded = false;
        for rule in &self.rules {
            // A rule that would say what is known already need not be asked.
            if rule.exception == excluded && rule.matches(&parts) {
                excluded = !rule.exception;
            }
        }
        excluded
    }

    /// Whether something below a directory that is excluded may belong to the context.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }
}

impl Rule {
    fn matches(&self, parts: &[&str]) -> bool {
        (1..=parts.len()).any(|count| {
            let path = parts.get(..count).unwrap_or_default().join("/");
            self.glob.matches(&path)
        })
    }
}

/// The components of a path or pattern, without those that mean nothing.
pub(crate) fn components(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

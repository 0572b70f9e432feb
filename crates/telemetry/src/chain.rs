//! The one place where an error and everything that caused it become text.
//!
//! Errors here never repeat their source in `Display`, so joining the chain says each thing once.

use std::error::Error;
use std::fmt::Write as _;

/// The error and its causes on one line: `cannot start envd: launch step mount-proc failed: permission denied`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Errors of other crates do repeat their source; once is enough.
        if !text.ends_with(&cause_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the manifest")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Inner(&'static str, #[source] std::io::Error);

    #[test]
    fn each_cause_once() {
        let error = Outer(Inner("file is short", std::io::Error::other("end of file")));
        assert_eq!(
            chain(&error),
            "cannot read the manifest: file is short: end of file"
        );
    }

    #[test]
    fn a_repeated_source_is_left_out() {
        let error = Outer(Inner(
            "open: end of file",
            std::io::Error::other("end of file"),
        ));
        assert_eq!(chain(&error), "cannot read the manifest: open: end of file");
    }
}

//! What commands print: tables and lines for people, JSON for programs.
//!
//! `println!` panics when the reader is gone; here that is an ordinary failure.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// Who reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// A person.
    Text,
    /// A program.
    Json,
}

impl Output {
    /// Prints a JSON document to programs, and what `text` makes to people.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Json => self.json(value),
            Self::Text => line(&text(value)),
        }
    }

    /// Prints one JSON document.
    pub(crate) fn json<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::internal("cannot write the answer as JSON").because(error))?;
        line(&text)
    }

    /// Prints one JSON document on one line, for streams of them.
    pub(crate) fn json_line<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::internal("cannot write the answer as JSON").because(error))?;
        line(&text)
    }
}

/// Prints a line (or several) to standard output. Nothing is printed for an empty text.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(write_failed)
}

/// Prints bytes to standard output as they are.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(data)
        .and_then(|()| out.flush())
        .map_err(write_failed)
}

/// Prints bytes to standard error as they are.
pub(crate) fn error_bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stderr().lock();
    out.write_all(data)
        .and_then(|()| out.flush())
        .map_err(write_failed)
}

/// Prints a remark for people to standard error; nobody there is no reason to fail.
pub(crate) fn note(text: &str) {
    let mut out = io::stderr().lock();
    writeln!(out, "{text}").ok();
}

fn write_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::broken_pipe()
    } else {
        Failure::user("cannot write to the output").because(error)
    }
}

/// A plain table: a header and rows, no lines, so that it can be read, cut and pasted.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain() {
        let text = table(
            ["ID", "STATE"],
            [
                ["i1".to_owned(), "running".to_owned()],
                ["long-one".to_owned(), "x".to_owned()],
            ],
        );
        assert_eq!(text, "ID         STATE\ni1         running\nlong-one   x");
    }
}

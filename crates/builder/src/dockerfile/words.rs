//! How the texts of one instruction are read: variables replaced, errors with the line they stand in. Pure.

use std::collections::BTreeMap;

use soulbox_dockerfile::{BadDockerfile, expand, expand_text};

use crate::failure::Failure;

/// Reads the texts of one instruction.
pub(super) struct Words<'a> {
    /// Its number, as the log has it.
    pub(super) step: &'a str,
    /// Where it begins in the file.
    pub(super) line: usize,
    /// Variables by ENV. They hide those by ARG.
    pub(super) env: BTreeMap<String, String>,
    /// Variables by ARG.
    pub(super) args: BTreeMap<String, String>,
}

impl Words<'_> {
    /// A text of the instruction itself.
    pub(super) fn value(&self, text: &str) -> Result<String, Failure> {
        expand(text, &|name| self.lookup(name)).map_err(|error| self.bad(error))
    }

    /// The text of a here-document.
    pub(super) fn document(&self, text: &str) -> Result<String, Failure> {
        expand_text(text, &|name| self.lookup(name)).map_err(|error| self.bad(error))
    }

    /// An error of the language, as the build's owner reads it.
    pub(super) fn bad(&self, error: BadDockerfile) -> Failure {
        Failure::new(self.step, format!("Dockerfile: {}", error.at(self.line)))
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.env.get(name).or_else(|| self.args.get(name)).cloned()
    }
}

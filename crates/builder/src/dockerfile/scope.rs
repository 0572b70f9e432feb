//! What a stage has reached: the state of the build, and what only decides how its later instructions are read.

use std::collections::BTreeMap;

use soulbox_dockerfile::{Command, Kind};

use super::args::Args;
use super::words::Words;
use crate::failure::Failure;
use crate::state::State;

/// What runs commands in shell form where no SHELL says so.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A stage that is built, or being built.
pub(super) struct Built {
    pub(super) state: State,
    pub(super) scope: Scope,
}

/// What an instruction sees besides the state.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) args: BTreeMap<String, String>,
    pub(super) shell: Vec<String>,
    pub(super) cmd: Option<Command>,
    pub(super) entrypoint: Option<Command>,
    pub(super) user_set: bool,
    pub(super) workdir_set: bool,
}

impl Scope {
    /// Of a stage that starts from an image, or from nothing.
    pub(super) fn new() -> Self {
        Self {
            args: BTreeMap::new(),
            shell: SHELL.map(str::to_owned).to_vec(),
            cmd: None,
            entrypoint: None,
            user_set: false,
            workdir_set: false,
        }
    }

    /// Of a stage that starts from another one. The ARGs of that end with it.
    pub(super) fn after(other: &Self) -> Self {
        Self {
            args: BTreeMap::new(),
            ..other.clone()
        }
    }

    /// Takes what only changes how later instructions are read. Whether it was that.
    pub(super) fn declare(
        &mut self,
        kind: &Kind,
        args: &Args<'_>,
        words: &Words<'_>,
    ) -> Result<bool, Failure> {
        match kind {
            Kind::Shell(shell) => self.shell.clone_from(shell),
            Kind::Cmd(command) => self.cmd = Some(command.clone()),
            Kind::Entrypoint(command) => {
                self.entrypoint = Some(command.clone());
                // It takes back a CMD that came from below.
                self.cmd = None;
            }
            Kind::Arg(all) => {
                for arg in all {
                    if let Some(value) = args.value(arg, words)? {
                        self.args.insert(arg.name.clone(), value);
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

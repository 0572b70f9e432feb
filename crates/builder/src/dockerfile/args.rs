//! What ARG means: the values of the caller, those before the first FROM, and those of the platform. Pure.

use std::collections::BTreeMap;

use soulbox_dockerfile::{Arg, BadDockerfile, Dockerfile, expand, platform_arg};

use super::words::Words;
use crate::failure::Failure;

/// The values that an ARG can have besides its own default.
pub(super) struct Args<'a> {
    /// By the caller.
    given: &'a BTreeMap<String, String>,
    /// Of the ARGs before the first FROM.
    globals: BTreeMap<String, String>,
    /// What registries call the architecture of this machine.
    architecture: &'a str,
}

impl<'a> Args<'a> {
    /// Those of a file.
    pub(super) fn of(
        file: &Dockerfile,
        given: &'a BTreeMap<String, String>,
        architecture: &'a str,
    ) -> Result<Self, BadDockerfile> {
        Ok(Self {
            given,
            globals: globals(file, given, architecture)?,
            architecture,
        })
    }

    /// The value of an ARG in a stage; `None` leaves it without one.
    pub(super) fn value(&self, arg: &Arg, words: &Words<'_>) -> Result<Option<String>, Failure> {
        let given = self.given.get(&arg.name).cloned();
        let default = arg.default.as_deref().map(|text| words.value(text));
        Ok(given
            .or(default.transpose()?)
            .or_else(|| self.globals.get(&arg.name).cloned())
            .or_else(|| platform_arg(&arg.name, self.architecture)))
    }
}

/// Values of the ARGs before the first FROM; each sees those before it.
fn globals(
    file: &Dockerfile,
    given: &BTreeMap<String, String>,
    architecture: &str,
) -> Result<BTreeMap<String, String>, BadDockerfile> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for arg in &file.args {
        let lookup = |name: &str| {
            known
                .get(name)
                .cloned()
                .or_else(|| platform_arg(name, architecture))
        };
        let default = arg
            .default
            .as_deref()
            .map(|text| expand(text, &lookup))
            .transpose()?;
        if let Some(value) = given.get(&arg.name).cloned().or(default) {
            known.insert(arg.name.clone(), value);
        }
    }
    Ok(known)
}

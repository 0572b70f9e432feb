//! One instruction of a Dockerfile: read, and carried out like a step. COPY and USER have files of their own.

use soulbox_client::process::Start;
use soulbox_dockerfile::{Command, Instruction, Kind, Planned};
use soulbox_store::LogLevel;

use super::args::Args;
use super::copy::Sources;
use super::scope::{Built, Scope};
use super::user::user;
use super::words::Words;
use crate::failure::Failure;
use crate::journal::Journal;
use crate::key::Key;
use crate::operation::{Operation, Position};
use crate::place::{Origin, Placement, Target};
use crate::state::State;
use crate::work::Work;

/// Carries out instructions: what all of them may use.
pub(super) struct Instructions<'a> {
    pub(super) work: &'a Work,
    pub(super) args: Args<'a>,
    pub(super) sources: Sources,
}

impl Instructions<'_> {
    /// Carries out one, in the stage that is being built.
    pub(super) async fn carry_out(
        &self,
        Built { state, scope }: &mut Built,
        planned: &Planned,
        instruction: &Instruction,
        position: Position,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let step = position.number.clone();
        let words = Words {
            step: &step,
            line: instruction.line,
            env: state.context.env.clone(),
            args: scope.args.clone(),
        };
        if let Kind::Ignored(why) = &instruction.kind {
            let line = format!("{} {}: {why}", position.prefix, instruction.text);
            journal.say(LogLevel::Warn, Some(&step), line).await;
            return Ok(());
        }
        if scope.declare(&instruction.kind, &self.args, &words)? {
            let line = format!("{} {}", position.prefix, instruction.text);
            journal.say(LogLevel::Info, Some(&step), line).await;
            return Ok(());
        }
        let (key, operation) = match &instruction.kind {
            Kind::Env(pairs) => env(state, pairs, &words)?,
            Kind::User(text) => {
                scope.user_set = true;
                user(self.work, state, &words.value(text)?, &step).await?
            }
            Kind::Workdir(text) => {
                scope.workdir_set = true;
                workdir(state, &words.value(text)?)
            }
            Kind::Run(command) => {
                for notice in &command.notices {
                    let line = format!("{} {notice}", position.prefix);
                    journal.say(LogLevel::Warn, Some(&step), line).await;
                }
                run(state, scope, &command.command)
            }
            Kind::Copy(copy) => self.sources.copy(state, planned, copy, false, &words)?,
            Kind::Add(copy) => self.sources.copy(state, planned, copy, true, &words)?,
            // Declared above.
            _ => return Ok(()),
        };
        self.work
            .advance(state, key, &operation, position, journal)
            .await
    }
}

/// Variables of what follows; each is read as it was before the instruction.
fn env<'a>(
    state: &State,
    pairs: &[(String, String)],
    words: &Words<'_>,
) -> Result<(Key, Operation<'a>), Failure> {
    let mut context = state.context.clone();
    let mut parts = vec!["ENV".to_owned()];
    for (name, text) in pairs {
        let text = words.value(text)?;
        parts.extend([name.clone(), text.clone()]);
        context.env.insert(name.clone(), text);
    }
    Ok((key(state, &parts), Operation::Context(context)))
}

/// Another directory; it is made where it is not there.
fn workdir<'a>(state: &State, path: &str) -> (Key, Operation<'a>) {
    let target = Target::of(path, state.workdir());
    let mut context = state.context.clone();
    context.workdir = Some(target.path.clone());
    let key = state.key.and(&["WORKDIR", &target.path]);
    let placement = Placement {
        origin: Origin::Context(None),
        sources: Vec::new(),
        target: Target {
            is_directory: true,
            ..target
        },
        owner: None,
        mode: None,
        unpacks: false,
        context,
    };
    (key, Operation::Place(placement))
}

/// What RUN starts. Variables of the build are in its environment, as they are with Docker.
fn run<'a>(state: &State, scope: &Scope, command: &Command) -> (Key, Operation<'a>) {
    let (argv, text) = match command {
        Command::Shell(text) => {
            let mut argv = scope.shell.clone();
            argv.push(text.clone());
            (argv, text.clone())
        }
        Command::Exec(argv) => (argv.clone(), argv.join(" ")),
    };
    let mut envs = scope.args.clone();
    envs.extend(state.context.env.clone());
    // How many words the command has: what follows them are variables.
    let mut words = vec!["RUN".to_owned(), argv.len().to_string()];
    words.extend(argv.iter().cloned());
    words.extend(
        scope
            .args
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    let mut argv = argv.into_iter();
    let start = Start {
        cmd: argv.next().unwrap_or_default(),
        args: argv.collect(),
        user: Some(state.context.user.clone()),
        cwd: Some(state.workdir().to_owned()),
        envs,
        ..Start::default()
    };
    (key(state, &words), Operation::Run { start, text })
}

fn key(state: &State, words: &[String]) -> Key {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    state.key.and(&words)
}

#[cfg(test)]
mod tests {
    use soulbox_types::BuildContext;

    use super::*;

    #[test]
    fn words_of_a_command_are_no_variables() {
        let state = State::on(
            Key::of_image("x"),
            Vec::new(),
            BuildContext::default(),
            false,
        );
        let key_of = |argv: &[&str], variables: &[(&str, &str)]| {
            let scope = Scope {
                args: variables
                    .iter()
                    .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                ..Scope::new()
            };
            let argv = argv.iter().map(|&word| word.to_owned()).collect();
            run(&state, &scope, &Command::Exec(argv)).0
        };
        assert_ne!(key_of(&["a", "b=1"], &[]), key_of(&["a"], &[("b", "1")]));
        assert_eq!(key_of(&["a"], &[("b", "1")]), key_of(&["a"], &[("b", "1")]));
    }
}

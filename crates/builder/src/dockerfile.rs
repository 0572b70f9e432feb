//! Carries out a Dockerfile: stage by stage, each instruction kept in the cache like every step.
//!
//! It starts where Docker starts, as root in `/`, and RUN is the program that Docker would run. What comes out is a template
//! like every other: its sandboxes start as the last USER, or as `user` when the file names none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use soulbox_client::process::Start;
use soulbox_dockerfile::{
    BadDockerfile, Base, Command, Copy, Dockerfile, Instruction, Kind, Planned, Source, expand,
    expand_text, platform_arg,
};
use soulbox_registry::Credentials;
use soulbox_registry::document::architecture;
use soulbox_store::LogLevel;
use soulbox_types::StartCommand;

use crate::files::Files;
use crate::image::{STEP, root};
use crate::journal::Journal;
use crate::key::Key;
use crate::place::{Origin, Piece, Placement, Target, text, wanted};
use crate::request::Recipe;
use crate::run::{BASE_TEMPLATE, DEFAULT_READY, Deed, Failure, Place, State, Work, is_base_image};
use crate::script::SYSTEM_PATH;

const SHELL: [&str; 2] = ["/bin/sh", "-c"];
const PATH: &str = "PATH";

/// What an instruction sees besides the state.
#[derive(Debug, Clone)]
struct Scope {
    args: BTreeMap<String, String>,
    shell: Vec<String>,
    cmd: Option<Command>,
    entrypoint: Option<Command>,
    user_set: bool,
    workdir_set: bool,
}

/// A stage that is built.
struct Built {
    state: State,
    scope: Scope,
}

/// A Dockerfile that is being carried out.
struct Kitchen<'a> {
    work: &'a Work,
    recipe: &'a Recipe,
    credentials: Option<&'a Credentials>,
    /// Values of the ARGs before the first FROM.
    globals: BTreeMap<String, String>,
    context: Option<Arc<Files>>,
    built: HashMap<usize, Built>,
    /// Images that files are copied from.
    images: HashMap<String, State>,
    number: usize,
    of: usize,
}

impl Work {
    /// Builds the stage that is wanted, and those that it needs.
    pub(crate) async fn dockerfile(
        &self,
        recipe: &Recipe,
        credentials: Option<&Credentials>,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let bad = |error: BadDockerfile| Failure::new(STEP, format!("Dockerfile: {error}"));
        let file = Dockerfile::parse(&recipe.dockerfile).map_err(bad)?;
        let planned = file
            .plan(recipe.target.as_deref(), &recipe.build_args, architecture())
            .map_err(bad)?;
        let of = planned
            .iter()
            .map(|stage| file.stages[stage.stage].instructions.len())
            .sum();
        let mut kitchen = Kitchen {
            work: self,
            recipe,
            credentials,
            globals: globals(&file, &recipe.build_args).map_err(bad)?,
            context: self.context(recipe).await?,
            built: HashMap::new(),
            images: HashMap::new(),
            number: 0,
            of,
        };
        let mut last = None;
        for stage in &planned {
            kitchen.stage(&file, stage, journal).await?;
            last = Some(stage.stage);
        }
        let built = last.and_then(|last| kitchen.built.remove(&last));
        let built = built.ok_or_else(|| Failure::new(STEP, "Dockerfile: it has no stage"))?;
        self.finish(built, journal).await
    }

    /// The uploaded context.
    async fn context(&self, recipe: &Recipe) -> Result<Option<Arc<Files>>, Failure> {
        let Some(hash) = &recipe.context_hash else {
            return Ok(None);
        };
        let file = self.uploaded(hash).await?.into_std().await;
        let scratch = self.uploads.scratch_directory();
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(STEP, format!("cannot read the context: {error}"))
        };
        let reading = tokio::task::spawn_blocking(move || Files::read(file, &scratch));
        let files = reading
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        Ok(Some(Arc::new(files)))
    }

    /// Makes the last stage a template: usable, with a user, and with what CMD says.
    async fn finish(&self, built: Built, journal: &mut Journal) -> Result<State, Failure> {
        let Built { mut state, scope } = built;
        let (user, workdir) = (state.context.user.clone(), state.context.workdir.clone());
        self.provision(&mut state, journal).await?;
        if scope.user_set {
            state.context.user = user;
        }
        state.context.workdir = workdir.filter(|_| scope.workdir_set);
        if let Some(command) = start_line(scope.entrypoint.as_ref(), scope.cmd.as_ref()) {
            state.start = Some(StartCommand {
                command,
                ready: DEFAULT_READY.to_owned(),
                context: state.context.clone(),
            });
        }
        Ok(state)
    }
}

impl Kitchen<'_> {
    async fn stage(
        &mut self,
        file: &Dockerfile,
        planned: &Planned,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let stage = &file.stages[planned.stage];
        let mut scope = Scope {
            args: BTreeMap::new(),
            shell: SHELL.map(str::to_owned).to_vec(),
            cmd: None,
            entrypoint: None,
            user_set: false,
            workdir_set: false,
        };
        let mut state = match &planned.base {
            Base::Image(name) => self.image(name, true, journal).await?,
            Base::Scratch => self.work.scratch().await?,
            Base::Stage(number) => {
                let built = self.built.get(number);
                let built = built
                    .ok_or_else(|| Failure::new(STEP, "Dockerfile: a stage is not built yet"))?;
                // Its ARGs end with it.
                scope = Scope {
                    args: BTreeMap::new(),
                    ..built.scope.clone()
                };
                built.state.clone()
            }
        };
        // What Docker has where an image says nothing.
        let path = state.context.env.entry(PATH.to_owned());
        path.or_insert_with(|| SYSTEM_PATH.to_owned());
        for (text, base) in &planned.uses {
            if let Base::Image(name) = base {
                let image = self.image(name, false, journal).await?;
                self.images.insert(text.clone(), image);
            }
        }
        for instruction in &stage.instructions {
            self.number += 1;
            self.instruction(&mut state, &mut scope, planned, instruction, journal)
                .await?;
        }
        self.built.insert(planned.stage, Built { state, scope });
        Ok(())
    }

    /// An image to go on from, or one to copy from.
    async fn image(
        &self,
        name: &str,
        for_steps: bool,
        journal: &mut Journal,
    ) -> Result<State, Failure> {
        let mut state = if is_base_image(name) {
            let headline = format!("FROM {name}");
            let template = self.work.template(BASE_TEMPLATE, &headline, journal);
            let mut state = template.await?;
            state.context = root();
            state.start = None;
            state
        } else {
            self.work.image(name, self.credentials, journal).await?
        };
        if for_steps {
            self.work.use_mirrors(&mut state, journal).await?;
        }
        Ok(state)
    }

    async fn instruction(
        &mut self,
        state: &mut State,
        scope: &mut Scope,
        planned: &Planned,
        instruction: &Instruction,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let place = Place::of(self.number, self.of, &instruction.text);
        let step = place.number.clone();
        let (env, args) = (state.context.env.clone(), scope.args.clone());
        let words = Words {
            step: &step,
            line: instruction.line,
            lookup: &|name: &str| env.get(name).or_else(|| args.get(name)).cloned(),
        };
        if let Kind::Ignored(why) = &instruction.kind {
            let line = format!("{} {}: {why}", place.prefix, instruction.text);
            journal.say(LogLevel::Warn, Some(&step), line).await;
            return Ok(());
        }
        if self.declares(scope, &instruction.kind, &words)? {
            let line = format!("{} {}", place.prefix, instruction.text);
            journal.say(LogLevel::Info, Some(&step), line).await;
            return Ok(());
        }
        let (key, deed) = match &instruction.kind {
            Kind::Env(pairs) => env_deed(state, pairs, &words)?,
            Kind::User(text) => {
                scope.user_set = true;
                self.user(state, &words.value(text)?, &step).await?
            }
            Kind::Workdir(text) => {
                scope.workdir_set = true;
                workdir_deed(state, &words.value(text)?)
            }
            Kind::Run(run) => {
                for notice in &run.notices {
                    let line = format!("{} {notice}", place.prefix);
                    journal.say(LogLevel::Warn, Some(&step), line).await;
                }
                run_deed(state, scope, &run.command)
            }
            Kind::Copy(copy) => self.copy_deed(state, planned, copy, false, &words)?,
            Kind::Add(copy) => self.copy_deed(state, planned, copy, true, &words)?,
            // Declared above.
            _ => return Ok(()),
        };
        self.work.advance(state, key, &deed, place, journal).await
    }

    /// Takes what only changes how later instructions are read. Whether it was that.
    fn declares(&self, scope: &mut Scope, kind: &Kind, words: &Words<'_>) -> Result<bool, Failure> {
        match kind {
            Kind::Shell(shell) => scope.shell.clone_from(shell),
            Kind::Cmd(command) => scope.cmd = Some(command.clone()),
            Kind::Entrypoint(command) => {
                scope.entrypoint = Some(command.clone());
                // It takes back a CMD that came from below.
                scope.cmd = None;
            }
            Kind::Arg(all) => {
                for arg in all {
                    let given = self.recipe.build_args.get(&arg.name).cloned();
                    let default = arg.default.as_deref().map(|text| words.value(text));
                    let found = given
                        .or(default.transpose()?)
                        .or_else(|| self.globals.get(&arg.name).cloned())
                        .or_else(|| platform_arg(&arg.name, architecture()));
                    if let Some(found) = found {
                        scope.args.insert(arg.name.clone(), found);
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn copy_deed(
        &self,
        state: &State,
        planned: &Planned,
        copy: &Copy,
        unpacks: bool,
        words: &Words<'_>,
    ) -> Result<(Key, Deed<'_>), Failure> {
        let copy = expanded(copy, words.lookup).map_err(|error| words.bad(error))?;
        let origin = self.origin(planned, &copy, words.step)?;
        let placement = placement(state, &copy, origin, unpacks)
            .map_err(|why| Failure::new(words.step, why))?;
        let known = match &placement.origin {
            Origin::Context(files) => {
                let wanted = wanted(files.as_deref(), &placement.sources);
                let wanted = wanted.map_err(|error| words.bad(error))?;
                match files {
                    Some(files) => files.key(&wanted),
                    None => format!("{wanted:?}"),
                }
            }
            Origin::Other(other) => format!("{} {:?}", other.key.as_str(), placement.sources),
        };
        let Placement {
            target,
            owner,
            mode,
            ..
        } = &placement;
        let parts = [
            if unpacks { "ADD" } else { "COPY" }.to_owned(),
            known,
            format!("{target:?} {owner:?} {mode:?}"),
        ];
        Ok((key_of(&state.key, &parts), Deed::Place(placement)))
    }

    fn origin(&self, planned: &Planned, copy: &Copy, step: &str) -> Result<Origin<'_>, Failure> {
        let Some(from) = &copy.from else {
            let needs = copy
                .sources
                .iter()
                .any(|source| matches!(source, Source::Path(_)));
            if needs && self.context.is_none() {
                let text = "there is no context to copy from\nFIX: give the directory of the files: soulbox template build NAME DIRECTORY";
                return Err(Failure::new(step, text));
            }
            return Ok(Origin::Context(self.context.clone()));
        };
        let found = match planned.uses.get(from) {
            Some(Base::Stage(number)) => self.built.get(number).map(|built| &built.state),
            _ => self.images.get(from),
        };
        found
            .map(Origin::Other)
            .ok_or_else(|| Failure::new(step, format!("there is no stage '{from}'")))
    }

    /// Another user. Programs are started as somebody who has a name: a number that has none in the image gets one.
    async fn user<'s>(
        &self,
        state: &State,
        user: &str,
        step: &str,
    ) -> Result<(Key, Deed<'s>), Failure> {
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user, None),
        };
        if name.is_empty() {
            return Err(Failure::new(step, "USER needs a name or a number"));
        }
        let key = key_of(&state.key, &["USER".to_owned(), user.to_owned()]);
        let mut context = state.context.clone();
        let Ok(number) = name.parse::<u32>() else {
            name.clone_into(&mut context.user);
            return Ok((key, Deed::Nothing(context)));
        };
        let stage = self.work.stage(state, step).await?;
        let passwd = text(&stage, "/etc/passwd").await;
        let named = passwd
            .lines()
            .find(|line| line.split(':').nth(2) == Some(name));
        if let Some(named) = named.and_then(|line| line.split(':').next()) {
            named.clone_into(&mut context.user);
            return Ok((key, Deed::Nothing(context)));
        }
        let group = group
            .and_then(|group| group.parse::<u32>().ok())
            .unwrap_or(number);
        context.user = format!("u{number}");
        let passwd = format!(
            "{}u{number}:x:{number}:{group}::/:/bin/sh\n",
            with_end(&passwd)
        );
        let placement = Placement {
            origin: Origin::Context(None),
            sources: vec![Piece::Inline {
                name: "passwd".to_owned(),
                text: passwd,
            }],
            target: Target::of("/etc/", "/"),
            owner: None,
            mode: Some(0o644),
            unpacks: false,
            context,
        };
        Ok((key, Deed::Place(placement)))
    }
}

/// A text whose last line ends.
fn with_end(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{text}{end}")
}

/// How the texts of one instruction are read.
struct Words<'a> {
    step: &'a str,
    line: usize,
    lookup: &'a (dyn Fn(&str) -> Option<String> + Sync),
}

impl Words<'_> {
    fn value(&self, text: &str) -> Result<String, Failure> {
        expand(text, self.lookup).map_err(|error| self.bad(error))
    }

    fn bad(&self, error: BadDockerfile) -> Failure {
        Failure::new(self.step, format!("Dockerfile: {}", error.at(self.line)))
    }
}

fn env_deed<'a>(
    state: &State,
    pairs: &[(String, String)],
    words: &Words<'_>,
) -> Result<(Key, Deed<'a>), Failure> {
    let mut context = state.context.clone();
    let mut parts = vec!["ENV".to_owned()];
    for (name, text) in pairs {
        let text = words.value(text)?;
        parts.extend([name.clone(), text.clone()]);
        context.env.insert(name.clone(), text);
    }
    Ok((key_of(&state.key, &parts), Deed::Nothing(context)))
}

fn workdir_deed<'a>(state: &State, path: &str) -> (Key, Deed<'a>) {
    let target = Target::of(path, workdir(state));
    let mut context = state.context.clone();
    context.workdir = Some(target.path.clone());
    let key = key_of(&state.key, &["WORKDIR".to_owned(), target.path.clone()]);
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
    (key, Deed::Place(placement))
}

fn key_of(key: &Key, words: &[String]) -> Key {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    key.and(&words)
}

fn workdir(state: &State) -> &str {
    state.context.workdir.as_deref().unwrap_or("/")
}

/// Values of the ARGs before the first FROM; each sees those before it.
fn globals(
    file: &Dockerfile,
    build_args: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, BadDockerfile> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for arg in &file.args {
        let lookup = |name: &str| {
            known
                .get(name)
                .cloned()
                .or_else(|| platform_arg(name, architecture()))
        };
        let default = arg
            .default
            .as_deref()
            .map(|text| expand(text, &lookup))
            .transpose()?;
        if let Some(value) = build_args.get(&arg.name).cloned().or(default) {
            known.insert(arg.name.clone(), value);
        }
    }
    Ok(known)
}

/// What RUN starts. Variables of the build are in its environment, as they are with Docker.
fn run_deed<'a>(state: &State, scope: &Scope, command: &Command) -> (Key, Deed<'a>) {
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
    let mut words = vec!["RUN".to_owned()];
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
        cwd: Some(workdir(state).to_owned()),
        envs,
        ..Start::default()
    };
    (key_of(&state.key, &words), Deed::Run { start, text })
}

/// The instruction with its variables replaced.
fn expanded(copy: &Copy, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Copy, BadDockerfile> {
    let value = |text: &String| expand(text, lookup);
    let source = |source: &Source| {
        Ok(match source {
            Source::Path(path) => Source::Path(value(path)?),
            Source::Inline { name, text, expand } => Source::Inline {
                name: name.clone(),
                text: if *expand {
                    expand_text(text, lookup)?
                } else {
                    text.clone()
                },
                expand: false,
            },
        })
    };
    Ok(Copy {
        from: copy.from.clone(),
        sources: copy.sources.iter().map(source).collect::<Result<_, _>>()?,
        target: value(&copy.target)?,
        owner: copy.owner.as_ref().map(value).transpose()?,
        mode: copy.mode.as_ref().map(value).transpose()?,
    })
}

fn placement<'a>(
    state: &State,
    copy: &Copy,
    origin: Origin<'a>,
    unpacks: bool,
) -> Result<Placement<'a>, String> {
    let mode = match copy.mode.as_deref() {
        None => None,
        Some(text) => {
            let mode = u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777);
            Some(mode.ok_or_else(|| {
                format!("--chmod={text} is no octal mode\nFIX: write it like --chmod=0755")
            })?)
        }
    };
    let piece = |source: &Source| match source {
        Source::Path(path) => Piece::Path(path.clone()),
        Source::Inline { name, text, .. } => Piece::Inline {
            name: name.clone(),
            text: text.clone(),
        },
    };
    Ok(Placement {
        origin,
        sources: copy.sources.iter().map(piece).collect(),
        target: Target::of(&copy.target, workdir(state)),
        owner: copy.owner.clone(),
        mode,
        unpacks,
        context: state.context.clone(),
    })
}

/// The line that ENTRYPOINT and CMD are together; `None` when they say nothing.
fn start_line(entrypoint: Option<&Command>, cmd: Option<&Command>) -> Option<String> {
    let words = |command: &Command| match command {
        Command::Shell(text) => text.clone(),
        Command::Exec(argv) => argv
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" "),
    };
    let line = match (entrypoint, cmd) {
        // In shell form it takes no arguments.
        (Some(Command::Shell(text)), _) => text.clone(),
        (Some(entrypoint), cmd) => {
            let cmd = cmd.map(words).unwrap_or_default();
            format!("{} {cmd}", words(entrypoint)).trim().to_owned()
        }
        (None, Some(cmd)) => words(cmd),
        (None, None) => String::new(),
    };
    (!line.trim().is_empty()).then_some(line)
}

/// A word that a shell reads as it is.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrypoint_and_cmd_are_one_line() {
        let exec =
            |words: &[&str]| Command::Exec(words.iter().map(|&word| word.to_owned()).collect());
        let shell = |text: &str| Command::Shell(text.to_owned());
        assert_eq!(start_line(None, None), None);
        assert_eq!(start_line(None, Some(&exec(&[]))), None);
        assert_eq!(start_line(None, Some(&shell("a && b"))).unwrap(), "a && b");
        assert_eq!(
            start_line(None, Some(&exec(&["a", "b c", "it's"]))).unwrap(),
            r"a 'b c' 'it'\''s'"
        );
        assert_eq!(
            start_line(Some(&exec(&["run"])), Some(&exec(&["-x"]))).unwrap(),
            "run -x"
        );
        assert_eq!(
            start_line(Some(&shell("run")), Some(&exec(&["-x"]))).unwrap(),
            "run"
        );
        assert_eq!(start_line(Some(&exec(&["run"])), None).unwrap(), "run");
    }
}

//! From lines to instructions and stages.

use crate::flags::{Flag, flags, unknown};
use crate::lines::{Document, Line, lines};
use crate::run::run;
use crate::select::refuse_address;
use crate::words::{json, keyword, with_backslash, words};
use crate::{Arg, BadDockerfile, Command, Copy, Dockerfile, Instruction, Kind, Source, Stage};

const KNOWN: &str = "ADD, ARG, CMD, COPY, ENTRYPOINT, ENV, EXPOSE, FROM, HEALTHCHECK, LABEL, ONBUILD, RUN, SHELL, \
                     STOPSIGNAL, USER, VOLUME or WORKDIR";

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// When a line is no instruction, or asks for what cannot be done here; the error says which line.
    pub fn parse(text: &str) -> Result<Self, BadDockerfile> {
        let read = lines(text)?;
        let mut file = Self {
            args: Vec::new(),
            stages: Vec::new(),
        };
        for line in &read.lines {
            file.take(line, read.escape)
                .map_err(|bad| bad.at(line.number))?;
        }
        if file.stages.is_empty() {
            return Err(BadDockerfile::new("the Dockerfile has no FROM")
                .fix("begin with FROM IMAGE; FROM e2bdev/base is the server's base template"));
        }
        Ok(file)
    }

    fn take(&mut self, line: &Line, escape: char) -> Result<(), BadDockerfile> {
        let (name, rest) = keyword(&line.text);
        if name == "FROM" {
            self.stages.push(stage(rest, line.number, escape)?);
            return Ok(());
        }
        let Some(stage) = self.stages.last_mut() else {
            if name == "ARG" {
                self.args.extend(args(rest, escape)?);
                return Ok(());
            }
            return Err(match instruction(&name, rest, line, escape) {
                Ok(_) => BadDockerfile::new(format!("{name} stands before the first FROM"))
                    .fix("begin with FROM IMAGE; only ARG may stand before it"),
                Err(bad) => bad,
            });
        };
        stage.instructions.push(Instruction {
            line: line.number,
            text: line.text.clone(),
            kind: instruction(&name, rest, line, escape)?,
        });
        Ok(())
    }
}

fn stage(rest: &str, line: usize, escape: char) -> Result<Stage, BadDockerfile> {
    let (flags, rest) = flags(rest, escape);
    let mut platform = None;
    for flag in flags {
        match flag.name.as_str() {
            "platform" => platform = Some(flag.text()?),
            _ => return Err(unknown("FROM", &flag, "--platform")),
        }
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (from, name) = match words.as_slice() {
        [from] => (from, None),
        [from, as_, name] if as_.eq_ignore_ascii_case("as") => (from, Some(stage_name(name)?)),
        _ => {
            return Err(
                BadDockerfile::new("FROM has one image and may name its stage")
                    .fix("FROM IMAGE  or  FROM IMAGE AS NAME"),
            );
        }
    };
    Ok(Stage {
        name,
        from: with_backslash(from, escape),
        platform,
        line,
        instructions: Vec::new(),
    })
}

fn stage_name(name: &str) -> Result<String, BadDockerfile> {
    let lower = name.to_ascii_lowercase();
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if lower.starts_with(|c: char| c.is_ascii_lowercase()) && lower.chars().all(part) {
        Ok(lower)
    } else {
        Err(
            BadDockerfile::new(format!("{name} cannot be the name of a stage"))
                .fix("begin with a letter; then letters, digits, - _ and ."),
        )
    }
}

fn instruction(name: &str, rest: &str, line: &Line, escape: char) -> Result<Kind, BadDockerfile> {
    let text = |text: &str| with_backslash(text, escape);
    if rest.is_empty() && !matches!(name, "CMD" | "RUN") && !unheard_of(name) {
        return Err(BadDockerfile::new(format!("{name} needs an argument")));
    }
    Ok(match name {
        "RUN" => Kind::Run(run(rest, line, escape)?),
        "COPY" => Kind::Copy(copy(name, rest, line, escape)?),
        "ADD" => Kind::Add(copy(name, rest, line, escape)?),
        "ENV" => Kind::Env(pairs(rest, escape)?),
        "ARG" => Kind::Arg(args(rest, escape)?),
        "WORKDIR" => Kind::Workdir(text(rest)),
        "USER" => Kind::User(text(rest)),
        "SHELL" => Kind::Shell(shell(rest)?),
        "CMD" => Kind::Cmd(command(rest)),
        "ENTRYPOINT" => Kind::Entrypoint(command(rest)),
        _ => match ignored(name) {
            Some(why) => Kind::Ignored(format!("{name} has no effect here: {why}")),
            None => {
                return Err(BadDockerfile::new(format!("{name} is no instruction"))
                    .fix(format!("use {KNOWN}")));
            }
        },
    })
}

fn unheard_of(name: &str) -> bool {
    let known = KNOWN.split([',', ' ']).any(|known| known == name);
    !known && ignored(name).is_none()
}

/// What is known and means nothing here, and what does instead.
fn ignored(name: &str) -> Option<&'static str> {
    Some(match name {
        "HEALTHCHECK" => "a ready command says when sandboxes can be used",
        "EXPOSE" => "every port of a sandbox can be reached",
        "VOLUME" => "a sandbox's whole disk is its own",
        "LABEL" | "MAINTAINER" => "templates have names and tags",
        "STOPSIGNAL" => "sandboxes are killed",
        "ONBUILD" => "put the instruction into the Dockerfile that starts from this template",
        _ => return None,
    })
}

fn command(rest: &str) -> Command {
    match json(rest) {
        Some(words) => Command::Exec(words),
        None if rest.is_empty() => Command::Exec(Vec::new()),
        None => Command::Shell(rest.to_owned()),
    }
}

fn shell(rest: &str) -> Result<Vec<String>, BadDockerfile> {
    json(rest).filter(|words| !words.is_empty()).ok_or_else(|| {
        BadDockerfile::new("SHELL is a JSON array").fix("SHELL [\"/bin/bash\", \"-c\"]")
    })
}

fn args(rest: &str, escape: char) -> Result<Vec<Arg>, BadDockerfile> {
    if rest.is_empty() {
        return Err(BadDockerfile::new("ARG needs a name").fix("ARG NAME  or  ARG NAME=DEFAULT"));
    }
    let words = words(rest, escape);
    let args = words.iter().map(|word| {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, Some(with_backslash(default, escape))),
            None => (word.as_str(), None),
        };
        if name.is_empty() {
            let bad = BadDockerfile::new(format!("{word} has no name"));
            return Err(bad.fix("ARG NAME=DEFAULT"));
        }
        Ok(Arg {
            name: name.to_owned(),
            default,
        })
    });
    args.collect()
}

/// `A=b C="d e"`, or the old form `A the rest of the line`.
fn pairs(rest: &str, escape: char) -> Result<Vec<(String, String)>, BadDockerfile> {
    const FIX: &str = "ENV NAME=VALUE NAME2=\"VALUE 2\"";
    let words = words(rest, escape);
    if !words.first().is_some_and(|word| word.contains('=')) {
        return match rest.split_once(char::is_whitespace) {
            Some((name, value)) => Ok(vec![(
                name.to_owned(),
                with_backslash(value.trim(), escape),
            )]),
            None => Err(BadDockerfile::new("ENV needs a name and a value").fix(FIX)),
        };
    }
    let pairs = words.iter().map(|word| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), with_backslash(value, escape)))
        }
        _ => Err(BadDockerfile::new(format!("{word} is not NAME=VALUE")).fix(FIX)),
    });
    pairs.collect()
}

fn copy(name: &str, rest: &str, line: &Line, escape: char) -> Result<Copy, BadDockerfile> {
    let (flags, rest) = flags(rest, escape);
    let mut copy = Copy {
        from: None,
        sources: Vec::new(),
        target: String::new(),
        owner: None,
        mode: None,
    };
    for flag in flags {
        copy_flag(name, &mut copy, flag)?;
    }
    let mut words = match json(rest) {
        Some(words) => words,
        None => rest.split_whitespace().map(ToOwned::to_owned).collect(),
    };
    let needed = || {
        BadDockerfile::new(format!("{name} needs a source and a target"))
            .fix(format!("{name} SOURCE… TARGET"))
    };
    let target = words.pop().ok_or_else(needed)?;
    if words.is_empty() {
        return Err(needed());
    }
    copy.target = with_backslash(&target, escape);
    let mut documents = line.documents.iter();
    for word in words {
        let document = Document::of_word(&word).and_then(|_| documents.next());
        copy.sources.push(match document {
            Some(document) => Source::Inline {
                name: document.name.clone(),
                text: document.content(),
                expand: document.expand,
            },
            None => {
                refuse_address(&word)?;
                Source::Path(with_backslash(&word, escape))
            }
        });
    }
    Ok(copy)
}

fn copy_flag(name: &str, copy: &mut Copy, flag: Flag) -> Result<(), BadDockerfile> {
    match flag.name.as_str() {
        "from" if name == "COPY" => copy.from = Some(from(flag.text()?)?),
        "chown" => copy.owner = Some(flag.text()?),
        "chmod" => copy.mode = Some(flag.text()?),
        // It changes how a result is stored, not what it is.
        "link" => {
            flag.is_on()?;
        }
        "keep-git-dir" | "checksum" | "unpack" if name == "ADD" => {
            return Err(
                BadDockerfile::new(format!("ADD --{} cannot be done here", flag.name))
                    .fix("fetch and unpack it with a command: RUN curl -fsSL URL | tar -xz"),
            );
        }
        "parents" | "exclude" => {
            return Err(
                BadDockerfile::new(format!("{name} --{} cannot be done here", flag.name))
                    .fix("name the directories one by one, and leave files out with .dockerignore"),
            );
        }
        _ => {
            let known = match name {
                "COPY" => "--from, --chown, --chmod and --link",
                _ => "--chown, --chmod and --link",
            };
            return Err(unknown(name, &flag, known));
        }
    }
    Ok(())
}

fn from(text: String) -> Result<String, BadDockerfile> {
    if text.contains('$') {
        return Err(BadDockerfile::new(format!(
            "COPY --from={text}: variables are not expanded there"
        ))
        .fix(format!(
            "name a stage, FROM {text} AS NAME, and write COPY --from=NAME"
        )));
    }
    Ok(text)
}

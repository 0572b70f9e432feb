//! Tables: a text, and what it means.

mod contexts;
mod expanding;
mod planning;
mod reading;

use std::fmt::Write as _;

use crate::{Command, Copy, Dockerfile, Kind, Source};

/// A kind on one line, short enough for tables.
fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Run(run) => {
            let mut text = format!("RUN {}", command(&run.command));
            for notice in &run.notices {
                write!(text, " ({})", notice.split(' ').next().unwrap()).unwrap();
            }
            text
        }
        Kind::Copy(copy) => format!("COPY {}", files(copy)),
        Kind::Add(copy) => format!("ADD {}", files(copy)),
        Kind::Env(pairs) => {
            let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
            format!("ENV {}", pairs.collect::<Vec<_>>().join("|"))
        }
        Kind::Arg(args) => {
            let args = args.iter().map(|arg| match &arg.default {
                Some(default) => format!("{}={default}", arg.name),
                None => arg.name.clone(),
            });
            format!("ARG {}", args.collect::<Vec<_>>().join("|"))
        }
        Kind::Workdir(path) => format!("WORKDIR {path}"),
        Kind::User(user) => format!("USER {user}"),
        Kind::Shell(words) => format!("SHELL {words:?}"),
        Kind::Cmd(run) => format!("CMD {}", command(run)),
        Kind::Entrypoint(run) => format!("ENTRYPOINT {}", command(run)),
        Kind::Ignored(text) => format!("- {}", text.split(' ').next().unwrap()),
    }
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(text) => format!("sh {text}"),
        Command::Exec(words) => format!("{words:?}"),
    }
}

fn files(copy: &Copy) -> String {
    let mut text = String::new();
    for source in &copy.sources {
        match source {
            Source::Path(path) => write!(text, "{path} ").unwrap(),
            Source::Inline {
                name,
                text: content,
                expand,
            } => {
                let mark = if *expand { "$" } else { "" };
                write!(text, "<{mark}{name}:{content:?}> ").unwrap();
            }
        }
    }
    write!(text, "-> {}", copy.target).unwrap();
    let more = [
        ("from", &copy.from),
        ("owner", &copy.owner),
        ("mode", &copy.mode),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            write!(text, " {name}={value}").unwrap();
        }
    }
    text
}

/// What stands in a file's only stage.
fn body(text: &str) -> Vec<String> {
    let file = Dockerfile::parse(text).unwrap_or_else(|bad| panic!("{text}\n{bad}"));
    let stages = file.stages.iter();
    stages
        .flat_map(|stage| &stage.instructions)
        .map(|instruction| shown(&instruction.kind))
        .collect()
}

/// The whole text of an error.
fn error(text: &str) -> String {
    match Dockerfile::parse(text) {
        Ok(file) => panic!("{text}\n{file:?}"),
        Err(bad) => bad.to_string(),
    }
}

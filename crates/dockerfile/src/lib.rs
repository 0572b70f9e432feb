//! Dockerfiles as data: what stands in one, which stages a build needs, what a text with variables means, and which
//! files of a context an instruction is about. Pure: no I/O, no clock, no async.
//!
//! The language is BuildKit's. It is read here and not by a parser from outside: those that were looked at read a
//! here-document only where it is the first word of RUN, and lose the names of those of COPY. What is known and cannot
//! be done in a sandbox is an error with a way out (secrets, bind mounts) or a notice (cache mounts, EXPOSE), never
//! silently something else.
//!
//! Reading order: [`Dockerfile`], [`Dockerfile::plan`], [`expand`], [`select`], [`Ignore`].

mod error;
mod expand;
mod flags;
mod glob;
mod ignore;
mod lines;
mod parse;
mod plan;
mod run;
mod select;
#[cfg(test)]
mod tests;
mod words;

pub use error::BadDockerfile;
pub use expand::{expand, expand_text};
pub use ignore::Ignore;
pub use plan::{Base, Planned, platform_arg};
pub use select::{Entry, Selected, select};

/// A Dockerfile that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// ARGs before the first FROM: only FROM sees them.
    pub args: Vec<Arg>,
    /// At least one.
    pub stages: Vec<Stage>,
}

/// From one FROM to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What AS calls it, in lower case.
    pub name: Option<String>,
    /// Image, name of an earlier stage, or `scratch`, as written: it may hold variables.
    pub from: String,
    /// What `--platform` says, as written.
    pub platform: Option<String>,
    /// Where its FROM stands, from 1.
    pub line: usize,
    /// What it does, in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where it begins, from 1.
    pub line: usize,
    /// For logs: as written, on one line, without the text of here-documents.
    pub text: String,
    /// What it does.
    pub kind: Kind,
}

/// What an instruction does. Texts are as written: whoever carries them out gives them to [`expand`], except for the
/// commands of RUN, CMD, ENTRYPOINT and SHELL, which are the shell's to expand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Runs a command.
    Run(Run),
    /// Brings files.
    Copy(Copy),
    /// Brings files and unpacks archives. Never from an address on the network.
    Add(Copy),
    /// Sets variables, names and values.
    Env(Vec<(String, String)>),
    /// Declares variables of the build.
    Arg(Vec<Arg>),
    /// Changes the directory.
    Workdir(String),
    /// Changes the user: `name`, `uid`, `name:group`.
    User(String),
    /// What runs commands in shell form from here on. Not empty.
    Shell(Vec<String>),
    /// What sandboxes run. An empty exec form takes back an earlier one.
    Cmd(Command),
    /// What goes before CMD. An empty exec form takes back an earlier one.
    Entrypoint(Command),
    /// Does nothing here; the text says so to the owner: HEALTHCHECK, EXPOSE, VOLUME, LABEL, MAINTAINER, STOPSIGNAL,
    /// ONBUILD.
    Ignored(String),
}

/// A RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command. Here-documents are part of it.
    pub command: Command,
    /// What was asked for and is not done, for the log.
    pub notices: Vec<String>,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A text for the shell; several lines where there are here-documents.
    Shell(String),
    /// The program and its arguments; nothing expands them.
    Exec(Vec<String>),
}

/// A COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Where the files are: name or number of a stage, or an image; the context when absent.
    pub from: Option<String>,
    /// At least one.
    pub sources: Vec<Source>,
    /// Where they go. One that ends in `/` is a directory.
    pub target: String,
    /// What `--chown` says: `user`, `user:group`, names or numbers.
    pub owner: Option<String>,
    /// What `--chmod` says.
    pub mode: Option<String>,
}

/// One source of a COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern, for [`select`] once it is expanded.
    Path(String),
    /// A here-document.
    Inline {
        /// The file's name where the target is a directory.
        name: String,
        /// The file's text.
        text: String,
        /// Whether variables in the text are to be expanded, by [`expand_text`].
        expand: bool,
    },
}

/// One variable of an ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// Its value where the caller gives none, as written.
    pub default: Option<String>,
}

//! What a step means. Pure: texts of a request in, what is to be done out. The error texts are the wire's.

use soulbox_types::BuildContext;

use crate::request::Step;

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Runs a line in a login shell, as this user or as the one of the context.
    Run {
        command: String,
        user: Option<String>,
    },
    /// Unpacks uploaded files.
    Copy(Copy),
    /// Changes the environment of what follows. Values are not expanded yet.
    Env(Vec<(String, String)>),
    /// Changes the directory of what follows. Not expanded yet.
    Workdir(String),
    /// Changes the user of what follows; it is made where it is not there. Not expanded yet.
    User { name: String, sudo: bool },
}

/// Which uploaded files go where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) hash: String,
    /// Path in the archive; what the archive holds at all when empty.
    pub(crate) source: String,
    pub(crate) target: String,
    /// `user:group`; those of the context when absent.
    pub(crate) owner: Option<String>,
    /// Octal digits; those of the archive when absent.
    pub(crate) mode: Option<String>,
}

/// A step that makes no sense. The text is what the build's owner reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadStep(String);

impl Step {
    /// Its kind as logs show it.
    pub(crate) fn kind(&self) -> String {
        self.kind.trim().to_ascii_uppercase()
    }

    /// It as logs show it, on one line.
    pub(crate) fn headline(&self) -> String {
        let text = format!("{} {}", self.kind(), self.args.join(" "));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What it does.
    pub(crate) fn action(&self) -> Result<Action, BadStep> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let bad = |why: &str| BadStep(why.to_owned());
        let kind = self.kind();
        match (kind.as_str(), args.as_slice()) {
            ("RUN", []) => Err(bad("RUN requires command argument")),
            ("RUN", [command, rest @ ..]) => Ok(Action::Run {
                command: (*command).to_owned(),
                user: given(rest, 0),
            }),
            ("COPY" | "ADD", args) => self.copy(args, &kind).map(Action::Copy),
            ("ENV" | "ARG", []) => Err(BadStep(format!(
                "{kind} does not support passing no arguments"
            ))),
            ("ENV" | "ARG", args) if args.len() % 2 == 0 => args
                .chunks_exact(2)
                .map(|pair| match (pair[0], pair[1]) {
                    (key, _) if key.is_empty() || key.contains(['=', '\0']) => Err(BadStep(
                        format!("{kind}: '{key}' cannot be the name of a variable"),
                    )),
                    (key, value) => Ok((key.to_owned(), value.to_owned())),
                })
                .collect::<Result<_, _>>()
                .map(Action::Env),
            ("ENV" | "ARG", _) => Err(BadStep(format!(
                "{kind} requires both a key and value arguments"
            ))),
            ("WORKDIR", [path, ..]) if !path.is_empty() => Ok(Action::Workdir((*path).to_owned())),
            ("WORKDIR", _) => Err(bad("WORKDIR requires a path argument")),
            ("USER", [name, rest @ ..]) if !name.is_empty() => Ok(Action::User {
                name: (*name).to_owned(),
                sudo: given(rest, 0).as_deref() == Some("true"),
            }),
            ("USER", _) => Err(bad("USER requires a username argument")),
            _ => Err(BadStep(format!(
                "failed to get command for step {kind}: command type {kind} is not implemented"
            ))),
        }
    }

    fn copy(&self, args: &[&str], kind: &str) -> Result<Copy, BadStep> {
        let hash = self.files_hash.as_deref().filter(|hash| !hash.is_empty());
        let hash = hash.ok_or_else(|| BadStep(format!("{kind} requires files hash to be set")))?;
        let is_hash = hash.len() == 64
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let [source, target, rest @ ..] = args else {
            return Err(BadStep(format!(
                "{kind} requires a local path and a container path argument"
            )));
        };
        if !is_hash {
            return Err(BadStep(format!("{kind}: '{hash}' is no hash of files")));
        }
        let mode = given(rest, 1);
        if let Some(mode) = mode
            .as_deref()
            .filter(|mode| mode.len() > 5 || mode.bytes().any(|b| !matches!(b, b'0'..=b'7')))
        {
            return Err(BadStep(format!("{kind}: '{mode}' is no octal mode")));
        }
        Ok(Copy {
            hash: hash.to_owned(),
            source: without_glob(source)
                .ok_or_else(|| BadStep(format!("{kind}: '{source}' leaves the files")))?,
            target: (*target).to_owned(),
            owner: given(rest, 0),
            mode,
        })
    }
}

/// An optional argument; an empty one counts as not given.
fn given(args: &[&str], at: usize) -> Option<String> {
    args.get(at)
        .filter(|text| !text.is_empty())
        .map(|text| (*text).to_owned())
}

/// The longest part of a path, from its beginning, that no pattern is in. `None` when it leads out.
fn without_glob(path: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            pattern if pattern.contains(['*', '?', '[']) => break,
            name => kept.push(name),
        }
    }
    Some(kept.join("/"))
}

/// `user:group` of files that are copied in a context.
pub(crate) fn owner(copy: &Copy, context: &BuildContext) -> String {
    match copy.owner.as_deref() {
        Some(owner) if owner.contains(':') => owner.to_owned(),
        Some(owner) => format!("{owner}:{owner}"),
        None => format!("{0}:{0}", context.user),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "abababababababababababababababababababababababababababababababab";

    fn step(kind: &str, args: &[&str]) -> Step {
        Step {
            kind: kind.to_owned(),
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            files_hash: Some(HASH.to_owned()),
            force: false,
        }
    }

    fn said(kind: &str, args: &[&str]) -> String {
        step(kind, args).action().unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_is_said_in_the_wires_words() {
        for (kind, args, text) in [
            ("RUN", &[][..], "RUN requires command argument"),
            ("ENV", &[], "ENV does not support passing no arguments"),
            ("ENV", &["a"], "ENV requires both a key and value arguments"),
            ("WORKDIR", &[""], "WORKDIR requires a path argument"),
            ("user", &[], "USER requires a username argument"),
            (
                "COPY",
                &["a"],
                "COPY requires a local path and a container path argument",
            ),
            (
                "volume",
                &["a"],
                "failed to get command for step VOLUME: command type VOLUME is not implemented",
            ),
            ("COPY", &["../a", "/b"], "COPY: '../a' leaves the files"),
            ("COPY", &["a", "/b", "", "9"], "COPY: '9' is no octal mode"),
            (
                "ENV",
                &["a=b", "c"],
                "ENV: 'a=b' cannot be the name of a variable",
            ),
        ] {
            assert_eq!(said(kind, args), text);
        }
        let no_hash = Step {
            files_hash: None,
            ..step("COPY", &["a", "b"])
        };
        assert_eq!(
            no_hash.action().unwrap_err().to_string(),
            "COPY requires files hash to be set"
        );
    }

    #[test]
    fn what_steps_mean() {
        assert_eq!(
            step("run", &["echo", ""]).action(),
            Ok(Action::Run {
                command: "echo".to_owned(),
                user: None
            })
        );
        assert_eq!(
            step("USER", &["me", "true"]).action(),
            Ok(Action::User {
                name: "me".to_owned(),
                sudo: true
            })
        );
        assert_eq!(
            step("ENV", &["A", "1", "B", ""]).action(),
            Ok(Action::Env(vec![
                ("A".to_owned(), "1".to_owned()),
                ("B".to_owned(), String::new())
            ]))
        );
        let Ok(Action::Copy(copy)) = step("ADD", &["dir/*", "t/", "me", "0644"]).action() else {
            panic!("no copy");
        };
        assert_eq!((copy.source.as_str(), copy.target.as_str()), ("dir", "t/"));
        assert_eq!(owner(&copy, &BuildContext::default()), "me:me");
        assert_eq!(copy.mode.as_deref(), Some("0644"));
    }

    #[test]
    fn sources_end_where_a_pattern_begins() {
        for (path, kept) in [
            (".", ""),
            ("./a/b", "a/b"),
            ("a/b/", "a/b"),
            ("*.txt", ""),
            ("a/*/c", "a"),
            ("/a", "a"),
        ] {
            assert_eq!(without_glob(path).as_deref(), Some(kept), "{path}");
        }
        assert_eq!(without_glob("a/../../b"), None);
    }

    #[test]
    fn headlines_are_one_line() {
        let step = step("run", &["echo a\necho  b", ""]);
        assert_eq!(step.headline(), "RUN echo a echo b");
    }
}

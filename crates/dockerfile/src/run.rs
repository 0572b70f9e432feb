//! RUN: its flags, and here-documents as part of its command.

use crate::flags::{Flag, flags, unknown};
use crate::lines::{Document, Line};
use crate::words::json;
use crate::{BadDockerfile, Command, Run};

/// Starts a text as the program that its first line names. The text is the script's first argument.
const SCRIPT: &str = "f=$(mktemp) || exit; printf %s \"$1\" >\"$f\" && chmod 755 \"$f\" || exit; \
                      \"$f\"; s=$?; rm -f \"$f\"; exit $s";

/// Reads what follows the word RUN.
pub(crate) fn run(rest: &str, line: &Line, escape: char) -> Result<Run, BadDockerfile> {
    let (flags, rest) = flags(rest, escape);
    let mut notices = Vec::new();
    for flag in flags {
        notices.extend(notice(flag)?);
    }
    if rest.is_empty() {
        return Err(BadDockerfile::new("RUN has no command").fix("RUN COMMAND"));
    }
    let command = match (json(rest), line.documents.as_slice()) {
        (Some(words), _) if words.is_empty() => {
            return Err(
                BadDockerfile::new("RUN has no command").fix("RUN [\"program\", \"argument\"]")
            );
        }
        (Some(words), _) => Command::Exec(words),
        (None, []) => Command::Shell(rest.to_owned()),
        (None, [only]) if Document::of_word(rest).is_some() => script(only),
        (None, documents) => Command::Shell(with_documents(rest, documents)),
    };
    Ok(Run { command, notices })
}

/// A command that is nothing but a here-document is its text.
fn script(document: &Document) -> Command {
    let text = document.content();
    if !text.starts_with("#!") {
        return Command::Shell(text);
    }
    let words = ["/bin/sh", "-c", SCRIPT, "sh", &text];
    Command::Exec(words.map(ToOwned::to_owned).to_vec())
}

/// For the shell, which reads here-documents itself.
fn with_documents(command: &str, documents: &[Document]) -> String {
    let mut text = command.to_owned();
    for document in documents {
        text.push('\n');
        text.push_str(&document.text);
        text.push_str(&document.name);
    }
    text.push('\n');
    text
}

/// What a flag means here: nothing, something to say, or an error.
fn notice(flag: Flag) -> Result<Option<String>, BadDockerfile> {
    match flag.name.as_str() {
        "mount" => mount(&flag.text()?),
        "network" => match flag.text()?.as_str() {
            "default" => Ok(None),
            "host" => Ok(Some(
                "--network=host is ignored: a build has the network of a sandbox".to_owned(),
            )),
            other => Err(
                BadDockerfile::new(format!("--network={other} cannot be done here"))
                    .fix("take it out: a build has the network of a sandbox"),
            ),
        },
        "security" => match flag.text()?.as_str() {
            "sandbox" => Ok(None),
            other => Err(
                BadDockerfile::new(format!("--security={other} cannot be done here"))
                    .fix("take it out: commands of a build run in a sandbox"),
            ),
        },
        _ => Err(unknown("RUN", &flag, "--mount, --network and --security")),
    }
}

fn mount(text: &str) -> Result<Option<String>, BadDockerfile> {
    let kind = text
        .split(',')
        .find_map(|part| part.trim().strip_prefix("type="))
        .unwrap_or("bind");
    let fix = match kind {
        "cache" | "tmpfs" => {
            return Ok(Some(format!(
                "--mount=type={kind} is ignored: what the command writes there stays in the template"
            )));
        }
        "bind" => "bring the files with COPY, and remove them in a later RUN",
        "secret" => {
            "give the value with ARG and --build-arg where it may stay in the cache, \
             or set it when a sandbox is created"
        }
        "ssh" => "clone over HTTPS, or bring the files with COPY",
        _ => "take it out",
    };
    Err(BadDockerfile::new(format!("--mount=type={kind} cannot be done here")).fix(fix))
}

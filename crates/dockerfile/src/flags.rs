//! `--name=value` before an instruction's arguments.

use crate::BadDockerfile;

/// One flag; the value is absent where there is no `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

impl Flag {
    /// Its value, which it must have.
    pub(crate) fn text(self) -> Result<String, BadDockerfile> {
        let name = self.name;
        self.value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| BadDockerfile::new(format!("--{name} needs a value")))
    }

    /// What a flag means that is there or not.
    pub(crate) fn is_on(&self) -> Result<bool, BadDockerfile> {
        match self.value.as_deref() {
            None | Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => {
                let what = format!("--{} is true or false, not {other}", self.name);
                Err(BadDockerfile::new(what))
            }
        }
    }
}

/// The flags of an instruction, and its arguments. Quotes within a flag are taken off.
pub(crate) fn flags(text: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let (word, after) = word(flag, escape);
        rest = after.trim_start();
        if word.is_empty() {
            // `--` alone ends them.
            break;
        }
        flags.push(match word.split_once('=') {
            Some((name, value)) => Flag {
                name: name.to_owned(),
                value: Some(value.to_owned()),
            },
            None => Flag {
                name: word,
                value: None,
            },
        });
    }
    (flags, rest)
}

fn word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (word, text.get(at..).unwrap_or_default()),
            _ if character == escape && quote != Some('\'') => {
                word.extend(characters.next().map(|(_, next)| next));
            }
            Some(open) if open == character => quote = None,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            _ => word.push(character),
        }
    }
    (word, "")
}

/// A flag that the instruction does not have.
pub(crate) fn unknown(instruction: &str, flag: &Flag, known: &str) -> BadDockerfile {
    BadDockerfile::new(format!("{instruction} has no flag --{}", flag.name))
        .fix(format!("take it out; {instruction} knows {known}"))
}

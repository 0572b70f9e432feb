//! What the environment variable says.

use std::fmt;
use std::str::FromStr;

use crate::{POINTS, VARIABLE, table};

/// What happens at an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process ends by SIGKILL.
    Kill = 0,
    /// The thread stays there, so that somebody can kill the process from outside.
    Sleep = 1,
    /// The step fails, once. Only at fallible points.
    Error = 2,
}

impl Action {
    pub(crate) fn from_number(number: usize) -> Self {
        match number {
            1 => Self::Sleep,
            2 => Self::Error,
            _ => Self::Kill,
        }
    }
}

/// One armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed {
    pub(crate) number: usize,
    /// From 1: at which time that the point is reached.
    pub hit: u64,
    /// What happens then.
    pub action: Action,
}

impl Armed {
    /// The point's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        POINTS[self.number].name
    }
}

/// For people who see it in a log and did not expect it.
impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.action {
            Action::Kill => "will kill itself",
            Action::Sleep => "will stand still",
            Action::Error => "will fail",
        };
        let (name, hit) = (self.name(), self.hit);
        write!(
            f,
            "FAULT INJECTION IS ON: this process {what} at {name}, hit {hit}\nFIX: start it without {VARIABLE}"
        )
    }
}

/// The variable says nothing that can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFault {
    text: String,
    why: &'static str,
}

impl fmt::Display for BadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VARIABLE}={} {}", self.text, self.why)
    }
}

impl std::error::Error for BadFault {}

impl FromStr for Armed {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let bad = |why| BadFault {
            text: text.to_owned(),
            why,
        };
        let mut parts = text.split(':');
        let number = parts
            .next()
            .and_then(table::find)
            .ok_or(bad("names no point"))?;
        let hit = match parts.next() {
            None => 1,
            Some(hit) => hit
                .parse()
                .ok()
                .filter(|hit| *hit > 0)
                .ok_or(bad("has a hit that is no number from 1"))?,
        };
        let action = match parts.next() {
            None | Some("kill") => Action::Kill,
            Some("sleep") => Action::Sleep,
            Some("error") if POINTS[number].fallible => Action::Error,
            Some("error") => return Err(bad("asks for an error at a point that cannot fail")),
            Some(_) => return Err(bad("has an action other than kill, sleep and error")),
        };
        match parts.next() {
            None => Ok(Self {
                number,
                hit,
                action,
            }),
            Some(_) => Err(bad("has too many parts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let parse = |text: &str| {
            text.parse::<Armed>()
                .map(|armed| (armed.name(), armed.hit, armed.action))
        };
        let name = "create.row-inserted";
        assert_eq!(parse("create.row-inserted"), Ok((name, 1, Action::Kill)));
        assert_eq!(parse("create.row-inserted:3"), Ok((name, 3, Action::Kill)));
        assert_eq!(
            parse("create.row-inserted:3:sleep"),
            Ok((name, 3, Action::Sleep))
        );
        assert_eq!(
            parse("create.files-made:1:error"),
            Ok(("create.files-made", 1, Action::Error))
        );
        for bad in [
            "",
            "x",
            "create.row-inserted:0",
            "create.row-inserted:x",
            "create.row-inserted:1:error",
            "create.row-inserted:1:x",
            "create.row-inserted:1:kill:1",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("SOULBOX_FAULT={bad} ")),
                "{error}"
            );
        }
    }

    #[test]
    fn nothing_happens_unarmed() {
        crate::point!("create.row-inserted");
        assert!(crate::point!("create.files-made", fallible).is_ok());
    }
}

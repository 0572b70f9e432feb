//! What a text with variables means.

use crate::BadDockerfile;
use crate::glob::Glob;

/// Longer values are no values: doubling a variable a few dozen times must not fill the memory.
const MOST_BYTES: usize = 1 << 20;
/// How deep `${a:-${b:-…}}` may go.
const MOST_DEEP: usize = 32;

/// Where variables come from.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands a text as BuildKit does: `$v`, `${v}`, `${v:-w}`, `${v:+w}`, `${v:?e}` and these without `:`, `${v#p}`,
/// `${v##p}`, `${v%p}`, `${v%%p}`. A backslash keeps the next character, single quotes keep a text, quotes go. A
/// variable that is not there is empty.
///
/// # Errors
/// When a quote or a brace does not end, a `?` finds nothing, or the result is longer than 1 MiB.
pub fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, BadDockerfile> {
    Expander::new(text, lookup, true).whole()
}

/// Expands the text of a here-document: as [`expand`], but quotes are text, and a backslash keeps only `$`, `` ` `` and
/// a backslash, as in a shell.
///
/// # Errors
/// As [`expand`].
pub fn expand_text(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, BadDockerfile> {
    Expander::new(text, lookup, false).whole()
}

/// What ends a part of the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    Brace,
}

struct Expander<'a> {
    text: &'a str,
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    lookup: Lookup<'a>,
    quotes: bool,
    deep: usize,
}

impl<'a> Expander<'a> {
    fn new(text: &'a str, lookup: Lookup<'a>, quotes: bool) -> Self {
        Self {
            text,
            rest: text.chars().peekable(),
            lookup,
            quotes,
            deep: 0,
        }
    }

    fn whole(&mut self) -> Result<String, BadDockerfile> {
        self.part(Until::End, false)
    }

    fn bad(&self, what: &str) -> BadDockerfile {
        let text: String = self.text.chars().take(80).collect();
        BadDockerfile::new(format!("{what} in {text:?}"))
    }

    /// Up to the end, which is eaten. `raw` keeps backslashes, for patterns.
    fn part(&mut self, until: Until, raw: bool) -> Result<String, BadDockerfile> {
        let mut out = String::new();
        loop {
            let Some(character) = self.rest.next() else {
                return match until {
                    Until::End => Ok(out),
                    Until::Brace => Err(self.bad("a } is missing").fix("end ${…} with a }")),
                };
            };
            match character {
                '}' if until == Until::Brace => return Ok(out),
                '$' => out.push_str(&self.variable()?),
                '\\' if raw => {
                    out.push('\\');
                    out.extend(self.rest.next());
                }
                '\\' => self.escaped(&mut out),
                '\'' if self.quotes => self.single(&mut out)?,
                '"' if self.quotes => self.double(&mut out)?,
                other => out.push(other),
            }
            if out.len() > MOST_BYTES {
                return Err(self.bad("a value grows beyond 1 MiB"));
            }
        }
    }

    fn escaped(&mut self, out: &mut String) {
        let keeps = |next: &char| self.quotes || matches!(next, '$' | '`' | '\\');
        match self.rest.next_if(keeps) {
            Some(next) => out.push(next),
            // At the end of a quoted text there is nothing to keep.
            None if self.quotes => {}
            None => out.push('\\'),
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), BadDockerfile> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(other) => out.push(other),
                None => return Err(self.open_quote("'")),
            }
        }
    }

    fn double(&mut self, out: &mut String) -> Result<(), BadDockerfile> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.variable()?),
                Some('\\') => match self.rest.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                    Some(next) => out.push(next),
                    None => out.push('\\'),
                },
                Some(other) => out.push(other),
                None => return Err(self.open_quote("\"")),
            }
            if out.len() > MOST_BYTES {
                return Err(self.bad("a value grows beyond 1 MiB"));
            }
        }
    }

    fn open_quote(&self, quote: &str) -> BadDockerfile {
        self.bad(&format!("a {quote} does not end")).fix(format!(
            "end the quoted text, or write \\{quote} for the character itself"
        ))
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, BadDockerfile> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(match name.as_str() {
                "" => "$".to_owned(),
                name => (self.lookup)(name).unwrap_or_default(),
            });
        }
        let name = self.name();
        if name.is_empty() {
            return Err(self
                .bad("${ is not followed by a name")
                .fix("write \\$ for the character itself"));
        }
        self.deep += 1;
        if self.deep > MOST_DEEP {
            return Err(self.bad("variables are nested too deep"));
        }
        let value = self.modified(&name);
        self.deep -= 1;
        value
    }

    /// What follows the name within braces.
    fn modified(&mut self, name: &str) -> Result<String, BadDockerfile> {
        let value = (self.lookup)(name);
        match self.rest.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let value = value.filter(|value| !value.is_empty());
                match self.rest.next() {
                    Some(how @ ('-' | '+' | '?')) => self.otherwise(name, value, how),
                    _ => Err(self.unknown(name)),
                }
            }
            Some(how @ ('-' | '+' | '?')) => self.otherwise(name, value, how),
            Some(how @ ('#' | '%')) => self.cut(&value.unwrap_or_default(), how),
            Some(_) => Err(self.unknown(name)),
            None => Err(self.bad("a } is missing").fix("end ${…} with a }")),
        }
    }

    fn otherwise(
        &mut self,
        name: &str,
        value: Option<String>,
        how: char,
    ) -> Result<String, BadDockerfile> {
        let word = self.part(Until::Brace, false)?;
        match (how, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) => {
                let why = if word.is_empty() { "is needed" } else { &word };
                Err(BadDockerfile::new(format!("{name}: {why}")).fix(format!(
                    "give it with --build-arg {name}=VALUE, or set it with ARG or ENV"
                )))
            }
        }
    }

    /// Takes a beginning (`#`) or an end (`%`) off that matches: the shortest, or the longest where the sign is doubled.
    fn cut(&mut self, value: &str, how: char) -> Result<String, BadDockerfile> {
        let longest = self.rest.next_if_eq(&how).is_some();
        let glob = Glob::value(&self.part(Until::Brace, true)?);
        let characters: Vec<char> = value.chars().collect();
        let count = characters.len();
        let choose = |glob: &Glob, text: &mut dyn Iterator<Item = char>| {
            let mut lengths = glob.prefixes(text);
            if longest {
                lengths.last()
            } else {
                lengths.next()
            }
        };
        let kept = if how == '#' {
            let cut = choose(&glob, &mut characters.iter().copied()).unwrap_or(0);
            characters.get(cut..)
        } else {
            let cut = choose(&glob.reversed(), &mut characters.iter().rev().copied()).unwrap_or(0);
            characters.get(..count - cut)
        };
        Ok(kept.unwrap_or_default().iter().collect())
    }

    fn unknown(&self, name: &str) -> BadDockerfile {
        self.bad(&format!("${{{name}…}} has a modifier that is not known"))
            .fix("use one of :-  :+  :?  -  +  ?  #  ##  %  %%")
    }

    /// A name, or digits, or one of the shell's own; nothing where none of them follows.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(first) if first.is_ascii_digit() => {
                while let Some(next) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(next);
                }
            }
            Some('@' | '*' | '#' | '!' | '?' | '-' | '$') => name.extend(self.rest.next()),
            _ => {
                let part = |next: &char| next.is_ascii_alphanumeric() || *next == '_';
                while let Some(next) = self.rest.next_if(part) {
                    name.push(next);
                }
            }
        }
        name
    }
}

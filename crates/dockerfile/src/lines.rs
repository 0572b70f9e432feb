//! From a text to instructions that each have their whole line: directives, comments, continuations, here-documents.

use crate::BadDockerfile;
use crate::words::{json, keyword, unquote, words};

/// One instruction's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it begins, from 1.
    pub(crate) number: usize,
    /// Joined from its continuations, without comments between them.
    pub(crate) text: String,
    /// In the order in which the line names them.
    pub(crate) documents: Vec<Document>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// What ends it, and the name of its file.
    pub(crate) name: String,
    /// Whether its variables mean something: its name is not quoted.
    pub(crate) expand: bool,
    /// Whether tabs before its lines do not count: `<<-`.
    pub(crate) chomp: bool,
    /// Its lines as they are, without the last.
    pub(crate) text: String,
}

impl Document {
    /// What the word stands for, when it stands for a here-document: `<<EOF`, `<<-EOF`, `3<<'EOF'`.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let rest = rest.strip_prefix("<<")?;
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let name = unquote(rest);
        if name.is_empty() || rest.contains('<') {
            return None;
        }
        Some(Self {
            expand: name == rest,
            name,
            chomp,
            text: String::new(),
        })
    }

    /// Its text as a file or a script has it.
    pub(crate) fn content(&self) -> String {
        if !self.chomp {
            return self.text.clone();
        }
        let lines = self.text.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// A text as its lines, and the character that continues lines and escapes.
pub(crate) struct Lines {
    pub(crate) escape: char,
    pub(crate) lines: Vec<Line>,
}

/// Reads a text. A line that cannot be an instruction is for the next to judge.
pub(crate) fn lines(text: &str) -> Result<Lines, BadDockerfile> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape(text)?;
    let mut reader = Reader {
        rest: text.split_inclusive('\n'),
        number: 0,
        escape,
    };
    let mut lines = Vec::new();
    while let Some(line) = reader.line()? {
        lines.push(line);
    }
    Ok(Lines { escape, lines })
}

/// Directives are comments at the very top: `# escape=`. The first line that is none ends them.
fn escape(text: &str) -> Result<char, BadDockerfile> {
    let mut found: Option<char> = None;
    for (index, line) in text.lines().enumerate() {
        let directive = line.trim().strip_prefix('#').and_then(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), value.trim()))
        });
        match directive {
            Some((name, value)) if name == "escape" => {
                let mut characters = value.chars();
                let (Some(character @ ('\\' | '`')), None) = (characters.next(), characters.next())
                else {
                    let what = format!("the escape character cannot be {value:?}");
                    let bad = BadDockerfile::new(what).fix("# escape=\\  or  # escape=`");
                    return Err(bad.at(index + 1));
                };
                if found.replace(character).is_some() {
                    let bad = BadDockerfile::new("there is more than one escape directive");
                    return Err(bad.fix("keep one").at(index + 1));
                }
            }
            Some((name, _)) if name == "syntax" || name == "check" => {}
            _ => break,
        }
    }
    Ok(found.unwrap_or('\\'))
}

struct Reader<'a> {
    rest: std::str::SplitInclusive<'a, char>,
    number: usize,
    escape: char,
}

impl<'a> Reader<'a> {
    fn raw(&mut self) -> Option<&'a str> {
        let line = self.rest.next()?;
        self.number += 1;
        Some(line)
    }

    fn line(&mut self) -> Result<Option<Line>, BadDockerfile> {
        let (number, mut text, mut goes_on) = loop {
            let Some(raw) = self.raw() else {
                return Ok(None);
            };
            let line = without_newline(raw).trim_start();
            if is_comment(line) {
                continue;
            }
            let (line, goes_on) = self.continued(line);
            if goes_on || !line.trim().is_empty() {
                break (self.number, line.to_owned(), goes_on);
            }
        };
        while goes_on {
            let Some(raw) = self.raw() else {
                break;
            };
            let line = without_newline(raw);
            if is_comment(line.trim_start()) || line.trim().is_empty() {
                continue;
            }
            let (line, more) = self.continued(line);
            text.push_str(line);
            goes_on = more;
        }
        if text.trim().is_empty() {
            // An escape character alone, and nothing after it.
            return self.line();
        }
        let documents = self.documents(number, &text)?;
        Ok(Some(Line {
            number,
            text: text.trim().to_owned(),
            documents,
        }))
    }

    /// The line without the character that continues it. Two of them are one that is escaped.
    fn continued<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let ended = line.trim_end_matches([' ', '\t']);
        match ended.strip_suffix(self.escape) {
            Some(rest) if !rest.ends_with(self.escape) => (rest, true),
            _ => (line, false),
        }
    }

    fn documents(&mut self, number: usize, line: &str) -> Result<Vec<Document>, BadDockerfile> {
        let mut documents = named_documents(line, self.escape);
        for document in &mut documents {
            loop {
                let Some(raw) = self.raw() else {
                    let name = &document.name;
                    let what = format!("the here-document {name} does not end");
                    let fix = format!("put {name} on a line of its own after its text");
                    return Err(BadDockerfile::new(what).fix(fix).at(number));
                };
                let end = without_newline(raw);
                let end = match document.chomp {
                    true => end.trim_start_matches('\t'),
                    false => end,
                };
                if end == document.name {
                    break;
                }
                document.text.push_str(raw);
            }
        }
        Ok(documents)
    }
}

/// The here-documents that a line names. Only RUN, COPY and ADD have some, and none in their JSON forms.
fn named_documents(line: &str, escape: char) -> Vec<Document> {
    let (mut name, mut rest) = keyword(line);
    if name == "ONBUILD" {
        (name, rest) = keyword(rest);
    }
    let plain = rest.trim_start();
    if !matches!(name.as_str(), "RUN" | "COPY" | "ADD")
        || !rest.contains("<<")
        || json(plain).is_some()
    {
        return Vec::new();
    }
    words(rest, escape)
        .iter()
        .filter_map(|word| Document::of_word(word))
        .collect()
}

fn without_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

fn is_comment(line: &str) -> bool {
    line.starts_with('#')
}

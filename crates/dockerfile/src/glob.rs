//! Patterns, matched in time that grows with text times pattern and no faster, whoever wrote them.

/// One place in a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    One(char),
    /// Any character but `/`.
    Any,
    /// Any number of those.
    Star,
    /// Any number of any characters.
    Rest,
    /// Any number of whole directories; always followed by `Inside`.
    Deep,
    /// Within those: left only behind a `/`.
    Inside,
    /// One of these, or none of these.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
}

/// A pattern that means nothing: a set or an escape that does not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadPattern;

impl Glob {
    /// As file names are matched: `*` and `?` stay within a directory, `**` does not.
    pub(crate) fn path(pattern: &str) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '*' if characters.next_if_eq(&'*').is_some() => {
                    // `**/` eats its slash: it stands for no directory, too.
                    characters.next_if_eq(&'/');
                    if characters.peek().is_none() {
                        tokens.push(Token::Rest);
                    } else {
                        tokens.extend([Token::Deep, Token::Inside]);
                    }
                }
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                '[' => tokens.push(set(&mut characters)?),
                '\\' => tokens.push(Token::One(characters.next().ok_or(BadPattern)?)),
                other => tokens.push(Token::One(other)),
            }
        }
        Ok(Self { tokens })
    }

    /// As a shell cuts values: `*` is any text, `[` is itself.
    pub(crate) fn value(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' => Token::Rest,
                // Any one character, `/` too.
                '?' => Token::Set {
                    negated: true,
                    ranges: Vec::new(),
                },
                '\\' => Token::One(characters.next().unwrap_or('\\')),
                other => Token::One(other),
            });
        }
        Self { tokens }
    }

    /// The same for texts that are read from their end. Not for patterns with `**`.
    pub(crate) fn reversed(mut self) -> Self {
        self.tokens.reverse();
        self
    }

    /// Whether the whole text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let count = text.chars().count();
        self.prefixes(text.chars()).any(|length| length == count)
    }

    /// The lengths, in characters and growing, of the beginnings of the text that match.
    pub(crate) fn prefixes<'g>(
        &'g self,
        text: impl Iterator<Item = char> + 'g,
    ) -> impl Iterator<Item = usize> + 'g {
        let mut places = vec![false; self.tokens.len() + 1];
        self.reach(&mut places, 0);
        let first = self.at_end(&places).then_some(0);
        let later = text.enumerate().map_while(move |(index, character)| {
            places = self.step(&places, character);
            places
                .contains(&true)
                .then(|| self.at_end(&places).then_some(index + 1))
        });
        first.into_iter().chain(later.flatten())
    }

    fn at_end(&self, places: &[bool]) -> bool {
        places.get(self.tokens.len()).copied().unwrap_or(false)
    }

    /// Marks a place and all that are reached from it without a character.
    fn reach(&self, places: &mut [bool], at: usize) {
        let mut next = vec![at];
        while let Some(at) = next.pop() {
            match places.get_mut(at) {
                Some(place) if !*place => *place = true,
                _ => continue,
            }
            match self.tokens.get(at) {
                Some(Token::Star | Token::Rest) => next.push(at + 1),
                Some(Token::Deep) => next.extend([at + 1, at + 2]),
                _ => {}
            }
        }
    }

    fn step(&self, places: &[bool], character: char) -> Vec<bool> {
        let mut after = vec![false; places.len()];
        let here = self.tokens.iter().enumerate();
        for (at, token) in here.filter(|(at, _)| places.get(*at).copied().unwrap_or(false)) {
            let (stays, goes) = match token {
                Token::One(one) => (false, *one == character),
                Token::Any => (false, character != '/'),
                Token::Star => (character != '/', false),
                Token::Rest => (true, false),
                Token::Deep => (false, false),
                Token::Inside => (true, character == '/'),
                Token::Set { negated, ranges } => {
                    let within = |(low, high): &(char, char)| (*low..=*high).contains(&character);
                    (false, ranges.iter().any(within) != *negated)
                }
            };
            if stays {
                self.reach(&mut after, at);
            }
            if goes {
                self.reach(&mut after, at + 1);
            }
        }
        after
    }
}

/// `[a-z]`, `[^a-z]`; what follows the bracket.
fn set(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match characters.next().ok_or(BadPattern)? {
            ']' if !ranges.is_empty() => return Ok(Token::Set { negated, ranges }),
            ']' | '-' => return Err(BadPattern),
            '\\' => characters.next().ok_or(BadPattern)?,
            other => other,
        };
        let high = match characters.next_if_eq(&'-') {
            None => low,
            Some(_) => match characters.next().ok_or(BadPattern)? {
                ']' | '-' => return Err(BadPattern),
                '\\' => characters.next().ok_or(BadPattern)?,
                other => other,
            },
        };
        ranges.push((low, high));
    }
}

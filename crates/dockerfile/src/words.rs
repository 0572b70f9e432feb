//! Words, quotes and JSON within one line.

/// The instruction's name in upper case, and what follows it.
pub(crate) fn keyword(line: &str) -> (String, &str) {
    let line = line.trim();
    let end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    (name.to_ascii_uppercase(), rest.trim())
}

/// A JSON array of texts; None when it is anything else.
pub(crate) fn json(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

/// Words as they are written, with their quotes and escapes. White space within quotes or after an escape is part of a
/// word. A quote that does not end goes on to the end of the line.
pub(crate) fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        word.push(character);
        if character == escape && quote != Some('\'') {
            word.extend(characters.next());
        } else if quote == Some(character) {
            quote = None;
        } else if quote.is_none() && matches!(character, '"' | '\'') {
            quote = Some(character);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A word without its quotes.
pub(crate) fn unquote(word: &str) -> String {
    let mut text = String::new();
    let mut quote: Option<char> = None;
    for character in word.chars() {
        match quote {
            Some(open) if open == character => quote = None,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            _ => text.push(character),
        }
    }
    text
}

/// The same text for a reader who escapes with a backslash, whatever the file escapes with.
pub(crate) fn with_backslash(text: &str, escape: char) -> String {
    if escape == '\\' {
        return text.to_owned();
    }
    let mut same = String::new();
    let mut quote: Option<char> = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some('\''), _) => {}
            (_, '\\') => same.push('\\'),
            (None, _) if character == escape => {
                same.push('\\');
                same.extend(characters.next());
                continue;
            }
            // Within double quotes only these can be escaped.
            (Some('"'), _) if character == escape => {
                match characters.next_if(|next| ['"', '$', escape].contains(next)) {
                    Some(next) if next == escape => same.push(escape),
                    Some(next) => same.extend(['\\', next]),
                    None => same.push(escape),
                }
                continue;
            }
            _ => {}
        }
        same.push(character);
        quote = match quote {
            Some(open) if open == character => None,
            None if matches!(character, '"' | '\'') => Some(character),
            other => other,
        };
    }
    same
}

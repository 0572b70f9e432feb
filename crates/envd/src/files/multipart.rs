//! The names of multipart parts: which part is a file, and where it goes.

use http::HeaderMap;
use http::header::CONTENT_DISPOSITION;

/// The whole `filename` parameter, directories and all, with the escapes of the common clients undone.
pub(crate) fn file_name(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(CONTENT_DISPOSITION)?;
    let header = String::from_utf8_lossy(header.as_bytes()).into_owned();
    let plain = parameter(&header, "filename").map(|raw| undo_percent(&raw));
    parameter(&header, "filename*")
        .and_then(|raw| extended(&raw))
        .or(plain)
}

/// One parameter's value, with quotes and backslashes undone.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    let mut rest = header.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_matches([' ', '\t', ';']);
        let (value, remaining) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, remaining) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), remaining)
            }
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = remaining;
    }
}

fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => value.push('\\'),
            },
            _ => value.push(c),
        }
    }
    (value, "")
}

/// Browsers, undici and httpx write these three as `%XX` and nothing else, so nothing else is undone.
fn undo_percent(text: &str) -> String {
    text.replace("%22", "\"")
        .replace("%0D", "\r")
        .replace("%0A", "\n")
}

/// `utf-8''…` of RFC 5987.
fn extended(raw: &str) -> Option<String> {
    let (charset, rest) = raw.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail.split_at_checked(2)) {
            (b'%', Some((hex, tail))) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(header: &str) -> Option<String> {
        file_name(&HeaderMap::from_iter([(
            CONTENT_DISPOSITION,
            HeaderValue::from_bytes(header.as_bytes()).unwrap(),
        )]))
    }

    #[test]
    fn names_of_all_clients() {
        let cases = [
            (
                r#"form-data; name="file"; filename="/a/b c.txt""#,
                Some("/a/b c.txt"),
            ),
            (
                r#"form-data; name="file"; filename="a%22b%20.txt""#,
                Some("a\"b%20.txt"),
            ),
            (
                r#"form-data; name="file"; filename="a\"b\\c.txt""#,
                Some("a\"b\\c.txt"),
            ),
            (
                r#"form-data; filename=plain.txt; name="file""#,
                Some("plain.txt"),
            ),
            (
                r#"form-data; name="x; filename=no"; filename="yes""#,
                Some("yes"),
            ),
            (
                r#"form-data; name="file"; filename="e.txt"; filename*=UTF-8''%C3%A9.txt"#,
                Some("é.txt"),
            ),
            (r#"form-data; name="file"; filename="é.txt""#, Some("é.txt")),
            (r#"form-data; name="file""#, None),
            ("form-data", None),
            (r#"form-data; name="file"; filename="open"#, Some("open")),
        ];
        for (header, expected) in cases {
            assert_eq!(of(header).as_deref(), expected, "{header}");
        }
    }
}

//! JSON in ASCII: everything else is escaped.
//!
//! A client decodes each piece of a body by itself, and another one takes Unicode's line separators for ends of lines:
//! only ASCII comes through both unharmed.

use std::io;

use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// A value in one line of ASCII.
pub(crate) fn to_string(value: &Value) -> String {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = Serializer::with_formatter(&mut bytes, Ascii);
    serde::Serialize::serialize(value, &mut serializer)
        .expect("a value is JSON and memory takes it");
    String::from_utf8(bytes).expect("only ASCII was written")
}

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        mut fragment: &str,
    ) -> io::Result<()> {
        while let Some(at) = fragment.find(|c: char| !c.is_ascii()) {
            let (plain, rest) = fragment.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut letters = rest.chars();
            for unit in letters.next().into_iter().flat_map(units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            fragment = letters.as_str();
        }
        writer.write_all(fragment.as_bytes())
    }
}

/// A letter as the units that JSON escapes: two beyond the first plane.
fn units(letter: char) -> impl Iterator<Item = u16> {
    let mut buffer = [0; 2];
    let count = letter.encode_utf16(&mut buffer).len();
    buffer.into_iter().take(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_but_ascii_comes_out_and_all_of_it_comes_back() {
        let value = json!({"ключ": "é\u{2028}\n\"😀 end", "n": [1.5, null]});
        let text = to_string(&value);
        assert!(text.is_ascii() && !text.contains('\n'), "{text}");
        assert!(text.contains(r"\u2028") && text.contains(r"\ud83d\ude00"));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}

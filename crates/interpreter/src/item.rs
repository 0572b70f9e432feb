//! The lines of `/execute`: what a kernel's message says to the caller.

use serde_json::{Map, Value, json};

use crate::ascii;
use crate::wire::Message;

/// The last line of every execution.
pub(crate) const END: &str = "{\"type\": \"end_of_execution\"}\n";
pub(crate) const KEEPALIVE: &str = "{\"type\": \"keepalive\"}\n";

/// MIME types that have a field of their own; everything else goes into `extra`.
const FIELDS: [(&str, &str); 12] = [
    ("text/plain", "text"),
    ("text/html", "html"),
    ("text/markdown", "markdown"),
    ("image/svg+xml", "svg"),
    ("image/png", "png"),
    ("image/jpeg", "jpeg"),
    ("application/pdf", "pdf"),
    ("text/latex", "latex"),
    ("application/json", "json"),
    ("application/javascript", "javascript"),
    ("e2b/data", "data"),
    ("e2b/chart", "chart"),
];

/// What a message means for the execution that it belongs to.
#[derive(Debug, PartialEq)]
pub(crate) enum Meaning {
    /// A line for the caller.
    Line(Value),
    /// The kernel is done with it.
    Idle,
    /// Its outcome, on the shell channel.
    Reply(Option<Value>),
    /// Nothing that a caller is told.
    Nothing,
}

/// Decides what a message means.
pub(crate) fn meaning(message: &Message) -> Meaning {
    let content = &message.content;
    let text = |name: &str| content[name].as_str().unwrap_or_default();
    match message.header.msg_type.as_str() {
        "execute_input" => Meaning::Line(json!({
            "type": "number_of_executions",
            "execution_count": content["execution_count"],
        })),
        "stream" => {
            let kind = match text("name") {
                "stderr" => "stderr",
                _ => "stdout",
            };
            Meaning::Line(
                json!({"type": kind, "text": text("text"), "timestamp": message.header.date}),
            )
        }
        "display_data" => Meaning::Line(result(content, false)),
        "execute_result" => Meaning::Line(result(content, true)),
        "error" => Meaning::Line(failure(content)),
        "status" if content["execution_state"] == "idle" => Meaning::Idle,
        "execute_reply" => Meaning::Reply(match text("status") {
            "ok" => None,
            "error" => Some(failure(content)),
            _ => Some(error("ExecutionAborted", "Execution was aborted", "")),
        }),
        _ => Meaning::Nothing,
    }
}

/// An error of our own, as a line.
pub(crate) fn error(name: &str, value: &str, traceback: &str) -> Value {
    json!({"type": "error", "name": name, "value": value, "traceback": traceback})
}

/// An item as the bytes of its line.
pub(crate) fn line(item: &Value) -> String {
    let mut text = ascii::to_string(item);
    text.push('\n');
    text
}

fn failure(content: &Value) -> Value {
    let text = |name: &str| content[name].as_str().unwrap_or_default();
    let lines = content["traceback"].as_array().into_iter().flatten();
    let traceback: String = lines.filter_map(Value::as_str).collect();
    error(text("ename"), text("evalue"), &traceback)
}

fn result(content: &Value, is_main: bool) -> Value {
    let mut item = Map::new();
    let mut extra = Map::new();
    for (mime, value) in content["data"].as_object().into_iter().flatten() {
        let field = FIELDS.iter().find(|(known, _)| known == mime);
        match field {
            Some((_, "text")) => drop(item.insert("text".into(), unquoted(value))),
            Some((_, name @ ("json" | "data" | "chart"))) if !value.is_null() => {
                drop(item.insert((*name).into(), value.clone()));
            }
            Some((_, name)) if !value.is_null() => drop(item.insert((*name).into(), joined(value))),
            Some(_) => {}
            None => drop(extra.insert(mime.clone(), value.clone())),
        }
    }
    item.insert("type".into(), "result".into());
    item.insert("is_main_result".into(), is_main.into());
    item.insert("extra".into(), extra.into());
    item.into()
}

/// Text may come as a list of its lines, as in files of notebooks.
fn joined(value: &Value) -> Value {
    match value.as_array() {
        Some(lines) => {
            let text: String = lines.iter().filter_map(Value::as_str).collect();
            text.into()
        }
        None => value.clone(),
    }
}

/// Strings are shown without the quotes of their language.
fn unquoted(value: &Value) -> Value {
    let text = match joined(value) {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let quotes = ['\'', '"'];
    let inner = quotes
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    inner.map(ToOwned::to_owned).unwrap_or(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Header;

    fn said(kind: &str, content: Value) -> Meaning {
        meaning(&Message {
            header: Header {
                msg_type: kind.to_owned(),
                date: Some("d".to_owned()),
                ..Header::default()
            },
            parent: String::new(),
            content,
        })
    }

    #[test]
    fn every_mime_type_has_its_field() {
        let content = json!({"data": {
            "text/plain": "'quoted'",
            "text/html": ["<b>\n", "</b>"],
            "application/json": ["a\n", "b"],
            "e2b/chart": {},
            "image/png": null,
            "x/y": {"z": 1},
        }});
        let expected = json!({
            "type": "result", "is_main_result": true, "text": "quoted", "html": "<b>\n</b>",
            "json": ["a\n", "b"], "chart": {}, "extra": {"x/y": {"z": 1}},
        });
        assert_eq!(said("execute_result", content), Meaning::Line(expected));
    }

    #[test]
    fn only_a_pair_of_quotes_is_taken_off() {
        for (text, shown) in [
            ("'a'", "a"),
            ("\"'\"", "'"),
            ("'", "'"),
            ("'a\"", "'a\""),
            ("", ""),
        ] {
            assert_eq!(unquoted(&text.into()), shown, "{text}");
        }
    }

    #[test]
    fn errors_come_on_either_channel() {
        let content =
            json!({"status": "error", "ename": "E", "evalue": "v", "traceback": ["a\n", "b"]});
        let expected = error("E", "v", "a\nb");
        assert_eq!(
            said("error", content.clone()),
            Meaning::Line(expected.clone())
        );
        assert_eq!(
            said("execute_reply", content),
            Meaning::Reply(Some(expected))
        );
        assert_eq!(
            said("execute_reply", json!({"status": "ok"})),
            Meaning::Reply(None)
        );
        assert!(matches!(
            said("execute_reply", json!({"status": "aborted"})),
            Meaning::Reply(Some(_))
        ));
    }

    #[test]
    fn the_rest() {
        let stream = said("stream", json!({"name": "stderr", "text": "t"}));
        assert_eq!(
            stream,
            Meaning::Line(json!({"type": "stderr", "text": "t", "timestamp": "d"}))
        );
        assert_eq!(
            said("status", json!({"execution_state": "idle"})),
            Meaning::Idle
        );
        assert_eq!(
            said("status", json!({"execution_state": "busy"})),
            Meaning::Nothing
        );
        assert_eq!(said("comm_open", json!({})), Meaning::Nothing);
        let count = said("execute_input", json!({"execution_count": 3}));
        assert_eq!(
            count,
            Meaning::Line(json!({"type": "number_of_executions", "execution_count": 3}))
        );
    }
}

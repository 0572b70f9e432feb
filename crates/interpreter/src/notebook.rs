//! A notebook: the format of `.ipynb` files, as far as it has to be known to run them. Pure.
//!
//! A file is read into plain JSON and written back with what is not known here as it was.

use serde_json::{Map, Value, json};

use crate::language;
use crate::wire::Message;

/// The format that new notebooks have.
const FORMAT: (u64, u64) = (4, 5);

/// The contents of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notebook(Value);

/// A file, or a request, that is no notebook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotebookError {
    #[error("it is no JSON: {0}")]
    Json(String),
    #[error(
        "it is no notebook of format 4, which is an object with nbformat 4 and a list of cells"
    )]
    Format,
    #[error("there is no cell {0}; it has {1}")]
    NoCell(usize, usize),
    #[error("cell {0} is no code")]
    NotCode(usize),
}

/// What a caller wants a cell to be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCell {
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Code,
    Markdown,
    Raw,
}

/// What a run of a cell has brought.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    list: Vec<Value>,
    count: Option<Value>,
    pub(crate) has_failed: bool,
}

impl Notebook {
    /// One without cells.
    pub(crate) fn new(language: &str) -> Self {
        let kernel = json!({"name": language, "language": language, "display_name": language});
        Self(json!({
            "nbformat": FORMAT.0, "nbformat_minor": FORMAT.1, "cells": [],
            "metadata": {"kernelspec": kernel, "language_info": {"name": language}},
        }))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, NotebookError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| NotebookError::Json(error.to_string()))?;
        let are_cells = |cells: &Vec<Value>| cells.iter().all(|cell| cell["cell_type"].is_string());
        let is_one =
            value["nbformat"] == FORMAT.0 && value["cells"].as_array().is_some_and(are_cells);
        is_one.then_some(Self(value)).ok_or(NotebookError::Format)
    }

    /// As it stands in a file.
    pub(crate) fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        text.push('\n');
        text
    }

    /// As callers see it.
    pub(crate) fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn language(&self) -> String {
        let metadata = &self.0["metadata"];
        let names = [
            &metadata["kernelspec"]["language"],
            &metadata["language_info"]["name"],
        ];
        let name = names.into_iter().find_map(Value::as_str);
        language::normalized(name.unwrap_or(language::DEFAULT))
    }

    fn cells(&self) -> &[Value] {
        self.0["cells"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Replaces all cells. What had run and is the same code in the same place keeps its outputs.
    pub(crate) fn set_cells(&mut self, wanted: &[NewCell]) {
        let cells = wanted.iter().enumerate().map(|(index, wanted)| {
            let same = |old: &&Value| {
                old["cell_type"] == wanted.kind.name() && source(old) == wanted.source
            };
            let old = self.cells().get(index).filter(same);
            old.cloned().unwrap_or_else(|| wanted.cell())
        });
        self.0["cells"] = cells.collect();
    }

    /// Which cells are to run: one, or all that are code.
    pub(crate) fn to_run(&self, only: Option<usize>) -> Result<Vec<usize>, NotebookError> {
        let is_code = |index: &usize| self.cells()[*index]["cell_type"] == "code";
        let all = 0..self.cells().len();
        match only {
            None => Ok(all.filter(is_code).collect()),
            Some(index) if index >= all.end => Err(NotebookError::NoCell(index, all.end)),
            Some(index) if !is_code(&index) => Err(NotebookError::NotCode(index)),
            Some(index) => Ok(vec![index]),
        }
    }

    /// The code of a cell.
    pub(crate) fn code(&self, index: usize) -> String {
        self.cells().get(index).map(source).unwrap_or_default()
    }

    /// Puts what a run has brought into the cell, if the cell still has this code.
    pub(crate) fn put(&mut self, index: usize, code: &str, outputs: Outputs) {
        let cell = self.0["cells"]
            .get_mut(index)
            .filter(|cell| source(cell) == code);
        if let Some(Value::Object(cell)) = cell {
            cell.insert("outputs".into(), outputs.list.into());
            let count = outputs.count.unwrap_or(Value::Null);
            cell.insert("execution_count".into(), count);
        }
    }
}

/// Files have it as a text or as a list of its lines.
fn source(cell: &Value) -> String {
    match &cell["source"] {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Markdown => "markdown",
            Self::Raw => "raw",
        }
    }
}

impl NewCell {
    fn cell(&self) -> Value {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut cell = json!({
            "id": id[..8], "cell_type": self.kind.name(), "metadata": {}, "source": self.source,
        });
        if self.kind == Kind::Code {
            cell["outputs"] = json!([]);
            cell["execution_count"] = Value::Null;
        }
        cell
    }
}

impl Outputs {
    /// Takes in what a message of the kernel shows.
    pub(crate) fn take(&mut self, message: &Message) {
        let content = &message.content;
        match message.header.msg_type.as_str() {
            "execute_input" => self.count = Some(content["execution_count"].clone()),
            "stream" => self.print(content),
            kind @ ("display_data" | "execute_result") => {
                let mut output = Map::new();
                output.insert("output_type".into(), kind.into());
                output.insert("data".into(), content["data"].clone());
                output.insert("metadata".into(), content["metadata"].clone());
                if kind == "execute_result" {
                    output.insert("execution_count".into(), content["execution_count"].clone());
                }
                self.list.push(output.into());
            }
            "error" => self.fail(&content["ename"], &content["evalue"], &content["traceback"]),
            "clear_output" => self.list.clear(),
            _ => {}
        }
    }

    /// Adds an error that no kernel has told of.
    pub(crate) fn fail(&mut self, name: &Value, value: &Value, traceback: &Value) {
        self.has_failed = true;
        self.list.push(
            json!({"output_type": "error", "ename": name, "evalue": value, "traceback": traceback}),
        );
    }

    /// What follows of the same stream is the same output.
    fn print(&mut self, content: &Value) {
        let text = content["text"].as_str().unwrap_or_default();
        if let Some(Value::Object(last)) = self.list.last_mut()
            && last.get("name") == Some(&content["name"])
            && let Some(Value::String(begun)) = last.get_mut("text")
        {
            begun.push_str(text);
            return;
        }
        self.list
            .push(json!({"output_type": "stream", "name": content["name"], "text": text}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Header;

    fn said(kind: &str, content: Value) -> Message {
        Message {
            header: Header {
                msg_type: kind.to_owned(),
                ..Header::default()
            },
            parent: String::new(),
            content,
        }
    }

    fn code(source: &str) -> NewCell {
        NewCell {
            kind: Kind::Code,
            source: source.to_owned(),
        }
    }

    #[test]
    fn outputs_are_those_of_notebooks() {
        let mut outputs = Outputs::default();
        for (kind, content) in [
            ("execute_input", json!({"execution_count": 3})),
            ("stream", json!({"name": "stdout", "text": "a"})),
            ("stream", json!({"name": "stdout", "text": "b\n"})),
            ("stream", json!({"name": "stderr", "text": "c"})),
            (
                "execute_result",
                json!({"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3}),
            ),
            ("status", json!({"execution_state": "idle"})),
        ] {
            outputs.take(&said(kind, content));
        }
        let mut notebook = Notebook::new("python");
        notebook.set_cells(&[code("1")]);
        notebook.put(0, "another", Outputs::default());
        notebook.put(0, "1", outputs);
        let cell = &notebook.value()["cells"][0];
        assert_eq!(cell["execution_count"], 3);
        assert_eq!(
            cell["outputs"],
            json!([
                {"output_type": "stream", "name": "stdout", "text": "ab\n"},
                {"output_type": "stream", "name": "stderr", "text": "c"},
                {"output_type": "execute_result", "data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3},
            ])
        );
        // Cells that stay keep what they had, and others do not.
        notebook.set_cells(&[code("1"), code("2")]);
        assert_eq!(notebook.value()["cells"][0]["execution_count"], 3);
        notebook.set_cells(&[code("2")]);
        assert_eq!(notebook.value()["cells"][0]["outputs"], json!([]));
    }

    #[test]
    fn files_of_others() {
        let file = json!({
            "nbformat": 4, "nbformat_minor": 2, "own": 1,
            "metadata": {"kernelspec": {"name": "ir", "language": "R"}},
            "cells": [
                {"cell_type": "markdown", "metadata": {}, "source": ["# a\n", "b"]},
                {"cell_type": "code", "metadata": {"x": 1}, "source": ["x <- 1\n", "x"], "outputs": [], "execution_count": null},
            ],
        });
        let notebook = Notebook::parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(notebook.language(), "r");
        assert_eq!(notebook.to_run(None).unwrap(), [1]);
        assert_eq!(notebook.code(1), "x <- 1\nx");
        assert_eq!(notebook.to_run(Some(0)), Err(NotebookError::NotCode(0)));
        assert_eq!(notebook.to_run(Some(2)), Err(NotebookError::NoCell(2, 2)));
        assert_eq!(
            Notebook::parse(notebook.text().as_bytes()).unwrap(),
            notebook
        );
        for text in [
            "",
            "[]",
            "{\"nbformat\": 3, \"cells\": []}",
            "{\"nbformat\": 4, \"cells\": [1]}",
        ] {
            assert!(Notebook::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}

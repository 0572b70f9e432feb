//! Analyses and plots by the code interpreter, typed: datasets and code in; tables, plots, metrics and logs out.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::interpreter::{CodeError, Execution, Shown, Within};
use crate::{ClientError, Interpreter};

const METRICS: &str = "application/vnd.soulbox.metrics+json";
const PLOT: &str = "application/vnd.soulbox.plot+json";
/// Where datasets are put.
const DIRECTORY: &str = "/tmp/datasets";
const MODULE: &str = "__import__('soulbox_kernels.analysis').analysis";

/// A file that the code finds as a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The name of the variable.
    pub name: String,
    /// What is in the file.
    pub bytes: Vec<u8>,
    /// How to read it: `csv`, `tsv`, `json`, `jsonl`, `parquet` or `xlsx`.
    pub format: String,
}

/// What an analysis has found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Data frames that were shown: columns by name.
    pub tables: Vec<Map<String, Value>>,
    /// Plots that were shown.
    pub plots: Vec<Shown>,
    /// What the code has given to `metric(name=number)`; a number that is none is `None`.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// The text of every other value that was shown.
    pub values: Vec<String>,
    /// What was printed.
    pub stdout: String,
    /// What was printed as an error.
    pub stderr: String,
    /// What the code has failed with; what came before is there all the same.
    pub error: Option<CodeError>,
}

/// What is to be drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// `line`, `scatter`, `area`, `bar`, `histogram`, `box`, `pie` or `heatmap`.
    pub kind: String,
    /// Columns by name. The first is x where the kind has one, and the others are drawn over it.
    pub data: Map<String, Value>,
    /// `png`, `svg`, or `html` where the template has plotly.
    pub format: String,
    /// Above it.
    pub title: Option<String>,
    /// Below the horizontal axis.
    pub x_label: Option<String>,
    /// Beside the vertical axis.
    pub y_label: Option<String>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

impl Description {
    /// A PNG of 800 by 500 pixels.
    #[must_use]
    pub fn new(kind: &str, data: Map<String, Value>) -> Self {
        Self {
            kind: kind.to_owned(),
            data,
            format: "png".to_owned(),
            title: None,
            x_label: None,
            y_label: None,
            width: 800,
            height: 500,
        }
    }
}

/// A plot that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// The picture in the format that was asked for: PNG as base64, SVG and HTML as text.
    pub content: String,
    /// What it is.
    pub about: About,
    /// Its values as they were drawn; HTML has none.
    pub chart: Option<Value>,
}

/// What a plot is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct About {
    /// As it was asked for.
    pub kind: String,
    /// `png`, `svg` or `html`.
    pub format: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// An analysis or a plot that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// A dataset's name would be no variable.
    #[error(
        "dataset {0:?} has a name that is no variable of Python. FIX: letters, digits and _, a letter first"
    )]
    Name(String),
    /// The sandbox could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Datasets could not be read, or the plot not be drawn.
    #[error("{}: {}", .0.name, .0.value)]
    Code(CodeError),
    /// Nothing was drawn, and nothing was said.
    #[error(
        "the sandbox has drawn nothing. FIX: build its template again, so that it is of the same version"
    )]
    Nothing,
}

impl Interpreter {
    /// Runs Python that finds each dataset as a data frame, in a context of its own, and sorts what it shows.
    ///
    /// # Errors
    /// When datasets cannot be brought or read. Code that fails is told in the findings.
    pub async fn analyze(
        &self,
        code: &str,
        datasets: &[Dataset],
    ) -> Result<Findings, AnalysisError> {
        let mut paths = BTreeMap::new();
        for dataset in datasets {
            let path = path_of(dataset)?;
            let bytes =
                Full::new(Bytes::from(dataset.bytes.clone())).map_err(|never| match never {});
            self.envd().upload(&path, None, bytes).await?;
            paths.insert(dataset.name.clone(), path);
        }
        let context = self.create_context("python").await?;
        let found = async {
            let loaded = self
                .run(&loading(&paths), Within::Context(&context))
                .await?;
            if let Some(error) = loaded.error {
                return Err(AnalysisError::Code(error));
            }
            Ok(findings(self.run(code, Within::Context(&context)).await?))
        };
        let found = found.await;
        self.remove_context(&context).await?;
        found
    }

    /// Draws a plot.
    ///
    /// # Errors
    /// When it cannot be drawn, and why.
    pub async fn visualize(&self, description: &Description) -> Result<Plot, AnalysisError> {
        let wanted = serde_json::to_string(description)
            .map_err(|error| ClientError::request("draw a plot", error))?;
        let code = format!("{MODULE}.visualize({})", quoted(&wanted));
        let execution = self.run(&code, Within::Language("python")).await?;
        if let Some(error) = execution.error {
            return Err(AnalysisError::Code(error));
        }
        let mut shown = execution.results.into_iter();
        shown.find_map(plot).ok_or(AnalysisError::Nothing)
    }
}

fn path_of(dataset: &Dataset) -> Result<String, AnalysisError> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = dataset
        .name
        .starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_format = dataset.format.chars().all(|c| c.is_ascii_alphanumeric());
    match begins && is_format && dataset.name.chars().all(is_letter) {
        true => Ok(format!("{DIRECTORY}/{}.{}", dataset.name, dataset.format)),
        false => Err(AnalysisError::Name(dataset.name.clone())),
    }
}

fn loading(paths: &BTreeMap<String, String>) -> String {
    let paths = serde_json::to_string(paths).unwrap_or_default();
    format!("{MODULE}.load(globals(), {paths})")
}

/// A string of Python: JSON's escapes are Python's, too, once what is beyond the first plane is left as it is.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn findings(execution: Execution) -> Findings {
    let mut found = Findings {
        stdout: execution.stdout,
        stderr: execution.stderr,
        error: execution.error,
        ..Findings::default()
    };
    for shown in execution.results {
        if let Some(metrics) = shown.extra.get(METRICS).and_then(Value::as_object) {
            let numbers = metrics
                .iter()
                .map(|(name, value)| (name.clone(), value.as_f64()));
            found.metrics.extend(numbers);
        } else if shown.png.is_some() || shown.svg.is_some() || shown.chart.is_some() {
            found.plots.push(shown);
        } else if let Some(table) = shown.data {
            found.tables.push(table);
        } else {
            found.values.extend(shown.text);
        }
    }
    found
}

fn plot(shown: Shown) -> Option<Plot> {
    let about: About = serde_json::from_value(shown.extra.get(PLOT)?.clone()).ok()?;
    let content = match about.format.as_str() {
        "svg" => shown.svg,
        "html" => shown.html,
        _ => shown.png,
    };
    Some(Plot {
        content: content?,
        about,
        chart: shown.chart,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(value: Value) -> Shown {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_shown_is_sorted() {
        let found = findings(Execution {
            results: vec![
                shown(json!({"text": "a = 1", "extra": {METRICS: {"a": 1.5, "nan": null}}})),
                shown(json!({"text": "t", "data": {"x": [1, 2]}})),
                shown(json!({"png": "p", "chart": {"type": "line"}})),
                shown(json!({"text": "42", "is_main_result": true})),
            ],
            stdout: "out".into(),
            ..Execution::default()
        });
        assert_eq!(
            found.metrics,
            [("a".into(), Some(1.5)), ("nan".into(), None)].into()
        );
        assert_eq!(found.tables[0]["x"], json!([1, 2]));
        assert_eq!(found.plots.len(), 1);
        assert_eq!(
            (found.values, found.stdout.as_str()),
            (vec!["42".to_owned()], "out")
        );
    }

    #[test]
    fn a_plot_is_what_was_asked_for() {
        let about = json!({"kind": "bar", "format": "svg", "width": 10, "height": 20});
        let svg = json!({"svg": "<svg/>", "png": "p", "extra": {PLOT: about}});
        let drawn = plot(shown(svg)).unwrap();
        assert_eq!((drawn.content.as_str(), drawn.about.height), ("<svg/>", 20));
        assert_eq!(plot(shown(json!({"text": "x"}))), None);
    }

    #[test]
    fn names_that_are_variables() {
        let path = |name: &str, format: &str| {
            path_of(&Dataset {
                name: name.into(),
                bytes: Vec::new(),
                format: format.into(),
            })
        };
        assert_eq!(path("sales_2", "csv").unwrap(), "/tmp/datasets/sales_2.csv");
        for (name, format) in [("", "csv"), ("2x", "csv"), ("a/b", "csv"), ("a", "../x")] {
            assert!(path(name, format).is_err(), "{name} {format}");
        }
    }
}

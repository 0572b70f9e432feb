//! `soulbox sandbox analyze` and `soulbox sandbox plot`.

use std::path::PathBuf;

use clap::Args;

use super::pair;

/// `soulbox sandbox analyze …`
#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Which sandbox; its template has the code interpreter
    pub(crate) id: String,
    /// Python to run; it finds each dataset as a data frame, and has metric(name=number)
    pub(crate) code: PathBuf,
    /// A file and the name of its variable: csv, tsv, json, jsonl, parquet or xlsx; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    pub(crate) data: Vec<(String, String)>,
}

/// `soulbox sandbox plot …`
#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// Which sandbox; its template has the code interpreter
    pub(crate) id: String,
    /// line, scatter, area, bar, histogram, box, pie or heatmap
    pub(crate) kind: String,
    /// A file with columns by name: {"x": [1, 2], "y": [3, 4]}
    pub(crate) data: PathBuf,
    /// Where to write it; its ending is the format: .png, .svg or .html
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// What to write above it
    #[arg(long)]
    pub(crate) title: Option<String>,
}

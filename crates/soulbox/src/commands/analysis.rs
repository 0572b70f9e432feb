//! `soulbox sandbox analyze|plot`: the code interpreter, typed.

use std::path::Path;
use std::process::ExitCode;

use data_encoding::BASE64;
use serde_json::json;
use soulbox_client::analysis::{AnalysisError, Dataset, Description, Findings};
use soulbox_client::{Api, Interpreter};

use crate::args::{AnalyzeArgs, PlotArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::failure;

/// Runs an analysis and shows what it has found. Code that fails is an exit code.
pub(crate) async fn analyze(
    api: &Api,
    args: &AnalyzeArgs,
    output: Output,
) -> Result<ExitCode, Failure> {
    let code = text(&args.code)?;
    let datasets = args
        .data
        .iter()
        .map(|(name, path)| dataset(name, Path::new(path)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let interpreter = interpreter(api, &args.id).await?;
    let found = interpreter.analyze(&code, &datasets).await;
    let found = found.map_err(|error| refused(error, &args.id))?;
    let shown = json!({
        "metrics": found.metrics,
        "tables": found.tables,
        "plots": found.plots.len(),
        "values": found.values,
        "stdout": found.stdout,
        "stderr": found.stderr,
        "error": found.error.as_ref().map(|error| json!({"name": error.name, "value": error.value, "traceback": error.traceback})),
    });
    output.show(&shown, |_| for_people(&found))?;
    Ok(match found.error {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

/// Draws a plot into a file.
pub(crate) async fn plot(api: &Api, args: &PlotArgs, output: Output) -> Result<(), Failure> {
    let columns = serde_json::from_str(&text(&args.data)?).map_err(|error| {
        Failure::user(format!("{} is no object of columns", args.data.display()))
            .because(error)
            .fix("write it as {\"x\": [1, 2], \"y\": [3, 4]}")
    })?;
    let mut wanted = Description::new(&args.kind, columns);
    wanted.format = ending(&args.out);
    wanted.title.clone_from(&args.title);
    let interpreter = interpreter(api, &args.id).await?;
    let drawn = interpreter.visualize(&wanted).await;
    let drawn = drawn.map_err(|error| refused(error, &args.id))?;
    let bytes = match drawn.about.format.as_str() {
        "png" => BASE64
            .decode(drawn.content.trim().as_bytes())
            .map_err(|error| Failure::internal("the picture is no base64").because(error))?,
        _ => drawn.content.into_bytes(),
    };
    std::fs::write(&args.out, bytes).map_err(|error| {
        Failure::user(format!("cannot write {}", args.out.display())).because(error)
    })?;
    let path = args.out.display().to_string();
    output.show(&json!({"path": path, "chart": drawn.chart}), |_| {
        path.clone()
    })
}

async fn interpreter(api: &Api, id: &str) -> Result<Interpreter, Failure> {
    let sandbox = api.get_sandbox(id).await;
    let sandbox = sandbox.map_err(|error| failure(&error, Some(id)))?;
    Ok(api.interpreter_of_detail(&sandbox))
}

fn refused(error: AnalysisError, id: &str) -> Failure {
    match error {
        AnalysisError::Client(error) => failure(&error, Some(id)),
        other => Failure::user(other.to_string()),
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| unread(path, error))
}

fn dataset(name: &str, path: &Path) -> Result<Dataset, Failure> {
    Ok(Dataset {
        name: name.to_owned(),
        bytes: std::fs::read(path).map_err(|error| unread(path, error))?,
        format: ending(path),
    })
}

fn unread(path: &Path, error: std::io::Error) -> Failure {
    Failure::user(format!("cannot read {}", path.display())).because(error)
}

fn ending(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default();
    ending.to_string_lossy().to_lowercase()
}

fn for_people(found: &Findings) -> String {
    let mut blocks = Vec::new();
    blocks.extend([found.stdout.trim_end(), found.stderr.trim_end()].map(str::to_owned));
    blocks.extend(found.metrics.iter().map(|(name, value)| {
        let value = value.map_or_else(|| "none".to_owned(), |value| value.to_string());
        format!("{name} = {value}")
    }));
    blocks.extend(found.tables.iter().map(|table| json!(table).to_string()));
    blocks.extend(found.values.iter().cloned());
    if !found.plots.is_empty() {
        blocks.push(format!("{} plots", found.plots.len()));
    }
    blocks.extend(found.error.as_ref().map(|error| error.traceback.clone()));
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n")
}

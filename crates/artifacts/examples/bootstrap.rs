//! Makes `base` in a data directory: `cargo run --release -p soulbox-artifacts --example bootstrap -- <data-dir> [--from <data-dir>]`.
//!
//! What `soulbox bootstrap base` does, without the rest of the product around it.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use soulbox_artifacts::{Artifacts, BootstrapOptions};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (data_dir, from) = match arguments.as_slice() {
        [data_dir] => (data_dir, None),
        [data_dir, option, from] if option == "--from" => (data_dir, Some(PathBuf::from(from))),
        _ => {
            println!("usage: bootstrap <data-dir> [--from <data-dir>]");
            return ExitCode::from(64);
        }
    };
    let start = Instant::now();
    let options = BootstrapOptions {
        from,
        ..BootstrapOptions::default()
    };
    let mut progress = |step: soulbox_artifacts::Progress| {
        let percent = step.percent.map(|p| format!("{p}%")).unwrap_or_default();
        println!(
            "{:6.1}s {:>10} {percent:>4} {}",
            start.elapsed().as_secs_f64(),
            step.phase.name(),
            step.line
        );
    };
    let result = Artifacts::open(data_dir.as_ref())
        .and_then(|artifacts| artifacts.bootstrap_base(&options, &mut progress));
    match result {
        Ok(manifest) => {
            println!(
                "{} layers={:?} entries={} bytes={}",
                manifest.name, manifest.layers, manifest.entries, manifest.size_bytes
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}\nFIX: {}", error.fix().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

//! `soulbox doctor`: what this machine can do, and what to mend.

use std::path::Path;
use std::process::ExitCode;

use soulbox_doctor::{Status, gather, judge};

use crate::failure::Failure;
use crate::output::Output;

/// Prints the report; the exit code is 1 when sandboxes cannot run here. Blocking: called outside the runtime.
pub(crate) fn run(data_dir: &Path, output: Output) -> Result<ExitCode, Failure> {
    let report = judge(&gather(data_dir));
    output.show(&report, |report| report.to_string().trim_end().to_owned())?;
    Ok(match report.status() {
        Status::Ok | Status::Warn => ExitCode::SUCCESS,
        Status::Fail => ExitCode::FAILURE,
    })
}

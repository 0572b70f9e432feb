//! `soulbox doctor`: what this machine can do, and what to mend.

use std::process::ExitCode;

use soulbox_doctor::{Asked, Status, gather, judge};
use soulbox_driver_linux::{BackingChoice, disk, look_for_criu};

use crate::args::{Global, ServeArgs};
use crate::config::{Unreadable, load, read_inputs};
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

/// Prints the report; the exit code is 0 when sandboxes can run here, warnings or not, and 1 when they cannot. Blocking:
/// called outside the runtime.
pub(crate) fn run(global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let data_dir = session::data_dir(global)?;
    let flags = ServeArgs::default().layer(global);
    let config = read_inputs(global.config.as_deref(), flags, Unreadable::Fails)
        .and_then(|inputs| load(&inputs))
        .map(|effective| effective.config);
    let choice = config
        .as_ref()
        .map_or(BackingChoice::Auto, |config| config.disk.backing);
    let existing = data_dir.ancestors().find(|directory| directory.is_dir());
    let asked = Asked {
        listen: config.as_ref().ok().map(|config| config.listen),
        criu: look_for_criu(&data_dir),
        disk_backing: disk::probe(existing.unwrap_or(&data_dir), choice)
            .map(|backing| backing.to_string())
            .map_err(|error| first_line(&error.to_string())),
        configuration: config
            .map(|_| ())
            .map_err(|failure| first_line(&failure.to_string())),
    };
    let report = judge(&gather(&data_dir, asked));
    output.show(&report, |report| report.to_string().trim_end().to_owned())?;
    Ok(match report.status {
        Status::Ok | Status::Warn => ExitCode::SUCCESS,
        Status::Fail => ExitCode::FAILURE,
    })
}

/// What to do about it stands in the report's own line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

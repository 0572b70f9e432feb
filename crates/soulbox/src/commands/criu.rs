//! `soulbox criu`: fetching what keeps the memory of sandboxes on disk.

use std::path::Path;

use serde_json::json;
use soulbox_artifacts::Artifacts;
use soulbox_driver_linux::{criu_dir, look_for_criu};

use crate::args::CriuArgs;
use crate::commands::template::artifact;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Display;

/// Fetches it, unless it is there, and looks whether it can be used. Blocking: called outside the runtime.
pub(crate) fn fetch(data_dir: &Path, args: &CriuArgs, output: Output) -> Result<(), Failure> {
    if look_for_criu(data_dir).is_ok() {
        let place = criu_dir(data_dir).display().to_string();
        return output.show(&json!({ "criu": place }), |_| {
            format!("CRIU is in {place} already")
        });
    }
    let artifacts = Artifacts::open(data_dir).map_err(|error| artifact(&error))?;
    let mut display = Display::new();
    let fetched = artifacts.fetch_criu(args.mirror.as_deref(), &mut |progress| {
        display.step(progress.phase.name(), progress.percent, &progress.line);
    });
    display.finish();
    let place = fetched.map_err(|error| artifact(&error))?;
    look_for_criu(data_dir).map_err(Failure::user)?;
    let place = place.display().to_string();
    output.show(&json!({ "criu": place }), |_| {
        format!("CRIU is in {place}; a server uses it from its next start")
    })
}

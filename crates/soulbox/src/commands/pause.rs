//! `soulbox sandbox pause|resume`.

use serde::Serialize;
use soulbox_api_types::sandbox::{ConnectSandbox, PauseSandbox};
use soulbox_client::Api;

use crate::args::{PauseArgs, ResumeArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::session::failure;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Paused<'a> {
    sandbox_id: &'a str,
    /// False when it was paused already.
    paused: bool,
}

/// `sandbox pause`: prints the id alone.
pub(crate) async fn pause(api: &Api, args: &PauseArgs, output: Output) -> Result<(), Failure> {
    let wanted = PauseSandbox {
        memory: args.files_only.then_some(false),
        require_healthy_guest: None,
    };
    let paused = api
        .pause(&args.id, &wanted)
        .await
        .map_err(|error| failure(&error, Some(&args.id)))?;
    let outcome = Paused {
        sandbox_id: &args.id,
        paused,
    };
    output.show(&outcome, |outcome| outcome.sandbox_id.to_owned())
}

/// `sandbox resume`: prints the id alone.
pub(crate) async fn resume(api: &Api, args: &ResumeArgs, output: Output) -> Result<(), Failure> {
    let wanted = ConnectSandbox {
        timeout: Some(args.timeout),
        memory: args.reboot.then_some(false),
    };
    let sandbox = api
        .connect(&args.id, &wanted)
        .await
        .map_err(|error| failure(&error, Some(&args.id)))?;
    output.show(&sandbox, |sandbox| sandbox.sandbox_id.clone())
}

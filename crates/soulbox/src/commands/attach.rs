//! `soulbox sandbox attach`: the output and the end of a command that was started before.

use std::process::ExitCode;

use soulbox_client::Api;

use super::exec::{Follower, Sink, Stopped, follow};
use crate::args::AttachArgs;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::session::failure;

/// Follows it; the exit code is the command's. An interrupt leaves it running.
pub(crate) async fn attach(
    api: &Api,
    args: AttachArgs,
    output: Output,
) -> Result<ExitCode, Failure> {
    let failed = |error| failure(&error, Some(&args.id));
    let sandbox = api.get_sandbox(&args.id).await.map_err(failed)?;
    let envd = api.envd_of_detail(&sandbox);
    let attached = envd.attach(args.pid, args.from).await;
    let mut events = attached.map_err(failed)?;
    let mut sink = Sink::new(output);
    match follow(&envd, &mut events, &mut sink, Follower::Watches).await {
        Ok(end) => {
            sink.finish(args.pid, &end)?;
            Ok(ExitCode::from(end.shell_code()))
        }
        Err(Stopped::Left) => {
            let from = match events.position() {
                Some(position) => format!(" --from {position}"),
                None => String::new(),
            };
            note(&format!(
                "left; come back with: soulbox sandbox attach {} {}{from}",
                args.id, args.pid
            ));
            Ok(ExitCode::SUCCESS)
        }
        Err(Stopped::Call(error)) => Err(failed(error)),
        Err(Stopped::Output(failure)) => Err(failure),
    }
}

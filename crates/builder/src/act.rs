//! Carries out one step inside a sandbox.

use soulbox_client::process::Start;
use soulbox_types::{BuildContext, TeamId};

use crate::journal::Output;
use crate::script;
use crate::stage::{Stage, StepFailure};
use crate::step::{Action, Copy, owner};
use crate::uploads::Uploads;

/// Where an archive lies inside while it is unpacked.
const ARCHIVE: &str = "/tmp/.soulbox-files";

/// The context after a step that needs no sandbox: variables that mean what they say. `None` for every other step.
pub(crate) fn without_stage(action: &Action, context: &BuildContext) -> Option<BuildContext> {
    let Action::Env(pairs) = action else {
        return None;
    };
    if pairs
        .iter()
        .any(|(_, value)| script::needs_expansion(value))
    {
        return None;
    }
    let mut next = context.clone();
    next.env.extend(pairs.iter().cloned());
    Some(next)
}

/// Does it and returns the context of what follows.
pub(crate) async fn act(
    stage: &Stage,
    action: &Action,
    context: &BuildContext,
    files: (&Uploads, &TeamId),
    output: &mut Output<'_>,
) -> Result<BuildContext, StepFailure> {
    let mut next = context.clone();
    match action {
        Action::Run { command, user } => {
            run(stage, command, user.as_deref(), context, output).await?;
        }
        Action::Copy(what) => {
            copy(stage, what, context, files).await?;
        }
        Action::Env(pairs) => {
            for (key, value) in pairs {
                let value = expand(stage, &next, value).await?;
                next.env.insert(key.clone(), value);
            }
        }
        Action::Workdir(path) => {
            let path = expand(stage, context, path).await?;
            let path = match (path.starts_with('/'), context.workdir.as_deref()) {
                (true, _) => path,
                (false, base) => format!("{}/{path}", base.unwrap_or("/").trim_end_matches('/')),
            };
            let made = stage
                .script(context, script::WORKDIR, &[&path, &context.user])
                .await
                .map_err(in_words("failed to make the directory", &path))?;
            next.workdir = Some(made.trim_end_matches('\n').to_owned());
        }
        Action::User { name, sudo } => {
            let name = expand(stage, context, name).await?;
            let sudo = if *sudo { "true" } else { "" };
            stage
                .script(context, script::USER, &[&name, sudo])
                .await
                .map_err(in_words("failed to make the user", &name))?;
            next.user = name;
        }
    }
    Ok(next)
}

async fn run(
    stage: &Stage,
    command: &str,
    user: Option<&str>,
    context: &BuildContext,
    output: &mut Output<'_>,
) -> Result<(), StepFailure> {
    let start = Start {
        user: Some(user.unwrap_or(&context.user).to_owned()),
        cwd: context.workdir.clone(),
        envs: script::environment(context),
        ..Start::shell(command)
    };
    run_program(stage, &start, command, output).await
}

/// Runs a program; `text` is how it was written.
pub(crate) async fn run_program(
    stage: &Stage,
    start: &Start,
    text: &str,
    output: &mut Output<'_>,
) -> Result<(), StepFailure> {
    let failed = in_words("failed to run command", text);
    let end = match stage.run(start, output).await {
        Ok(end) => end,
        Err(error) => return Err(failed(error.into())),
    };
    if end.exited && end.exit_code == 0 {
        Ok(())
    } else {
        Err(failed(StepFailure(end.status)))
    }
}

async fn copy(
    stage: &Stage,
    what: &Copy,
    context: &BuildContext,
    (uploads, team): (&Uploads, &TeamId),
) -> Result<(), StepFailure> {
    let failed = in_words("failed to copy", &what.target);
    let archive = match uploads.read(team, &what.hash).await {
        Ok(archive) => archive,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = "its files were not uploaded".to_owned();
            return Err(failed(StepFailure(text)));
        }
        Err(error) => return Err(failed(StepFailure(error.to_string()))),
    };
    if let Err(error) = stage.send(ARCHIVE, archive).await {
        return Err(failed(error));
    }
    let owner = owner(what, context);
    let arguments = [
        ARCHIVE,
        &what.source,
        &what.target,
        &owner,
        what.mode.as_deref().unwrap_or_default(),
        context.workdir.as_deref().unwrap_or_default(),
        &context.user,
    ];
    match stage.script(context, script::COPY, &arguments).await {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// A value as a login shell of root sees it.
async fn expand(stage: &Stage, context: &BuildContext, value: &str) -> Result<String, StepFailure> {
    if !script::needs_expansion(value) {
        return Ok(value.to_owned());
    }
    let expanded = stage.script(context, &script::expansion(value), &[]).await;
    expanded.map_err(in_words("failed to expand", value))
}

/// Puts what was tried before why it failed.
fn in_words(tried: &str, what: &str) -> impl FnOnce(StepFailure) -> StepFailure {
    let text = format!("{tried} '{what}'");
    move |failure| StepFailure(format!("{text}: {failure}"))
}

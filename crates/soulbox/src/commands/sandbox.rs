//! `soulbox sandbox create|list|info|kill`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use soulbox_api_types::sandbox::{ListedSandbox, SandboxDetail, SandboxState, VolumeMount};
use soulbox_client::Api;
use soulbox_client::api::{ListQuery, new_sandbox};

use crate::args::{CreateArgs, IdArgs, KillArgs, ListArgs, State};
use crate::failure::Failure;
use crate::output::{Output, line, note, table};
use crate::session::failure;
use crate::text::{ago, moment, until};

/// Kills sent at once by `kill --all`.
const KILLS_AT_ONCE: usize = 16;

/// `sandbox create`: prints the id alone, so that it can be captured.
pub(crate) async fn create(api: &Api, args: CreateArgs, output: Output) -> Result<(), Failure> {
    let mut new = new_sandbox(&args.template);
    new.timeout = i32::try_from(args.timeout).ok();
    new.metadata = Some(args.metadata.into_iter().collect());
    new.env_vars = Some(environment(&args.env)?);
    new.allow_internet_access = args.no_internet.then_some(false);
    let mounts = args.volume.into_iter();
    new.volume_mounts = Some(
        mounts
            .map(|(name, path)| VolumeMount { name, path })
            .collect(),
    );
    let sandbox = api
        .create(&new)
        .await
        .map_err(|error| failure(&error, None))?;
    output.show(&sandbox, |sandbox| sandbox.sandbox_id.clone())
}

/// The variables of `--env`.
pub(crate) fn environment(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    variables("--env", pairs)
}

/// `KEY=VALUE` pairs of a flag; a bare `KEY` takes its value from our own environment, so that secrets need not be arguments.
pub(crate) fn variables(flag: &str, pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            Some(_) => {
                Err(Failure::usage(format!("{flag} {pair} has no name")).fix("write KEY=VALUE"))
            }
            None => match std::env::var(pair) {
                Ok(value) => Ok((pair.clone(), value)),
                Err(_) => Err(
                    Failure::usage(format!("{flag} {pair}: no such variable here"))
                        .fix(format!("export {pair}=…, or write {flag} {pair}=VALUE")),
                ),
            },
        })
        .collect()
}

/// `sandbox list`: newest first.
pub(crate) async fn list(api: &Api, args: ListArgs, output: Output) -> Result<(), Failure> {
    let query = ListQuery {
        metadata: args.metadata,
        states: args.state.iter().copied().map(State::as_str).collect(),
        limit: None,
        next_token: None,
    };
    let most = args.limit.unwrap_or(usize::MAX);
    let sandboxes = api
        .list_all(query, most)
        .await
        .map_err(|error| failure(&error, None))?;
    if output == Output::Text && sandboxes.is_empty() {
        note("no sandboxes; `soulbox sandbox create` makes one");
        return Ok(());
    }
    output.show(&sandboxes, |sandboxes| {
        let now = Timestamp::now();
        let header = [
            "ID", "TEMPLATE", "STATE", "STARTED", "ENDS", "CPU", "MEMORY", "LABELS",
        ];
        table(header, sandboxes.iter().map(|sandbox| row(now, sandbox)))
    })
}

fn row(now: Timestamp, sandbox: &ListedSandbox) -> [String; 8] {
    [
        sandbox.sandbox_id.clone(),
        sandbox
            .alias
            .clone()
            .filter(|alias| !alias.is_empty())
            .unwrap_or_else(|| sandbox.template_id.clone()),
        state(sandbox.state).to_owned(),
        ago(now, &sandbox.started_at),
        match sandbox.state {
            SandboxState::Running => until(now, &sandbox.end_at),
            SandboxState::Paused => "-".to_owned(),
        },
        sandbox.cpu_count.to_string(),
        format!("{} MiB", sandbox.memory_mb),
        labels(sandbox.metadata.as_ref()),
    ]
}

fn state(state: SandboxState) -> &'static str {
    match state {
        SandboxState::Running => "running",
        SandboxState::Paused => "paused",
    }
}

fn labels(metadata: Option<&BTreeMap<String, String>>) -> String {
    let pairs = metadata
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(" ")
}

/// `sandbox info`.
pub(crate) async fn info(api: &Api, args: IdArgs, output: Output) -> Result<(), Failure> {
    let sandbox = api
        .get_sandbox(&args.id)
        .await
        .map_err(|error| failure(&error, Some(&args.id)))?;
    output.show(&sandbox, |sandbox| {
        let rows = details(sandbox);
        let width = rows
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or_default();
        rows.iter()
            .map(|(name, value)| format!("{name:width$}   {value}"))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn details(sandbox: &SandboxDetail) -> Vec<(&'static str, String)> {
    let now = Timestamp::now();
    let mut rows = vec![
        ("id", sandbox.sandbox_id.clone()),
        ("state", state(sandbox.state).to_owned()),
        ("template", sandbox.template_id.clone()),
        (
            "started",
            format!(
                "{} ({})",
                moment(&sandbox.started_at),
                ago(now, &sandbox.started_at)
            ),
        ),
        (
            "ends",
            format!(
                "{} ({})",
                moment(&sandbox.end_at),
                until(now, &sandbox.end_at)
            ),
        ),
        ("cpu", sandbox.cpu_count.to_string()),
        ("memory", format!("{} MiB", sandbox.memory_mb)),
        ("disk", format!("{} MiB", sandbox.disk_size_mb)),
        (
            "internet",
            if sandbox.allow_internet_access == Some(false) {
                "no"
            } else {
                "yes"
            }
            .to_owned(),
        ),
        ("envd", sandbox.envd_version.clone()),
    ];
    if let Some(alias) = &sandbox.alias {
        rows.insert(3, ("alias", alias.clone()));
    }
    if let Some(domain) = &sandbox.domain {
        rows.push(("domain", domain.clone()));
    }
    let labels = labels(sandbox.metadata.as_ref());
    if !labels.is_empty() {
        rows.push(("labels", labels));
    }
    rows
}

#[derive(Debug, Serialize)]
struct Killed {
    killed: Vec<String>,
    #[serde(rename = "notFound")]
    not_found: Vec<String>,
}

/// `sandbox kill`: goes on past those that are not there, and then says so.
pub(crate) async fn kill(api: &Api, args: KillArgs, output: Output) -> Result<(), Failure> {
    let ids = match args.all {
        true => {
            let all = api
                .list_all(ListQuery::default(), usize::MAX)
                .await
                .map_err(|error| failure(&error, None))?;
            all.into_iter().map(|sandbox| sandbox.sandbox_id).collect()
        }
        false => args.ids,
    };
    let mut outcome = Killed {
        killed: Vec::new(),
        not_found: Vec::new(),
    };
    for batch in ids.chunks(KILLS_AT_ONCE) {
        let mut kills = tokio::task::JoinSet::new();
        for id in batch.iter().cloned() {
            let api = api.clone();
            kills.spawn(async move { (api.kill(&id).await, id) });
        }
        for (killed, id) in kills.join_all().await {
            match killed.map_err(|error| failure(&error, Some(&id)))? {
                true => outcome.killed.push(id),
                // With --all, somebody else may have been faster: that is what was wanted.
                false if args.all => {}
                false => outcome.not_found.push(id),
            }
        }
    }
    match output {
        Output::Json => output.json(&outcome)?,
        Output::Text => line(&outcome.killed.join("\n"))?,
    }
    match outcome.not_found.as_slice() {
        [] => Ok(()),
        ids => Err(
            Failure::user(format!("no such sandbox: {}", ids.join(", ")))
                .fix("soulbox sandbox list"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_pairs() {
        let pairs = environment(&["A=1=2".to_owned(), "B=".to_owned()]).unwrap();
        assert_eq!(
            pairs,
            BTreeMap::from([
                ("A".to_owned(), "1=2".to_owned()),
                ("B".to_owned(), String::new())
            ])
        );
        assert_eq!(
            environment(&["=x".to_owned()])
                .unwrap_err()
                .kind()
                .exit_code(),
            64
        );
        assert_eq!(
            environment(&["SOULBOX_NO_SUCH_VARIABLE".to_owned()])
                .unwrap_err()
                .kind()
                .exit_code(),
            64
        );
    }
}

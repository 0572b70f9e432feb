//! Which server a command talks to, and what its refusals mean to the person who typed the command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use soulbox_client::endpoint::EndpointError;
use soulbox_client::{Api, ClientError, Code, Endpoint};
use soulbox_types::ErrorKind;

use crate::args::{Global, ServeArgs};
use crate::config::raw::{Inputs, RawConfig, Setting, Source};
use crate::config::{Unreadable, read_inputs};
use crate::failure::Failure;

/// The data directory and whether somebody named it for this command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    named: bool,
}

impl DataDir {
    /// From flag, environment, file or default. Other settings are not judged: a client must not fail on them.
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let (raw, _) = RawConfig::merge(inputs);
        let value = raw.get(Setting::DataDir);
        let path = PathBuf::from(&value.text);
        Self {
            path: std::path::absolute(&path).unwrap_or(path),
            named: matches!(value.source, Source::Flag(_) | Source::Environment(_)),
        }
    }
}

/// Reads what says where the server is.
fn inputs(global: &Global) -> Result<Inputs, Failure> {
    read_inputs(
        global.config.as_deref(),
        ServeArgs::default().layer(global),
        Unreadable::IsIgnored,
    )
}

/// The data directory of this command.
pub(crate) fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    Ok(DataDir::of(&inputs(global)?).path)
}

/// A client of the server that this command is about.
pub(crate) fn api(global: &Global) -> Result<Api, Failure> {
    let inputs = inputs(global)?;
    let data_dir = DataDir::of(&inputs);
    let endpoint = match choose(&data_dir, &inputs.environment) {
        Choice::Environment => Endpoint::of_variables(&inputs.environment, "the environment"),
        Choice::DataDir => Endpoint::of_data_dir(&data_dir.path),
    };
    let endpoint = endpoint.map_err(|error| no_endpoint(&data_dir.path, &error))?;
    Api::new(endpoint).map_err(|error| failure(&error, None))
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Environment,
    DataDir,
}

/// A data directory that was named for this command wins over the E2B variables of the shell, and those win over
/// the default directory: so both "this server here" and "what my SDK uses" work without a flag.
fn choose(data_dir: &DataDir, environment: &BTreeMap<String, String>) -> Choice {
    let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    if !data_dir.named && (set("E2B_API_URL") || set("E2B_DOMAIN")) {
        Choice::Environment
    } else {
        Choice::DataDir
    }
}

fn no_endpoint(data_dir: &Path, error: &EndpointError) -> Failure {
    let what = error.to_string();
    match error {
        EndpointError::File { missing: true, .. } => {
            Failure::unavailable(format!("no server has run in {}", data_dir.display())).fix(
                format!(
                    "soulbox serve --data-dir {}  (or name the right directory with --data-dir)",
                    data_dir.display()
                ),
            )
        }
        EndpointError::File { .. } => Failure::user(what)
            .fix("run this as the user of the server, or set E2B_API_URL and E2B_API_KEY"),
        EndpointError::Line { .. } | EndpointError::NoAddress { .. } => {
            Failure::usage(what).fix("start the server again: it writes the file anew")
        }
    }
}

/// Some calls need the operator's token.
pub(crate) fn must_be_operator(api: &Api) -> Result<(), Failure> {
    if api.endpoint().admin_token.is_some() {
        return Ok(());
    }
    Err(Failure::user("the operator's token is not readable").fix(
        "run this on the server's machine as its user, with --data-dir if it is not the usual one",
    ))
}

/// What a failed call means here. `sandbox` is the one it was about.
pub(crate) fn failure(error: &ClientError, sandbox: Option<&str>) -> Failure {
    match (error, error.kind()) {
        (ClientError::Unreachable { authority, source }, _) => {
            let cause = soulbox_telemetry::chain(source.as_ref());
            // The only words that tell a server with a certificate we do not trust from no server at all.
            let fix = if cause.contains("certificate") {
                "name the certificate of the server's authority with SSL_CERT_FILE"
            } else {
                "soulbox serve  (or check E2B_API_URL)"
            };
            Failure::unavailable(format!("no server answers at {authority}"))
                .because(anyhow::anyhow!(cause))
                .fix(fix)
        }
        // envd has its own words for who runs a command and which process is meant.
        (ClientError::Refused { code: Code::Rpc(_), .. }, ErrorKind::Unauthenticated) => {
            Failure::user(error.to_string()).fix("name a user of the sandbox with --user")
        }
        (ClientError::Refused { code: Code::Rpc(_), .. }, ErrorKind::NotFound) => {
            Failure::user(error.to_string())
        }
        (_, ErrorKind::Unauthenticated) => Failure::user(error.to_string()).fix(
            "use the key in client.env of the data directory, or make one with `soulbox key create`",
        ),
        (_, ErrorKind::NotFound) => {
            let failure = Failure::user(error.to_string());
            if sandbox.is_some() { failure.fix("soulbox sandbox list") } else { failure }
        }
        (ClientError::Answer { .. }, _) => Failure::internal(error.to_string()),
        (_, ErrorKind::LimitExceeded) => Failure::user(error.to_string()).fix("soulbox sandbox kill <ID>"),
        (_, ErrorKind::Unavailable | ErrorKind::Timeout) => {
            let what = error.to_string();
            let failure = Failure::unavailable(what);
            match std::error::Error::source(error) {
                Some(source) => failure.because(anyhow::anyhow!("{}", soulbox_telemetry::chain(source))),
                None => failure,
            }
        }
        (_, ErrorKind::Internal) => {
            Failure::internal(error.to_string()).fix("the server's log says more")
        }
        _ => Failure::user(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn who_wins() {
        let named = DataDir {
            path: PathBuf::from("/x"),
            named: true,
        };
        let default = DataDir {
            path: PathBuf::from("/x"),
            named: false,
        };
        let url = environment(&[("E2B_API_URL", "http://h")]);
        assert_eq!(choose(&named, &url), Choice::DataDir);
        assert_eq!(choose(&default, &url), Choice::Environment);
        // A key of the cloud service alone says nothing about where our server is.
        assert_eq!(
            choose(&default, &environment(&[("E2B_API_KEY", "e2b_0")])),
            Choice::DataDir
        );
    }

    #[test]
    fn refusals_have_a_way_out() {
        let refused = |code: u16, message: &str| ClientError::Refused {
            operation: "look at sandbox i1".to_owned(),
            code: Code::Http(code),
            message: message.to_owned(),
            error_code: None,
        };
        let failure = failure(&refused(404, "no such sandbox"), Some("i1"));
        assert_eq!(
            failure.render(),
            "error: look at sandbox i1: no such sandbox (404)\nFIX: soulbox sandbox list"
        );
        assert_eq!(failure.kind().exit_code(), 1);
        assert_eq!(
            super::failure(&refused(503, "full"), None)
                .kind()
                .exit_code(),
            69
        );
        assert_eq!(
            super::failure(&refused(500, "oops"), None)
                .kind()
                .exit_code(),
            70
        );
    }

    #[test]
    fn no_server() {
        let error = EndpointError::File {
            path: "/d/client.env".to_owned(),
            reason: String::new(),
            missing: true,
        };
        let failure = no_endpoint(Path::new("/d"), &error);
        assert_eq!(failure.kind().exit_code(), 69);
        assert!(
            failure
                .render()
                .starts_with("error: no server has run in /d\nFIX: soulbox serve --data-dir /d")
        );
    }
}

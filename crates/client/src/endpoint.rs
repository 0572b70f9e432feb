//! Which server to talk to, and as whom.
//!
//! The server writes `<data-dir>/client.env` when it is ready; the same names in the environment mean the same.
//! Reading is separate from choosing, so that the choice is a pure function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Secret;

/// Name of the file the server writes, in its data directory.
pub const CLIENT_ENV: &str = "client.env";
/// Name of the operator's token, in the data directory.
pub const ADMIN_TOKEN: &str = "admin.token";

/// An address of the control plane, how sandboxes are reached, and the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://127.0.0.1:3000` or `https://api.<domain>`, without a slash at the end.
    pub api_url: String,
    /// How traffic finds a sandbox.
    pub sandboxes: SandboxAddress,
    /// The team's key.
    pub api_key: Option<Secret>,
    /// The operator's token.
    pub admin_token: Option<Secret>,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// How traffic finds a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxAddress {
    /// All go to this URL; headers name sandbox and port.
    Url(String),
    /// A host name per sandbox and port under this domain.
    Domain(String),
}

/// The endpoint is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
        /// Whether there is no such file.
        missing: bool,
    },
    /// A line of it is not `KEY=VALUE`.
    #[error("{path} line {line} is not KEY=VALUE")]
    Line {
        /// The file.
        path: String,
        /// Which line, from 1.
        line: usize,
    },
    /// No address in it.
    #[error("{origin} has neither E2B_API_URL nor E2B_DOMAIN")]
    NoAddress {
        /// Where it was looked for.
        origin: String,
    },
}

impl Endpoint {
    /// The endpoint of the server whose state is in `data_dir`, with the operator's token where it can be read.
    ///
    /// # Errors
    /// When there is no readable `client.env`, or it makes no sense.
    pub fn of_data_dir(data_dir: &Path) -> Result<Self, EndpointError> {
        let path = data_dir.join(CLIENT_ENV);
        let text = std::fs::read_to_string(&path).map_err(|error| EndpointError::File {
            path: path.display().to_string(),
            reason: error.to_string(),
            missing: error.kind() == std::io::ErrorKind::NotFound,
        })?;
        let origin = path.display().to_string();
        let mut endpoint = Self::of_variables(&parse_env(&origin, &text)?, &origin)?;
        endpoint.admin_token = std::fs::read_to_string(data_dir.join(ADMIN_TOKEN))
            .ok()
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty())
            .map(Secret::new);
        Ok(endpoint)
    }

    /// The endpoint that a set of `E2B_*` variables describes. `origin` is for the error text.
    ///
    /// # Errors
    /// When no address is among them.
    pub fn of_variables(
        variables: &BTreeMap<String, String>,
        origin: &str,
    ) -> Result<Self, EndpointError> {
        let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        let url = |name: &str| get(name).map(|value| value.trim_end_matches('/').to_owned());
        let domain = get("E2B_DOMAIN").cloned();
        let no_address = || EndpointError::NoAddress {
            origin: origin.to_owned(),
        };
        let api_url = url("E2B_API_URL")
            .or_else(|| {
                domain
                    .as_ref()
                    .map(|domain| format!("https://api.{domain}"))
            })
            .ok_or_else(no_address)?;
        let sandboxes = match (url("E2B_SANDBOX_URL"), domain) {
            (Some(url), _) => SandboxAddress::Url(url),
            (None, Some(domain)) => SandboxAddress::Domain(domain),
            // One port carries everything.
            (None, None) => SandboxAddress::Url(api_url.clone()),
        };
        Ok(Self {
            api_url,
            sandboxes,
            api_key: get("E2B_API_KEY").map(Secret::new),
            admin_token: get("SOULBOX_ADMIN_TOKEN").map(Secret::new),
            ca_file: get("SSL_CERT_FILE").map(PathBuf::from),
        })
    }
}

/// Reads `KEY=VALUE` lines; blank lines, `#` comments, a leading `export` and quotes around the value are fine.
fn parse_env(path: &str, text: &str) -> Result<BTreeMap<String, String>, EndpointError> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || EndpointError::Line {
            path: path.to_owned(),
            line: index + 1,
        };
        let (name, value) = line
            .strip_prefix("export ")
            .unwrap_or(line)
            .split_once('=')
            .ok_or_else(bad)?;
        variables.insert(name.trim().to_owned(), unquote(value.trim()).to_owned());
    }
    Ok(variables)
}

fn unquote(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::of_variables(&parse_env("client.env", text)?, "client.env")
    }

    #[test]
    fn one_port() {
        let e = endpoint(
            "# made by soulbox\nexport E2B_API_URL='http://127.0.0.1:3000/'\nE2B_API_KEY=e2b_00\n",
        )
        .unwrap();
        assert_eq!(e.api_url, "http://127.0.0.1:3000");
        assert_eq!(
            e.sandboxes,
            SandboxAddress::Url("http://127.0.0.1:3000".to_owned())
        );
        assert_eq!(e.api_key.as_ref().map(Secret::expose), Some("e2b_00"));
        assert!(!format!("{e:?}").contains("e2b_00"));
    }

    #[test]
    fn domain() {
        let e = endpoint("E2B_DOMAIN=box.example\nSSL_CERT_FILE=\"/x/ca.pem\"").unwrap();
        assert_eq!(e.api_url, "https://api.box.example");
        assert_eq!(
            e.sandboxes,
            SandboxAddress::Domain("box.example".to_owned())
        );
        assert_eq!(e.ca_file, Some(PathBuf::from("/x/ca.pem")));
    }

    #[test]
    fn refusals() {
        assert_eq!(
            endpoint("E2B_API_KEY=x").unwrap_err().to_string(),
            "client.env has neither E2B_API_URL nor E2B_DOMAIN"
        );
        assert_eq!(
            endpoint("\nnonsense").unwrap_err().to_string(),
            "client.env line 2 is not KEY=VALUE"
        );
    }

    #[test]
    fn files_of_a_data_dir() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Endpoint::of_data_dir(dir.path()),
            Err(EndpointError::File { missing: true, .. })
        ));
        std::fs::write(
            dir.path().join(CLIENT_ENV),
            "E2B_API_URL=http://127.0.0.1:1\n",
        )
        .unwrap();
        std::fs::write(dir.path().join(ADMIN_TOKEN), "secret\n").unwrap();
        let e = Endpoint::of_data_dir(dir.path()).unwrap();
        assert_eq!(e.admin_token.as_ref().map(Secret::expose), Some("secret"));
    }
}

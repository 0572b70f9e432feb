//! What the processes of a server tell each other while it starts.
//!
//! Settings travel as text and are judged again where they arrive: there is one reading of them, and it is tested.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use soulbox_helper::Certificate;

use crate::config::raw::{Inputs, Setting};
use crate::config::{self, Config, Effective};

/// Every setting with its text, as it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings(Vec<(String, String)>);

impl Settings {
    pub(crate) fn of(effective: &Effective) -> Self {
        let text = |key: Setting| effective.raw.get(key).text.clone();
        let absolute = |key: Setting| match key {
            Setting::DataDir => effective.config.data_dir.display().to_string(),
            key => text(key),
        };
        Self(
            Setting::ALL
                .map(|key| (key.name().to_owned(), absolute(key)))
                .into(),
        )
    }

    /// Judges them again.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let known = |name: &str| Setting::ALL.into_iter().find(|key| key.name() == name);
        let flags = self.0.iter().map(|(name, text)| {
            let key = known(name).with_context(|| format!("no setting {name}"))?;
            Ok((key, text.clone()))
        });
        let inputs = Inputs {
            flags: flags.collect::<anyhow::Result<_>>()?,
            ..Inputs::default()
        };
        Ok(config::load(&inputs)?.config)
    }
}

/// What the helper is told first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) settings: Settings,
    /// The port on which clients find HTTPS, if it is spoken.
    pub(crate) https_port: Option<u16>,
}

/// The helper's first word.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Started {
    /// The place on the host is taken. Seven sockets come with it: DNS over UDP and over TCP, connections of sandboxes to
    /// port 80, to port 443, and to names of the server itself, and what tells of packets that were refused and of programs
    /// that were started. Where sandboxes have IPv6, two more for connections of it to port 80 and port 443.
    Ready(Place),
    /// It could not be taken: what failed, and why, outermost first.
    Failed(Vec<String>),
}

/// What the server must know of its place on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The data directory, without links.
    pub(crate) data_dir: PathBuf,
    /// The user and group that the server is to be.
    pub(crate) server_id: u32,
    /// Where sandboxes send their DNS queries.
    pub(crate) gateway: Ipv4Addr,
    /// The network of the sandboxes.
    pub(crate) network: String,
    /// Whether they have IPv6.
    pub(crate) has_ipv6: bool,
}

/// What the server finds in memory when it begins without privileges.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) settings: Settings,
    pub(crate) place: Place,
    pub(crate) certificate: Option<Certificate>,
    /// What `secrets_key_command` has printed.
    pub(crate) secrets_key: Option<SecretsKey>,
    /// What is in `rules_ca_file`.
    pub(crate) rules_ca: Option<Vec<u8>>,
    /// What is in `acme_ca_file`.
    pub(crate) acme_ca: Option<Vec<u8>>,
}

/// The text of a key.
#[derive(Serialize, Deserialize)]
pub(crate) struct SecretsKey(pub(crate) String);

impl std::fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretsKey(…)")
    }
}

/// An error's chain as texts.
pub(crate) fn texts(error: &anyhow::Error) -> Vec<String> {
    error.chain().map(ToString::to_string).collect()
}

/// The reverse of [`texts`].
pub(crate) fn error(mut texts: Vec<String>) -> anyhow::Error {
    let innermost = texts.pop().unwrap_or_else(|| "no reason given".to_owned());
    texts
        .into_iter()
        .rev()
        .fold(anyhow::Error::msg(innermost), anyhow::Error::context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_arrive_as_they_were_judged() {
        let inputs = Inputs {
            file: Some((
                "/etc/soulbox.toml".into(),
                "slots_ready = 3\ndns_upstreams = [\"1.1.1.1\", \"9.9.9.9:5353\"]\n[limits]\nvcpu = 7".to_owned(),
            )),
            environment: [("SOULBOX_LOG_LEVEL".to_owned(), "debug".to_owned())].into(),
            flags: vec![(Setting::DataDir, "relative/data".to_owned())],
        };
        let effective = config::load(&inputs).unwrap();
        let settings = Settings::of(&effective);
        let bytes = serde_json::to_vec(&settings).unwrap();
        let arrived: Settings = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(arrived.load().unwrap(), effective.config);
    }

    #[test]
    fn errors_keep_their_chain() {
        let error = anyhow::anyhow!("innermost")
            .context("middle\nFIX: do it")
            .context("outer");
        let again = super::error(texts(&error));
        assert_eq!(format!("{again:#}"), format!("{error:#}"));
        assert_eq!(super::error(Vec::new()).to_string(), "no reason given");
    }
}

//! Who is connected to, and how.
//!
//! Names of images come from people who are not trusted, and a registry can send its clients anywhere. So each
//! connection, that of a redirection included, goes to a public address over TLS, or to a place that the operator has
//! listed. The address that was looked at is the one that is connected to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
pub(crate) use soulbox_outbound::shown;
use soulbox_outbound::{Outbound, OutboundError, Permits};
use url::Url;

use crate::error::PullError;

/// A registry that builds may connect to wherever it is: `registry.lan`, `10.0.0.5:5000`, `http://127.0.0.1:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateRegistry {
    authority: String,
    plain: bool,
}

impl FromStr for PrivateRegistry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (authority, plain) = match text.strip_prefix("http://") {
            Some(rest) => (rest, true),
            None => (text.strip_prefix("https://").unwrap_or(text), false),
        };
        let shape =
            || format!("'{text}' is no registry: expected host, host:port or http://host:port");
        let url = Url::parse(&format!("https://{authority}/")).map_err(|_| shape())?;
        let alone = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        if !alone || url.host().is_none() || authority.contains('/') {
            return Err(shape());
        }
        Ok(Self {
            authority: authority.to_ascii_lowercase(),
            plain,
        })
    }
}

/// What the operator says about registries.
#[derive(Default)]
pub struct Network {
    /// Registries at addresses that are not public, or without TLS.
    private: Vec<PrivateRegistry>,
    /// For each registry another place to ask first.
    mirrors: BTreeMap<String, Url>,
    outbound: Outbound,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("private", &self.private)
            .field("mirrors", &self.mirrors)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// `mirrors` is by the registry's name as in images (`docker.io`); each is asked first, without credentials, and the
    /// registry itself when it fails. Mirrors are trusted like private registries.
    #[must_use]
    pub fn new(private: Vec<PrivateRegistry>, mirrors: BTreeMap<String, Url>) -> Self {
        Self {
            private,
            mirrors,
            outbound: Outbound::default(),
        }
    }

    pub(crate) fn mirror_of(&self, registry: &str) -> Option<&Url> {
        self.mirrors.get(registry)
    }

    /// Where a registry is.
    pub(crate) fn url_of(&self, host: &str) -> Result<Url, PullError> {
        let plain = self
            .private
            .iter()
            .any(|one| one.plain && one.authority == host);
        let scheme = if plain { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|error| PullError::Unreachable(format!("{host}: {error}")))
    }

    /// Sends one request over a connection of its own; the answer's body is still to come.
    pub(crate) async fn send(
        &self,
        url: &Url,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, PullError> {
        let sent = self.outbound.send(self, url, request).await;
        sent.map_err(|error| match error {
            OutboundError::Plain(_) | OutboundError::NotPublic(_) => {
                PullError::Closed(closed(&error))
            }
            OutboundError::Unreachable(why) => PullError::Unreachable(why),
            OutboundError::Trust(error) => error.into(),
        })
    }

    /// Whether the operator lists a place, and whether it may do without TLS.
    fn listed(&self, url: &Url) -> Option<bool> {
        let authority = url.authority();
        let private = self.private.iter().find(|one| one.authority == authority);
        let mirror = || {
            let mut mirrors = self.mirrors.values();
            mirrors.find(|mirror| mirror.authority() == authority)
        };
        private
            .map(|one| one.plain)
            .or_else(|| mirror().map(|mirror| mirror.scheme() == "http"))
    }
}

impl Permits for Network {
    fn without_tls(&self, url: &Url) -> bool {
        self.listed(url).is_some_and(|plain| plain)
    }

    fn at(&self, url: &Url, _: IpAddr) -> bool {
        self.listed(url).is_some()
    }
}

fn closed(error: &OutboundError) -> String {
    format!(
        "the registry {error}\n\
         FIX: let the operator of this server list it in private_registries, with http:// before it when it has no TLS"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_registries_are_hosts() {
        for (text, authority, plain) in [
            ("registry.lan", "registry.lan", false),
            ("10.0.0.5:5000", "10.0.0.5:5000", false),
            ("https://Registry.lan", "registry.lan", false),
            ("http://127.0.0.1:5000", "127.0.0.1:5000", true),
            ("http://[::1]:5000", "[::1]:5000", true),
        ] {
            let parsed: PrivateRegistry = text.parse().unwrap();
            assert_eq!(
                (parsed.authority.as_str(), parsed.plain),
                (authority, plain)
            );
        }
        for text in [
            "", "http://", "a/b", "ftp://x", "u@h", "a b", "h:99999", "h?x",
        ] {
            assert!(text.parse::<PrivateRegistry>().is_err(), "{text}");
        }
    }

    async fn refused(network: &Network, url: &str) -> String {
        let url = Url::parse(url).unwrap();
        let request = Request::new(Full::default());
        network.send(&url, request).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_is_not_public_is_not_connected_to() {
        let network = Network::default();
        for url in [
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "https://169.254.169.254/",
            "https://2130706433/",
            "https://0x7f.1/",
        ] {
            let error = refused(&network, url).await;
            assert!(
                error.contains("is at an address that is not public"),
                "{url}: {error}"
            );
            assert!(error.contains("FIX: "), "{error}");
        }
        let error = refused(&network, "http://registry.example/").await;
        assert!(error.contains("is not asked without TLS"), "{error}");
    }

    #[tokio::test]
    async fn a_list_opens_exactly_what_it_names() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let private = format!("http://127.0.0.1:{port}").parse().unwrap();
        let network = Network::new(vec![private], BTreeMap::new());
        drop(listener);
        let url = format!("http://127.0.0.1:{port}/");
        assert!(refused(&network, &url).await.contains("refused"));
        let url = format!("http://127.0.0.1:{}/", other.local_addr().unwrap().port());
        assert!(
            refused(&network, &url)
                .await
                .contains("is not asked without TLS")
        );
    }
}

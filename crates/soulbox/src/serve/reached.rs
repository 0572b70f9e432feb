//! How clients reach this server: plain, over HTTPS by name, or both. A pure function of settings and bound addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use soulbox_edge::preview::Base;

use super::certificates::certificate_file;
use crate::config::{Config, Issuer};

/// The port that belongs to `https://` without being said.
const HTTPS_PORT: u16 = 443;
/// The same for `http://`.
const HTTP_PORT: u16 = 80;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// Where it speaks HTTP, as a client on this machine can use it.
    pub(super) plain: Option<SocketAddr>,
    /// Where it speaks HTTPS.
    pub(super) https: Option<Https>,
    /// The domain that sandboxes are said to be below.
    pub(super) domain: Option<String>,
}

/// How it is reached by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Https {
    /// The domain as clients must know it: they put `<port>-<id>.` before it and `https://` before that, so a port that
    /// is not the usual one belongs to it.
    pub(super) domain: String,
    /// Certificates that clients are to trust, where theirs do not vouch for this server.
    pub(super) trusted: Option<PathBuf>,
}

impl Reached {
    /// `secure` is where the listener for HTTPS is bound, if it is one of its own.
    pub(super) fn new(
        config: &Config,
        data_dir: &Path,
        main: SocketAddr,
        secure: Option<SocketAddr>,
    ) -> Self {
        let https = match (&config.domain, &config.tls) {
            (Some(domain), Some(tls)) => Some(Https {
                domain: with_port_unless(domain, secure.unwrap_or(main).port(), HTTPS_PORT),
                trusted: match &tls.issuer {
                    Issuer::Operator(files) => Some(files.cert.clone()),
                    Issuer::Acme(_) => None,
                    Issuer::Own => Some(certificate_file(data_dir, domain)),
                },
            }),
            _ => None,
        };
        let domain = https.as_ref().map(|https| https.domain.clone());
        Self {
            plain: (https.is_none() || secure.is_some()).then(|| reachable(main)),
            domain: domain.or_else(|| config.domain.clone()),
            https,
        }
    }

    /// Where the control plane is. Without names, if that is possible.
    pub(super) fn url(&self) -> String {
        match (&self.plain, &self.https) {
            (None, Some(https)) => format!("https://api.{}", https.domain),
            (Some(address), _) => format!("http://{address}"),
            (None, None) => unreachable!("a server listens"),
        }
    }

    /// Where ports of sandboxes are reached by name. Without a domain, by one that every browser takes for this machine.
    pub(super) fn sandboxes(&self) -> Base {
        if let Some(https) = &self.https {
            return Base {
                https: true,
                domain: https.domain.clone(),
            };
        }
        let domain = self.domain.as_deref().unwrap_or("localhost");
        let port = self.plain.map_or(HTTP_PORT, |address| address.port());
        Base {
            https: false,
            domain: with_port_unless(domain, port, HTTP_PORT),
        }
    }
}

fn with_port_unless(domain: &str, port: u16, usual: u16) -> String {
    if port == usual {
        domain.to_owned()
    } else {
        format!("{domain}:{port}")
    }
}

/// An address that a client on this machine can use: "all interfaces" is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::{Inputs, Setting};
    use crate::config::{Effective, judge};

    fn reached(flags: &[(Setting, &str)], secure: Option<u16>) -> Reached {
        let flags = flags
            .iter()
            .map(|(key, text)| (*key, (*text).to_owned()))
            .collect();
        let inputs = Inputs {
            flags,
            ..Inputs::default()
        };
        let Effective { config, .. } = judge(&inputs).unwrap();
        let main = SocketAddr::from(([0, 0, 0, 0], 3000));
        let secure = secure.map(|port| SocketAddr::from(([0, 0, 0, 0], port)));
        Reached::new(&config, Path::new("/data"), main, secure)
    }

    #[test]
    fn plain() {
        let reached = reached(&[], None);
        assert_eq!(reached.url(), "http://127.0.0.1:3000");
        assert_eq!(reached.sandboxes().domain, "localhost:3000");
        assert_eq!((reached.https, reached.domain), (None, None));
    }

    #[test]
    fn https_in_place_of_the_plain_port() {
        let flags = [
            (Setting::Domain, "box.test"),
            (Setting::TlsCert, "/c.pem"),
            (Setting::TlsKey, "/k.pem"),
        ];
        let reached = reached(&flags, None);
        assert_eq!(reached.url(), "https://api.box.test:3000");
        assert_eq!(reached.plain, None);
        let trusted = reached.https.unwrap().trusted.unwrap();
        assert_eq!(trusted, Path::new("/c.pem"));
    }

    #[test]
    fn https_beside_the_plain_port() {
        let flags = [
            (Setting::Domain, "box.test"),
            (Setting::TlsListen, "0.0.0.0:443"),
        ];
        let usual = reached(&flags, Some(443));
        assert_eq!(usual.url(), "http://127.0.0.1:3000");
        assert_eq!(usual.domain.as_deref(), Some("box.test"));
        let other = reached(&flags, Some(8443));
        assert_eq!(other.domain.as_deref(), Some("box.test:8443"));
        assert_eq!(other.sandboxes().domain, "box.test:8443");
        let trusted = other.https.unwrap().trusted.unwrap();
        assert_eq!(trusted, Path::new("/data/ca-box.test.pem"));
    }
}

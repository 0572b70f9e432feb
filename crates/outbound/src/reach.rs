//! Hosts that somebody else has named, as addresses that may be connected to.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use soulbox_types::Cidr;
use soulbox_types::egress::is_public;
use tokio::time::timeout;

const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);

/// Why a host cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// It has no address.
    #[error("{host} has no address: {reason}")]
    Unknown {
        /// As it was named.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// It has one that is not public, and not listed.
    #[error("{host} resolves to {address}, which is not public")]
    NotPublic {
        /// As it was named.
        host: String,
        /// The address.
        address: IpAddr,
    },
}

/// Public addresses, and what the operator lists.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    private: Vec<Cidr>,
}

impl Reach {
    /// Public addresses, and these.
    #[must_use]
    pub fn new(private: Vec<Cidr>) -> Self {
        Self { private }
    }

    /// The addresses of a host. One that may not be connected to spoils them all: who names a host means all of it.
    ///
    /// # Errors
    /// When there is none, or one that may not be connected to.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NoWay> {
        let unknown = |reason: String| NoWay::Unknown {
            host: host.to_owned(),
            reason,
        };
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![(address, port).into()],
            Err(_) => match timeout(LOOKUP_PATIENCE, tokio::net::lookup_host((host, port))).await {
                Ok(found) => found.map_err(|error| unknown(error.to_string()))?.collect(),
                Err(_) => return Err(unknown("no resolver answers in time".to_owned())),
            },
        };
        if found.is_empty() {
            return Err(unknown("there is none".to_owned()));
        }
        match found.iter().find(|one| !self.may(one.ip())) {
            Some(closed) => Err(NoWay::NotPublic {
                host: host.to_owned(),
                address: closed.ip(),
            }),
            None => Ok(found),
        }
    }

    fn may(&self, address: IpAddr) -> bool {
        is_public(address) || self.private.iter().any(|range| range.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn public_and_listed() {
        let reach = Reach::new(vec![Cidr::parse("10.1.0.0/16").unwrap()]);
        for (host, good) in [
            ("8.8.8.8", true),
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("127.0.0.1", false),
            ("localhost", false),
            ("::ffff:10.2.0.1", false),
            ("::1", false),
            ("2606:4700::1111", true),
        ] {
            assert_eq!(reach.addresses(host, 1).await.is_ok(), good, "{host}");
        }
        let unknown = reach.addresses("no name at all", 1).await;
        assert!(matches!(unknown, Err(NoWay::Unknown { .. })), "{unknown:?}");
    }
}

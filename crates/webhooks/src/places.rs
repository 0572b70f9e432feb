//! Where deliveries may go: to public addresses, and to what the operator lists.

use std::net::IpAddr;
use std::str::FromStr;

use soulbox_outbound::Permits;
use soulbox_types::egress::is_public;
use url::{Host, Url};

/// Bytes of an address.
const MOST_URL_BYTES: usize = 2048;

/// What deliveries may go to although its address is not public: `hooks.lan`, `hooks.lan:8080`, `10.0.0.5`, `10.0.0.0/8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateWebhook {
    /// Whatever address this host of a URL has.
    Host {
        /// As in URLs.
        host: String,
        /// Any when absent.
        port: Option<u16>,
    },
    /// The addresses whose first bits are those.
    Range {
        /// One of them.
        address: IpAddr,
        /// How many bits.
        bits: u32,
    },
}

impl FromStr for PrivateWebhook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("'{text}' is no host, host:port, address or range of addresses");
        let whole = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| shape())?;
            let bits = bits.parse().ok().filter(|bits| *bits <= whole(address));
            let bits = bits.ok_or_else(shape)?;
            return Ok(Self::Range { address, bits });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let bits = whole(address);
            return Ok(Self::Range { address, bits });
        }
        let url = Url::parse(&format!("soulbox://{text}")).map_err(|_| shape())?;
        let alone = url.path().is_empty() && url.query().is_none() && url.username().is_empty();
        let host = url.host_str().filter(|host| !host.is_empty() && alone);
        let host = host.ok_or_else(shape)?.to_ascii_lowercase();
        let port = url.port();
        Ok(Self::Host { host, port })
    }
}

impl PrivateWebhook {
    fn holds(&self, url: &Url, address: IpAddr) -> bool {
        match self {
            Self::Host { host, port } => {
                let same = url
                    .host_str()
                    .is_some_and(|of| of.eq_ignore_ascii_case(host));
                same && (port.is_none() || *port == url.port_or_known_default())
            }
            Self::Range { address: of, bits } => match (of, address) {
                (IpAddr::V4(of), IpAddr::V4(address)) => {
                    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                    of.to_bits() & mask == address.to_bits() & mask
                }
                (IpAddr::V6(of), IpAddr::V6(address)) => {
                    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                    of.to_bits() & mask == address.to_bits() & mask
                }
                _ => false,
            },
        }
    }
}

/// Why an address cannot be a webhook's. The text is for its owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// It is no such URL.
    #[error(
        "url must be a http:// or https:// URL of at most 2048 bytes, without user and password"
    )]
    Form,
    /// It is one of the host's own networks.
    #[error(
        "url is at an address that is not public\nFIX: let the operator of this server list {0} in private_webhooks"
    )]
    NotPublic(String),
}

/// Where deliveries may go.
#[derive(Debug, Clone, Default)]
pub struct Places {
    private: Vec<PrivateWebhook>,
}

impl Places {
    /// To public addresses, and to these.
    #[must_use]
    pub fn new(private: Vec<PrivateWebhook>) -> Self {
        Self { private }
    }

    /// Judges the URL of a webhook as far as that can be done without asking for names; where a name leads to is looked
    /// at again with every delivery.
    ///
    /// # Errors
    /// When it can never be sent to.
    pub fn judge(&self, text: &str) -> Result<Url, BadPlace> {
        let url = Url::parse(text).map_err(|_| BadPlace::Form)?;
        let good = text.len() <= MOST_URL_BYTES
            && matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none();
        let address = match url.host().filter(|_| good).ok_or(BadPlace::Form)? {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        match address {
            Some(address) if !is_public(address) && !self.at(&url, address) => {
                Err(BadPlace::NotPublic(url.authority().to_owned()))
            }
            _ => Ok(url),
        }
    }
}

impl Permits for Places {
    /// What is told is signed, and whether it is secret is its owner's to know.
    fn without_tls(&self, _: &Url) -> bool {
        true
    }

    fn at(&self, url: &Url, address: IpAddr) -> bool {
        self.private.iter().any(|one| one.holds(url, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(listed: &[&str]) -> Places {
        Places::new(listed.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn what_is_listed() {
        for text in [
            "",
            "a/b",
            "10.0.0.0/33",
            "::/129",
            "u@h",
            "h?x",
            "a b",
            "h:99999",
            "http://h",
        ] {
            assert!(text.parse::<PrivateWebhook>().is_err(), "{text}");
        }
        let check = |listed: &[&str], url: &str, address: &str, wanted: bool| {
            let got = places(listed).at(&url.parse().unwrap(), address.parse().unwrap());
            assert_eq!(got, wanted, "{listed:?} {url} {address}");
        };
        check(&[], "http://10.0.0.1/", "10.0.0.1", false);
        check(&["10.0.0.0/8"], "http://a/", "10.255.0.1", true);
        check(&["10.0.0.0/8"], "http://a/", "11.0.0.1", false);
        check(&["0.0.0.0/0"], "http://a/", "127.0.0.1", true);
        check(&["0.0.0.0/0"], "http://a/", "::1", false);
        check(&["::1"], "http://a/", "::1", true);
        check(&["fd00::/8"], "http://a/", "fe80::1", false);
        check(&["10.0.0.5"], "http://a/", "10.0.0.5", true);
        check(&["10.0.0.5"], "http://a/", "10.0.0.6", false);
        check(&["Hooks.lan"], "http://hooks.lan:81/", "10.0.0.6", true);
        check(&["hooks.lan:81"], "http://hooks.lan:81/", "10.0.0.6", true);
        check(&["hooks.lan:81"], "http://hooks.lan/", "10.0.0.6", false);
        check(&["hooks.lan:80"], "http://hooks.lan/", "10.0.0.6", true);
        check(&["127.0.0.1:81"], "http://127.0.0.1:81/", "127.0.0.1", true);
        check(
            &["127.0.0.1:81"],
            "http://127.0.0.1:82/",
            "127.0.0.1",
            false,
        );
    }

    #[test]
    fn what_a_url_must_be() {
        let public = places(&[]);
        for good in [
            "http://a/",
            "https://hooks.example:8443/x?y=z",
            "https://1.1.1.1/",
        ] {
            assert!(public.judge(good).is_ok(), "{good}");
        }
        let long = format!("https://a/{}", "x".repeat(MOST_URL_BYTES));
        for bad in [
            "",
            "a",
            "ftp://a/",
            "file:///etc",
            "https://u:p@a/",
            "https://u@a/",
            "https://",
            &long,
        ] {
            assert_eq!(public.judge(bad), Err(BadPlace::Form), "{bad}");
        }
        for own in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/latest",
            "http://192.168.1.1:8080/",
        ] {
            let refused = public.judge(own).unwrap_err();
            assert!(
                matches!(refused, BadPlace::NotPublic(_)),
                "{own}: {refused}"
            );
        }
        assert!(
            places(&["127.0.0.0/8"])
                .judge("http://127.0.0.1:99/")
                .is_ok()
        );
    }
}

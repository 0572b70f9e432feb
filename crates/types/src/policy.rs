//! What of the internet one sandbox may reach: lists of addresses, networks and names, and what they come to.
//!
//! Precedence, as in the contract: what is closed to every sandbox ([`crate::egress`]) stays closed; then the allow list
//! opens; then the deny list closes; the rest is open. Names are held against the allow list only.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::Cidr;
use crate::egress::is_public;
use crate::rules::HeaderRules;
use crate::upstream::Upstream;

/// Entries of one list.
pub const MOST_ENTRIES: usize = 1000;
/// Resolvers of one sandbox.
pub const MOST_DNS_SERVERS: usize = 10;

/// A name, or all names below one, or all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DomainPattern {
    /// Every name.
    Any,
    /// This name.
    Exactly(String),
    /// Every name below this one, itself not included.
    Below(String),
}

/// A text that is no name and no pattern of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a domain name")]
pub struct NotADomain;

impl DomainPattern {
    /// Reads `name`, `*.name` or `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match (text, text.strip_prefix("*.")) {
            ("*", _) => Some(Self::Any),
            (_, Some(name)) => canonical_name(name).map(Self::Below),
            (name, None) => canonical_name(name).map(Self::Exactly),
        }
    }

    /// Whether it means a name that is in its canonical form.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(own) => own == name,
            Self::Below(parent) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exactly(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = NotADomain;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or(NotADomain)
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.to_string()
    }
}

/// The one form of a host name that is compared: lower case, without the dot of the root. `None` for everything else,
/// addresses in any notation included: the last label of a name is never a number (WHATWG URL, ends-in-a-number).
#[must_use]
pub fn canonical_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let fits = |label: &str| {
        let usual = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(usual)
    };
    let last = name.rsplit('.').next()?;
    let digits = last.strip_prefix("0x").unwrap_or(last);
    let number = digits.bytes().all(|b| b.is_ascii_digit())
        || (digits.len() < last.len() && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    (name.len() <= 253 && !number && name.split('.').all(fits)).then_some(name)
}

/// Why something is open or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// An entry of the allow list names the address.
    Allow(Cidr),
    /// An entry of the allow list names the name.
    AllowName(DomainPattern),
    /// An entry of the deny list names the address.
    Deny(Cidr),
    /// The address is closed to every sandbox.
    Closed,
    /// No entry says anything.
    Default,
}

impl Rule {
    /// What it comes to.
    #[must_use]
    pub fn allows(&self) -> bool {
        !matches!(self, Self::Deny(_) | Self::Closed)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(cidr) => write!(f, "allowOut {cidr}"),
            Self::AllowName(pattern) => write!(f, "allowOut {pattern}"),
            Self::Deny(cidr) => write!(f, "denyOut {cidr}"),
            Self::Closed => f.write_str("closed to every sandbox"),
            Self::Default => f.write_str("no entry"),
        }
    }
}

/// The lists of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPolicy {
    /// Networks that stay open.
    pub allow: Vec<Cidr>,
    /// Names that stay open, over TLS on port 443 and HTTP on port 80.
    pub names: Vec<DomainPattern>,
    /// Networks that are closed.
    pub deny: Vec<Cidr>,
    /// Who answers its DNS questions; the host's when empty.
    pub dns_servers: Vec<Ipv4Addr>,
    /// What is added to requests. Opens nothing. Records of before there were rules have none.
    #[serde(default)]
    pub rules: Option<Box<HeaderRules>>,
    /// Tokens that rules may name, and whom each is for.
    #[serde(default)]
    pub tokens: BTreeMap<String, String>,
    /// What all TCP that it opens goes through. Records of before there were such have none.
    #[serde(default)]
    pub upstream: Option<Box<Upstream>>,
}

impl EgressPolicy {
    /// Nothing is open.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            deny: vec![Cidr::ALL],
            ..Self::default()
        }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Without a deny list the allow list changes nothing.
        self.deny.is_empty()
            && self.dns_servers.is_empty()
            && self.rules.is_none()
            && self.tokens.is_empty()
            && self.upstream.is_none()
    }

    /// Whether its lists are of a size that a kernel is given.
    #[must_use]
    pub fn fits(&self) -> bool {
        [self.allow.len(), self.names.len(), self.deny.len()]
            .iter()
            .all(|entries| *entries <= MOST_ENTRIES)
            && self.dns_servers.len() <= MOST_DNS_SERVERS
            && self.rules.as_ref().is_none_or(|rules| rules.fits())
            && self.upstream.as_ref().is_none_or(|proxy| proxy.fits())
    }

    /// What it says of an address.
    #[must_use]
    pub fn of_address(&self, address: IpAddr) -> Rule {
        let find = |list: &[Cidr]| list.iter().find(|cidr| cidr.contains(address)).copied();
        if !is_public(address) {
            return Rule::Closed;
        }
        find(&self.allow)
            .map(Rule::Allow)
            .or_else(|| find(&self.deny).map(Rule::Deny))
            // The contract's word for all traffic.
            .or_else(|| all(&self.deny).then_some(Rule::Deny(Cidr::ALL)))
            .unwrap_or(Rule::Default)
    }

    /// What it says of a connection to an address by a name in its canonical form. Whether the name has that address is
    /// for others to say.
    #[must_use]
    pub fn of_name(&self, name: &str, address: IpAddr) -> Rule {
        let by_address = self.of_address(address);
        if by_address == Rule::Closed {
            return by_address;
        }
        let pattern = self.names.iter().find(|pattern| pattern.matches(name));
        pattern.cloned().map_or(by_address, Rule::AllowName)
    }

    /// Whether DNS tells of this name. With everything closed but some, the others are not told: a question carries data
    /// out.
    #[must_use]
    pub fn tells(&self, name: &str) -> bool {
        !self.keeps_names() || self.names.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether everything is closed but some.
    #[must_use]
    pub fn keeps_names(&self) -> bool {
        all(&self.deny) && !all(&self.allow)
    }
}

fn all(list: &[Cidr]) -> bool {
    list.contains(&Cidr::ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> EgressPolicy {
        let cidrs = |list: &[&str]| list.iter().filter_map(|text| Cidr::parse(text)).collect();
        let names = allow.iter().filter(|text| Cidr::parse(text).is_none());
        EgressPolicy {
            allow: cidrs(allow),
            names: names
                .map(|text| DomainPattern::parse(text).unwrap())
                .collect(),
            deny: cidrs(deny),
            ..EgressPolicy::default()
        }
    }

    #[test]
    fn precedence() {
        let rule = |allow: &[&str], deny: &[&str], address: &str| {
            policy(allow, deny)
                .of_address(address.parse().unwrap())
                .to_string()
        };
        let all = &["0.0.0.0/0"][..];
        for (allow, deny, address, want) in [
            (&[][..], &[][..], "8.8.8.8", "no entry"),
            (&[], all, "8.8.8.8", "denyOut 0.0.0.0/0"),
            (&["8.8.8.8"], all, "8.8.8.8", "allowOut 8.8.8.8/32"),
            (&["8.8.8.8"], all, "8.8.4.4", "denyOut 0.0.0.0/0"),
            (
                &["8.8.0.0/16"],
                &["8.8.8.8"],
                "8.8.8.8",
                "allowOut 8.8.0.0/16",
            ),
            (&["8.8.8.8"], &[], "1.1.1.1", "no entry"),
            (&["10.0.0.0/8"], all, "10.1.2.3", "closed to every sandbox"),
            (all, all, "8.8.8.8", "allowOut 0.0.0.0/0"),
            (&[], &["8.8.8.0/24"], "8.8.9.1", "no entry"),
            // What closes everything closes IPv6, too; what opens all of IPv4 opens nothing of it.
            (&[], all, "2606::1", "denyOut 0.0.0.0/0"),
            (all, all, "2606::1", "denyOut 0.0.0.0/0"),
            (&["2606::/32"], all, "2606::1", "allowOut 2606::/32"),
            (&[], &["::/0"], "2606::1", "denyOut ::/0"),
            (&[], &["::/0"], "8.8.8.8", "no entry"),
            (&["::/0"], all, "64:ff9b:1::1", "closed to every sandbox"),
            (&[], &["8.8.8.0/24"], "2606::1", "no entry"),
        ] {
            assert_eq!(
                rule(allow, deny, address),
                want,
                "{allow:?} {deny:?} {address}"
            );
        }
    }

    #[test]
    fn names() {
        let open = policy(&["Example.com", "*.x.org", "1.1.1.1"], &["0.0.0.0/0"]);
        let at = "9.9.9.9".parse().unwrap();
        for (name, want) in [
            ("example.com", true),
            ("www.example.com", false),
            ("notexample.com", false),
            ("x.org", false),
            ("a.x.org", true),
            ("a.b.x.org", true),
            ("ax.org", false),
            (".x.org", false),
        ] {
            assert_eq!(open.of_name(name, at).allows(), want, "{name}");
            assert_eq!(open.tells(name), want, "{name}");
        }
        let private = "10.0.0.1".parse().unwrap();
        assert_eq!(open.of_name("example.com", private), Rule::Closed);
        assert!(policy(&["*"], &["0.0.0.0/0"]).tells("any.name"));
        assert!(policy(&[], &["1.0.0.0/8"]).tells("any.name"));
        assert!(!EgressPolicy::closed().tells("any.name"));
    }

    #[test]
    fn canonical_names() {
        for (text, want) in [
            ("Example.COM.", Some("example.com")),
            ("a_b-c.de", Some("a_b-c.de")),
            ("localhost", Some("localhost")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a b", None),
            ("bücher.example", None),
            ("1.2.3.4", None),
            ("2130706433", None),
            ("0x7f.1", None),
            ("0x7f000001", None),
            ("a.0x", None),
            ("a/b", None),
            ("a:80", None),
            ("a\0.b", None),
            ("*.a", None),
        ] {
            assert_eq!(canonical_name(text).as_deref(), want, "{text:?}");
        }
        assert!(canonical_name(&"a.".repeat(127)).is_some());
        assert!(canonical_name(&"a.".repeat(128)).is_none());
        assert!(canonical_name(&"a".repeat(64)).is_none());
        for bad in ["*", "*.*", "a.*", "**.a", "*a.b", ""] {
            assert_eq!(DomainPattern::parse(bad).is_some(), bad == "*", "{bad}");
        }
    }
}

//! What a create or update asks of the network: checked in full, then held against what is enforced.
//!
//! The form is judged first, without asking anybody. Then a proxy's host is looked for, and what is secret is sealed.

mod ingress;
mod proxy;
mod rules;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use soulbox_api_types::network::{
    EgressProxy, NetworkRule, SandboxNetworkConfig, SandboxNetworkUpdate,
};
use soulbox_types::egress::is_public;
use soulbox_types::policy::MOST_ENTRIES;
use soulbox_types::rules::{HeaderRule, HeaderRules};
use soulbox_types::{Cidr, DomainPattern, EgressPolicy, NetworkMode, TeamId};

use crate::error::ApiError;
use crate::state::Api;
pub(crate) use ingress::{Ingress, check_ingress};
pub(crate) use proxy::without_secrets;
pub(crate) use rules::in_lower_case;

/// The contract's word for all addresses.
const ALL_TRAFFIC: &str = "0.0.0.0/0";
const MAX_DNS_SERVERS: usize = 10;

/// The part of a request that concerns traffic out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Egress<'a> {
    allow_out: &'a [String],
    deny_out: &'a [String],
    rules: Option<&'a BTreeMap<String, Vec<NetworkRule>>>,
    proxy: Option<&'a EgressProxy>,
    dns_servers: &'a [String],
    allow_internet_access: Option<bool>,
}

impl<'a> Egress<'a> {
    pub(crate) fn of_create(
        config: Option<&'a SandboxNetworkConfig>,
        allow_internet_access: Option<bool>,
    ) -> Self {
        Self {
            allow_out: config
                .and_then(|c| c.allow_out.as_deref())
                .unwrap_or_default(),
            deny_out: config
                .and_then(|c| c.deny_out.as_deref())
                .unwrap_or_default(),
            rules: config.and_then(|c| c.rules.as_ref()),
            proxy: config.and_then(|c| c.egress_proxy.as_ref()),
            dns_servers: config
                .and_then(|c| c.dns_servers.as_deref())
                .unwrap_or_default(),
            allow_internet_access,
        }
    }

    pub(crate) fn of_update(update: &'a SandboxNetworkUpdate) -> Self {
        Self {
            allow_out: update.allow_out.as_deref().unwrap_or_default(),
            deny_out: update.deny_out.as_deref().unwrap_or_default(),
            rules: update.rules.as_ref(),
            proxy: update.egress_proxy.as_ref(),
            dns_servers: update.dns_servers.as_deref().unwrap_or_default(),
            allow_internet_access: update.allow_internet_access,
        }
    }

    /// Checks everything, in the contract's order, and says what it comes to.
    pub(crate) fn decide(&self) -> Result<Decided, ApiError> {
        self.check_lists()?;
        let rules = self.rules.map(rules::read).transpose()?;
        if let Some(proxy) = self.proxy {
            proxy::check(proxy).map_err(proxy::invalid)?;
        }
        self.check_dns_servers()?;
        Ok(Decided {
            policy: self.policy()?,
            rules: rules.unwrap_or_default(),
            proxy: self.proxy.cloned(),
        })
    }

    fn check_lists(&self) -> Result<(), ApiError> {
        for entry in self.deny_out {
            let usable = Cidr::parse(entry).is_some_and(|cidr| !cidr.is_unspecified());
            if entry != ALL_TRAFFIC && !usable {
                return Err(ApiError::invalid(format!("invalid denied CIDR {entry}")));
            }
        }
        for entry in self.allow_out {
            if entry != ALL_TRAFFIC && Cidr::parse(entry).is_some_and(|cidr| cidr.is_unspecified())
            {
                return Err(ApiError::invalid(format!(
                    "invalid allowed address {entry}"
                )));
            }
        }
        let has_domain = self
            .allow_out
            .iter()
            .any(|entry| Cidr::parse(entry).is_none());
        if has_domain && !self.deny_out.iter().any(|entry| entry == ALL_TRAFFIC) {
            return Err(ApiError::invalid(
                "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block \
                 all other traffic.",
            ));
        }
        Ok(())
    }

    fn check_dns_servers(&self) -> Result<(), ApiError> {
        if self.dns_servers.len() > MAX_DNS_SERVERS {
            return Err(ApiError::invalid(format!(
                "DNS servers can have at most {MAX_DNS_SERVERS} entries."
            )));
        }
        for text in self.dns_servers {
            let server: Ipv4Addr = text.parse().map_err(|_| {
                ApiError::invalid(format!(
                    "DNS server \"{text}\" is not a valid IPv4 address."
                ))
            })?;
            // The host asks it for the sandbox: it must not reach what the sandbox does not.
            if !is_public(server.into()) {
                return Err(ApiError::invalid(format!(
                    "DNS server \"{text}\" is not a public address. FIX: name a public resolver, or leave dnsServers \
                     out: then the resolvers of the server are asked."
                )));
            }
        }
        Ok(())
    }

    /// The lists as values. A closed internet is all of it on the deny list.
    fn policy(&self) -> Result<EgressPolicy, ApiError> {
        let mut policy = EgressPolicy::default();
        for entry in self.allow_out {
            match Cidr::parse(entry) {
                Some(cidr) => policy.allow.push(cidr),
                None => policy.names.push(name(entry)?),
            }
        }
        policy.deny = self
            .deny_out
            .iter()
            .filter_map(|text| Cidr::parse(text))
            .collect();
        if self.allow_internet_access == Some(false) {
            policy.deny = vec![Cidr::ALL];
        }
        let servers = self.dns_servers.iter();
        policy.dns_servers = servers.filter_map(|text| text.parse().ok()).collect();
        if !policy.fits() {
            return Err(ApiError::invalid(format!(
                "Network lists can have at most {MOST_ENTRIES} entries."
            )));
        }
        Ok(policy)
    }
}

/// What a request comes to. Rules have no authority yet, and nobody has looked where the proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    policy: EgressPolicy,
    rules: Vec<HeaderRule>,
    proxy: Option<EgressProxy>,
}

impl Decided {
    /// The same with tokens that rules may name.
    pub(crate) fn with_tokens(mut self, tokens: BTreeMap<String, String>) -> Self {
        self.policy.tokens = tokens;
        self
    }

    /// What the sandbox may reach, with an authority for its rules and a proxy that may be gone through.
    pub(crate) async fn network(self, api: &Api, team: &TeamId) -> Result<NetworkMode, ApiError> {
        let Self {
            mut policy,
            rules,
            proxy,
        } = self;
        if let Some(proxy) = proxy {
            policy.upstream = Some(Box::new(proxy::upstream(api, team, &proxy).await?));
        }
        if !rules.is_empty() {
            let domains = rules.iter().map(|rule| &rule.domain);
            let authority = api.secrets.new_authority(domains);
            policy.rules = Some(Box::new(HeaderRules {
                team: team.clone(),
                authority: authority.map_err(ApiError::internal)?,
                list: rules,
            }));
        }
        Ok(if policy.is_empty() {
            NetworkMode::Internet
        } else {
            NetworkMode::Filtered(policy)
        })
    }
}

fn name(entry: &str) -> Result<DomainPattern, ApiError> {
    DomainPattern::parse(entry)
        .ok_or_else(|| ApiError::invalid(format!("invalid allowed address {entry}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decide(
        network: Value,
        allow_internet_access: Option<bool>,
    ) -> Result<NetworkMode, ApiError> {
        let config: SandboxNetworkConfig = serde_json::from_value(network).unwrap();
        let decided = Egress::of_create(Some(&config), allow_internet_access).decide()?;
        assert!(decided.rules.is_empty());
        Ok(match decided.policy.is_empty() {
            true => NetworkMode::Internet,
            false => NetworkMode::Filtered(decided.policy),
        })
    }

    #[test]
    fn policies_that_mean_open_or_closed() {
        let check = |network: Value, flag, want| {
            assert_eq!(decide(network.clone(), flag).unwrap(), want, "{network}");
        };
        check(json!({}), None, NetworkMode::Internet);
        check(json!({}), Some(true), NetworkMode::Internet);
        let closed = || NetworkMode::Filtered(EgressPolicy::closed());
        check(json!({}), Some(false), closed());
        check(json!({"denyOut": ["1.1.1.1"]}), Some(false), closed());
        check(json!({"denyOut": ["0.0.0.0/0"]}), None, closed());
        check(json!({"denyOut": ["0.0.0.0/0"]}), Some(true), closed());
        check(
            json!({"allowOut": [], "denyOut": [], "rules": {}, "dnsServers": []}),
            None,
            NetworkMode::Internet,
        );
        check(
            json!({"allowOut": ["8.8.8.8", "1.0.0.0/8"]}),
            None,
            NetworkMode::Internet,
        );
        check(
            json!({"egressProxy": null, "allowPublicTraffic": false}),
            None,
            NetworkMode::Internet,
        );
    }

    #[test]
    fn lists_as_values() {
        let network = json!({"allowOut": ["8.8.8.8", "*.Example.com", "*"], "denyOut": ["0.0.0.0/0", "1.0.0.0/8"],
            "dnsServers": ["9.9.9.9"]});
        let NetworkMode::Filtered(policy) = decide(network, None).unwrap() else {
            panic!("no policy");
        };
        let texts = |list: &[Cidr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&policy.allow), ["8.8.8.8/32"]);
        assert_eq!(texts(&policy.deny), ["0.0.0.0/0", "1.0.0.0/8"]);
        let names: Vec<_> = policy.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["*.example.com", "*"]);
        assert_eq!(policy.dns_servers, [Ipv4Addr::new(9, 9, 9, 9)]);
        let kept = decide(json!({"allowOut": ["8.8.8.8"]}), Some(false)).unwrap();
        assert!(kept.policy().is_some_and(|policy| policy.keeps_names()));
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    #[test]
    fn refusals() {
        let check = |network: Value, flag, status: u16, text: &str| {
            let error = decide(network.clone(), flag).unwrap_err();
            let shown = format!("{error:?}");
            assert!(
                error.status().as_u16() == status && shown.contains(text),
                "{network}: {shown}"
            );
        };
        let domains = "When specifying allowed domains";
        check(
            json!({"denyOut": ["example.com"]}),
            None,
            400,
            "invalid denied CIDR example.com",
        );
        check(
            json!({"denyOut": ["0.0.0.0/0", "x"]}),
            None,
            400,
            "invalid denied CIDR x",
        );
        check(
            json!({"denyOut": ["0.0.0.0"]}),
            None,
            400,
            "invalid denied CIDR 0.0.0.0",
        );
        check(
            json!({"denyOut": ["::"]}),
            None,
            400,
            "invalid denied CIDR ::",
        );
        check(
            json!({"allowOut": ["0.0.0.0"]}),
            None,
            400,
            "invalid allowed address 0.0.0.0",
        );
        check(json!({"allowOut": ["example.com"]}), None, 400, domains);
        check(
            json!({"allowOut": ["*"], "denyOut": ["1.1.1.1"]}),
            None,
            400,
            domains,
        );
        check(
            json!({"allowOut": ["1.1.1.1", "*.example.com"]}),
            None,
            400,
            domains,
        );
        check(
            json!({"allowOut": ["a b"], "denyOut": ["0.0.0.0/0"]}),
            None,
            400,
            "invalid allowed address a b",
        );
        check(
            json!({"denyOut": vec!["1.1.1.1"; 1001]}),
            None,
            400,
            "at most 1000 entries",
        );
        check(json!({"dnsServers": ["x"]}), None, 400, "not a valid IPv4");
        check(
            json!({"dnsServers": vec!["1.1.1.1"; 11]}),
            None,
            400,
            "at most 10",
        );
        check(
            json!({"dnsServers": ["10.0.0.1"]}),
            None,
            400,
            "is not a public address",
        );
        check(
            json!({"egressProxy": {"address": "h"}}),
            None,
            400,
            "Invalid egress proxy config",
        );
        check(
            json!({"rules": {"*": []}}),
            None,
            400,
            "is not a valid domain name",
        );
    }
}

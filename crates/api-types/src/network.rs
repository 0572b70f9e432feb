//! Network settings of a sandbox.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::present::present;

/// `network` of a create request and of a sandbox's detail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxNetworkConfig {
    /// False: traffic in needs the sandbox's traffic token. Null and absent mean true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-nullable" = true))]
    pub allow_public_traffic: Option<bool>,
    /// Addresses, networks and names that stay open.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub allow_out: Option<Vec<String>>,
    /// Addresses and networks that are closed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub deny_out: Option<Vec<String>>,
    /// Proxy for all TCP out. Nullable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-nullable" = true))]
    pub egress_proxy: Option<EgressProxy>,
    /// `Host` header that services in the sandbox see; `${PORT}` stands for the port.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub mask_request_host: Option<String>,
    /// Headers to set on requests out, by domain.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub rules: Option<BTreeMap<String, Vec<NetworkRule>>>,
    /// Resolvers that stay reachable.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub dns_servers: Option<Vec<String>>,
    /// Ports whose service speaks TLS.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub https_ports: Option<Vec<i64>>,
}

/// Body of `PUT /sandboxes/{sandboxID}/network`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxNetworkUpdate {
    /// Addresses, networks and names that stay open.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub allow_out: Option<Vec<String>>,
    /// Addresses and networks that are closed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub deny_out: Option<Vec<String>>,
    /// Proxy for all TCP out. Nullable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-nullable" = true))]
    pub egress_proxy: Option<EgressProxy>,
    /// Headers to set on requests out, by domain.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub rules: Option<BTreeMap<String, Vec<NetworkRule>>>,
    /// Resolvers that stay reachable.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub dns_servers: Option<Vec<String>>,
    /// False closes all traffic out. Snake case on the wire.
    #[serde(
        default,
        rename = "allow_internet_access",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub allow_internet_access: Option<bool>,
}

/// What happens to requests to one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkRule {
    /// Changes to the request.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub transform: Option<NetworkTransform>,
}

/// Changes to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkTransform {
    /// Headers to set.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub headers: Option<BTreeMap<String, String>>,
}

/// A SOCKS5 proxy. Answers never carry `password` or `caCert`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressProxy {
    /// `host:port`.
    pub address: String,
    /// At most 255 bytes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub username: Option<String>,
    /// At most 255 bytes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub password: Option<String>,
    /// TLS to the proxy. Nullable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-nullable" = true))]
    pub tls: Option<EgressProxyTls>,
}

// Written by hand so that no log ever shows the password.
impl std::fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressProxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// TLS settings of an egress proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressProxyTls {
    /// Whether TLS is spoken; without it no other field may be set.
    pub enabled: bool,
    /// Name to ask for and to verify.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub server_name: Option<String>,
    /// PEM that replaces the system's trust.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub ca_cert: Option<String>,
}

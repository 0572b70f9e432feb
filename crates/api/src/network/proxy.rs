//! A caller's own egress proxy: its form, where it is, and what of it is kept.

use soulbox_api_types::network::{EgressProxy, EgressProxyTls};

use soulbox_outbound::NoWay;
use soulbox_secrets::Value;
use soulbox_types::TeamId;
use soulbox_types::upstream::{MOST_CA_BYTES, Upstream, UpstreamTls};

use crate::error::ApiError;
use crate::state::Api;

const MAX_CREDENTIAL_BYTES: usize = 255;
const MAX_HOST_BYTES: usize = 255;
const MAX_SERVER_NAME: usize = 253;

/// The refusal of a proxy.
pub(super) fn invalid(detail: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("Invalid egress proxy config: {detail}"))
}

/// What is wrong with its form.
pub(super) fn check(proxy: &EgressProxy) -> Result<(), String> {
    host_and_port(proxy.address.trim())?;
    let username = proxy.username.as_deref().unwrap_or_default();
    let password = proxy.password.as_deref().unwrap_or_default();
    if username.is_empty() && !password.is_empty() {
        return Err("egress proxy password must be empty when username is empty".into());
    }
    if !username.is_empty() && password.is_empty() {
        // RFC 1929 has no empty password.
        return Err("egress proxy password must not be empty when username is set".into());
    }
    for (what, value) in [("username", username), ("password", password)] {
        if value.len() > MAX_CREDENTIAL_BYTES {
            return Err(format!(
                "egress proxy {what} must not exceed {MAX_CREDENTIAL_BYTES} bytes"
            ));
        }
    }
    proxy.tls.as_ref().map_or(Ok(()), check_tls)
}

/// The proxy as it is kept: at an address that may be connected to, with its password sealed.
pub(super) async fn upstream(
    api: &Api,
    team: &TeamId,
    proxy: &EgressProxy,
) -> Result<Upstream, ApiError> {
    let (host, port) = host_and_port(proxy.address.trim()).map_err(invalid)?;
    let found = api.egress_proxies.addresses(host, port).await;
    found.map_err(|error| invalid(out_of_reach(&error)))?;
    let tls = proxy.tls.as_ref().filter(|tls| tls.enabled);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let upstream = Upstream {
        team: team.clone(),
        host: host.to_owned(),
        port,
        credentials: None,
        tls: tls.map(|tls| UpstreamTls {
            server_name: given(&tls.server_name).unwrap_or_else(|| host.to_owned()),
            ca_cert: given(&tls.ca_cert),
        }),
    };
    Ok(match (&proxy.username, &proxy.password) {
        (Some(username), Some(password)) if !username.is_empty() => {
            let password = Value::new(password.as_str());
            api.secrets.with_credentials(upstream, username, &password)
        }
        _ => upstream,
    })
}

/// What is recorded and shown of it.
pub(crate) fn without_secrets(mut proxy: EgressProxy) -> EgressProxy {
    proxy.password = None;
    if let Some(tls) = &mut proxy.tls {
        tls.ca_cert = None;
    }
    proxy
}

fn out_of_reach(error: &NoWay) -> String {
    match error {
        NoWay::Unknown { host, reason } => {
            format!("resolve egress proxy host \"{host}\": {reason}")
        }
        NoWay::NotPublic { host, address } => format!(
            "egress proxy endpoint resolves to an internal / denied IP range: {host} resolves to {address}. FIX: let the \
             operator of this server list it in private_egress_proxies"
        ),
    }
}

fn host_and_port(address: &str) -> Result<(&str, u16), String> {
    if address.is_empty() {
        return Err("egress proxy address must not be empty".into());
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(
            "egress proxy address must be in host:port form: missing port in address".into(),
        );
    };
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() {
        return Err("egress proxy address host must not be empty".into());
    }
    if host.len() > MAX_HOST_BYTES {
        return Err(format!(
            "egress proxy address host must not exceed {MAX_HOST_BYTES} bytes"
        ));
    }
    let number = port.parse::<u16>().ok().filter(|number| *number != 0);
    let number = number
        .ok_or_else(|| format!("egress proxy port \"{port}\" is not a valid 1-65535 value"))?;
    Ok((host, number))
}

fn check_tls(tls: &EgressProxyTls) -> Result<(), String> {
    let server_name = tls.server_name.as_deref().unwrap_or_default();
    let ca_cert = tls.ca_cert.as_deref().unwrap_or_default();
    let bare = server_name.is_empty() && ca_cert.is_empty();
    if !tls.enabled && !bare {
        return Err(
            "egress proxy TLS serverName and caCert must be empty when TLS is disabled".into(),
        );
    }
    if server_name.len() > MAX_SERVER_NAME {
        return Err(format!(
            "egress proxy TLS serverName must not exceed {MAX_SERVER_NAME} characters"
        ));
    }
    if ca_cert.len() > MOST_CA_BYTES {
        return Err(format!(
            "egress proxy TLS caCert must not exceed {MOST_CA_BYTES} bytes"
        ));
    }
    let looks_like_pem = ca_cert.contains("-----BEGIN CERTIFICATE-----")
        && ca_cert.contains("-----END CERTIFICATE-----");
    if !ca_cert.is_empty() && !looks_like_pem {
        return Err("egress proxy TLS caCert must be PEM".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> EgressProxy {
        EgressProxy {
            address: address.into(),
            ..EgressProxy::default()
        }
    }

    #[test]
    fn addresses() {
        for good in ["proxy.example:1080", "8.8.8.8:1", "[2001:4860::1]:65535"] {
            assert_eq!(check(&at(good)), Ok(()), "{good}");
        }
        let wrong = |address: &str, want: &str| {
            let error = check(&at(address)).unwrap_err();
            assert!(error.contains(want), "{address}: {error}");
        };
        wrong("", "must not be empty");
        wrong("host", "must be in host:port form");
        wrong(":1", "host must not be empty");
        wrong("h:0", "port \"0\" is not a valid");
        wrong("h:65536", "port \"65536\" is not a valid");
    }

    #[test]
    fn credentials_and_tls() {
        let with = |change: &dyn Fn(&mut EgressProxy)| {
            let mut proxy = at("h.example:1");
            change(&mut proxy);
            check(&proxy).err().unwrap_or_default()
        };
        assert!(
            with(&|p| p.password = Some("x".into()))
                .contains("must be empty when username is empty")
        );
        assert!(with(&|p| p.username = Some("u".into())).contains("must not be empty when"));
        let long = with(&|p| {
            p.username = Some("u".repeat(256));
            p.password = Some("x".into());
        });
        assert!(long.contains("must not exceed 255 bytes"));
        let tls = |enabled, name: &str, cert: &str| {
            Some(EgressProxyTls {
                enabled,
                server_name: Some(name.into()),
                ca_cert: Some(cert.into()),
            })
        };
        assert_eq!(with(&|p| p.tls = tls(true, "n", "")), "");
        assert!(with(&|p| p.tls = tls(false, "n", "")).contains("when TLS is disabled"));
        assert!(with(&|p| p.tls = tls(true, &"n".repeat(254), "")).contains("253"));
        assert!(with(&|p| p.tls = tls(true, "", "x")).contains("PEM"));
        assert!(with(&|p| p.tls = tls(true, "", &"x".repeat(8193))).contains("8192"));
    }
}

//! A caller's own egress proxy: its form. It is refused afterwards, but a wrong one is told what is wrong.

use std::net::IpAddr;

use soulbox_api_types::network::{EgressProxy, EgressProxyTls};

use soulbox_types::egress::is_public;

const MAX_CREDENTIAL_BYTES: usize = 255;
const MAX_SERVER_NAME: usize = 253;
const MAX_CA_CERT_BYTES: usize = 8192;

/// What is wrong with it; completes "Invalid egress proxy config: ". A host name is not resolved.
pub(super) fn check(proxy: &EgressProxy) -> Result<(), String> {
    check_address(proxy.address.trim())?;
    let username = proxy.username.as_deref().unwrap_or_default();
    let password = proxy.password.as_deref().unwrap_or_default();
    if username.is_empty() && !password.is_empty() {
        return Err("egress proxy password must be empty when username is empty".into());
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

fn check_address(address: &str) -> Result<(), String> {
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
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) {
        return Err(format!(
            "egress proxy port \"{port}\" is not a valid 1-65535 value"
        ));
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if !is_public(ip) => Err(format!(
            "egress proxy endpoint resolves to an internal / denied IP range: {host} resolves to {ip}"
        )),
        _ => Ok(()),
    }
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
    if ca_cert.len() > MAX_CA_CERT_BYTES {
        return Err(format!(
            "egress proxy TLS caCert must not exceed {MAX_CA_CERT_BYTES} bytes"
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
        wrong("10.0.0.1:1", "10.0.0.1 resolves to 10.0.0.1");
        wrong("[::1]:1", "internal / denied");
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
        assert!(
            with(&|p| p.username = Some("u".repeat(256))).contains("must not exceed 255 bytes")
        );
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

//! Traffic in: who may, what `Host` services see, which ports speak TLS. All of it is enforced by the edge.

use std::collections::BTreeSet;

use soulbox_api_types::network::SandboxNetworkConfig;

use crate::error::ApiError;

const MAX_HTTPS_PORTS: usize = 128;
/// envd's, whose traffic is never TLS.
const ENVD_PORT: u16 = 49983;

/// What the edge must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ingress {
    pub(crate) allow_public_traffic: bool,
    pub(crate) mask_request_host: Option<String>,
    pub(crate) https_ports: Vec<u16>,
}

/// Checks the part of a create that concerns traffic in.
pub(crate) fn check_ingress(config: Option<&SandboxNetworkConfig>) -> Result<Ingress, ApiError> {
    let mask_request_host = config.and_then(|c| c.mask_request_host.clone());
    if let Some(host) = &mask_request_host {
        check_mask_host(host)?;
    }
    Ok(Ingress {
        allow_public_traffic: config.and_then(|c| c.allow_public_traffic).unwrap_or(true),
        mask_request_host,
        https_ports: https_ports(
            config
                .and_then(|c| c.https_ports.as_deref())
                .unwrap_or_default(),
        )?,
    })
}

/// `host` or `host:port`, where `${PORT}` may stand for digits. It becomes a header, so only what a host name, an
/// address literal or a port can hold is let through.
fn check_mask_host(text: &str) -> Result<(), ApiError> {
    if !text.is_ascii() {
        let host = text.split(':').next().unwrap_or_default();
        return Err(ApiError::invalid(format!(
            "mask request host '{host}' is not ASCII. Please use ASCII characters only."
        )));
    }
    if is_host_and_port(&text.replace("${PORT}", "0")) {
        Ok(())
    } else {
        Err(ApiError::invalid(format!(
            "mask request host is not valid: {text}"
        )))
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((literal, rest)) if literal.parse::<std::net::Ipv6Addr>().is_ok() => {
            match rest.strip_prefix(':') {
                Some(port) => ("literal", Some(port)),
                None if rest.is_empty() => ("literal", None),
                None => return false,
            }
        }
        Some(_) => return false,
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_ok = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    host_ok
        && port.is_none_or(|port| {
            (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit())
        })
}

fn https_ports(wanted: &[i64]) -> Result<Vec<u16>, ApiError> {
    if wanted.len() > MAX_HTTPS_PORTS {
        return Err(ApiError::invalid(format!(
            "HTTPS ports can have at most {MAX_HTTPS_PORTS} entries."
        )));
    }
    let mut seen = BTreeSet::new();
    wanted
        .iter()
        .map(|port| match u16::try_from(*port) {
            Err(_) | Ok(0) => Err(ApiError::invalid(format!(
                "HTTPS port must be between 1 and 65535: {port}"
            ))),
            Ok(ENVD_PORT) => Err(ApiError::invalid(format!(
                "HTTPS backend routing is not supported for reserved port {ENVD_PORT}"
            ))),
            Ok(port) if !seen.insert(port) => Err(ApiError::invalid(format!(
                "HTTPS port {port} is specified more than once."
            ))),
            Ok(port) => Ok(port),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_hosts() {
        for good in [
            "custom-host.example.com:${PORT}",
            "localhost",
            "a_b.example:80",
            "${PORT}.example",
            "[::1]:80",
            "X.Y",
        ] {
            assert!(check_mask_host(good).is_ok(), "{good}");
        }
        let check = |text: &str, want: &str| {
            let shown = format!("{:?}", check_mask_host(text).unwrap_err());
            assert!(shown.contains(want), "{text}: {shown}");
        };
        for bad in [
            "",
            ":80",
            "a:b:c",
            "a b",
            "a/b",
            "a@b",
            "host\r\nX: y",
            "a:99999999",
            "[x]:1",
            "a:",
            "${OTHER}",
        ] {
            check(bad, "mask request host is not valid: ");
        }
        check(
            "bücher.example:80",
            "mask request host 'bücher.example' is not ASCII",
        );
    }

    #[test]
    fn ports() {
        assert_eq!(https_ports(&[443, 1, 65535]).unwrap(), [443, 1, 65535]);
        let check = |ports: &[i64], want: &str| {
            let shown = format!("{:?}", https_ports(ports).unwrap_err());
            assert!(shown.contains(want), "{ports:?}: {shown}");
        };
        check(&[0], "HTTPS port must be between 1 and 65535: 0");
        check(&[-1], "HTTPS port must be between 1 and 65535: -1");
        check(&[65536], "HTTPS port must be between 1 and 65535: 65536");
        check(&[49983], "reserved port 49983");
        check(
            &[8443, 8443],
            "HTTPS port 8443 is specified more than once.",
        );
        check(&[1; 129], "HTTPS ports can have at most 128 entries.");
    }

    #[test]
    fn null_means_public() {
        let config = serde_json::from_str(r#"{"allowPublicTraffic":null}"#).unwrap();
        assert!(check_ingress(Some(&config)).unwrap().allow_public_traffic);
        let config = serde_json::from_str(r#"{"allowPublicTraffic":false}"#).unwrap();
        assert!(!check_ingress(Some(&config)).unwrap().allow_public_traffic);
    }
}

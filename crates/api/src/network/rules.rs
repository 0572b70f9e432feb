//! Header rules by domain: the limits and texts of the contract.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};
use soulbox_api_types::network::NetworkRule;
use soulbox_types::rules::{HeaderRule, MOST_DOMAINS, MOST_HEADERS, Part, parts};
use soulbox_types::{DomainPattern, SecretName};

use crate::error::ApiError;

const MAX_DOMAIN_LENGTH: usize = 128;
const MAX_RULES: usize = 1;
const MAX_HEADER_NAME: usize = 64;
const MAX_HEADER_VALUE: usize = 2048;
const MAX_SECRETS: usize = 32;
/// Headers that say where a request goes and where it ends.
const FRAMING: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// Reads the rules, or says what the contract forbids first. A domain without headers needs no rule.
pub(super) fn read(
    rules: &BTreeMap<String, Vec<NetworkRule>>,
) -> Result<Vec<HeaderRule>, ApiError> {
    if rules.len() > MOST_DOMAINS {
        return Err(ApiError::invalid(format!(
            "Network rules can have at most {MOST_DOMAINS} domains."
        )));
    }
    let mut keys = BTreeSet::new();
    let mut read = Vec::new();
    for (domain, rules) in rules {
        let pattern = pattern(domain)?;
        if !keys.insert(domain.to_lowercase()) {
            return Err(ApiError::invalid(
                "Network rule domain keys must be unique ignoring case.",
            ));
        }
        if rules.len() > MAX_RULES {
            return Err(ApiError::invalid(format!(
                "Domain \"{domain}\" can have at most {MAX_RULES} transform rule."
            )));
        }
        for rule in rules {
            let headers = headers(domain, rule)?;
            if !headers.is_empty() {
                read.push(HeaderRule {
                    domain: pattern.clone(),
                    headers,
                });
            }
        }
    }
    Ok(read)
}

/// The rules with domains in lower case, as they are shown.
pub(crate) fn in_lower_case(
    rules: BTreeMap<String, Vec<NetworkRule>>,
) -> BTreeMap<String, Vec<NetworkRule>> {
    let rules = rules.into_iter();
    rules
        .map(|(domain, rules)| (domain.to_lowercase(), rules))
        .collect()
}

fn pattern(domain: &str) -> Result<DomainPattern, ApiError> {
    check_domain(domain)?;
    DomainPattern::parse(domain).ok_or_else(|| {
        ApiError::invalid(format!(
            "Rule domain \"{domain}\" is not a valid domain name."
        ))
    })
}

fn check_domain(domain: &str) -> Result<(), ApiError> {
    if domain.is_empty() {
        return Err(ApiError::invalid("Rule domain must not be empty."));
    }
    if domain.len() > MAX_DOMAIN_LENGTH {
        let message = format!(
            "Rule domain \"{domain}\" exceeds maximum length of {MAX_DOMAIN_LENGTH} characters."
        );
        return Err(ApiError::invalid(message));
    }
    if domain
        .strip_prefix("*.")
        .unwrap_or(domain)
        .split('.')
        .all(is_dns_label)
    {
        Ok(())
    } else {
        Err(ApiError::invalid(format!(
            "Rule domain \"{domain}\" is not a valid domain name."
        )))
    }
}

fn is_dns_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Names in lower case, and templates.
fn headers(domain: &str, rule: &NetworkRule) -> Result<Vec<(String, String)>, ApiError> {
    let Some(headers) = rule.transform.as_ref().and_then(|t| t.headers.as_ref()) else {
        return Ok(Vec::new());
    };
    if headers.len() > MOST_HEADERS {
        let message =
            format!("Domain \"{domain}\" can have at most {MOST_HEADERS} headers per rule.");
        return Err(ApiError::invalid(message));
    }
    let mut secrets = BTreeSet::new();
    for (name, value) in headers {
        check_name(domain, name)?;
        check_value(domain, name, value)?;
        secrets.extend(named_secrets(value)?);
    }
    if secrets.len() > MAX_SECRETS {
        return Err(ApiError::invalid(format!(
            "Rule domain \"{domain}\" references more than {MAX_SECRETS} secrets."
        )));
    }
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()));
    Ok(pairs.collect())
}

fn check_name(domain: &str, name: &str) -> Result<(), ApiError> {
    let problem = if name.is_empty() {
        return Err(ApiError::invalid(format!(
            "Header name in rule for domain \"{domain}\" must not be empty."
        )));
    } else if HeaderName::from_bytes(name.as_bytes()).is_err() {
        "must contain only valid HTTP token characters.".to_owned()
    } else if FRAMING.contains(&name.to_lowercase().as_str()) {
        "belongs to the connection and cannot be set.".to_owned()
    } else if name.len() > MAX_HEADER_NAME {
        format!("exceeds maximum length of {MAX_HEADER_NAME} characters.")
    } else {
        return Ok(());
    };
    Err(ApiError::invalid(format!(
        "Header name \"{name}\" in rule for domain \"{domain}\" {problem}"
    )))
}

fn check_value(domain: &str, name: &str, value: &str) -> Result<(), ApiError> {
    let problem = if HeaderValue::from_bytes(value.as_bytes()).is_err() {
        "contains invalid characters.".to_owned()
    } else if value.len() > MAX_HEADER_VALUE {
        format!("exceeds maximum length of {MAX_HEADER_VALUE} characters.")
    } else {
        return Ok(());
    };
    Err(ApiError::invalid(format!(
        "Value for header \"{name}\" in rule for domain \"{domain}\" {problem}"
    )))
}

/// The secrets that a value names. Text that begins like a placeholder must be one.
fn named_secrets(value: &str) -> Result<Vec<SecretName>, ApiError> {
    let parts = parts(value).map_err(|_| {
        ApiError::invalid("Network transform header contains a malformed E2B placeholder.")
    })?;
    let mut secrets = Vec::new();
    for part in parts {
        match part {
            Part::Literal(_) => {}
            Part::Secret(name) => secrets.push(name),
            Part::Token(_) => {
                return Err(ApiError::invalid(
                    "Sandbox IAM workload tokens are not available for your team.",
                ));
            }
        }
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(rules: Value) -> Result<Vec<HeaderRule>, ApiError> {
        read(&serde_json::from_value(rules).unwrap())
    }

    fn with_headers(headers: &Value) -> Value {
        json!({"a.example": [{"transform": {"headers": headers}}]})
    }

    #[test]
    fn accepted() {
        for rules in [
            json!({}),
            json!({"*.example.com": [], "Example.com": [{}]}),
            with_headers(&json!({"X-Key": "Bearer ${e2b.secrets. My-Key }", "Z": "${x}"})),
        ] {
            assert!(check(rules.clone()).is_ok(), "{rules}");
        }
    }

    #[test]
    fn refused() {
        let refused = |rules: Value, want: &str| {
            let shown = format!("{:?}", check(rules.clone()).unwrap_err());
            assert!(shown.contains(want), "{rules}: {shown}");
        };
        let many: BTreeMap<String, Vec<()>> =
            (0..11).map(|i| (format!("d{i}.example"), vec![])).collect();
        refused(json!(many), "at most 10 domains");
        refused(json!({"": []}), "must not be empty");
        refused(
            json!({"a".repeat(129): []}),
            "exceeds maximum length of 128",
        );
        for domain in ["*", "a..b", "a b", "-a.b", "*.*.a", "a/b"] {
            refused(json!({domain: []}), "is not a valid domain name");
        }
        refused(json!({"A.b": [], "a.b": []}), "unique ignoring case");
        refused(json!({"a.b": [{}, {}]}), "at most 1 transform rule");
        let headers: BTreeMap<String, &str> = (0..21).map(|i| (format!("h{i}"), "v")).collect();
        refused(with_headers(&json!(headers)), "at most 20 headers");
        refused(with_headers(&json!({"": "v"})), "must not be empty");
        refused(
            with_headers(&json!({"a b": "v"})),
            "valid HTTP token characters",
        );
        refused(
            with_headers(&json!({"a".repeat(65): "v"})),
            "maximum length of 64",
        );
        refused(
            with_headers(&json!({"a": "x\ny"})),
            "contains invalid characters",
        );
        refused(
            with_headers(&json!({"a": "x".repeat(2049)})),
            "maximum length of 2048",
        );
        for value in [
            "${e2b.",
            "${e2b.secrets.}",
            "${e2b.other.x}",
            "${e2b.secrets.x",
            "${e2b.secrets.a b}",
        ] {
            refused(
                with_headers(&json!({"a": value})),
                "malformed E2B placeholder",
            );
        }
        for name in ["Host", "content-length", "Connection"] {
            refused(with_headers(&json!({name: "v"})), "cannot be set");
        }
        refused(
            with_headers(&json!({"a": "${e2b.identity.tokens.t}"})),
            "tokens are not available",
        );
        let secrets: String = (0..33).map(|i| format!("${{e2b.secrets.s{i}}}")).collect();
        refused(with_headers(&json!({"a": secrets})), "more than 32 secrets");
    }
}

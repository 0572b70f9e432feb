//! Whether a create may go ahead, and as what: a pure function of the request, the limits and the template's build.
//!
//! The order of the checks is the contract's, because a request can be wrong in several ways.
//! Accepted means enforced: a field that asks for what this version cannot do is refused here.

use std::collections::BTreeMap;
use std::time::Duration;

use soulbox_api_types::sandbox::{IamToken, NewSandbox, SandboxIam};

use crate::error::ApiError;
use crate::network::{Decided, Egress, Ingress, check_ingress};
use crate::state::TeamLimits;

const MAX_IAM_TOKENS: usize = 5;
/// A sandbox woken by traffic runs at least this long.
const MIN_AUTO_RESUME_SECONDS: u64 = 300;

/// The two versions of create differ only here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CreateVersion {
    /// `POST /sandboxes`.
    V1,
    /// `POST /v2/sandboxes`.
    V2,
}

impl CreateVersion {
    fn default_timeout(self) -> Duration {
        match self {
            Self::V1 => Duration::from_secs(15),
            Self::V2 => Duration::from_secs(300),
        }
    }

    /// The least timeout of the schema.
    pub(crate) fn minimum_timeout(self) -> i32 {
        match self {
            Self::V1 => 0,
            Self::V2 => 1,
        }
    }
}

/// What a create comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) timeout: Duration,
    pub(crate) auto_resume_timeout_seconds: i64,
    pub(crate) network: Decided,
    pub(crate) ingress: Ingress,
}

/// Checks what remains once the template is known.
pub(crate) fn check(
    body: &NewSandbox,
    version: CreateVersion,
    limits: &TeamLimits,
) -> Result<Admitted, ApiError> {
    let timeout = timeout(body.timeout, version.default_timeout(), limits)?;
    check_pause_policy(body)?;
    let tokens = tokens(body.iam.as_ref())?;
    let ingress = check_ingress(body.network.as_ref())?;
    let network = Egress::of_create(body.network.as_ref(), body.allow_internet_access)
        .decide()?
        .with_tokens(tokens);
    let auto_resume_seconds = timeout
        .min(limits.max_timeout)
        .as_secs()
        .max(MIN_AUTO_RESUME_SECONDS);
    Ok(Admitted {
        timeout,
        auto_resume_timeout_seconds: i64::try_from(auto_resume_seconds).unwrap_or(i64::MAX),
        network,
        ingress,
    })
}

/// What a fork and a resume mean by no timeout.
pub(crate) const SHORT_DEFAULT: Duration = Duration::from_secs(15);

/// The timeout that a request means: positive and within the team's limit.
pub(crate) fn timeout(
    given: Option<i32>,
    default: Duration,
    limits: &TeamLimits,
) -> Result<Duration, ApiError> {
    let Some(seconds) = given else {
        return Ok(default.min(limits.max_timeout));
    };
    match u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
    {
        None => Err(ApiError::invalid("Timeout must be greater than 0")),
        Some(timeout) => within_limit(timeout, limits),
    }
}

/// Refuses what is above the team's limit.
pub(crate) fn within_limit(timeout: Duration, limits: &TeamLimits) -> Result<Duration, ApiError> {
    if timeout > limits.max_timeout {
        let hours = hours(limits.max_timeout);
        return Err(ApiError::invalid(format!(
            "Timeout cannot be greater than {hours} hours"
        )));
    }
    Ok(timeout)
}

/// Whole hours without a fraction, others with two digits.
fn hours(limit: Duration) -> String {
    let seconds = limit.as_secs();
    if seconds.is_multiple_of(3600) {
        (seconds / 3600).to_string()
    } else {
        format!("{:.2}", limit.as_secs_f64() / 3600.0)
    }
}

fn check_pause_policy(body: &NewSandbox) -> Result<(), ApiError> {
    let auto_pause = body.auto_pause == Some(true);
    let auto_resume = body.auto_resume.is_some_and(|policy| policy.enabled);
    if body.auto_pause_memory == Some(false) {
        if !auto_pause {
            return Err(ApiError::invalid(
                "autoPauseMemory=false only applies when autoPause is true.",
            ));
        }
        if auto_resume {
            return Err(ApiError::invalid(
                "autoPauseMemory=false (filesystem-only auto-pause) cannot be combined with autoResume: a \
                 filesystem-only snapshot cannot be auto-resumed by traffic and must be resumed explicitly.",
            ));
        }
    }
    Ok(())
}

/// Tokens by name, and whom each is for.
fn tokens(iam: Option<&SandboxIam>) -> Result<BTreeMap<String, String>, ApiError> {
    let Some(tokens) = iam
        .and_then(|iam| iam.tokens.as_ref())
        .filter(|tokens| !tokens.is_empty())
    else {
        return Ok(BTreeMap::new());
    };
    if tokens.len() > MAX_IAM_TOKENS {
        let message = format!(
            "iam.tokens: too many tokens: {} (max {MAX_IAM_TOKENS})",
            tokens.len()
        );
        return Err(ApiError::invalid(message));
    }
    tokens
        .iter()
        .try_for_each(|(name, token)| check_iam_token(name, token))?;
    let pairs = tokens
        .iter()
        .map(|(name, token)| (name.clone(), token.audience.clone()));
    Ok(pairs.collect())
}

fn check_iam_token(name: &str, token: &IamToken) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::invalid(
            "iam.tokens: token name must not be empty",
        ));
    }
    if token.audience.is_empty() {
        return Err(ApiError::invalid(format!(
            "iam.tokens.{name}.audience: audience is required"
        )));
    }
    if token.token_type != "JWT-SVID" {
        return Err(ApiError::invalid(format!(
            "iam.tokens.{name}.tokenType: only \"JWT-SVID\" is supported"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: TeamLimits = TeamLimits {
        max_timeout: Duration::from_hours(24),
        max_concurrent: 10,
        max_vcpu: 8,
        max_memory_mib: 8192,
        max_concurrent_builds: 20,
    };

    fn admit(mut body: Value, version: CreateVersion) -> Result<Admitted, ApiError> {
        body["templateID"] = json!("base");
        check(&serde_json::from_value(body).unwrap(), version, &LIMITS)
    }

    #[test]
    fn timeouts() {
        let seconds = |body, version| admit(body, version).unwrap().timeout.as_secs();
        assert_eq!(seconds(json!({}), CreateVersion::V1), 15);
        assert_eq!(seconds(json!({}), CreateVersion::V2), 300);
        assert_eq!(seconds(json!({"timeout": 86400}), CreateVersion::V2), 86400);
        assert_eq!(
            admit(json!({"timeout": 9}), CreateVersion::V1)
                .unwrap()
                .auto_resume_timeout_seconds,
            300
        );
        assert_eq!(hours(Duration::from_secs(5400)), "1.50");
    }

    #[test]
    fn no_ops_are_accepted() {
        for body in [
            json!({"autoPause": false, "autoPauseMemory": true, "autoResume": {"enabled": false}}),
            json!({"secure": false, "mcp": {"x": {}}, "iam": {}, "volumeMounts": []}),
            json!({"iam": {"tokens": {}}, "mcp": null, "network": {}}),
            json!({"network": {"maskRequestHost": "x:${PORT}", "httpsPorts": [8443], "allowPublicTraffic": false}}),
        ] {
            assert!(admit(body.clone(), CreateVersion::V1).is_ok(), "{body}");
        }
    }

    #[test]
    fn refusals_in_order() {
        let refused = |body: Value, want: &str| {
            let error = admit(body.clone(), CreateVersion::V1).unwrap_err();
            let shown = format!("{error:?}");
            assert!(
                error.status() == 400 && shown.contains(want),
                "{body}: {shown}"
            );
        };
        let token = json!({"audience": "a", "tokenType": "JWT-SVID"});
        refused(
            json!({"timeout": 0, "autoPause": true}),
            "Timeout must be greater than 0",
        );
        refused(
            json!({"timeout": 86401}),
            "Timeout cannot be greater than 24 hours",
        );
        refused(
            json!({"autoPauseMemory": false}),
            "autoPauseMemory=false only applies",
        );
        refused(
            json!({"autoPauseMemory": false, "autoPause": true, "autoResume": {"enabled": true}}),
            "cannot be combined with autoResume",
        );
        refused(
            json!({"iam": {"tokens": {"": token}}}),
            "token name must not be empty",
        );
        refused(
            json!({"iam": {"tokens": {"t": {"audience": "", "tokenType": "x"}}}}),
            "iam.tokens.t.audience",
        );
        refused(
            json!({"iam": {"tokens": {"t": {"audience": "a", "tokenType": "x"}}}}),
            "iam.tokens.t.tokenType",
        );
        let six: serde_json::Map<String, Value> =
            (0..6).map(|i| (format!("t{i}"), token.clone())).collect();
        refused(
            json!({"iam": {"tokens": six}}),
            "too many tokens: 6 (max 5)",
        );
        refused(
            json!({"network": {"maskRequestHost": ""}, "volumeMounts": [{"name": "v", "path": "/v"}]}),
            "mask request",
        );
    }
}

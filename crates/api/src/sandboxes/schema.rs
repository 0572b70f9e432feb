//! What the schema says of bodies about sandboxes beyond their types.

use std::collections::BTreeMap;

use soulbox_api_types::network::SandboxNetworkUpdate;
use soulbox_api_types::sandbox::{
    ConnectSandbox, ForkSandbox, NewSandbox, NewSnapshot, PauseSandbox, ResumeSandbox,
    SandboxRefresh, SandboxTimeout,
};
use soulbox_api_types::url::NewPortUrl;

use crate::extract::Body;

/// Metadata comes back with every entry of every list. Not in the contract, which has no limit.
const MAX_METADATA_BYTES: usize = 1024 * 1024;
/// More than the kernel takes for a process (`execve`(2): arguments and environment share a quarter of the stack).
const MAX_ENV_BYTES: usize = 1024 * 1024;
const MAX_REFRESH_SECONDS: i64 = 3600;
const MAX_FORKS: i32 = 100;

impl Body for NewSandbox {
    fn check(&self) -> Result<(), String> {
        at_least("timeout", self.timeout, 0)?;
        if let Some(metadata) = &self.metadata {
            check_map("metadata", metadata, MAX_METADATA_BYTES)?;
        }
        if let Some(env_vars) = &self.env_vars {
            check_map("envVars", env_vars, MAX_ENV_BYTES)?;
            if env_vars
                .keys()
                .any(|name| name.is_empty() || name.contains('='))
            {
                return Err("envVars: a name must not be empty or contain '='".into());
            }
        }
        Ok(())
    }
}

impl Body for ConnectSandbox {
    fn check(&self) -> Result<(), String> {
        at_least("timeout", self.timeout, 0)
    }
}

impl Body for ResumeSandbox {
    fn check(&self) -> Result<(), String> {
        at_least("timeout", self.timeout, 0)
    }
}

impl Body for SandboxTimeout {
    fn check(&self) -> Result<(), String> {
        at_least("timeout", Some(self.timeout), 0)
    }
}

impl Body for SandboxRefresh {
    fn check(&self) -> Result<(), String> {
        match self.duration {
            Some(seconds) if !(0..=MAX_REFRESH_SECONDS).contains(&seconds) => Err(format!(
                "duration: number must be between 0 and {MAX_REFRESH_SECONDS}"
            )),
            _ => Ok(()),
        }
    }
}

impl Body for ForkSandbox {
    fn check(&self) -> Result<(), String> {
        at_least("timeout", self.timeout, 0)?;
        at_least("count", self.count, 1)?;
        match self.count {
            Some(count) if count > MAX_FORKS => {
                Err(format!("count: number must be at most {MAX_FORKS}"))
            }
            _ => Ok(()),
        }
    }
}

impl Body for PauseSandbox {}
impl Body for NewSnapshot {}
impl Body for SandboxNetworkUpdate {}
impl Body for NewPortUrl {}

/// A lower bound of the schema.
pub(crate) fn at_least(name: &str, value: Option<i32>, minimum: i32) -> Result<(), String> {
    match value {
        Some(value) if value < minimum => Err(format!("{name}: number must be at least {minimum}")),
        _ => Ok(()),
    }
}

/// Neither the database's texts nor a process's environment can hold a NUL byte.
fn check_map(name: &str, map: &BTreeMap<String, String>, max_bytes: usize) -> Result<(), String> {
    if map
        .iter()
        .any(|(key, value)| key.contains('\0') || value.contains('\0'))
    {
        return Err(format!(
            "{name}: keys and values must not contain NUL bytes"
        ));
    }
    let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > max_bytes {
        Err(format!("{name}: larger than {max_bytes} bytes in total"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let new = |json: &str| serde_json::from_str::<NewSandbox>(json).unwrap().check();
        assert!(
            new(r#"{"templateID":"b","timeout":0,"metadata":{"":""},"envVars":{"A":""}}"#).is_ok()
        );
        for bad in [
            r#"{"templateID":"b","timeout":-1}"#,
            r#"{"templateID":"b","metadata":{"a":"\u0000"}}"#,
            r#"{"templateID":"b","envVars":{"":"x"}}"#,
            r#"{"templateID":"b","envVars":{"A=B":"x"}}"#,
            r#"{"templateID":"b","envVars":{"A":"\u0000"}}"#,
        ] {
            assert!(new(bad).is_err(), "{bad}");
        }
        let big = format!(
            r#"{{"templateID":"b","metadata":{{"a":"{}"}}}}"#,
            "x".repeat(MAX_METADATA_BYTES)
        );
        assert!(new(&big).is_err());
        assert!(
            SandboxRefresh {
                duration: Some(3601)
            }
            .check()
            .is_err()
        );
        assert!(
            ForkSandbox {
                timeout: None,
                count: Some(101),
                memory: None,
            }
            .check()
            .is_err()
        );
        assert!(
            ForkSandbox {
                timeout: None,
                count: Some(0),
                memory: None,
            }
            .check()
            .is_err()
        );
    }
}

//! The outcome, for people and for programs.

use std::fmt;

use serde::Serialize;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, with a drawback.
    Warn,
    /// Sandboxes cannot run.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name, for programs.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// One command or action; absent when there is nothing to mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// One way of isolating a sandbox, and whether this machine has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// Its name in the product.
    pub name: &'static str,
    /// Whether sandboxes can be started with it now.
    pub available: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Version of the report's JSON form. New fields, checks and tiers may appear within one; nothing goes or changes its
/// meaning.
pub const SCHEMA: u32 = 1;

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The worst status of all checks.
    pub status: Status,
    /// In the order of their importance for starting.
    pub checks: Vec<Check>,
    /// Weakest isolation first.
    pub tiers: Vec<Tier>,
}

impl Report {
    pub(crate) fn new(checks: Vec<Check>, tiers: Vec<Tier>) -> Self {
        let worst = checks.iter().map(|check| check.status).max();
        Self {
            schema: SCHEMA,
            status: worst.unwrap_or(Status::Ok),
            checks,
            tiers,
        }
    }
}

impl Check {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            fix: None,
        }
    }

    pub(crate) fn warn(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Warn,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }

    pub(crate) fn fail(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status: Status::Fail,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// Plain lines, fit for a log as for a terminal.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        for check in &self.checks {
            writeln!(
                f,
                "{:4}  {:width$}  {}",
                check.status, check.name, check.found
            )?;
            if let Some(fix) = &check.fix {
                writeln!(f, "{:4}  {:width$}  FIX: {fix}", "", "")?;
            }
        }
        writeln!(f, "\nisolation tiers")?;
        for tier in &self.tiers {
            let available = if tier.available {
                "available"
            } else {
                "not available"
            };
            writeln!(f, "  {:9}  {available}: {}", tier.name, tier.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let checks = vec![
            Check::ok("root", "yes"),
            Check::warn("smt", "on", "turn it off"),
        ];
        let tier = Tier {
            name: "namespace",
            available: true,
            reason: "all there".into(),
        };
        Report::new(checks, vec![tier])
    }

    #[test]
    fn text() {
        let expected = "ok    root  yes\nwarn  smt   on\n            FIX: turn it off\n\nisolation tiers\n  namespace  available: all there\n";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn json() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(
            json,
            r#"{"schema":1,"status":"warn","checks":[{"name":"root","status":"ok","found":"yes"},{"name":"smt","status":"warn","found":"on","fix":"turn it off"}],"tiers":[{"name":"namespace","available":true,"reason":"all there"}]}"#
        );
    }

    #[test]
    fn the_worst_counts() {
        assert_eq!(report().status, Status::Warn);
        let failed = vec![Check::fail("root", "no", "sudo"), Check::ok("x", "y")];
        assert_eq!(Report::new(failed, Vec::new()).status, Status::Fail);
    }
}

//! What this machine can do for SoulBox, and what to mend.
//!
//! Facts are gathered thinly ([`gather`]); every judgement on them is a pure function ([`judge`]) with tests.
//! Separate from the driver because it must run, and say something useful, on machines where a driver cannot start.
//!
//! Probes leave nothing behind: they run in namespaces of their own, or in a temporary directory that is removed.

mod checks;
mod facts;
mod forwarding;
mod gather;
mod modules;
mod report;
mod tiers;
mod vulnerabilities;

pub use facts::{
    Asked, CgroupLayout, Facts, HttpsCertificate, Kvm, Life, Numbers, Port, Probe, RenewedBy,
};
pub use gather::gather;
pub use report::{Check, Report, SCHEMA, Status, Tier};

/// Judges a machine by its facts.
#[must_use]
pub fn judge(facts: &Facts) -> Report {
    let checks = checks::all(facts);
    let tiers = tiers::all(facts, &checks);
    Report::new(checks, tiers)
}

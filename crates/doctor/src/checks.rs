//! The judgements. Each is a pure function from facts to a check.

mod exposure;
mod https;
mod machine;
mod needs;

use crate::facts::Facts;
use crate::report::Check;

/// Every check: what sandboxes cannot do without, how many of them fit, what they could make use of.
pub(crate) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = needs::all(facts);
    checks.extend(machine::all(facts));
    checks.extend(https::all(facts));
    checks.extend(exposure::all(facts));
    checks
}

#[cfg(test)]
mod tests;

//! What must hold for every launch plan, whoever made it. The jail refuses a plan that breaks a rule.

use crate::{EXEC_RESTORER, LaunchPlan, LaunchStep, MOUNT_VOLUME};

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanViolation {
    /// A step that must be there once is missing or repeated.
    #[error("{step} must occur exactly once, found {count}")]
    Count {
        /// The step.
        step: &'static str,
        /// How often it occurs.
        count: usize,
    },
    /// Two steps are in the wrong order.
    #[error("{first} must come before {second}")]
    Order {
        /// Must come first.
        first: &'static str,
        /// Must come later.
        second: &'static str,
    },
    /// Something follows the last step.
    #[error("exec-envd or exec-restorer must be the last step")]
    NotLast,
    /// A step of the other kind of plan.
    #[error("{step} has no place in this plan")]
    Foreign {
        /// The step.
        step: &'static str,
    },
}

const ONCE: [&str; 11] = [
    "mount-overlay",
    "pivot-root",
    "show-envd",
    "clone-pid-1",
    "new-session",
    "mount-proc",
    "become-guest-root",
    "install-seccomp",
    "keep-capabilities",
    "new-time-namespace",
    "exec-envd",
];

/// The same of a plan that brings a sandbox back: the restorer makes the processes, and puts their filter, capabilities and
/// sessions back as they were.
const ONCE_OF_RESTORES: [&str; 8] = [
    "mount-overlay",
    "show-envd",
    "mount-whole-proc",
    "cover-preload",
    "pivot-root",
    "become-guest-root",
    "resume-time-namespace",
    EXEC_RESTORER,
];

/// What only one of the two kinds has.
const OF_LAUNCHES: [&str; 6] = [
    "clone-pid-1",
    "new-session",
    "mount-proc",
    "new-time-namespace",
    "install-seccomp",
    "exec-envd",
];
const OF_RESTORES: [&str; 4] = [
    "mount-whole-proc",
    "cover-preload",
    "resume-time-namespace",
    EXEC_RESTORER,
];

/// Pairs that must stand in this order. Mounts need the host's root user; the filter needs CAP_SYS_ADMIN in the
/// guest's user namespace; capabilities are dropped when nothing needs them any more.
const BEFORE: [(&str, &str); 28] = [
    ("hold-read-only", "pivot-root"),
    ("idmap-in-place", "mount-overlay"),
    ("attach-disk", "mount-overlay"),
    ("mount-overlay", "pivot-root"),
    ("mount-tmpfs", "pivot-root"),
    ("populate-dev", "pivot-root"),
    ("bind-read-only", "pivot-root"),
    ("populate-dev", "show-envd"),
    ("show-envd", "pivot-root"),
    // Descriptors come in this order, and nothing of a volume may lie under what the sandbox itself is given.
    ("attach-disk", MOUNT_VOLUME),
    ("bind-read-only", MOUNT_VOLUME),
    (MOUNT_VOLUME, "pivot-root"),
    ("pivot-root", "clone-pid-1"),
    ("clone-pid-1", "new-session"),
    ("clone-pid-1", "mount-proc"),
    ("mount-proc", "mask-proc"),
    ("mask-proc", "become-guest-root"),
    // The time namespace belongs to whoever's user namespace this is, and the filter refuses to make one.
    ("become-guest-root", "new-time-namespace"),
    ("new-time-namespace", "install-seccomp"),
    ("become-guest-root", "restrict-scope"),
    ("restrict-scope", "install-seccomp"),
    ("become-guest-root", "install-seccomp"),
    ("install-seccomp", "keep-capabilities"),
    ("hold-read-only", "cover-preload"),
    ("mount-whole-proc", "pivot-root"),
    ("cover-preload", "pivot-root"),
    ("pivot-root", "become-guest-root"),
    ("become-guest-root", "resume-time-namespace"),
];

/// Checks a plan against the rules above.
///
/// # Errors
/// The first rule that is broken.
pub fn validate(plan: &LaunchPlan) -> Result<(), PlanViolation> {
    let names: Vec<&'static str> = plan.steps.iter().map(LaunchStep::name).collect();
    let restores = names.last() == Some(&EXEC_RESTORER);
    let (once, foreign): (&[_], &[_]) = if restores {
        (&ONCE_OF_RESTORES, &OF_LAUNCHES)
    } else {
        (&ONCE, &OF_RESTORES)
    };
    if let Some(step) = names.iter().copied().find(|name| foreign.contains(name)) {
        return Err(PlanViolation::Foreign { step });
    }
    for step in once.iter().copied() {
        let count = names.iter().filter(|name| **name == step).count();
        if count != 1 {
            return Err(PlanViolation::Count { step, count });
        }
    }
    for (first, second) in BEFORE {
        let last_first = names.iter().rposition(|name| *name == first);
        let first_second = names.iter().position(|name| *name == second);
        if let (Some(a), Some(b)) = (last_first, first_second)
            && a > b
        {
            return Err(PlanViolation::Order { first, second });
        }
    }
    if restores || names.last() == Some(&"exec-envd") {
        Ok(())
    } else {
        Err(PlanViolation::NotLast)
    }
}

//! Which kinds of isolation this machine has, and why not the others.

use crate::facts::{Facts, Kvm};
use crate::report::{Check, Status, Tier};

/// Weakest first.
pub(crate) fn all(facts: &Facts, checks: &[Check]) -> Vec<Tier> {
    vec![namespace(checks), gvisor(facts), microvm(facts)]
}

fn namespace(checks: &[Check]) -> Tier {
    let failed: Vec<&str> = checks
        .iter()
        .filter(|check| check.status == Status::Fail)
        .map(|check| check.name)
        .collect();
    let reason = if failed.is_empty() {
        "shares the kernel with the host; see the README on what that means".into()
    } else {
        format!("needs {}", failed.join(", "))
    };
    Tier {
        name: "namespace",
        available: failed.is_empty(),
        reason,
    }
}

fn gvisor(facts: &Facts) -> Tier {
    let host = match &facts.runsc {
        Some(path) => format!("runsc is at {}", path.display()),
        None => "runsc is not installed".into(),
    };
    Tier {
        name: "gvisor",
        available: false,
        reason: format!("not built into this version of SoulBox; {host}"),
    }
}

fn microvm(facts: &Facts) -> Tier {
    let kvm = match facts.kvm {
        Kvm::Absent => "/dev/kvm is not there",
        Kvm::NoAccess => "/dev/kvm cannot be opened",
        Kvm::Usable => "/dev/kvm can be used",
    };
    let qemu = if facts.qemu.is_some() {
        "QEMU is installed"
    } else {
        "QEMU is not installed"
    };
    Tier {
        name: "microvm",
        available: false,
        reason: format!("not built into this version of SoulBox; {kvm}, {qemu}"),
    }
}

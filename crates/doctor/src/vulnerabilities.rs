//! Bugs of the kernel that let a program out of a sandbox like ours, or would without its filter, and which kernels have them.
//!
//! The versions are those of the kernel project's own records. They hold for kernels as released there. A distribution
//! mends its kernel without changing such numbers, or keeps an old number for a new kernel: then nobody can tell from
//! the number alone, and that is what is said.

use crate::modules::ModuleState;

/// A version: major, minor, patch.
pub(crate) type Version = (u32, u32, u32);

/// One bug.
#[derive(Debug)]
pub(crate) struct Vulnerability {
    /// Its number.
    pub(crate) id: &'static str,
    /// What it is.
    pub(crate) what: &'static str,
    /// First version that has it.
    pub(crate) since: Version,
    /// In each branch that was mended, the first version without it.
    pub(crate) fixed: &'static [Version],
    /// From here on no version has it.
    pub(crate) never_since: Version,
    /// It is reached through these modules only; empty when the list is not certain.
    pub(crate) modules: &'static [&'static str],
    /// What of a sandbox stands in its way.
    pub(crate) barrier: &'static str,
}

/// Newest last.
pub(crate) const ALL: &[Vulnerability] = &[
    Vulnerability {
        id: "CVE-2024-1086",
        what: "nf_tables, use after free",
        since: (3, 15, 0),
        fixed: &[(5, 15, 149), (6, 1, 76), (6, 6, 15), (6, 7, 3)],
        never_since: (6, 8, 0),
        // Sandboxes cannot be networked without it.
        modules: &[],
        barrier: "no netfilter sockets inside, no rights over the network, no nested user namespaces",
    },
    Vulnerability {
        id: "CVE-2026-31431",
        what: "Copy Fail: AF_ALG writes into the page cache",
        since: (4, 14, 0),
        fixed: &[
            (5, 15, 204),
            (6, 1, 170),
            (6, 6, 137),
            (6, 12, 85),
            (6, 18, 22),
            (6, 19, 12),
        ],
        never_since: (7, 0, 0),
        modules: &["algif_aead"],
        barrier: "no AF_ALG sockets inside",
    },
    Vulnerability {
        id: "CVE-2026-43284",
        what: "Dirty Frag: ESP writes into the page cache",
        since: (4, 11, 0),
        fixed: &[
            (5, 15, 206),
            (6, 1, 172),
            (6, 6, 138),
            (6, 12, 87),
            (6, 18, 28),
            (7, 0, 5),
        ],
        never_since: (7, 1, 0),
        modules: &["esp4", "esp6"],
        barrier: "no xfrm sockets inside, no rights over the network, no nested user namespaces",
    },
    Vulnerability {
        id: "CVE-2026-43500",
        what: "Dirty Frag: rxrpc writes into the page cache",
        since: (5, 3, 0),
        fixed: &[(6, 18, 29), (7, 0, 6)],
        never_since: (7, 1, 0),
        modules: &["rxrpc"],
        barrier: "no AF_RXRPC sockets and no add_key inside",
    },
    Vulnerability {
        id: "CVE-2026-46300",
        what: "Fragnesia: ESP writes into the page cache",
        since: (3, 9, 0),
        fixed: &[
            (5, 15, 208),
            (6, 1, 174),
            (6, 6, 141),
            (6, 12, 91),
            (6, 18, 33),
            (7, 0, 10),
        ],
        never_since: (7, 1, 0),
        modules: &["esp4", "esp6"],
        barrier: "no xfrm sockets inside, no rights over the network, no nested user namespaces",
    },
];

/// Which kernel runs, as far as can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) version: Version,
    /// A distribution's: what it has mended by itself does not show in the number.
    pub(crate) is_patched: bool,
}

/// What can be said of a bug in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not in this version.
    Absent,
    /// The code it lives in cannot get into this kernel.
    Unreachable,
    /// It is in this version.
    Present,
    /// It is in versions with this number; a distribution may have mended it.
    CannotTell,
}

impl Running {
    /// From `uname -r`, `uname -v`, and what Ubuntu's kernels say of themselves in `/proc/version_signature`.
    pub(crate) fn from_texts(release: &str, build: &str, signature: Option<&str>) -> Option<Self> {
        // `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)`: the release says only 6.1.0.
        let debian = build
            .split_once("Debian ")
            .and_then(|(_, rest)| parse(rest));
        // `Ubuntu 6.8.0-31.31-generic 6.8.1`: what it was made from.
        let ubuntu = signature.and_then(|text| parse(text.split_whitespace().nth(2)?));
        let named = parse(release)?;
        let is_plain = release.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        Some(Self {
            version: debian.or(ubuntu).unwrap_or(named),
            is_patched: !is_plain || debian.is_some() || ubuntu.is_some(),
        })
    }
}

/// The numbers at the start of a text; a patch that is not there is 0.
fn parse(text: &str) -> Option<Version> {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// Judges one bug. `state` tells where a module stands.
pub(crate) fn judge(
    bug: &Vulnerability,
    running: Running,
    state: impl Fn(&str) -> Option<ModuleState>,
) -> Verdict {
    let version = running.version;
    let branch = |v: &Version| (v.0, v.1) == (version.0, version.1);
    let mended = bug
        .fixed
        .iter()
        .any(|fixed| branch(fixed) && version >= *fixed);
    if version < bug.since || version >= bug.never_since || mended {
        return Verdict::Absent;
    }
    let is_out = |name: &&str| {
        matches!(
            state(name),
            Some(ModuleState::Absent | ModuleState::Blocked)
        )
    };
    if !bug.modules.is_empty() && bug.modules.iter().all(is_out) {
        Verdict::Unreachable
    } else if running.is_patched {
        Verdict::CannotTell
    } else {
        Verdict::Present
    }
}

/// The first mended version to go to from here: of the same branch, or of the next one.
pub(crate) fn way_out(bug: &Vulnerability, version: Version) -> Version {
    bug.fixed
        .iter()
        .copied()
        .find(|fixed| *fixed > version)
        .unwrap_or(bug.never_since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(version: Version) -> Running {
        Running {
            version,
            is_patched: false,
        }
    }

    fn copy_fail() -> &'static Vulnerability {
        ALL.iter().find(|bug| bug.id == "CVE-2026-31431").unwrap()
    }

    #[test]
    fn who_runs() {
        let running =
            |release, build, signature| Running::from_texts(release, build, signature).unwrap();
        assert_eq!(running("6.18.5", "#1 SMP", None), plain((6, 18, 5)));
        let debian = running(
            "6.1.0-56-amd64",
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
            None,
        );
        assert_eq!((debian.version, debian.is_patched), ((6, 1, 192), true));
        let ubuntu = running(
            "6.8.0-31-generic",
            "#31-Ubuntu SMP",
            Some("Ubuntu 6.8.0-31.31-generic 6.8.1"),
        );
        assert_eq!((ubuntu.version, ubuntu.is_patched), ((6, 8, 1), true));
        let own = running("6.18.44-mine", "#1 SMP", None);
        assert_eq!((own.version, own.is_patched), ((6, 18, 44), true));
        assert_eq!(Running::from_texts("strange", "", None), None);
    }

    #[test]
    fn ranges() {
        let judged = |version| judge(copy_fail(), plain(version), |_| Some(ModuleState::Loadable));
        for (version, verdict) in [
            ((4, 13, 9), Verdict::Absent),
            ((6, 1, 169), Verdict::Present),
            ((6, 1, 170), Verdict::Absent),
            // A branch that nobody mends any more.
            ((6, 13, 12), Verdict::Present),
            ((6, 19, 11), Verdict::Present),
            ((7, 0, 0), Verdict::Absent),
            ((8, 1, 2), Verdict::Absent),
        ] {
            assert_eq!(judged(version), verdict, "{version:?}");
        }
    }

    #[test]
    fn what_cannot_be_loaded_cannot_be_reached() {
        let with = |state| judge(copy_fail(), plain((6, 1, 0)), |_| Some(state));
        assert_eq!(with(ModuleState::Blocked), Verdict::Unreachable);
        assert_eq!(with(ModuleState::Absent), Verdict::Unreachable);
        assert_eq!(with(ModuleState::Loaded), Verdict::Present);
        assert_eq!(with(ModuleState::BuiltIn), Verdict::Present);
        // Not looked at is not absent.
        assert_eq!(
            judge(copy_fail(), plain((6, 1, 0)), |_| None),
            Verdict::Present
        );
    }

    #[test]
    fn of_a_distribution_nobody_can_tell() {
        let distribution = Running {
            version: (6, 8, 1),
            is_patched: true,
        };
        assert_eq!(
            judge(copy_fail(), distribution, |_| None),
            Verdict::CannotTell
        );
    }

    #[test]
    fn the_way_out_is_near() {
        assert_eq!(way_out(copy_fail(), (6, 1, 3)), (6, 1, 170));
        assert_eq!(way_out(copy_fail(), (6, 13, 2)), (6, 18, 22));
        assert_eq!(way_out(copy_fail(), (6, 19, 99)), (7, 0, 0));
    }

    #[test]
    fn the_table_is_in_order_and_names_known_modules() {
        for bug in ALL {
            assert!(bug.fixed.is_sorted(), "{}", bug.id);
            assert!(
                bug.fixed
                    .iter()
                    .all(|v| bug.since < *v && *v < bug.never_since),
                "{}",
                bug.id
            );
            assert!(
                bug.modules
                    .iter()
                    .all(|name| crate::modules::RISKY.contains(name)),
                "{}",
                bug.id
            );
        }
    }
}

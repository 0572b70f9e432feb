//! What a long operation tells while it runs, and the reading of apt's and dpkg's output for it.

/// Where a long operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Another process does the same work; this one waits for it.
    Waiting,
    /// Looking at the host: tools, keys, mirror, room.
    Checking,
    /// Fetching what the build needs besides Debian packages.
    Fetching,
    /// Debian packages are downloaded and installed.
    Building,
    /// A tree is taken over from another data directory.
    Importing,
    /// The tree is cleaned and examined.
    Finishing,
    /// The tree is read and hashed.
    Hashing,
    /// The layer and its manifest get their names.
    Publishing,
    /// Done, or nothing was to be done.
    Ready,
}

impl Phase {
    /// One word for a progress line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Checking => "checking",
            Self::Fetching => "fetching",
            Self::Building => "building",
            Self::Importing => "importing",
            Self::Finishing => "finishing",
            Self::Hashing => "hashing",
            Self::Publishing => "publishing",
            Self::Ready => "ready",
        }
    }
}

/// One step forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// How far the phase is, where that can be known.
    pub percent: Option<u8>,
    /// A line for a person.
    pub line: String,
}

impl Progress {
    /// A line without a number.
    pub(crate) fn line(phase: Phase, line: impl Into<String>) -> Self {
        Self {
            phase,
            percent: None,
            line: line.into(),
        }
    }
}

/// Turns the output of a Debian bootstrap into percent.
///
/// Packages come in two batches (essential ones, then the rest); each is announced by `N newly installed`
/// and then seen three times: downloaded, unpacked, set up.
#[derive(Debug, Default)]
pub(crate) struct BuildMeter {
    batches: u32,
    batch_packages: u32,
    fetched: u32,
    unpacked: u32,
    set_up: u32,
    percent: u8,
}

/// Share of the whole that is done when the first batch is.
const FIRST_BATCH_PERCENT: u32 = 30;
/// The rest of a hundred belongs to the last hook.
const PACKAGES_PERCENT: u32 = 97;

impl BuildMeter {
    /// Takes in one line; gives it back with the percentage when a person would care.
    pub(crate) fn line(&mut self, line: &str) -> Option<Progress> {
        let shown = if let Some(count) = newly_installed(line) {
            self.batches += 1;
            self.batch_packages = count;
            (self.fetched, self.unpacked, self.set_up) = (0, 0, 0);
            Some(format!("{count} packages to install"))
        } else if line.starts_with("Get:") {
            self.fetched += 1;
            Some(short(line))
        } else if line.starts_with("Unpacking ") {
            self.unpacked += 1;
            Some(short(line))
        } else if line.starts_with("Setting up ") {
            self.set_up += 1;
            Some(short(line))
        } else {
            line.strip_prefix("I: ").map(short)
        };
        self.percent = self.percent.max(self.estimate());
        shown.map(|line| Progress {
            phase: Phase::Building,
            percent: Some(self.percent),
            line,
        })
    }

    fn estimate(&self) -> u8 {
        let seen = [self.fetched, self.unpacked, self.set_up]
            .map(|n| n.min(self.batch_packages))
            .iter()
            .sum::<u32>();
        let (from, to) = match self.batches {
            0 => (0, 0),
            1 => (0, FIRST_BATCH_PERCENT),
            _ => (FIRST_BATCH_PERCENT, PACKAGES_PERCENT),
        };
        let done = (to - from) * seen / (3 * self.batch_packages).max(1);
        u8::try_from(from + done).unwrap_or(100)
    }
}

fn newly_installed(line: &str) -> Option<u32> {
    let (before, _) = line.split_once(" newly installed")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// Terminals are 80 wide and paths in these lines are not what a person looks for.
fn short(line: &str) -> String {
    line.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_follows_the_batches() {
        let mut meter = BuildMeter::default();
        let mut percent = |line: &str| meter.line(line).and_then(|p| p.percent);
        assert_eq!(percent("I: running apt-get update..."), Some(0));
        assert_eq!(
            percent("0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded."),
            Some(0)
        );
        assert_eq!(
            percent("Get:14 http://mirror trixie/main amd64 libgmp10 [560 kB]"),
            Some(5)
        );
        assert_eq!(percent("Selecting previously unselected package x."), None);
        for line in ["Get:15 x", "Unpacking a", "Unpacking b", "Setting up a"] {
            percent(line);
        }
        assert_eq!(percent("Setting up b (1.0) ..."), Some(30));
        // More lines than packages (updates of lists are fetched, too) never run over.
        assert_eq!(percent("Setting up c (1.0) ..."), Some(30));
        assert_eq!(
            percent("0 upgraded, 100 newly installed, 0 to remove"),
            Some(30)
        );
        assert_eq!(percent("Unpacking c"), Some(30));
        for _ in 0..100 {
            percent("Setting up d");
        }
        assert_eq!(percent("Unpacking d"), Some(52));
    }

    #[test]
    fn percent_never_goes_back() {
        let mut meter = BuildMeter::default();
        let mut last = 0;
        for line in [
            "1 newly installed",
            "Unpacking a",
            "Setting up a",
            "9 newly installed",
            "3 newly installed",
            "Get:1 x",
        ] {
            let now = meter.line(line).and_then(|p| p.percent).unwrap();
            assert!(now >= last, "{line}");
            last = now;
        }
    }
}

//! Wall-clock time in whole microseconds, the finest step that every client keeps.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The present, by the machine's clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// This time plus a duration; stays at the far end instead of wrapping.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whole milliseconds since 1970.
    #[must_use]
    pub fn unix_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Reads an RFC 3339 time; digits beyond microseconds are dropped.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .map(|t| Self(t.as_microsecond()))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = time
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros();
        Self(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// RFC 3339 in UTC with exactly six digits, for example `2026-01-02T03:04:05.000678Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.6}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_digits_and_back() {
        let t = Timestamp(1_735_689_600_000_678);
        assert_eq!(t.to_string(), "2025-01-01T00:00:00.000678Z");
        assert_eq!(Timestamp::parse_rfc3339(&t.to_string()), Some(t));
        assert_eq!(
            Timestamp::parse_rfc3339("2025-01-01T00:00:00.000678999+00:00"),
            Some(t)
        );
    }

    #[test]
    fn arithmetic_does_not_wrap() {
        assert_eq!(
            Timestamp(i64::MAX).plus(Duration::from_secs(9)),
            Timestamp(i64::MAX)
        );
        assert_eq!(Timestamp(0).since(Timestamp(5)), Duration::ZERO);
    }
}

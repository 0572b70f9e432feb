//! When a sandbox ends: plain arithmetic on times, with the ceiling that no change may pass.

use std::time::Duration;

use soulbox_types::Timestamp;

/// How the end time is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndChange {
    /// To this long from now, sooner or later than it was.
    Set(Duration),
    /// To at least this long from now; never sooner than it was.
    AtLeast(Duration),
}

/// The sandbox has run as long as any sandbox may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxLength;

/// The run of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) started_at: Timestamp,
    pub(crate) end_at: Timestamp,
}

/// The new end time. Exactly the old one when nothing has to change.
pub(crate) fn changed(
    run: Run,
    change: EndChange,
    now: Timestamp,
    max: Duration,
) -> Result<Timestamp, MaxLength> {
    let ceiling = run.started_at.plus(max);
    if now >= ceiling {
        return Err(MaxLength);
    }
    Ok(match change {
        EndChange::Set(timeout) => now.plus(timeout).min(ceiling),
        EndChange::AtLeast(timeout) => now.plus(timeout).min(ceiling).max(run.end_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes() {
        let run = Run {
            started_at: Timestamp(1_000_000),
            end_at: Timestamp(301_000_001),
        };
        let max = Duration::from_secs(3600);
        let check = |change: EndChange, now: i64, want: Result<i64, MaxLength>| {
            assert_eq!(
                changed(run, change, Timestamp(now), max),
                want.map(Timestamp),
                "{change:?} at {now}"
            );
        };
        let seconds = Duration::from_secs;
        check(EndChange::Set(seconds(10)), 2_000_000, Ok(12_000_000));
        check(EndChange::Set(Duration::ZERO), 2_000_000, Ok(2_000_000));
        check(EndChange::Set(seconds(7200)), 2_000_000, Ok(3_601_000_000));
        check(EndChange::Set(Duration::MAX), 2_000_000, Ok(3_601_000_000));
        check(EndChange::AtLeast(seconds(10)), 2_000_000, Ok(301_000_001));
        check(EndChange::AtLeast(seconds(300)), 2_000_000, Ok(302_000_000));
        check(
            EndChange::AtLeast(seconds(7200)),
            2_000_000,
            Ok(3_601_000_000),
        );
        check(EndChange::Set(seconds(1)), 3_601_000_000, Err(MaxLength));
        check(
            EndChange::AtLeast(seconds(1)),
            3_601_000_000,
            Err(MaxLength),
        );
    }

    #[test]
    fn a_ceiling_that_was_lowered_takes_nothing_back() {
        let run = Run {
            started_at: Timestamp(0),
            end_at: Timestamp(100_000_000),
        };
        let end = changed(
            run,
            EndChange::AtLeast(Duration::from_secs(50)),
            Timestamp(1),
            Duration::from_secs(10),
        );
        assert_eq!(end, Ok(Timestamp(100_000_000)));
    }
}

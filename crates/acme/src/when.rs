//! When the next certificate is asked for: a pure function of the clock, the certificate that is held, and what has failed.

use std::time::{Duration, SystemTime};

use crate::validity::Validity;

/// Nothing is waited for longer than this before the clock is looked at again: it may have been set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A certificate is renewed when this part of its life is left.
const LAST_PART: u32 = 3;
/// How long is waited after the first failure. Each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The longest wait: an authority that lets five attempts fail in an hour is not asked in vain all day.
const MOST_WAIT: Duration = Duration::from_secs(6 * 3600);
/// The shortest wait, whatever the life of the certificate.
const LEAST_WAIT: Duration = Duration::from_secs(10);
/// Of a certificate's life, no wait is longer than this part: there are several attempts before its end.
const ATTEMPTS_IN_A_LIFE: u32 = 12;

/// What has failed since the last success.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    /// How often in a row, at least once.
    pub failures: u32,
    /// How long ago the last one was, by a clock that nobody sets.
    pub ago: Duration,
    /// How long the authority has told us to stay away, if it has.
    pub told: Option<Duration>,
    /// A random number from 0 to 1, the same until the next failure: not everybody comes back at once.
    pub jitter: f64,
}

/// How long to wait before a certificate is asked for. Zero: now. At most a minute: then this is asked again.
#[must_use]
pub fn wait(now: SystemTime, held: Option<Validity>, trouble: Option<Trouble>) -> Duration {
    let due = held.map_or(Duration::ZERO, |held| until_due(now, held));
    let again = trouble.map_or(Duration::ZERO, |trouble| until_again(held, trouble));
    due.max(again).min(LONGEST_WAIT)
}

/// Whether it is time for the next one.
#[must_use]
pub fn is_due(now: SystemTime, held: Validity) -> bool {
    until_due(now, held).is_zero()
}

fn until_due(now: SystemTime, held: Validity) -> Duration {
    let due = held.not_after.checked_sub(held.life() / LAST_PART);
    due.and_then(|due| due.duration_since(now).ok())
        .unwrap_or_default()
}

fn until_again(held: Option<Validity>, trouble: Trouble) -> Duration {
    let doubled = 2_u32.saturating_pow(trouble.failures.saturating_sub(1));
    let most = match held {
        Some(held) => (held.life() / ATTEMPTS_IN_A_LIFE).clamp(LEAST_WAIT, MOST_WAIT),
        None => MOST_WAIT,
    };
    let backoff = FIRST_WAIT.saturating_mul(doubled).min(most);
    let backoff = backoff.mul_f64(0.75 + 0.5 * trouble.jitter.clamp(0.0, 1.0));
    // An authority that says "next year" would have the certificate run out.
    let told = trouble.told.unwrap_or_default().min(MOST_WAIT * 4);
    backoff.max(told).saturating_sub(trouble.ago)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn held(from: u64, to: u64) -> Option<Validity> {
        Some(Validity {
            not_before: at(from),
            not_after: at(to),
        })
    }

    fn failed(failures: u32) -> Trouble {
        Trouble {
            failures,
            ago: Duration::ZERO,
            told: None,
            jitter: 0.5,
        }
    }

    #[test]
    fn without_a_certificate_at_once() {
        assert_eq!(wait(at(0), None, None), Duration::ZERO);
    }

    #[test]
    fn with_a_third_of_its_life_left() {
        let ninety = held(0, 90 * DAY);
        assert_eq!(wait(at(60 * DAY), ninety, None), Duration::ZERO);
        assert_eq!(wait(at(60 * DAY - 7), ninety, None), Duration::from_secs(7));
        assert_eq!(wait(at(DAY), ninety, None), LONGEST_WAIT);
        assert_eq!(wait(at(100 * DAY), ninety, None), Duration::ZERO, "expired");
    }

    #[test]
    fn failures_are_waited_for_longer_and_longer() {
        let seconds = |failures, held| until_again(held, failed(failures)).as_secs();
        let without: Vec<u64> = [1, 2, 3, 9, 10, 1000].map(|n| seconds(n, None)).into();
        assert_eq!(without, [60, 120, 240, 15_360, 21_600, 21_600]);
        assert_eq!(seconds(1000, held(0, 90 * DAY)), 21_600);
        assert_eq!(seconds(1000, held(0, DAY)), 7200, "a short life");
        assert_eq!(seconds(1000, held(0, 30)), 10, "a very short life");
    }

    #[test]
    fn what_the_authority_says_counts_when_it_is_more() {
        let told = |seconds| Trouble {
            told: Some(Duration::from_secs(seconds)),
            ..failed(1)
        };
        assert_eq!(until_again(None, told(5)).as_secs(), 60);
        assert_eq!(until_again(None, told(7200)).as_secs(), 7200);
        assert_eq!(until_again(None, told(u64::MAX)).as_secs(), DAY);
        let later = Trouble {
            ago: Duration::from_secs(7195),
            ..told(7200)
        };
        assert_eq!(wait(at(0), None, Some(later)), Duration::from_secs(5));
    }

    #[test]
    fn jitter_is_a_quarter_each_way() {
        let with = |jitter| {
            until_again(
                None,
                Trouble {
                    jitter,
                    ..failed(1)
                },
            )
            .as_secs()
        };
        assert_eq!([with(0.0), with(1.0), with(9.0)], [45, 75, 75]);
    }

    proptest! {
        #[test]
        fn any_clock_will_do(now: u64, from: u64, to: u64, failures: u32, ago: u64, jitter: f64) {
            let (now, from, to) = (now >> 4, from >> 4, to >> 4);
            let trouble = Trouble { ago: Duration::from_secs(ago), jitter, ..failed(failures) };
            let quiet = wait(at(now), held(from, to), None);
            prop_assert!(quiet <= LONGEST_WAIT);
            prop_assert!(wait(at(now), held(from, to), Some(trouble)) >= quiet);
            prop_assert_eq!(now >= to && quiet > Duration::ZERO, false, "an expired one is due");
        }
    }
}

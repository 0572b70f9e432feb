//! When a delivery that has failed is tried again.

use std::time::Duration;

/// How often a delivery is tried.
pub const TRIES: u32 = 8;
/// Each time, this much longer is waited: 3, 9, 27, 81, 243, 729 and 2187 seconds, about an hour in all.
const FACTOR: u32 = 3;

/// How long to wait after so many tries have failed; none when that was the last one. `first` is the wait after the first
/// one, and `dice` (any number) spreads those that have failed together over a half of the wait, around it.
#[must_use]
pub fn wait_after(tries: u32, first: Duration, dice: u16) -> Option<Duration> {
    if tries >= TRIES {
        return None;
    }
    let wait = first.saturating_mul(FACTOR.saturating_pow(tries.saturating_sub(1)));
    let spread = 0.75 + f64::from(dice) / f64::from(u16::MAX) / 2.0;
    Some(wait.mul_f64(spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_tries_in_about_an_hour() {
        let first = Duration::from_secs(3);
        let all = |dice: u16| -> Vec<u64> {
            let waits = (1..).map_while(|tries| wait_after(tries, first, dice));
            waits.map(|wait| wait.as_secs()).collect()
        };
        assert_eq!(all(u16::MAX / 2), [2, 8, 26, 80, 242, 728, 2186]);
        let (least, most): (u64, u64) = (all(0).iter().sum(), all(u16::MAX).iter().sum());
        assert_eq!((least, most), (2456, 4095));
        assert_eq!(all(0).len() + 1, usize::try_from(TRIES).unwrap());
    }
}

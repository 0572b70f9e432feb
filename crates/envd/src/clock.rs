//! Setting the clock of a sandbox that has one of its own.
//!
//! Only such sandboxes can: where the kernel is shared, the clock is the host's, right already, and the attempt is
//! refused. After a resume from disk it is what makes signed URLs and TLS work again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// Nanoseconds that the clock may lag behind or lead before it is set: setting it back disturbs more.
const LAG_MAX: i128 = 50_000_000;
const LEAD_MAX: i128 = 5_000_000_000;

/// Sets the clock if it is off.
pub(crate) fn correct(right_nanoseconds: i128) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
    if !is_off(now, right_nanoseconds) {
        return;
    }
    let seconds = i64::try_from(right_nanoseconds.div_euclid(1_000_000_000));
    let nanoseconds = i64::try_from(right_nanoseconds.rem_euclid(1_000_000_000));
    if let (Ok(tv_sec), Ok(tv_nsec)) = (seconds, nanoseconds) {
        // Refused where the clock is the host's.
        let _ = clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec });
    }
}

fn is_off(now: i128, right: i128) -> bool {
    right - now > LAG_MAX || now - right > LEAD_MAX
}

#[cfg(test)]
mod tests {
    use super::is_off;

    #[test]
    fn small_differences_are_left_alone() {
        let second = 1_000_000_000;
        assert!(!is_off(0, 0) && !is_off(0, second / 20) && !is_off(5 * second, 0));
        assert!(is_off(0, second / 20 + 1) && is_off(5 * second + 1, 0));
    }
}

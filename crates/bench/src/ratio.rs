//! How many times as long one thing takes as another, and how sure that is. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::stats::{Samples, millis, percentile};

/// How often both sets are drawn anew.
const DRAWS: usize = 1000;
/// The share of draws, in percent, that lies outside of the interval on each side, times ten.
const OUTSIDE_PER_MILLE: usize = 25;

/// A ratio of two percentiles, and the interval that holds 95 of 100 of the ratios of sets drawn anew.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Of what was measured.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// The median of the one over the median of the other. None when either has nothing.
#[must_use]
pub fn of_medians(ours: &Samples, theirs: &Samples) -> Option<Interval> {
    of_percentiles((ours, 50), (theirs, 50))
}

/// A percentile of the one over a percentile of the other, by bootstrap: both are drawn anew, with replacement.
#[must_use]
pub fn of_percentiles(ours: (&Samples, usize), theirs: (&Samples, usize)) -> Option<Interval> {
    let value = over(&ours.0.sorted(), ours.1, &theirs.0.sorted(), theirs.1)?;
    // The same samples give the same interval: the draws are the same each time.
    let mut chance = Chance(0x2545_f491_4f6c_dd1d);
    let mut ratios: Vec<f64> = (0..DRAWS)
        .filter_map(|_| {
            let (above, below) = (chance.draw(ours.0.times()), chance.draw(theirs.0.times()));
            over(&above, ours.1, &below, theirs.1)
        })
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let outside = ratios.len() * OUTSIDE_PER_MILLE / 1000;
    Some(Interval {
        value,
        low: *ratios.get(outside)?,
        high: *ratios.get(ratios.len().checked_sub(outside + 1)?)?,
    })
}

fn over(above: &[Duration], at: usize, below: &[Duration], of: usize) -> Option<f64> {
    let (above, below) = (millis(percentile(above, at)), millis(percentile(below, of)));
    (above > 0.0 && below > 0.0).then(|| above / below)
}

/// Marsaglia's xorshift: good enough to draw samples.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// As many as there are, each any of them; sorted.
    fn draw(&mut self, times: &[Duration]) -> Vec<Duration> {
        let Ok(count @ 1..) = u64::try_from(times.len()) else {
            return Vec::new();
        };
        let mut drawn: Vec<Duration> = times
            .iter()
            .filter_map(|_| times.get(usize::try_from(self.next() % count).ok()?))
            .copied()
            .collect();
        drawn.sort_unstable();
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ms: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::new();
        ms.into_iter()
            .for_each(|ms| samples.add(Duration::from_millis(ms)));
        samples
    }

    #[test]
    fn what_never_differs_is_certain() {
        let ratio = of_medians(&samples([6; 20]), &samples([4; 20])).unwrap();
        for end in [ratio.value, ratio.low, ratio.high] {
            assert!((end - 1.5).abs() < 1e-9, "{ratio:?}");
        }
    }

    #[test]
    fn the_interval_holds_the_ratio_and_narrows_with_more() {
        let wide = of_medians(&samples(90..=110), &samples(45..=55)).unwrap();
        let many = |range: std::ops::RangeInclusive<u64>| {
            samples((0..40).flat_map(move |_| range.clone()))
        };
        let narrow = of_medians(&many(90..=110), &many(45..=55)).unwrap();
        for ratio in [wide, narrow] {
            assert!(ratio.low <= ratio.value && ratio.value <= ratio.high);
            assert!((ratio.value - 2.0).abs() < 1e-9);
        }
        assert!(narrow.high - narrow.low < (wide.high - wide.low) / 2.0);
    }

    #[test]
    fn percentiles_of_one_set() {
        let all = samples(1..=100);
        let ratio = of_percentiles((&all, 99), (&all, 50)).unwrap();
        assert!((ratio.value - 1.98).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_ratio() {
        assert_eq!(of_medians(&Samples::new(), &samples([1])), None);
        assert_eq!(of_medians(&samples([1]), &Samples::new()), None);
    }
}

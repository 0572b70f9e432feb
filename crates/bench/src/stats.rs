//! From single times to a distribution. Pure.

use std::time::Duration;

use serde::Serialize;

/// Times of one thing, and how often it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    times: Vec<Duration>,
    failures: u64,
    first_failure: Option<String>,
}

impl Samples {
    /// Nothing measured yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one that worked.
    pub fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    /// Counts one that failed, and keeps the first reason.
    pub fn fail(&mut self, reason: &dyn std::fmt::Display) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| reason.to_string());
    }

    /// Counts one of either.
    pub fn record<E: std::fmt::Display>(&mut self, outcome: Result<Duration, E>) {
        match outcome {
            Ok(time) => self.add(time),
            Err(error) => self.fail(&error),
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: Self) {
        self.times.extend(other.times);
        self.failures += other.failures;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
    }

    /// The same with every time multiplied.
    #[must_use]
    pub fn times_as_long(&self, factor: f64) -> Self {
        Self {
            times: self.times.iter().map(|time| time.mul_f64(factor)).collect(),
            ..self.clone()
        }
    }

    /// How many worked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether none worked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Those that worked, in the order they were counted.
    #[must_use]
    pub fn times(&self) -> &[Duration] {
        &self.times
    }

    /// Those that worked, from the shortest to the longest.
    #[must_use]
    pub fn sorted(&self) -> Vec<Duration> {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        sorted
    }

    /// The distribution of those that worked.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        let sorted = self.sorted();
        let at = |percent| millis(percentile(&sorted, percent));
        Distribution {
            count: sorted.len(),
            failures: self.failures,
            first_failure: self.first_failure.clone(),
            p50_ms: at(50),
            p95_ms: at(95),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

/// What is said about a set of times.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// How many worked.
    pub count: usize,
    /// How many did not.
    pub failures: u64,
    /// Why the first of them did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// Half were at most this long, in milliseconds.
    pub p50_ms: f64,
    /// 95 of 100 were at most this long.
    pub p95_ms: f64,
    /// 99 of 100 were at most this long.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The smallest value that `percent` of all are not above (nearest rank: always one that was measured).
/// Zero for an empty set. `sorted` must be sorted.
#[must_use]
pub fn percentile<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent.min(100)).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// A time in milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), 50);
        assert_eq!(percentile(&hundred, 95), 95);
        assert_eq!(percentile(&hundred, 100), 100);
        assert_eq!(percentile(&hundred, 0), 1);
        // The textbook example.
        assert_eq!(percentile(&[15, 20, 35, 40, 50], 40), 20);
        assert_eq!(percentile(&[15, 20, 35, 40, 50], 50), 35);
    }

    #[test]
    fn few_values() {
        assert_eq!(percentile::<u32>(&[], 50), 0);
        assert_eq!(percentile(&[7], 1), 7);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile(&[1, 2], 50), 1);
        assert_eq!(percentile(&[1, 2], 51), 2);
        assert_eq!(percentile(&[1, 2, 3], 99), 3);
    }

    #[test]
    fn failures_are_counted_not_averaged() {
        let mut samples = Samples::new();
        for ms in [30, 10, 20] {
            samples.record::<&str>(Ok(Duration::from_millis(ms)));
        }
        samples.record(Err("refused"));
        let mut more = Samples::new();
        more.fail(&"later");
        samples.merge(more);
        let d = samples.distribution();
        assert_eq!(
            (d.count, d.failures, d.first_failure.as_deref()),
            (3, 2, Some("refused"))
        );
        assert!((d.p50_ms - 20.0).abs() < 1e-9 && (d.max_ms - 30.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_measured() {
        let d = Samples::new().distribution();
        assert_eq!((d.count, d.failures), (0, 0));
        assert!(d.max_ms.abs() < f64::EPSILON);
    }
}

//! What a measurement says: distributions and figures, each beside the number it has to reach.

use std::time::Duration;

use serde::Serialize;

use crate::ratio::Interval;
use crate::stats::{Distribution, Samples};

/// The outcome of one bench.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Which bench.
    pub bench: &'static str,
    /// Times.
    pub timings: Vec<Timing>,
    /// How many times as long one took as another.
    pub ratios: Vec<Ratio>,
    /// Single numbers.
    pub figures: Vec<Figure>,
    /// What a reader has to know to judge them.
    pub notes: Vec<String>,
}

/// Times of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// What was timed.
    pub what: String,
    /// Its distribution.
    #[serde(flatten)]
    pub times: Distribution,
    /// Each of them, from the shortest to the longest: for plots.
    #[serde(skip)]
    pub sorted: Vec<Duration>,
    /// What has to be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
}

/// A bound on one percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Which percentile: 50 or 95.
    pub percentile: u32,
    /// It may be at most this.
    pub at_most_ms: f64,
}

impl Target {
    /// A bound on the median.
    #[must_use]
    pub fn p50(at_most_ms: f64) -> Self {
        Self {
            percentile: 50,
            at_most_ms,
        }
    }

    /// A bound on the 95th percentile.
    #[must_use]
    pub fn p95(at_most_ms: f64) -> Self {
        Self {
            percentile: 95,
            at_most_ms,
        }
    }

    /// Reached means: within the bound, something was measured, and nothing failed.
    fn reached(self, times: &Distribution) -> bool {
        let value = if self.percentile == 95 {
            times.p95_ms
        } else {
            times.p50_ms
        };
        times.count > 0 && times.failures == 0 && value <= self.at_most_ms
    }
}

/// How many times as long one took as another, in the same run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ratio {
    /// What was divided by what.
    pub what: String,
    /// The ratio, and how sure it is.
    #[serde(flatten)]
    pub interval: Interval,
    /// What it may be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
}

/// A single number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub what: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What has to be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
}

/// A bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// It may be at most this.
    AtMost(f64),
    /// It must be at least this.
    AtLeast(f64),
}

impl Bound {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Report {
    /// Nothing said yet.
    #[must_use]
    pub fn new(bench: &'static str) -> Self {
        Self {
            bench,
            timings: Vec::new(),
            ratios: Vec::new(),
            figures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds times.
    pub fn timing(&mut self, what: impl Into<String>, samples: &Samples, target: Option<Target>) {
        let times = samples.distribution();
        let reached = target.map(|target| target.reached(&times));
        self.timings.push(Timing {
            what: what.into(),
            times,
            sorted: samples.sorted(),
            target,
            reached,
        });
    }

    /// Adds a ratio, when both sides were measured.
    pub fn ratio(
        &mut self,
        what: impl Into<String>,
        interval: Option<Interval>,
        at_most: Option<f64>,
    ) {
        if let Some(interval) = interval {
            self.ratios.push(Ratio {
                what: what.into(),
                interval,
                at_most,
                reached: at_most.map(|most| interval.value <= most),
            });
        }
    }

    /// Adds a number.
    pub fn figure(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: Option<Bound>,
    ) {
        let reached = bound.map(|bound| bound.reached(value));
        self.figures.push(Figure {
            what: what.into(),
            value,
            unit,
            bound,
            reached,
        });
    }

    /// Adds a remark.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Whether anything failed or stayed behind its target.
    #[must_use]
    pub fn all_reached(&self) -> bool {
        self.timings
            .iter()
            .all(|timing| timing.times.failures == 0 && timing.reached != Some(false))
            && self.ratios.iter().all(|ratio| ratio.reached != Some(false))
            && self
                .figures
                .iter()
                .all(|figure| figure.reached != Some(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ms: &[u64], failures: usize) -> Samples {
        let mut samples = Samples::new();
        ms.iter()
            .for_each(|ms| samples.add(Duration::from_millis(*ms)));
        (0..failures).for_each(|_| samples.fail(&"x"));
        samples
    }

    #[test]
    fn a_target_needs_success_throughout() {
        let reached = |ms: &[u64], failures, target: Target| {
            target.reached(&samples(ms, failures).distribution())
        };
        assert!(reached(&[1, 2, 30], 0, Target::p50(2.0)));
        assert!(!reached(&[1, 2, 30], 0, Target::p95(2.0)));
        assert!(!reached(&[1, 2, 30], 1, Target::p50(2.0)));
        assert!(!reached(&[], 0, Target::p50(2.0)));
    }

    #[test]
    fn verdict_of_the_whole() {
        let mut report = Report::new("test");
        report.timing("a", &samples(&[1], 0), Some(Target::p50(8.0)));
        report.figure("rate", 200.0, "1/s", Some(Bound::AtLeast(150.0)));
        report.figure("memory", 1.0, "MB", None);
        assert!(report.all_reached());
        let interval = Interval {
            value: 1.5,
            low: 1.4,
            high: 1.7,
        };
        report.ratio("ours / theirs", Some(interval), Some(1.6));
        report.ratio("ours / of what is not there", None, Some(1.0));
        assert!(report.all_reached());
        report.figure("memory", 3.0, "MB", Some(Bound::AtMost(2.0)));
        assert!(!report.all_reached());
        report.figures.clear();
        report.ratio("ours / theirs", Some(interval), Some(1.4));
        assert!(!report.all_reached());
    }
}

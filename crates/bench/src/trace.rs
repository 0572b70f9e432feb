//! How long the steps of something took, over many rounds. What no step accounts for is a step, too, so that they add up.

use std::time::Duration;

use crate::Report;
use crate::stats::{Samples, millis};

/// What no step accounts for: for a create, the way of the request and of its answer, and who is asking.
const REST: &str = "request, authentication, answer";

/// Steps in the order in which they first came.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    steps: Vec<(String, Samples)>,
    whole: Samples,
}

impl Steps {
    /// One round: how long it took as a whole, and its steps.
    pub(crate) fn add(&mut self, whole: Duration, steps: Vec<(String, Duration)>) {
        if steps.is_empty() {
            return;
        }
        let accounted: Duration = steps.iter().map(|(_, took)| *took).sum();
        let rest = whole.saturating_sub(accounted);
        self.whole.add(whole);
        let rest = (!rest.is_zero()).then(|| (REST.to_owned(), rest));
        for (name, took) in summed(steps.into_iter().chain(rest)) {
            match self.steps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, samples)) => samples.add(took),
                None => {
                    let mut samples = Samples::new();
                    samples.add(took);
                    self.steps.push((name, samples));
                }
            }
        }
    }

    /// Each step, and the sum of their means beside the mean of the whole.
    pub(crate) fn tell(&self, of: &str, report: &mut Report) {
        for (name, samples) in &self.steps {
            report.timing(format!("{of}: {name}"), samples, None);
        }
        let rounds = u32::try_from(self.whole.len()).unwrap_or(u32::MAX).max(1);
        let mean = |samples: &Samples| {
            millis(samples.times().iter().sum::<Duration>()) / f64::from(rounds)
        };
        let sum = self.steps.iter().map(|(_, samples)| mean(samples)).sum();
        report.figure(format!("{of}: mean"), mean(&self.whole), "ms", None);
        report.figure(
            format!("{of}: sum of the means of the steps"),
            sum,
            "ms",
            None,
        );
    }
}

/// Steps of one name are one, wherever they come.
fn summed(steps: impl Iterator<Item = (String, Duration)>) -> Vec<(String, Duration)> {
    let mut sums: Vec<(String, Duration)> = Vec::new();
    for (name, took) in steps {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += took,
            None => sums.push((name, took)),
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_add_up() {
        let ms = Duration::from_millis;
        let mut steps = Steps::default();
        let round = vec![
            ("mount".to_owned(), ms(2)),
            ("exec".to_owned(), ms(1)),
            ("mount".to_owned(), ms(3)),
        ];
        steps.add(ms(10), round.clone());
        steps.add(ms(8), round);
        steps.add(ms(99), Vec::new());
        let mut report = Report::new("create");
        steps.tell("ours", &mut report);
        let names: Vec<_> = report.timings.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(
            names,
            ["ours: mount", "ours: exec", &format!("ours: {REST}")]
        );
        let figures: Vec<f64> = report.figures.iter().map(|one| one.value).collect();
        assert!(
            figures.iter().all(|figure| (figure - 9.0).abs() < 1e-9),
            "{figures:?}"
        );
    }
}

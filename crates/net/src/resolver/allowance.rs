//! How much one client may ask over time: queries, bytes of names, bytes of answers.
//!
//! A name can carry data out and an answer can carry data in, so both are an allowance that fills up slowly: enough for
//! programs that look names up, too little for a tunnel to be worth it. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// A store that fills at a rate up to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// What is added per second.
    pub(crate) per_second: u32,
    /// What can be saved up, and what a client begins with.
    pub(crate) burst: u32,
}

/// Rates of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowances {
    queries: Rate,
    question_bytes: Rate,
    answer_bytes: Rate,
}

impl Default for Allowances {
    /// A package manager asks for some dozen names, a crawler for a hundred in a second; a usual question has 30 bytes, a
    /// usual answer 100.
    fn default() -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Self {
            queries: rate(100, 400),
            question_bytes: rate(4 * 1024, 32 * 1024),
            answer_bytes: rate(64 * 1024, 1024 * 1024),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Store {
    left: f64,
    rate: Rate,
}

impl Store {
    fn full(rate: Rate) -> Self {
        Self {
            left: f64::from(rate.burst),
            rate,
        }
    }

    fn fill(&mut self, passed: Duration) {
        let added = passed.as_secs_f64() * f64::from(self.rate.per_second);
        self.left = (self.left + added).min(f64::from(self.rate.burst));
    }

    fn is_full(&self) -> bool {
        self.left >= f64::from(self.rate.burst)
    }
}

/// What one client has left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    at: Instant,
    queries: Store,
    question_bytes: Store,
    answer_bytes: Store,
}

impl Allowance {
    pub(crate) fn new(rates: &Allowances, now: Instant) -> Self {
        Self {
            at: now,
            queries: Store::full(rates.queries),
            question_bytes: Store::full(rates.question_bytes),
            answer_bytes: Store::full(rates.answer_bytes),
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        for store in [
            &mut self.queries,
            &mut self.question_bytes,
            &mut self.answer_bytes,
        ] {
            store.fill(passed);
        }
    }

    /// Takes one query of so many bytes, or says that there is nothing left. Answers are paid for afterwards, so that a
    /// client that has had too much waits until it is paid off.
    pub(crate) fn take(&mut self, question_bytes: usize, now: Instant) -> bool {
        self.fill(now);
        let bytes = as_number(question_bytes);
        let enough = self.queries.left >= 1.0
            && self.question_bytes.left >= bytes
            && self.answer_bytes.left > 0.0;
        if enough {
            self.queries.left -= 1.0;
            self.question_bytes.left -= bytes;
        }
        enough
    }

    /// Charges for an answer.
    pub(crate) fn charge(&mut self, answer_bytes: usize) {
        self.answer_bytes.left -= as_number(answer_bytes);
    }

    /// Whether there is nothing to remember about this client.
    pub(crate) fn is_unused(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.queries.is_full() && self.question_bytes.is_full() && self.answer_bytes.is_full()
    }
}

/// Messages are far below the size at which this would lose anything.
fn as_number(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(allowance: &mut Allowance, bytes: usize, now: Instant) -> usize {
        (0..10_000)
            .take_while(|_| allowance.take(bytes, now))
            .count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(&Allowances::default(), start);
        assert_eq!(taken(&mut allowance, 30, start), 400);
        assert_eq!(taken(&mut allowance, 30, start), 0);
        let later = start + Duration::from_secs(1);
        assert_eq!(taken(&mut allowance, 30, later), 100);
        let much_later = later + Duration::from_hours(1);
        assert_eq!(
            taken(&mut allowance, 30, much_later),
            400,
            "no more than the burst is saved up"
        );
        assert_eq!(
            taken(&mut allowance, 30, start),
            0,
            "a clock that goes back gives nothing"
        );
    }

    #[test]
    fn long_names_cost_more() {
        let start = Instant::now();
        let mut allowance = Allowance::new(&Allowances::default(), start);
        assert_eq!(taken(&mut allowance, 255, start), 32 * 1024 / 255);
        let later = start + Duration::from_secs(5);
        let per_second = taken(&mut allowance, 255, later) / 5;
        assert!((15..=17).contains(&per_second), "{per_second}");
    }

    #[test]
    fn large_answers_are_paid_off() {
        let start = Instant::now();
        let mut allowance = Allowance::new(&Allowances::default(), start);
        for _ in 0..16 {
            assert!(allowance.take(30, start));
            allowance.charge(64 * 1024);
        }
        assert!(!allowance.take(30, start));
        let soon = start + Duration::from_millis(1);
        assert!(allowance.take(30, soon), "there is something left again");
        allowance.charge(64 * 1024);
        assert!(!allowance.take(30, soon + Duration::from_millis(900)));
        assert!(allowance.take(30, soon + Duration::from_millis(1100)));
    }

    #[test]
    fn idle_clients_are_forgotten() {
        let start = Instant::now();
        let mut allowance = Allowance::new(&Allowances::default(), start);
        assert!(allowance.is_unused(start));
        assert!(allowance.take(30, start));
        assert!(!allowance.is_unused(start));
        assert!(allowance.is_unused(start + Duration::from_secs(1)));
    }
}

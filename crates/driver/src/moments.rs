//! When each step in the making of a guest was done, for whoever wants to know where the time goes.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A step that was done, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Nanoseconds since 1970: the one clock that all processes share, and that no namespace changes.
    pub at_ns: u64,
    /// What was done.
    pub done: Cow<'static, str>,
}

/// Where moments are written down by all who have a clone of it; or nowhere, if nobody wants to know.
#[derive(Debug, Clone, Default)]
pub struct Moments(Option<Arc<Mutex<Vec<Moment>>>>);

impl Moments {
    /// They are kept. Now is the first.
    #[must_use]
    pub fn kept() -> Self {
        let moments = Self(Some(Arc::default()));
        moments.mark("begin");
        moments
    }

    /// Whether anybody wants to know.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// This was done now.
    pub fn mark(&self, done: &'static str) {
        self.add([(now_ns(), Cow::Borrowed(done))]);
    }

    /// These were done, elsewhere or before.
    pub fn add(&self, done: impl IntoIterator<Item = (u64, Cow<'static, str>)>) {
        let Some(kept) = &self.0 else { return };
        let moments = done.into_iter();
        let moments = moments.map(|(at_ns, done)| Moment { at_ns, done });
        kept.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(moments);
    }

    /// All so far, in the order in which they were written down.
    #[must_use]
    pub fn all(&self) -> Vec<Moment> {
        let Some(kept) = &self.0 else {
            return Vec::new();
        };
        kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long each step took: from the moment before it to its own. All together are the time from the first moment to
    /// the last. Steps of one name that follow each other are one.
    #[must_use]
    pub fn steps(&self) -> Vec<(String, Duration)> {
        steps(self.all())
    }
}

fn steps(mut moments: Vec<Moment>) -> Vec<(String, Duration)> {
    moments.sort_by_key(|moment| moment.at_ns);
    let mut steps: Vec<(String, Duration)> = Vec::new();
    for pair in moments.windows(2) {
        let [before, after] = pair else { continue };
        let took = Duration::from_nanos(after.at_ns - before.at_ns);
        match steps.last_mut() {
            Some((name, sum)) if *name == after.done => *sum += took,
            _ => steps.push((after.done.to_string(), took)),
        }
    }
    steps
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_ns: u64, done: &'static str) -> Moment {
        Moment {
            at_ns,
            done: done.into(),
        }
    }

    #[test]
    fn steps_add_up() {
        let moments = vec![
            moment(100, "begin"),
            moment(400, "shadow"),
            // Written down later, by somebody else.
            moment(150, "overlay"),
            moment(450, "shadow"),
            moment(460, "end"),
        ];
        let steps = steps(moments);
        let ns = Duration::from_nanos;
        assert_eq!(
            steps,
            [
                ("overlay".to_owned(), ns(50)),
                ("shadow".to_owned(), ns(300)),
                ("end".to_owned(), ns(10)),
            ]
        );
        let sum: Duration = steps.iter().map(|(_, took)| *took).sum();
        assert_eq!(sum, ns(360));
    }

    #[test]
    fn what_nobody_wants_is_not_kept() {
        let nobody = Moments::default();
        nobody.mark("begin");
        assert!(nobody.all().is_empty() && !nobody.wanted());
        let kept = Moments::kept();
        kept.clone().mark("end");
        assert_eq!(kept.all().len(), 2);
        assert_eq!(kept.steps().len(), 1);
    }
}

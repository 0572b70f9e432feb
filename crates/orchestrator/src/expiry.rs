//! The one timer of all end times.
//!
//! End times are wall-clock times, timers are not: the machine may sleep, and its clock may be set. So the timer never
//! sleeps longer than [`LONGEST_NAP`] and looks at the wall clock each time; a jump forward is noticed within that time,
//! after a jump backward nothing ends too early.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use soulbox_types::{SandboxId, Timestamp};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use crate::actor::Message;
use crate::node::Node;

/// Clients tolerate two seconds between the end time and the end.
const LONGEST_NAP: Duration = Duration::from_secs(1);
/// When an actor is too busy to listen.
const RETRY: Duration = Duration::from_millis(100);

/// The end times of all running sandboxes, in order.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    times: Mutex<Times>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Times {
    in_order: BTreeSet<(Timestamp, SandboxId)>,
    by_id: HashMap<SandboxId, Timestamp>,
}

impl Expiry {
    /// Sets or moves a sandbox's time.
    pub(crate) fn set(&self, id: &SandboxId, at: Timestamp) {
        let is_first = {
            let mut times = self.times.lock();
            times.remove(id);
            times.in_order.insert((at, id.clone()));
            times.by_id.insert(id.clone(), at);
            times.in_order.first().is_some_and(|(_, first)| first == id)
        };
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Forgets a sandbox.
    pub(crate) fn remove(&self, id: &SandboxId) {
        self.times.lock().remove(id);
    }

    /// Takes out the sandboxes whose time has come.
    fn take_due(&self, now: Timestamp) -> Vec<SandboxId> {
        let mut times = self.times.lock();
        let mut due = Vec::new();
        while let Some((at, id)) = times.in_order.pop_first() {
            if at > now {
                times.in_order.insert((at, id));
                break;
            }
            times.by_id.remove(&id);
            due.push(id);
        }
        due
    }

    fn nap(&self, now: Timestamp) -> Duration {
        let first = self.times.lock().in_order.first().map(|(at, _)| *at);
        first.map_or(LONGEST_NAP, |at| at.since(now).min(LONGEST_NAP))
    }
}

impl Times {
    fn remove(&mut self, id: &SandboxId) {
        if let Some(at) = self.by_id.remove(id) {
            self.in_order.remove(&(at, id.clone()));
        }
    }
}

/// Tells the actors of sandboxes when their time has come, until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        let nap = node.expiry.nap(node.now());
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = node.expiry.earlier.notified() => {}
            () = tokio::time::sleep(nap) => {}
        }
        let now = node.now();
        for id in node.expiry.take_due(now) {
            let Some(handle) = node.live.get(&id) else {
                continue;
            };
            // Its actor looks at the time again: it may have been put off since.
            if let Err(TrySendError::Full(_)) = handle.mailbox.try_send(Message::Expire) {
                node.expiry.set(&id, now.plus(RETRY));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_in_order_and_once() {
        let expiry = Expiry::default();
        let ids: Vec<SandboxId> = ["ia", "ib", "ic"]
            .iter()
            .map(|id| id.parse().unwrap())
            .collect();
        expiry.set(&ids[0], Timestamp(30));
        expiry.set(&ids[1], Timestamp(10));
        expiry.set(&ids[2], Timestamp(20));
        expiry.set(&ids[1], Timestamp(25));
        assert_eq!(expiry.take_due(Timestamp(19)), []);
        assert_eq!(
            expiry.take_due(Timestamp(25)),
            [ids[2].clone(), ids[1].clone()]
        );
        expiry.remove(&ids[1]);
        expiry.remove(&ids[0]);
        assert_eq!(expiry.take_due(Timestamp(99)), []);
        assert!(expiry.times.lock().by_id.is_empty() && expiry.times.lock().in_order.is_empty());
    }

    #[test]
    fn naps_are_short() {
        let expiry = Expiry::default();
        assert_eq!(expiry.nap(Timestamp(0)), LONGEST_NAP);
        expiry.set(&"ia".parse().unwrap(), Timestamp(400_000));
        assert_eq!(expiry.nap(Timestamp(0)), Duration::from_millis(400));
        assert_eq!(expiry.nap(Timestamp(-9_000_000)), LONGEST_NAP);
        assert_eq!(expiry.nap(Timestamp(500_000)), Duration::ZERO);
    }
}

//! What a sandbox has said to the network and what became of it, on its way to who writes it down.
//!
//! A sandbox chooses how often and what it says. So there is an allowance for each, a bound on what waits, and one on the
//! length of every text; what is left out is counted and told with the next that is not.

use std::net::SocketAddr;
use std::time::Instant;

use soulbox_types::{SandboxId, Timestamp};
use tokio::sync::mpsc;

/// So many at once, and so many in each second after that.
const AT_ONCE: f64 = 100.0;
const PER_SECOND: f64 = 10.0;
/// Bytes of one text.
const TEXT_BYTES: usize = 300;

/// One DNS question, connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// When it began.
    pub at: Timestamp,
    /// `dns`, `tls`, `http`, `https` where a header rule had it read, or `tcp` where nothing was; what a packet was that the
    /// kernel has refused; or `process`.
    pub kind: &'static str,
    /// The name or the address that it asked for.
    pub target: String,
    /// Where a connection went.
    pub address: Option<SocketAddr>,
    /// Whether it was let through.
    pub allowed: bool,
    /// The entry of the policy that decided, or why it was refused.
    pub rule: String,
    /// What was asked: a type of record, or method, path and status.
    pub detail: String,
    /// Bytes out of the sandbox and into it.
    pub bytes: Option<(u64, u64)>,
    /// So many before this one are not told.
    pub skipped: u32,
    /// Whether it is a refusal that has not been told in the last seconds.
    pub is_news: bool,
}

impl Contact {
    pub(crate) fn new(
        sandbox: &SandboxId,
        kind: &'static str,
        target: &str,
        verdict: Result<String, &str>,
    ) -> Self {
        let allowed = verdict.is_ok();
        Self {
            sandbox: sandbox.clone(),
            at: Timestamp::now(),
            kind,
            target: short(target),
            address: None,
            allowed,
            rule: verdict.unwrap_or_else(short),
            detail: String::new(),
            bytes: None,
            skipped: 0,
            is_news: false,
        }
    }
}

/// As much of a text as is kept.
pub(crate) fn short(text: &str) -> String {
    let end = (0..=TEXT_BYTES.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

/// How much a sandbox may still be heard.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: f64,
    since: Instant,
    skipped: u32,
}

impl Allowance {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: AT_ONCE,
            since: now,
            skipped: 0,
        }
    }

    /// Tells a contact, or counts it.
    pub(crate) fn tell(&mut self, to: &mpsc::Sender<Contact>, mut contact: Contact, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND).min(AT_ONCE);
        self.since = now;
        contact.skipped = self.skipped;
        if self.left >= 1.0 && to.try_send(contact).is_ok() {
            self.left -= 1.0;
            self.skipped = 0;
        } else {
            self.skipped = self.skipped.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_talks_without_end_is_heard_now_and_then() {
        let (to, mut heard) = mpsc::channel(1000);
        let begin = Instant::now();
        let mut allowance = Allowance::new(begin);
        let contact = Contact::new(&SandboxId::random(), "dns", "a.example", Ok(String::new()));
        for _ in 0..500 {
            allowance.tell(&to, contact.clone(), begin);
        }
        let at_once = std::iter::from_fn(|| heard.try_recv().ok()).count();
        assert_eq!(at_once, 100);
        allowance.tell(&to, contact, begin + Duration::from_secs(1));
        assert_eq!(heard.try_recv().unwrap().skipped, 400);
    }

    #[test]
    fn what_cannot_wait_is_counted() {
        let (to, mut heard) = mpsc::channel(1);
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        let contact = Contact::new(&SandboxId::random(), "dns", "a.example", Err("closed"));
        for _ in 0..3 {
            allowance.tell(&to, contact.clone(), now);
        }
        assert_eq!(heard.try_recv().unwrap().skipped, 0);
        allowance.tell(&to, contact, now);
        assert_eq!(heard.try_recv().unwrap().skipped, 2);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(short("abc"), "abc");
        let cut = short(&"ü".repeat(1000));
        assert!(cut.len() <= TEXT_BYTES && cut.chars().all(|c| c == 'ü'));
    }
}

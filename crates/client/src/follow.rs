//! A process followed over as many connections as it takes.
//!
//! envd of SoulBox keeps the last output of a process and says at which position a stream begins. So a stream that is
//! cut can be taken up again where it was. With an envd that does not, a cut is an error, as ever.

use std::time::Duration;

use tokio::time::Instant;

use crate::process::{Event, Events, Start};
use crate::{ClientError, Envd};

/// Attempts after a cut, each twice as long after the one before: thirteen seconds in all, enough for a server to be
/// replaced by the next.
const ATTEMPTS: u32 = 7;
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// A connection that held for so long was no failed attempt, even if nothing was written meanwhile.
const STEADY: Duration = Duration::from_secs(10);

/// Where to begin with the output of a process that runs already, or has just ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what it writes from now on.
    Now,
    /// With the oldest output that is still kept.
    Oldest,
    /// With the byte at this position of all its output, counted from 0.
    At(u64),
}

/// Where a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position of the byte that comes next.
    pub(crate) at: u64,
    /// envd's name for the process.
    pub(crate) process: String,
}

/// Decides whether and when to try again.
#[derive(Debug)]
struct Patience {
    failures: u32,
    connected: Instant,
    /// When to try next.
    next: Instant,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            failures: 0,
            connected: now,
            next: now,
        }
    }

    fn connected(&mut self) {
        self.connected = Instant::now();
    }

    fn progress(&mut self) {
        self.failures = 0;
    }

    /// Notes a failure; gives it back when it was one too many.
    fn failed(&mut self, error: ClientError, was_connected: bool) -> Result<(), ClientError> {
        if was_connected && self.connected.elapsed() >= STEADY {
            self.failures = 0;
        }
        if self.failures >= ATTEMPTS {
            return Err(error);
        }
        self.next = Instant::now() + FIRST_DELAY * 2_u32.pow(self.failures);
        self.failures += 1;
        Ok(())
    }
}

/// Repeats what failed because there was no connection, with growing delays. For calls that may be repeated: `again`
/// judges the error.
///
/// # Errors
/// The last one.
pub async fn patiently<T, F>(
    again: fn(&ClientError) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut patience = Patience::new();
    loop {
        match attempt().await {
            Err(error) if again(&error) => patience.failed(error, false)?,
            other => return other,
        }
        tokio::time::sleep_until(patience.next).await;
    }
}

/// The events of one process. Dropping it closes the connection; the process goes on.
#[derive(Debug)]
pub struct Followed {
    envd: Envd,
    pid: u32,
    /// None while there is no connection.
    events: Option<Events>,
    place: Option<Place>,
    patience: Patience,
    lost: u64,
}

impl Envd {
    /// Starts a process and follows it, over other connections when the first one breaks.
    ///
    /// # Errors
    /// When it cannot be started; later failures come from [`Followed::next`].
    pub async fn follow(&self, start: &Start) -> Result<Followed, ClientError> {
        let events = self.start(start).await?;
        Followed::new(self, events, "start a process").await
    }

    /// Follows a process that was started before. One that ended within the last minute gives the rest of its output and
    /// its end, unless it is to begin with [`Begin::Now`].
    ///
    /// # Errors
    /// When there is no such process, or it has not written as much as `begin` says.
    pub async fn attach(&self, pid: u32, begin: Begin) -> Result<Followed, ClientError> {
        let events = self.connect(pid, begin, None).await?;
        let asked = match begin {
            Begin::At(at) => Some(at),
            Begin::Now | Begin::Oldest => None,
        };
        let mut followed = Followed::new(self, events, "connect to a process").await?;
        followed.note_gap(asked);
        Ok(followed)
    }
}

impl Followed {
    async fn new(envd: &Envd, mut events: Events, operation: &str) -> Result<Self, ClientError> {
        let Some(Event::Started { pid }) = events.next().await? else {
            let reason = "the stream does not begin with the process";
            return Err(ClientError::answer(operation, reason));
        };
        Ok(Self {
            envd: envd.clone(),
            pid,
            place: events.place().cloned(),
            events: Some(events),
            patience: Patience::new(),
            lost: 0,
        })
    }

    /// The process's id inside the sandbox.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The position of the next byte; None with an envd that does not count.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        let events = self.events.as_ref();
        let place = events.map_or(self.place.as_ref(), Events::place);
        place.map(|place| place.at)
    }

    /// How many bytes of output were lost before the event that was given last, because they are no longer kept. Asked
    /// once for each loss: 0 then.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// The next event; None after the last one. That it has started is not told again.
    ///
    /// # Errors
    /// When envd reports a failure, the stream is not one, or the connection breaks and cannot be made again.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let Some(events) = &mut self.events else {
                self.connect_again().await?;
                continue;
            };
            match events.next().await {
                Ok(Some(Event::Started { .. })) => {}
                Ok(event) => {
                    self.patience.progress();
                    return Ok(event);
                }
                Err(error) if error.is_cut() && events.place().is_some() => {
                    self.place = events.place().cloned();
                    self.events = None;
                    self.patience.failed(error, true)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect_again(&mut self) -> Result<(), ClientError> {
        tokio::time::sleep_until(self.patience.next).await;
        let (begin, process) = match &self.place {
            Some(place) => (Begin::At(place.at), Some(place.process.as_str())),
            None => (Begin::Now, None),
        };
        match self.envd.connect(self.pid, begin, process).await {
            Ok(events) => {
                self.patience.connected();
                self.events = Some(events);
                let asked = self.place.as_ref().map(|place| place.at);
                self.note_gap(asked);
                Ok(())
            }
            Err(error) if error.is_cut() => self.patience.failed(error, false),
            Err(error) => Err(error),
        }
    }

    fn note_gap(&mut self, asked: Option<u64>) {
        if let (Some(asked), Some(at)) = (asked, self.position()) {
            self.lost += at.saturating_sub(asked);
        }
    }
}

#[cfg(test)]
mod tests;

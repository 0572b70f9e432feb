//! What one client is given: what it missed, then what happens, no byte twice and none left out.

use std::collections::VecDeque;
use std::sync::Arc;

use connectrpc::ConnectError;
use soulbox_envd_proto::process::process_event::EndEvent;
use tokio::sync::mpsc;

use super::archive::Tape;
use super::ring::Chunk;

/// Something that happened to a process.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Output(Chunk),
    End {
        /// How much it had written.
        written: u64,
        end: Arc<EndEvent>,
    },
}

impl Event {
    fn at(&self) -> u64 {
        match self {
            Self::Output(chunk) => chunk.at,
            Self::End { written, .. } => *written,
        }
    }

    fn end(&self) -> u64 {
        match self {
            Self::Output(chunk) => chunk.end(),
            Self::End { written, .. } => *written,
        }
    }
}

/// Where a client wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With what is written from now on.
    Now,
    /// With the oldest byte that is still there.
    Oldest,
    /// With the byte at this position.
    At(u64),
}

/// A client asks for what has not been written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "position {asked} lies ahead: the process has written {written} bytes so far\n\
     FIX: ask for a position up to {written}, or for 'oldest'"
)]
pub(crate) struct Ahead {
    asked: u64,
    written: u64,
}

impl From<Ahead> for ConnectError {
    fn from(error: Ahead) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// One client's view of one process.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Position of the first byte that it has not been given yet.
    pub(crate) at: u64,
    missed: VecDeque<Chunk>,
    live: mpsc::Receiver<Event>,
    /// What comes after what was missed.
    waiting: Option<Event>,
    /// None when the output is no longer kept.
    tape: Option<Arc<Tape>>,
}

impl Heard {
    /// Begins where the client wants, or as soon after it as there is something left. Nothing may be written between
    /// this and the moment from which `live` hears all.
    ///
    /// # Errors
    /// When that has not been written.
    pub(crate) fn of_live(
        tape: &Arc<Tape>,
        begin: Begin,
        live: mpsc::Receiver<Event>,
    ) -> Result<Self, Ahead> {
        let written = tape.end();
        let at = first(begin, tape.start(), written)?;
        Ok(Self {
            at,
            missed: tape.between(at, written),
            live,
            waiting: None,
            tape: Some(Arc::clone(tape)),
        })
    }

    /// All that is left of a process that has ended.
    ///
    /// # Errors
    /// When the client asks for what was never written.
    pub(crate) fn of_ended(
        tape: Option<Arc<Tape>>,
        begin: Begin,
        written: u64,
        end: Arc<EndEvent>,
    ) -> Result<Self, Ahead> {
        let oldest = tape.as_ref().map_or(written, |tape| tape.start());
        let at = first(begin, oldest, written)?;
        // Closed at once: what waits is all there will be.
        let (_, live) = mpsc::channel(1);
        Ok(Self {
            at,
            missed: tape
                .as_ref()
                .map(|tape| tape.between(at, written))
                .unwrap_or_default(),
            live,
            waiting: Some(Event::End { written, end }),
            tape,
        })
    }

    /// The next event; None when there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        if let Some(chunk) = self.missed.pop_front() {
            return Some(self.given(Event::Output(chunk)));
        }
        if let Some(event) = self.waiting.take() {
            return Some(self.given(event));
        }
        let event = self.live.recv().await?;
        if event.at() > self.at {
            // It was too slow for the end of a killed process: the ring may still have what it did not take.
            let tape = self.tape.as_ref();
            self.missed = tape
                .map(|tape| tape.between(self.at, event.at()))
                .unwrap_or_default();
            if let Some(chunk) = self.missed.pop_front() {
                self.waiting = Some(event);
                return Some(self.given(Event::Output(chunk)));
            }
        }
        Some(self.given(event))
    }

    fn given(&mut self, event: Event) -> Event {
        self.at = event.end();
        event
    }
}

fn first(begin: Begin, oldest: u64, written: u64) -> Result<u64, Ahead> {
    match begin {
        Begin::Now => Ok(written),
        Begin::Oldest => Ok(oldest),
        Begin::At(asked) if asked > written => Err(Ahead { asked, written }),
        Begin::At(asked) => Ok(asked.max(oldest)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::archive::Archive;
    use super::super::ring::Kind;
    use super::*;

    fn chunk(at: u64, data: &'static str) -> Chunk {
        let data = Bytes::from_static(data.as_bytes());
        Chunk {
            at,
            kind: Kind::Stdout,
            data,
        }
    }

    fn end() -> Arc<EndEvent> {
        Arc::new(EndEvent::default())
    }

    async fn rest(mut heard: Heard) -> String {
        let mut all = String::new();
        while let Some(event) = heard.next().await {
            match event {
                Event::Output(chunk) => all.push_str(std::str::from_utf8(&chunk.data).unwrap()),
                Event::End { .. } => all.push('.'),
            }
        }
        all
    }

    #[test]
    fn where_to_begin() {
        assert_eq!(first(Begin::Now, 3, 9), Ok(9));
        assert_eq!(first(Begin::Oldest, 3, 9), Ok(3));
        assert_eq!(first(Begin::At(0), 3, 9), Ok(3));
        assert_eq!(first(Begin::At(5), 3, 9), Ok(5));
        assert_eq!(first(Begin::At(9), 3, 9), Ok(9));
        assert_eq!(
            first(Begin::At(10), 3, 9).unwrap_err().to_string(),
            "position 10 lies ahead: the process has written 9 bytes so far\n\
             FIX: ask for a position up to 9, or for 'oldest'"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_slow_client_did_not_take_is_made_up_for() {
        let tape = Arc::new(Archive::default()).open();
        let (sender, live) = mpsc::channel(8);
        let heard = Heard::of_live(&tape, Begin::Now, live).unwrap();
        for data in ["one ", "two ", "three"] {
            tape.append(Kind::Stdout, &Bytes::from_static(data.as_bytes()));
        }
        // It is told the first and the last only.
        sender.send(Event::Output(chunk(0, "one "))).await.unwrap();
        sender.send(Event::Output(chunk(8, "three"))).await.unwrap();
        sender
            .send(Event::End {
                written: 13,
                end: end(),
            })
            .await
            .unwrap();
        drop(sender);
        assert_eq!(rest(heard).await, "one two three.");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_gives_what_is_left() {
        let tape = Arc::new(Archive::default()).open();
        tape.append(Kind::Stdout, &Bytes::from_static(b"abcdef"));
        let of = |begin| Heard::of_ended(Some(Arc::clone(&tape)), begin, 6, end());
        assert_eq!(rest(of(Begin::Oldest).unwrap()).await, "abcdef.");
        assert_eq!(rest(of(Begin::At(4)).unwrap()).await, "ef.");
        assert_eq!(rest(of(Begin::Now).unwrap()).await, ".");
        assert!(of(Begin::At(7)).is_err());
        let gone = Heard::of_ended(None, Begin::At(2), 6, end()).unwrap();
        assert_eq!((gone.at, rest(gone).await), (6, ".".to_owned()));
    }
}

//! Events as they come: server-sent events.
//!
//! Nothing is kept for a reader but a few pieces on their way: each reads on from the table as fast as it takes what it has
//! got. One that takes nothing for a while is cut off, and goes on later from the event that it has seen last.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use soulbox_store::{EventQuery, Order, SandboxEvent, Store};
use soulbox_types::{ErrorKind, TeamId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{is_last_of, to_wire};
use crate::error::ApiError;
use crate::state::Api;

/// Streams of one team at the same time.
const MOST_OF_A_TEAM: usize = 64;
/// Events in one piece.
const PIECE: u32 = 50;
/// Pieces on their way to a reader.
const ON_THE_WAY: usize = 2;
/// So often something is sent, so that nobody between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Then the caller has to say again who it is.
const LIFE: Duration = Duration::from_hours(1);
/// Events that come together are read together.
const GATHERING: Duration = Duration::from_millis(20);
/// How long clients wait before they connect again.
const HELLO: &str = "retry: 1000\n\n";

/// The streams that are open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<TeamId, usize>>>);

/// One of them; ends its count when it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    streams: Streams,
    team: TeamId,
}

impl Streams {
    /// A place for one that follows.
    pub(crate) fn open(&self, team: &TeamId) -> Result<Open, ApiError> {
        self.try_open(team).ok_or_else(|| {
            let message = format!("a team can follow what happens {MOST_OF_A_TEAM} times at once");
            ApiError::new(ErrorKind::LimitExceeded, message)
        })
    }

    fn try_open(&self, team: &TeamId) -> Option<Open> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(team.clone()).or_default();
        if *count >= MOST_OF_A_TEAM {
            return None;
        }
        *count += 1;
        Some(Open {
            streams: self.clone(),
            team: team.clone(),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self
            .streams
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.team) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.team);
            }
        }
    }
}

/// Answers with the events that are wanted, oldest first, and those that come.
pub(super) fn answer(api: &Api, wanted: EventQuery) -> Result<Response, ApiError> {
    let open = api.streams.open(&wanted.team)?;
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    let pump = Pump {
        store: api.store.clone(),
        wanted,
        pieces: sender,
        stop: api.shutdown.clone(),
        patience: PATIENCE,
    };
    tokio::spawn(async move {
        pump.run().await;
        drop(open);
    });
    let pieces = stream::unfold(receiver, async |mut receiver| {
        let piece: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(piece), receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Brings events from the table to one reader.
struct Pump {
    store: Store,
    wanted: EventQuery,
    pieces: mpsc::Sender<Bytes>,
    stop: CancellationToken,
    patience: Duration,
}

impl Pump {
    /// Until the sandbox is gone, or the reader, or the server stops.
    async fn run(mut self) {
        let end = Instant::now() + LIFE;
        let mut news = self.store.event_news();
        (self.wanted.order, self.wanted.offset) = (Order::Ascending, 0);
        self.wanted.limit = PIECE;
        if !self.send(HELLO.to_owned()).await {
            return;
        }
        loop {
            news.mark_unchanged();
            let events = match self.store.events(&self.wanted).await {
                Ok(events) => events,
                Err(error) => {
                    tracing::error!(%error, "a stream of events ends");
                    return;
                }
            };
            if let Some(last) = events.last() {
                self.wanted.after = Some(last.seq);
                let sandbox = self.wanted.sandbox.as_ref();
                let is_over = sandbox.is_some_and(|sandbox| is_last_of(last, sandbox));
                if !self.send(piece(events)).await || is_over {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.pieces.closed() => return,
                () = tokio::time::sleep_until(end) => return,
                changed = news.changed() => match changed {
                    Ok(()) => tokio::time::sleep(GATHERING).await,
                    Err(_) => return,
                },
                () = tokio::time::sleep(KEEP_ALIVE) => if !self.send(":\n\n".to_owned()).await { return },
            }
        }
    }

    /// False when the reader is gone or takes nothing.
    async fn send(&self, piece: String) -> bool {
        let sent = tokio::time::timeout(self.patience, self.pieces.send(piece.into()));
        tokio::select! {
            () = self.stop.cancelled() => false,
            sent = sent => matches!(sent, Ok(Ok(()))),
        }
    }
}

/// Events as they stand in a stream.
fn piece(events: Vec<SandboxEvent>) -> String {
    let mut text = String::new();
    for event in events {
        let id = event.id.clone();
        if let Ok(data) = serde_json::to_string(&to_wire(event)) {
            // Writing to a text cannot fail.
            write!(text, "id: {id}\ndata: {data}\n\n").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_has_so_many_streams() {
        let streams = Streams::default();
        let (team, other) = (TeamId::random(), TeamId::random());
        let mut open: Vec<Open> = (0..MOST_OF_A_TEAM)
            .map(|_| streams.try_open(&team).unwrap())
            .collect();
        assert!(streams.try_open(&team).is_none());
        assert!(streams.try_open(&other).is_some());
        open.pop();
        assert!(streams.try_open(&team).is_some());
        drop(open);
        assert!(streams.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_takes_nothing_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("soulbox.db")).await.unwrap();
        let (pieces, mut reader) = mpsc::channel(1);
        let pump = Pump {
            wanted: EventQuery::all(TeamId::random()),
            store,
            pieces: pieces.clone(),
            stop: CancellationToken::new(),
            patience: Duration::from_millis(1),
        };
        // There is no room for what comes first.
        pieces.send(Bytes::from_static(b"x")).await.unwrap();
        drop(pieces);
        pump.run().await;
        assert_eq!(reader.recv().await.unwrap(), "x");
        assert_eq!(reader.recv().await, None);
    }
}

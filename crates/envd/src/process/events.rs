//! The stream of events that a client of Start or Connect reads.

use std::time::{Duration, Instant};

use connectrpc::{ConnectError, ServiceStream};
use futures_util::{StreamExt as _, stream};
use soulbox_envd_proto::process::ProcessEvent;
use soulbox_envd_proto::process::process_event::data_event::Output;
use soulbox_envd_proto::process::process_event::{DataEvent, Event as Wire, StartEvent};

use super::heard::{Event, Heard};
use super::ring::Kind;

/// Start, then what is heard, with a sign of life whenever it is quiet for `keepalive`.
pub(crate) struct Events {
    pub(crate) number: u32,
    pub(crate) heard: Heard,
    pub(crate) keepalive: Duration,
    /// When the process is killed for its time. Its end, caused by that, must not reach the client before the error.
    pub(crate) deadline: Option<Instant>,
}

enum Step {
    Start,
    Listen,
    Done,
}

impl Events {
    /// As messages of one RPC.
    pub(crate) fn into_stream<T>(self, message: fn(ProcessEvent) -> T) -> ServiceStream<T>
    where
        T: Send + 'static,
    {
        let events = stream::unfold((self, Step::Start), |(mut events, step)| async move {
            let (item, step) = match step {
                Step::Start => (Ok(start(events.number)), Step::Listen),
                Step::Listen => events.next().await?,
                Step::Done => return None,
            };
            Some((item, (events, step)))
        });
        Box::pin(events.map(move |item| item.map(message)))
    }

    async fn next(&mut self) -> Option<(Result<ProcessEvent, ConnectError>, Step)> {
        let event = match tokio::time::timeout(self.keepalive, self.heard.next()).await {
            Err(_) => Wire::Keepalive(Box::default()),
            Ok(None) => return None,
            Ok(Some(Event::End { end, .. })) => {
                if self
                    .deadline
                    .is_some_and(|deadline| Instant::now() >= deadline)
                {
                    return Some((
                        Err(ConnectError::deadline_exceeded(
                            "the process exceeded its timeout",
                        )),
                        Step::Done,
                    ));
                }
                return Some((Ok(wire(Wire::End(Box::new((*end).clone())))), Step::Done));
            }
            Ok(Some(Event::Output(chunk))) => data_event(match chunk.kind {
                Kind::Stdout => Output::Stdout(chunk.data.into()),
                Kind::Stderr => Output::Stderr(chunk.data.into()),
                Kind::Pty => Output::Pty(chunk.data.into()),
            }),
        };
        Some((Ok(wire(event)), Step::Listen))
    }
}

fn start(pid: u32) -> ProcessEvent {
    wire(Wire::Start(Box::new(StartEvent {
        pid,
        ..StartEvent::default()
    })))
}

fn data_event(output: Output) -> Wire {
    Wire::Data(Box::new(DataEvent {
        output: Some(output),
        ..DataEvent::default()
    }))
}

fn wire(event: Wire) -> ProcessEvent {
    ProcessEvent {
        event: Some(event),
        ..ProcessEvent::default()
    }
}

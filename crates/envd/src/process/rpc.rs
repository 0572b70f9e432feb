//! `process.Process` on the wire: selectors, codes and messages. Decisions are made below it.
#![expect(
    refining_impl_trait_internal,
    reason = "the generated trait asks for `impl Encodable`; naming the message is clearer"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures_util::StreamExt as _;
use rustix::process::Signal as Kernel;
use soulbox_envd_proto::process::process_input::Input as WireInput;
use soulbox_envd_proto::process::process_selector::Selector as WireSelector;
use soulbox_envd_proto::process::stream_input_request::Event as InputEvent;
use soulbox_envd_proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest,
    ListResponse, Process as Rpc, ProcessInput, ProcessSelector, SendInputRequest,
    SendInputResponse, SendSignalRequest, SendSignalResponse, Signal, StartRequest, StartResponse,
    StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse,
};

use super::asked::{self, Asked};
use super::events::Events;
use super::heard::Heard;
use super::input::InputError;
use super::start::{start, window};
use super::table::{Found, Process, Selector};
use crate::app::App;
use crate::call;

/// How long SendSignal waits for a killed process to be gone, so that whoever looks next does not see it.
const KILL_PATIENCE: Duration = Duration::from_millis(50);

/// The service.
#[derive(Debug)]
pub(crate) struct ProcessService(Arc<App>);

impl ProcessService {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self(app)
    }

    fn live(&self, selector: Option<ProcessSelector>) -> Result<Arc<Process>, ConnectError> {
        let selector = selector_of(selector)?;
        self.0
            .processes
            .live(&selector)
            .ok_or_else(|| not_found(&selector))
    }

    /// Finds what a Connect is to follow, and where it begins.
    fn follow(&self, selector: &Selector, asked: &Asked) -> Result<Follow, ConnectError> {
        let found = self.0.processes.find(selector, asked.retention());
        match found.ok_or_else(|| not_found(selector))? {
            Found::Live(process) if asked.means(&process.tape.name) => {
                let heard = process.listen(asked.begin)?;
                Ok(Follow {
                    number: process.number(),
                    heard,
                    name: process.tape.name.clone(),
                    deadline: process.deadline.filter(|_| asked.resumes()),
                })
            }
            Found::Ended(ended) if asked.means(&ended.name) => Ok(Follow {
                number: ended.number,
                heard: Heard::of_ended(ended.tape, asked.begin, ended.written, ended.end)?,
                name: ended.name,
                deadline: ended.overran.filter(|_| asked.resumes()),
            }),
            Found::Live(_) | Found::Ended(_) => Err(taken(selector)),
        }
    }
}

/// What a Connect follows.
struct Follow {
    number: u32,
    heard: Heard,
    name: String,
    /// As the stream of Start has it, when this one takes its place.
    deadline: Option<Instant>,
}

fn taken(selector: &Selector) -> ConnectError {
    let other = match selector {
        Selector::Pid(number) => format!("pid {number}"),
        Selector::Tag(tag) => format!("tag {tag}"),
    };
    ConnectError::not_found(format!(
        "the process with {other} is gone: another one has that now\n\
         FIX: leave out the header Soulbox-Process to connect to the other one"
    ))
}

fn selector_of(selector: Option<ProcessSelector>) -> Result<Selector, ConnectError> {
    match selector.and_then(|s| s.selector) {
        Some(WireSelector::Pid(number)) => Ok(Selector::Pid(number)),
        Some(WireSelector::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(ConnectError::unimplemented(
            "a process selector needs a pid or a tag",
        )),
    }
}

fn not_found(selector: &Selector) -> ConnectError {
    ConnectError::not_found(match selector {
        Selector::Pid(number) => format!("process with pid {number} not found"),
        Selector::Tag(tag) => format!("process with tag {tag} not found"),
    })
}

async fn feed(process: &Process, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    let refused = |to: &str, error: InputError| {
        ConnectError::internal(format!("error writing to {to}: {error}"))
    };
    match input.and_then(|i| i.input) {
        Some(WireInput::Stdin(data)) => match &process.input {
            Some(input) if process.terminal.is_none() => {
                input.write(data).await.map_err(|e| refused("stdin", e))
            }
            _ => Err(refused("stdin", InputError::Closed)),
        },
        Some(WireInput::Pty(data)) => match &process.input {
            Some(input) if process.terminal.is_some() => {
                input.write(data).await.map_err(|e| refused("tty", e))
            }
            _ => Err(ConnectError::internal(
                "error writing to tty: tty not assigned to process",
            )),
        },
        None => Err(ConnectError::unimplemented("input needs stdin or pty data")),
    }
}

impl Rpc for ProcessService {
    async fn list(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        Response::ok(ListResponse {
            processes: self.0.processes.list(),
            ..ListResponse::default()
        })
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let asked = Asked::of(&ctx)?;
        let selector = selector_of(request.to_owned_message().process.into_option())?;
        let follow = self.follow(&selector, &asked)?;
        let events = Events {
            number: follow.number,
            heard: follow.heard,
            keepalive: call::keepalive(&ctx),
            deadline: follow.deadline,
        };
        let at = events.heard.at;
        let message = |event| ConnectResponse {
            event: Some(event).into(),
            ..ConnectResponse::default()
        };
        let response = call::streaming(events.into_stream(message));
        Ok(asked::tell(response, at, &follow.name))
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let user = call::user(&self.0, &ctx)?;
        let deadline = ctx.deadline();
        let started = start(&self.0, &user, request.to_owned_message(), deadline).await?;
        let keepalive = call::keepalive(&ctx);
        let events = Events {
            number: started.process.number(),
            heard: started.heard,
            keepalive,
            deadline,
        };
        let at = events.heard.at;
        let message = |event| StartResponse {
            event: Some(event).into(),
            ..StartResponse::default()
        };
        let response = call::streaming(events.into_stream(message));
        Ok(asked::tell(response, at, &started.process.tape.name))
    }

    async fn update(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.live(request.process.into_option())?;
        if let Some(pty) = request.pty.into_option() {
            let terminal = process
                .terminal
                .as_ref()
                .ok_or_else(|| ConnectError::internal("tty not assigned to process"))?;
            let (rows, cols) = window(&pty.size.into_option().unwrap_or_default());
            terminal
                .resize(rows, cols)
                .map_err(|e| ConnectError::internal(format!("error resizing tty: {e}")))?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let mut target: Option<Arc<Process>> = None;
        while let Some(message) = requests.next().await {
            match (message?.to_owned_message().event, &target) {
                (Some(InputEvent::Start(start)), _) => {
                    target = Some(self.live(start.process.into_option())?);
                }
                (Some(InputEvent::Data(data)), Some(process)) => {
                    feed(process, data.input.into_option()).await?;
                }
                (Some(InputEvent::Data(_)), None) => {
                    return Err(ConnectError::invalid_argument(
                        "the first message must be a start event",
                    ));
                }
                (Some(InputEvent::Keepalive(_)), _) => {}
                (None, _) => return Err(ConnectError::unimplemented("unknown stream input event")),
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.live(request.process.into_option())?;
        feed(&process, request.input.into_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.live(request.process.into_option())?;
        let signal = match request.signal.as_known() {
            Some(Signal::SIGNAL_SIGKILL) => Kernel::KILL,
            Some(Signal::SIGNAL_SIGTERM) => Kernel::TERM,
            _ => {
                return Err(ConnectError::unimplemented(
                    "only SIGNAL_SIGKILL and SIGNAL_SIGTERM can be sent",
                ));
            }
        };
        process
            .signal(signal)
            .map_err(|e| ConnectError::internal(format!("error sending signal: {e}")))?;
        if signal == Kernel::KILL {
            // Its death is certain but not instant; one that hangs in the kernel is not waited for.
            let _ = tokio::time::timeout(KILL_PATIENCE, process.reaped.cancelled()).await;
        }
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let process = self.live(request.to_owned_message().process.into_option())?;
        if process.terminal.is_some() {
            return Err(ConnectError::unknown(
                "a PTY has no stdin to close; send Ctrl-D (0x04) as input instead",
            ));
        }
        if let Some(input) = &process.input {
            input.close();
        }
        Response::ok(CloseStdinResponse::default())
    }
}

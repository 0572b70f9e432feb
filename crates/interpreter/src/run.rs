//! One execution, from its place in the queue to the last line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::context::{Context, Session};
use crate::contexts::World;
use crate::item::{self, Meaning};
use crate::kernel::Kernel;
use crate::language::{self, Changes};
use crate::notebook::Outputs;
use crate::wire::Message;

/// Proxies end connections that are silent for long.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How often a kernel that goes on is told again to stop.
const INTERRUPT: Duration = Duration::from_secs(1);
/// After as many, its process is ended.
const INTERRUPTS: u32 = 5;
/// What is run unseen takes milliseconds.
const HIDDEN: Duration = Duration::from_secs(20);

/// After as many runs, code is what it stays.
const REHEARSALS: u32 = 20;
/// The name of the error that tells of it when a kernel has died.
pub(crate) const RESTARTED: &str = "ContextRestarting";
const REHEARSED: &str = "SOULBOX_REHEARSAL";

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) code: String,
    /// Variables for this execution alone.
    pub(crate) variables: BTreeMap<String, String>,
    /// The caller's token for the daemon of the sandbox.
    pub(crate) token: Option<String>,
}

/// Where lines go. Closed when the caller has gone away.
pub(crate) type Lines = mpsc::Sender<Bytes>;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// Nobody reads any more.
    Left,
    /// The kernel is no more, and how it ended.
    Died(String),
}

/// Runs it when its turn has come, and writes its lines.
pub(crate) async fn execute(
    world: Arc<World>,
    context: Arc<Context>,
    execution: Execution,
    lines: Lines,
) {
    let mut session = tokio::select! {
        session = context.session.lock() => session,
        () = lines.closed() => return,
    };
    let session = &mut *session;
    // Nobody keeps them.
    let mut outputs = Outputs::default();
    let to = (&lines, &mut outputs);
    let end = prepared(&world, &context, session, &execution, to).await;
    if let End::Died(how) = &end {
        session.kernel = None;
        say(&lines, item::line(&restarted(how))).await;
    }
    say(&lines, item::END).await;
    drop(lines);
    let language = &context.description.language;
    let undo = session.undo(language, &execution.variables);
    if let (false, Some(kernel)) = (undo.is_empty(), &mut session.kernel) {
        hidden(kernel, &undo).await;
    }
}

/// What is said of a kernel that has died while code ran in it.
pub(crate) fn restarted(how: &str) -> Value {
    item::error(RESTARTED, "Context was restarted", how)
}

/// Gives the context its kernel and its variables, and runs the code.
pub(crate) async fn prepared(
    world: &World,
    context: &Context,
    session: &mut Session,
    execution: &Execution,
    (lines, outputs): (&Lines, &mut Outputs),
) -> End {
    match context.ensure(session, &world.starter).await {
        Ok(None) => {}
        Ok(Some(how)) => {
            let text = format!(
                "The kernel had ended ({how}). This is a new one without the variables of the old.\n"
            );
            let note = json!({"type": "stderr", "text": text, "timestamp": jiff::Timestamp::now().to_string()});
            say(lines, item::line(&note)).await;
        }
        Err(error) => return End::Died(format!("the kernel did not start: {error}")),
    }
    let language = context.description.language.as_str();
    let mut before = adopted(world, session, language, execution).await;
    let own = execution.variables.iter();
    let own = own.map(|(name, value)| (name.clone(), Some(value.clone())));
    before += &language::change_environment(language, &own.collect());
    let Some(kernel) = &mut session.kernel else {
        return End::Died("there is no kernel".to_owned());
    };
    if !before.is_empty() {
        hidden(kernel, &before).await;
    }
    visible(kernel, &execution.code, (lines, outputs)).await
}

/// Has a kernel run what every first execution runs. Python writes to code that it runs for the first times, and loads
/// modules when they are needed: each sandbox would do it again, and copy page by page
/// what can be there from the beginning.
pub(crate) async fn rehearse(kernel: &mut Kernel, language: &str) {
    let own =
        |value: Option<&str>| Changes::from([(REHEARSED.to_owned(), value.map(str::to_owned))]);
    let code = [
        language::reseed(language).to_owned(),
        language::change_environment(language, &own(Some("1"))),
        language::show(language).to_owned(),
        language::change_environment(language, &own(None)),
    ];
    for _ in 0..REHEARSALS {
        for code in &code {
            hidden(kernel, code).await;
        }
    }
}

/// The kernel is told which sandbox it is in when that is new to it.
async fn adopted(
    world: &World,
    session: &mut Session,
    language: &str,
    execution: &Execution,
) -> String {
    let identity = world.envd.identity();
    if session.identity.as_deref() == Some(identity.as_str()) {
        return String::new();
    }
    match world.envd.variables(execution.token.as_deref()).await {
        Ok(globals) => session.adopt(language, identity, globals),
        // It runs without them; the next execution asks again.
        Err(_) => language::reseed(language).to_owned(),
    }
}

/// Runs what the caller wrote.
async fn visible(kernel: &mut Kernel, code: &str, (lines, outputs): (&Lines, &mut Outputs)) -> End {
    let request = json!({
        "code": code, "silent": false, "store_history": true, "user_expressions": {},
        "allow_stdin": false, "stop_on_error": true,
    });
    let mut messages = match kernel.ask("execute_request", &request).await {
        Ok(messages) => messages,
        Err(error) => return End::Died(error.to_string()),
    };
    let mut process = kernel.process.clone();
    let mut progress = Progress::default();
    let end = loop {
        let message = tokio::select! {
            biased;
            message = timeout(KEEPALIVE, messages.recv()) => message,
            how = process.ended() => break End::Died(how),
            () = lines.closed() => break End::Left,
        };
        let line = match message {
            Ok(Some(message)) => {
                outputs.take(&message);
                progress.take(&message)
            }
            Ok(None) => break End::Died("the link to it was lost".to_owned()),
            Err(_) => Some(item::KEEPALIVE.to_owned()),
        };
        if let Some(line) = line
            && !say(lines, line).await
        {
            break End::Left;
        }
        if progress.is_over() {
            if let Some(error) = progress.unsaid() {
                say(lines, item::line(&error)).await;
            }
            break End::Done;
        }
    };
    if end == End::Left && !stopped(kernel, &mut messages, progress).await {
        kernel.process.kill();
        // Whoever comes next finds it gone and not going.
        process.ended().await;
    }
    end
}

/// Tells the kernel to stop until it does.
async fn stopped(
    kernel: &mut Kernel,
    messages: &mut mpsc::Receiver<Message>,
    mut progress: Progress,
) -> bool {
    for _ in 0..INTERRUPTS {
        kernel.interrupt().await;
        let finish = async {
            while let Some(message) = messages.recv().await {
                progress.take(&message);
                if progress.is_over() {
                    break;
                }
            }
        };
        let mut process = kernel.process.clone();
        tokio::select! {
            () = finish => return progress.is_over(),
            _ = process.ended() => return true,
            () = tokio::time::sleep(INTERRUPT) => {}
        }
    }
    false
}

/// Runs what the caller does not see.
async fn hidden(kernel: &mut Kernel, code: &str) {
    let request = json!({
        "code": code, "silent": true, "store_history": false, "user_expressions": {},
        "allow_stdin": false, "stop_on_error": false,
    });
    // A kernel that is gone is noticed by what comes next.
    let Ok(mut messages) = kernel.ask("execute_request", &request).await else {
        return;
    };
    let mut progress = Progress::default();
    let finish = async {
        while !progress.is_over() {
            let Some(message) = messages.recv().await else {
                break;
            };
            progress.take(&message);
        }
    };
    let mut process = kernel.process.clone();
    tokio::select! {
        () = finish => {}
        _ = process.ended() => {}
        // One that does not come back from this is of no use.
        () = tokio::time::sleep(HIDDEN) => kernel.process.kill(),
    }
}

/// How far an execution is: both channels say when it is done, in either order.
#[derive(Debug, Default)]
struct Progress {
    is_idle: bool,
    is_answered: bool,
    has_failed: bool,
    outcome: Option<Value>,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.is_idle && self.is_answered
    }

    /// The error of an execution that only its answer tells of. Most kernels say it before, with everything else.
    fn unsaid(&mut self) -> Option<Value> {
        self.outcome.take().filter(|_| !self.has_failed)
    }

    /// The line that a message means.
    fn take(&mut self, message: &Message) -> Option<String> {
        match item::meaning(message) {
            Meaning::Line(line) => {
                self.has_failed |= line["type"] == "error";
                return Some(item::line(&line));
            }
            Meaning::Idle => self.is_idle = true,
            Meaning::Reply(outcome) => {
                self.is_answered = true;
                self.outcome = outcome;
            }
            Meaning::Nothing => {}
        }
        None
    }
}

/// Whether the line has found a reader.
pub(crate) async fn say(lines: &Lines, line: impl Into<Bytes>) -> bool {
    lines.send(line.into()).await.is_ok()
}

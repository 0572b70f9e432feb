//! One kernel: its process and the sockets to it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeromq::{DealerSendHalf, DealerSocket, Socket as _, SocketRecv, SocketSend as _, SubSocket};

use crate::kernelspec::InterruptMode;
use crate::wire::{self, Key, Message};

/// Messages of a run that wait for a client that is slow. Then the kernel waits.
const QUEUE: usize = 64;
/// How long a kernel may take to answer the first question before it is asked again.
const FIRST_ANSWER: Duration = Duration::from_millis(500);
const FIRST_ANSWERS: u32 = 120;

/// Why there is no kernel, or none any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("its description names no program")]
    NoProgram,
    #[error("{0} cannot be started: {1}")]
    Start(String, #[source] std::io::Error),
    #[error("it ended: {0}")]
    Died(String),
    #[error("it does not answer")]
    Silent,
    #[error("the link to it failed: {0}")]
    Link(#[from] zeromq::ZmqError),
    #[error("{0}: {1}")]
    Io(&'static str, #[source] std::io::Error),
    #[error("{0}")]
    Spec(#[from] crate::kernelspec::SpecError),
}

/// Where a kernel listens.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: &'static str,
    ip: String,
    ports: [u16; 5],
    key: Key,
}

impl Connection {
    /// Sockets in the file system, for kernels of ours: nobody can take them away in between.
    pub(crate) fn ipc(prefix: &Path) -> Self {
        Self {
            transport: "ipc",
            ip: prefix.display().to_string(),
            ports: [1, 2, 3, 4, 5],
            key: Key::new(),
        }
    }

    /// Ports on loopback, for kernels that know nothing else.
    pub(crate) fn tcp() -> Result<Self, KernelError> {
        let bind = || std::net::TcpListener::bind(("127.0.0.1", 0));
        let io = |e| KernelError::Io("cannot find a free port", e);
        // All at once, so that they differ.
        let sockets = [bind(), bind(), bind(), bind(), bind()];
        let mut ports = [0; 5];
        for (port, socket) in ports.iter_mut().zip(sockets) {
            *port = socket.map_err(io)?.local_addr().map_err(io)?.port();
        }
        Ok(Self {
            transport: "tcp",
            ip: "127.0.0.1".to_owned(),
            ports,
            key: Key::new(),
        })
    }

    /// The connection file's contents.
    pub(crate) fn describe(&self) -> Value {
        let [shell, iopub, stdin, control, hb] = self.ports;
        json!({
            "transport": self.transport, "ip": self.ip,
            "shell_port": shell, "iopub_port": iopub, "stdin_port": stdin, "control_port": control, "hb_port": hb,
            "signature_scheme": "hmac-sha256", "key": self.key.as_str(),
        })
    }

    /// Whether the kernel has come so far that it listens.
    pub(crate) async fn is_open(&self) -> bool {
        let [shell, iopub, ..] = self.ports;
        for port in [shell, iopub] {
            if tokio::net::TcpStream::connect((self.ip.as_str(), port))
                .await
                .is_err()
            {
                return false;
            }
        }
        true
    }

    fn endpoint(&self, index: usize) -> String {
        let separator = if self.transport == "ipc" { '-' } else { ':' };
        let port = self.ports.get(index).copied().unwrap_or_default();
        format!("{}://{}{separator}{port}", self.transport, self.ip)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.transport == "ipc" {
            for port in self.ports {
                // The kernel may never have made it.
                drop(std::fs::remove_file(PathBuf::from(format!(
                    "{}-{port}",
                    self.ip
                ))));
            }
        }
    }
}

/// A process that is a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) ended: watch::Receiver<Option<String>>,
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        self.ended.borrow().is_none() && self.ended.has_changed().is_ok()
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&mut self) -> String {
        match self.ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "nobody watches it any more".to_owned(),
        }
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// To its whole group: what it has started is meant, too.
    fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            // It may end at this moment: then there is nobody to signal.
            kill_process_group(pid, signal).ok();
        }
    }
}

/// Who the messages that answer a request go to.
type Listener = Arc<Mutex<Option<(String, mpsc::Sender<Message>)>>>;

/// A kernel that answers.
pub(crate) struct Kernel {
    pub(crate) process: Process,
    connection: Connection,
    session: String,
    shell: DealerSendHalf,
    control: Option<DealerSocket>,
    listener: Listener,
    pumps: [JoinHandle<()>; 2],
}

impl Kernel {
    /// Connects to a kernel that listens, and waits until it answers.
    pub(crate) async fn connect(
        process: Process,
        connection: Connection,
        mode: InterruptMode,
    ) -> Result<Self, KernelError> {
        let mut shell = DealerSocket::new();
        shell.connect(&connection.endpoint(0)).await?;
        let mut iopub = SubSocket::new();
        iopub.subscribe("").await?;
        iopub.connect(&connection.endpoint(1)).await?;
        let control = match mode {
            InterruptMode::Signal => None,
            InterruptMode::Message => {
                let mut control = DealerSocket::new();
                control.connect(&connection.endpoint(3)).await?;
                Some(control)
            }
        };
        let (shell, answers) = shell.split();
        let listener = Listener::default();
        let key = &connection.key;
        let pumps = [
            tokio::spawn(pump(answers, key.clone(), Arc::clone(&listener))),
            tokio::spawn(pump(iopub, key.clone(), Arc::clone(&listener))),
        ];
        let mut kernel = Self {
            process,
            connection,
            session: uuid::Uuid::new_v4().simple().to_string(),
            shell,
            control,
            listener,
            pumps,
        };
        kernel.await_first_answer().await?;
        Ok(kernel)
    }

    /// A kernel is there when both channels have brought what belongs to one question.
    async fn await_first_answer(&mut self) -> Result<(), KernelError> {
        for _ in 0..FIRST_ANSWERS {
            let mut messages = self.ask("kernel_info_request", &json!({})).await?;
            let mut process = self.process.clone();
            let both = async {
                let (mut is_idle, mut is_answered) = (false, false);
                while !(is_idle && is_answered) {
                    let Some(message) = messages.recv().await else {
                        break;
                    };
                    is_idle |= message.header.msg_type == "status"
                        && message.content["execution_state"] == "idle";
                    is_answered |= message.header.msg_type == "kernel_info_reply";
                }
                is_idle && is_answered
            };
            tokio::select! {
                is_there = both => return if is_there { Ok(()) } else { Err(KernelError::Silent) },
                how = process.ended() => return Err(KernelError::Died(how)),
                () = tokio::time::sleep(FIRST_ANSWER) => {}
            }
        }
        Err(KernelError::Silent)
    }

    /// Sends a request on the shell channel; what answers it comes from the returned queue, whoever asked before.
    pub(crate) async fn ask(
        &mut self,
        kind: &str,
        content: &Value,
    ) -> Result<mpsc::Receiver<Message>, KernelError> {
        let (id, message) = wire::request(&self.connection.key, &self.session, kind, content);
        let (sender, messages) = mpsc::channel(QUEUE);
        *lock(&self.listener) = Some((id, sender));
        self.shell.send(message).await?;
        Ok(messages)
    }

    /// Asks it to stop what it does.
    pub(crate) async fn interrupt(&mut self) {
        match &mut self.control {
            None => self.process.signal(Signal::INT),
            Some(control) => {
                let key = &self.connection.key;
                let (_, message) =
                    wire::request(key, &self.session, "interrupt_request", &json!({}));
                // One that cannot be told is killed a moment later.
                drop(control.send(message).await);
            }
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.process.kill();
        for pump in &self.pumps {
            pump.abort();
        }
    }
}

/// Reads a channel for as long as the kernel is there. What nobody listens to is dropped.
async fn pump(mut from: impl SocketRecv, key: Key, listener: Listener) {
    while let Ok(message) = from.recv().await {
        // A message that cannot be read is the kernel's mistake and ends nothing.
        let Ok(message) = wire::read(&key, message) else {
            continue;
        };
        let to = lock(&listener)
            .as_ref()
            .filter(|(id, _)| *id == message.parent)
            .map(|(_, to)| to.clone());
        if let Some(to) = to {
            // Who has stopped listening misses nothing.
            drop(to.send(message).await);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

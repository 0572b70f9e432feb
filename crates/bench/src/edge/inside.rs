//! The network of a sandbox, and a thread that stands in it with the server of [`echo`].

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use soulbox_linux::namespace;
use tokio::sync::oneshot;

use super::echo;
use super::nginx::one_thread;
use crate::host;

/// Where the network of a sandbox is found.
pub(super) fn network_of(sandbox: &str) -> Result<PathBuf, String> {
    let ids = [sandbox.to_owned()];
    let processes = host::processes_by_sandbox(&ids);
    let process = processes.get(sandbox).and_then(|pids| pids.first());
    let process = process.ok_or("the sandbox's processes are not visible from here")?;
    Ok(PathBuf::from(format!("/proc/{process}/ns/net")))
}

/// The server, running.
pub(super) struct Inside {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Starts it.
    pub(super) fn start(sandbox: &str) -> Result<Self, String> {
        let network = network_of(sandbox)?;
        let (end, ended) = oneshot::channel();
        let (ready, outcome) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // A thread of its own, because it stays there.
            let runtime = namespace::open(&network)
                .and_then(namespace::enter_network)
                .and_then(|()| one_thread());
            let serving = runtime.and_then(|runtime| {
                runtime.block_on(echo::serve())?;
                Ok::<_, io::Error>(runtime)
            });
            match serving {
                Ok(runtime) => {
                    ready.send(Ok(())).ok();
                    // Dropped or sent: both are the end.
                    runtime.block_on(ended).ok();
                }
                Err(error) => {
                    ready.send(Err(error.to_string())).ok();
                }
            }
        });
        let begun = outcome.recv();
        begun.map_err(|_| "its thread has ended".to_owned())??;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It has told what went wrong with it.
            thread.join().ok();
        }
    }
}

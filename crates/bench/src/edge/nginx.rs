//! nginx as a proxy to the same server in the same sandbox. It stands in the sandbox's network, where that server is on the
//! loopback, as it is for us; what it is asked comes from there, too.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use soulbox_linux::namespace;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::echo;
use super::inside::network_of;
use super::load::{Answered, Load};
use crate::peers::which;

/// Free in a sandbox of ours.
const PORT: u16 = 49_990;
const PATIENCE: Duration = Duration::from_secs(5);

/// An order for the thread that stands in the sandbox's network, and where its answer goes.
type Order = (Load, oneshot::Sender<Answered>);

/// nginx, running, and a thread beside it.
pub(super) struct Nginx {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Nginx {
    pub(super) const ADDRESS: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

    /// Starts it in the network of a sandbox, in front of a port there.
    pub(super) fn start(sandbox: &str, upstream: u16) -> Result<Self, String> {
        let program = which("nginx").or_else(|| {
            let system = PathBuf::from("/usr/sbin/nginx");
            system.is_file().then_some(system)
        });
        let program = program.ok_or("nginx is not installed")?;
        let network = network_of(sandbox)?;
        let (orders, waiting) = mpsc::channel();
        let (ready, outcome) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // A thread of its own, because it stays there.
            match stand(&network, &program, upstream) {
                Ok((server, runtime)) => {
                    ready.send(Ok(())).ok();
                    serve(&waiting, &runtime);
                    drop(server);
                }
                Err(error) => {
                    ready.send(Err(format!("nginx: {error}"))).ok();
                }
            }
        });
        outcome
            .recv()
            .map_err(|_| "nginx: its thread has ended".to_owned())??;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Has it carry a load.
    pub(super) async fn carry(&self, load: Load) -> Option<Answered> {
        let (reply, answer) = oneshot::channel();
        self.orders.as_ref()?.send((load, reply)).ok()?;
        answer.await.ok()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It has told what went wrong with it.
            thread.join().ok();
        }
    }
}

fn serve(waiting: &mpsc::Receiver<Order>, runtime: &tokio::runtime::Runtime) {
    while let Ok((load, reply)) = waiting.recv() {
        // Who asked may be gone.
        reply.send(runtime.block_on(load.run())).ok();
    }
}

/// The process, and the directory of its files.
struct Server {
    process: Child,
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers end with it: SIGTERM is what it calls a fast shutdown.
        let pid = i32::try_from(self.process.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.process.wait().ok();
    }
}

fn stand(
    network: &Path,
    program: &Path,
    upstream: u16,
) -> io::Result<(Server, tokio::runtime::Runtime)> {
    namespace::enter_network(namespace::open(network)?)?;
    let directory = tempfile::Builder::new()
        .prefix("soulbox-bench-")
        .tempdir()?;
    let config = directory.path().join("nginx.conf");
    fs::write(&config, configuration(directory.path(), upstream))?;
    let process = Command::new(program)
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(directory.path().join("error.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let server = Server {
        process,
        _directory: directory,
    };
    let runtime = one_thread()?;
    runtime.block_on(listening())?;
    Ok((server, runtime))
}

/// What both sides are asked with.
pub(super) fn one_thread() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn listening() -> io::Result<()> {
    let connecting = async {
        while tokio::net::TcpStream::connect(Nginx::ADDRESS)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, connecting).await;
    waited.map_err(|_| io::Error::other("it does not listen"))
}

/// What its manual says a proxy that is to be fast needs: connections to the server inside are kept. A stream is passed on
/// as it comes, as ours is.
fn configuration(directory: &Path, upstream: u16) -> String {
    let here = directory.display();
    let echo = echo::PORT;
    format!(
        "daemon off;\n\
         user root;\n\
         worker_processes auto;\n\
         pid {here}/nginx.pid;\n\
         error_log {here}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         \x20 access_log off;\n\
         \x20 client_body_temp_path {here}/body;\n\
         \x20 proxy_temp_path {here}/proxy;\n\
         \x20 proxy_max_temp_file_size 0;\n\
         \x20 fastcgi_temp_path {here}/fastcgi;\n\
         \x20 uwsgi_temp_path {here}/uwsgi;\n\
         \x20 scgi_temp_path {here}/scgi;\n\
         \x20 keepalive_requests 1000000000;\n\
         \x20 upstream inside {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         \x20 upstream echo {{ server 127.0.0.1:{echo}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         \x20 server {{\n\
         \x20   listen 127.0.0.1:{PORT};\n\
         \x20   proxy_http_version 1.1;\n\
         \x20   location / {{\n\
         \x20     proxy_pass http://inside;\n\
         \x20     proxy_set_header Connection \"\";\n\
         \x20   }}\n\
         \x20   location /stream {{\n\
         \x20     proxy_pass http://echo;\n\
         \x20     proxy_set_header Connection \"\";\n\
         \x20     proxy_buffering off;\n\
         \x20   }}\n\
         \x20   location /echo {{\n\
         \x20     proxy_pass http://echo;\n\
         \x20     proxy_set_header Connection \"upgrade\";\n\
         \x20     proxy_set_header Upgrade $http_upgrade;\n\
         \x20   }}\n\
         \x20 }}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        let text = configuration(Path::new("/tmp/x"), 49_983);
        assert!(text.contains("server 127.0.0.1:49983; keepalive"));
        assert!(text.contains("listen 127.0.0.1:49990;"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn without_a_sandbox_there_is_none() {
        assert!(Nginx::start("i0nobody", 49_983).is_err());
    }
}

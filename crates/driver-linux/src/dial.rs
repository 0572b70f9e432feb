//! Connecting to ports inside sandboxes.
//!
//! A socket belongs to the network namespace of the thread that makes it. A few threads do nothing else: enter the
//! sandbox's namespace, make a socket, start to connect, go home. The connection is then awaited by the async side.
//! Nothing is exposed on the host, and servers that listen on loopback only are reached.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use soulbox_driver::DialError;
use soulbox_linux::namespace;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const THREADS: usize = 2;
/// Loopback answers at once or not at all; this bounds a listener whose queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

struct Job {
    network: Arc<OwnedFd>,
    address: SocketAddr,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

/// The threads. Cloned freely; they end when the last clone is gone.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    jobs: mpsc::Sender<Job>,
}

impl Dialer {
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = Arc::clone(&queue);
            let home = namespace::open(Path::new("/proc/thread-self/ns/net"))?;
            std::thread::Builder::new()
                .name("dialer".to_owned())
                .spawn(move || run(&queue, &home))?;
        }
        Ok(Self { jobs })
    }

    /// Connects to `port` on the loopback of a network namespace, IPv4 first.
    pub(crate) async fn dial(
        &self,
        network: &Arc<OwnedFd>,
        port: u16,
    ) -> Result<TcpStream, DialError> {
        match self
            .connect(network, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .await
        {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            other => return other.map_err(|source| DialError::Io { port, source }),
        }
        match self
            .connect(network, SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
            .await
        {
            Ok(stream) => Ok(stream),
            // No IPv6 on this host at all is the same answer: nothing listens.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::Unsupported
                ) =>
            {
                Err(DialError::PortClosed { port })
            }
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                Err(DialError::PortClosed { port })
            }
            Err(source) => Err(DialError::Io { port, source }),
        }
    }

    async fn connect(&self, network: &Arc<OwnedFd>, address: SocketAddr) -> io::Result<TcpStream> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the dialer threads have ended");
        self.jobs
            .send(Job {
                network: Arc::clone(network),
                address,
                reply,
            })
            .map_err(|_| gone())?;
        let socket = answer.await.map_err(|_| gone())??;
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
        tokio::time::timeout(CONNECT_TIMEOUT, stream.writable()).await??;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

fn run(queue: &Mutex<mpsc::Receiver<Job>>, home: &OwnedFd) {
    loop {
        // The lock is held while waiting: the other thread waits for the lock instead, which is the same.
        let Ok(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).recv() else {
            return;
        };
        let made = namespace::enter_network(&job.network).and_then(|()| start_connect(job.address));
        // Staying would keep the namespace of a dead sandbox alive. Not getting home must never be survived: the next
        // socket would belong to the wrong sandbox.
        if namespace::enter_network(home).is_err() {
            tracing::error!("a dialer thread cannot return to its own network namespace");
            return;
        }
        // The caller may have given up meanwhile.
        let _unwanted = job.reply.send(made);
    }
}

fn start_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

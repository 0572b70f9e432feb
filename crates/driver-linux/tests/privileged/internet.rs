//! A small internet: a network namespace on a cable, with a public-looking address and addresses that no sandbox may
//! reach. The host reaches all of them, so that a refusal is seen to be the sandbox's.
//!
//! Addresses follow from the number of this process: two runs on one machine do not disturb each other.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use soulbox_linux::namespace;

pub(crate) const PORT: u16 = 8080;

/// The namespace, its cable and its servers. Everything goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Internet {
    name: String,
    cable: String,
    /// The server that anybody may reach.
    pub(crate) public: Ipv4Addr,
    /// Addresses in closed ranges, all the same server.
    pub(crate) closed: Vec<Ipv4Addr>,
    /// The host's address on the cable, which is what the server sees of a sandbox.
    pub(crate) host_side: Ipv4Addr,
    /// Sender and content of datagrams, in order of arrival.
    pub(crate) datagrams: mpsc::Receiver<(IpAddr, String)>,
    ends: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Internet {
    pub(crate) fn open() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let third = u8::try_from(process % 250).unwrap();
        let tag = format!("{}n{number}", process % 1_000_000);
        let (name, cable, inner) = (format!("pt{tag}"), format!("pt{tag}"), format!("pi{tag}"));
        // 52.93.0.0/16 and the like would do as well; what matters is that it is in no closed range.
        let public = Ipv4Addr::new(11, 100 + number, third, 2);
        let host_side = Ipv4Addr::new(11, 100 + number, third, 1);
        let closed = vec![
            Ipv4Addr::new(10, 213, third, 10 + number),
            Ipv4Addr::new(100, 64, third, 10 + number),
            Ipv4Addr::new(169, 254, third, 10 + number),
            Ipv4Addr::new(172, 29, third, 10 + number),
            Ipv4Addr::new(192, 168, third, 10 + number),
            Ipv4Addr::new(198, 19, third, 10 + number),
        ];
        ip(&["netns", "add", &name]);
        ip(&[
            "link", "add", &cable, "type", "veth", "peer", "name", &inner, "netns", &name,
        ]);
        ip(&["address", "add", &format!("{host_side}/30"), "dev", &cable]);
        ip(&["link", "set", &cable, "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "link", "set", &inner, "up"]);
        for address in closed.iter().chain([&public]) {
            ip(&[
                "-n",
                &name,
                "address",
                "add",
                &format!("{address}/32"),
                "dev",
                &inner,
            ]);
        }
        // It knows the way to the host only: an answer proves that the sandbox's address was translated.
        ip(&[
            "-n",
            &name,
            "route",
            "add",
            &format!("{host_side}/32"),
            "dev",
            &inner,
        ]);
        for address in &closed {
            ip(&["route", "add", &format!("{address}/32"), "dev", &cable]);
        }
        let (sender, datagrams) = mpsc::channel();
        let ends = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = servers(&name, &ends, sender);
        let internet = Self {
            name,
            cable,
            public,
            closed,
            host_side,
            datagrams,
            ends,
            servers: vec![tcp, udp],
        };
        for address in internet.closed.iter().chain([&internet.public]) {
            TcpStream::connect_timeout(&SocketAddr::from((*address, PORT)), Duration::from_secs(5))
                .unwrap();
        }
        internet
    }
}

/// Sockets belong to the namespace of the thread that makes them.
fn servers(
    name: &str,
    ends: &Arc<AtomicBool>,
    sender: mpsc::Sender<(IpAddr, String)>,
) -> (JoinHandle<()>, JoinHandle<()>) {
    let path = Path::new("/run/netns").join(name);
    let (ready, waits) = mpsc::channel();
    let maker = std::thread::spawn(move || {
        namespace::enter_network(namespace::open(&path).unwrap()).unwrap();
        let any = Ipv4Addr::UNSPECIFIED;
        ready
            .send((
                TcpListener::bind((any, PORT)).unwrap(),
                UdpSocket::bind((any, PORT)).unwrap(),
            ))
            .unwrap();
    });
    let (listener, socket) = waits.recv().unwrap();
    maker.join().unwrap();
    let (tcp_ends, udp_ends) = (Arc::clone(ends), Arc::clone(ends));
    let tcp = std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            if tcp_ends.load(Ordering::Acquire) {
                return;
            }
            // A client that only tries the door is gone by now.
            let _gone = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
    let udp = std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            if udp_ends.load(Ordering::Acquire) {
                return;
            }
            let content = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if sender.send((peer.ip(), content)).is_err() {
                return;
            }
        }
    });
    (tcp, udp)
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // Wake both servers.
        let door = SocketAddr::from((self.public, PORT));
        let _woken = TcpStream::connect_timeout(&door, Duration::from_secs(1));
        let _sent =
            UdpSocket::bind((self.host_side, 0)).and_then(|socket| socket.send_to(b"end", door));
        for server in self.servers.drain(..) {
            let _ended = server.join();
        }
        for arguments in [
            ["link", "delete", &self.cable],
            ["netns", "delete", &self.name],
        ] {
            let _output = Command::new("ip").args(arguments).output();
        }
    }
}

//! What a sandbox reaches, who reaches it, and that it can pretend to be nobody else.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use soulbox_linux::link::Netlink;
use soulbox_linux::namespace;
use soulbox_net::limits;
use soulbox_types::NetworkMode;

use crate::commands::{ENVD_PORT, Sandbox};
use crate::internet::{Internet, PORT};
use crate::support::on_stage;

/// Tries TCP addresses; answers with what the server said, or the error number (0 for a timeout).
const CONNECT: &str = r#"
import json, socket, sys
answers = []
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(2)
    try:
        s.connect((host, int(port)))
        try: answers.append(s.recv(100).decode() or "open")
        except OSError: answers.append("open")
    except OSError as error:
        answers.append(error.errno or 0)
    s.close()
print(json.dumps(answers))
"#;

impl Sandbox {
    async fn connect(&self, targets: &[String]) -> Vec<serde_json::Value> {
        let mut argv = vec!["python3", "-c", CONNECT];
        argv.extend(targets.iter().map(String::as_str));
        let output = self.run("root", &argv).await;
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }
}

fn target(address: Ipv4Addr, port: u16) -> String {
    format!("{address}:{port}")
}

/// Refused at once: a reset, or "administratively prohibited". A timeout would mean that nobody said no.
fn is_refused(answer: &serde_json::Value) -> bool {
    answer.as_i64().is_some_and(|errno| {
        [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH]
            .map(i64::from)
            .contains(&errno)
    })
}

fn host_addresses() -> Vec<Ipv4Addr> {
    let output = std::process::Command::new("ip")
        .args(["-o", "-4", "address"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let after_inet = words
        .windows(2)
        .filter(|pair| pair[0] == "inet")
        .map(|pair| pair[1]);
    after_inet
        .filter_map(|address| address.split('/').next()?.parse().ok())
        .collect()
}

#[test]
fn the_internet_is_reached_under_the_hosts_address() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let sandbox = stage.create().await;
        let answers = sandbox.connect(&[target(internet.public, PORT)]).await;
        assert_eq!(answers, [json!(internet.host_side.to_string())]);
        let send = format!(
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('{}', {PORT}))",
            internet.public
        );
        sandbox.run("user", &["python3", "-c", &send]).await;
        let (from, content) = internet
            .datagrams
            .recv_timeout(Duration::from_secs(5))
            .unwrap();
        assert_eq!(
            (from, content.as_str()),
            (internet.host_side.into(), "hello")
        );
    });
}

#[test]
fn closed_ranges_are_unreachable() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let sandbox = stage.create().await;
        let mut targets: Vec<String> = internet
            .closed
            .iter()
            .map(|address| target(*address, PORT))
            .collect();
        // Metadata services, other blocks' networks, multicast, this network.
        let others = [
            "169.254.169.254:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "198.19.255.254:80",
            "203.0.113.9:80",
            "240.0.0.1:80",
        ];
        targets.extend(others.map(str::to_owned));
        let answers = sandbox.connect(&targets).await;
        for (target, answer) in targets.iter().zip(&answers) {
            assert!(is_refused(answer), "{target}: {answer}");
        }
        let marker = internet.public;
        let send = format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             for a in '{}'.split():\n    try: s.sendto(b'closed', (a, {PORT}))\n    except OSError: pass\n\
             for n in range(3):\n    try: s.sendto(b'public', ('{marker}', {PORT})); break\n    except OSError: pass\n",
            internet
                .closed
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
        );
        assert_eq!(sandbox.run("root", &["python3", "-c", &send]).await.code, 0);
        // Packets keep their order on the way: what was sent before the marker and is not here has been dropped.
        let (_, content) = internet
            .datagrams
            .recv_timeout(Duration::from_secs(5))
            .unwrap();
        assert_eq!(content, "public");
    });
}

#[test]
fn the_host_is_unreachable_but_for_names() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let sandbox = stage.create().await;
        let gateway = stage.place.block.gateway();
        let everywhere = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let mut targets: Vec<String> = Vec::new();
        for address in host_addresses()
            .into_iter()
            .filter(|address| !address.is_loopback())
        {
            // The host itself gets there.
            TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(5))
                .unwrap();
            targets.push(target(address, port));
        }
        assert!(
            targets.contains(&target(gateway, port))
                && targets.contains(&target(internet.host_side, port))
        );
        targets.extend([22, 80, 443, 3000, 8080].map(|port| target(gateway, port)));
        let answers = sandbox.connect(&targets).await;
        for (target, answer) in targets.iter().zip(&answers) {
            assert!(is_refused(answer), "{target}: {answer}");
        }
        // Loopback is the sandbox's own.
        assert!(is_refused(
            &sandbox.connect(&[format!("127.0.0.1:{port}")]).await[0]
        ));
    });
}

#[test]
fn the_gateway_answers_on_port_53() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let gateway = stage.place.block.gateway();
        let stream = TcpListener::bind((gateway, 53)).unwrap();
        let datagram = UdpSocket::bind((gateway, 53)).unwrap();
        let other = UdpSocket::bind((gateway, 5353)).unwrap();
        let program = format!(
            "import socket\nsocket.create_connection(('{gateway}', 53), 2).close()\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.sendto(b'other', ('{gateway}', 5353))\ntry: s.sendto(b'name', ('{gateway}', 53))\nexcept OSError: s.sendto(b'name', ('{gateway}', 53))\n"
        );
        let output = sandbox.run("user", &["python3", "-c", &program]).await;
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(stream.accept().unwrap().1.ip(), sandbox.slot.address());
        let mut buffer = [0; 10];
        datagram
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let (length, from) = datagram.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.ip()),
            (b"name".as_slice(), sandbox.slot.address().into())
        );
        other.set_nonblocking(true).unwrap();
        assert!(
            other.recv_from(&mut buffer).is_err(),
            "another port of the gateway was reached"
        );
    });
}

const SERVER: &str = r#"
import socket
s = socket.create_server(("0.0.0.0", 8000)); print("up")
while True: s.accept()[0].sendall(b"reached")
"#;

#[test]
fn neighbours_are_unreachable() {
    on_stage(async |stage| {
        let (one, other) = (stage.create().await, stage.create().await);
        let _server = other.serve("user", SERVER).await;
        let theirs = other.slot.address();
        assert_eq!(
            other.connect(&[target(theirs, 8000)]).await,
            [json!("reached")]
        );
        let answers = one
            .connect(&[target(theirs, 8000), target(theirs, ENVD_PORT)])
            .await;
        assert!(answers.iter().all(is_refused), "{answers:?}");
    });
}

#[test]
fn the_host_reaches_ports_inside_by_dialling_only() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let _server = sandbox.serve("user", SERVER).await;
        for port in [8000, ENVD_PORT] {
            let address = SocketAddr::from((sandbox.slot.address(), port));
            let refused = TcpStream::connect_timeout(&address, Duration::from_secs(5));
            assert!(refused.is_err(), "{address} is open to the host");
            sandbox.guest.dial(port).await.unwrap();
        }
        let closed = sandbox.guest.dial(1).await.unwrap_err();
        assert!(
            matches!(closed, soulbox_driver::DialError::PortClosed { port: 1 }),
            "{closed}"
        );
        // Also what listens on loopback alone, of either family.
        let _loopback = sandbox.serve("user", "import socket; s = socket.create_server(('::1', 8001), family=socket.AF_INET6); print('up'); s.accept()").await;
        sandbox.guest.dial(8001).await.unwrap();
    });
}

#[test]
fn offline_means_loopback_and_nothing_else() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let mut spec = stage.spec();
        spec.network = NetworkMode::Offline;
        let sandbox = stage.create_as(&spec).await;
        assert_eq!(
            sandbox
                .root("grep -o '^ *[a-z0-9]*:' /proc/net/dev | tr -d ' '")
                .await,
            "lo:\n"
        );
        let gateway = stage.place.block.gateway();
        let targets = [
            target(internet.public, PORT),
            target(gateway, 53),
            target(internet.closed[0], PORT),
        ];
        let answers = sandbox.connect(&targets).await;
        assert!(
            answers.iter().all(|answer| *answer == libc::ENETUNREACH),
            "{answers:?}"
        );
        let _server = sandbox.serve("user", SERVER).await;
        sandbox.guest.dial(8000).await.unwrap();
    });
}

#[test]
fn ipv6_leads_nowhere() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let sandbox = stage.create().await;
        let targets = [
            "2001:db8::1:80".to_owned(),
            "fd00:ec2::254:80".to_owned(),
            format!("::ffff:{}:{PORT}", internet.closed[0]),
        ];
        let answers = sandbox.connect(&targets).await;
        assert!(answers.iter().all(is_refused), "{answers:?}");
        let addresses = sandbox
            .root("cut -d' ' -f6- /proc/net/if_inet6 2>/dev/null | tr -d ' '; true")
            .await;
        assert!(addresses.lines().all(|name| name == "lo"), "{addresses}");
    });
}

const PRETEND: &str = r#"
import ctypes, json, socket, sys
other, server, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
done = []
def attempt(name, action):
    try: action(); done.append(name)
    except OSError: pass
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def send(option):
    s = udp(); s.setsockopt(socket.SOL_IP, option, 1); s.bind((other, 0)); s.sendto(b"forged", (server, port))
attempt("bind", lambda: udp().bind((other, 0)))
attempt("freebind", lambda: send(15))
attempt("transparent", lambda: send(19))
attempt("hdrincl", lambda: send(3))
for kind, family, protocol in ((3, 2, 255), (3, 2, 1), (3, 10, 58), (3, 17, 0x300), (2, 17, 0x300), (10, 2, 0)):
    attempt(f"socket {family} {kind}", lambda: socket.socket(family, kind, protocol))
def pktinfo():
    info = bytes(4) + socket.inet_aton(other) + bytes(4)
    udp().sendmsg([b"forged"], [(socket.SOL_IP, 8, info)], 0, (server, port))
attempt("pktinfo", pktinfo)
def netlink(message):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.send(message)
    answer = s.recv(4096)
    error = int.from_bytes(answer[16:20], "little", signed=True)
    if error: raise OSError(-error, "x")
def add_address():
    body = bytes([2, 32, 0, 0]) + (2).to_bytes(4, "little") + (8).to_bytes(2, "little") + (2).to_bytes(2, "little") + socket.inet_aton(other)
    netlink((16 + len(body)).to_bytes(4, "little") + (20).to_bytes(2, "little") + (0x605).to_bytes(2, "little") + bytes(8) + body)
attempt("address", add_address)
print(json.dumps(done))
"#;

#[test]
fn root_cannot_take_another_address() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let (sandbox, other) = (stage.create().await, stage.create().await);
        let arguments = [
            other.slot.address().to_string(),
            internet.public.to_string(),
            PORT.to_string(),
        ];
        let mut argv = vec!["python3", "-c", PRETEND];
        argv.extend(arguments.iter().map(String::as_str));
        let output = sandbox.run("root", &argv).await;
        assert_eq!(output.stdout, "[]\n", "{output:?}");
        for command in [
            "ip link set eth0 down",
            "ip route flush table main",
            "ip neigh flush all",
            "iptables -F",
            "nft flush ruleset",
        ] {
            sandbox.run("root", &["sh", "-c", command]).await;
        }
        assert_eq!(
            sandbox.connect(&[target(internet.public, PORT)]).await,
            [json!(internet.host_side.to_string())]
        );
    });
}

/// The second fence, should the first fall: with the powers of the host's root inside the sandbox's network.
#[test]
fn the_host_drops_packets_with_a_forged_source() {
    on_stage(async |stage| {
        let internet = Internet::open();
        let (sandbox, other) = (stage.create().await, stage.create().await);
        let inside = sandbox.proc("ns/net");
        let (own, forged, outside) = (
            sandbox.slot.address(),
            other.slot.address(),
            Ipv4Addr::new(11, 250, 250, 250),
        );
        let server = SocketAddr::from((internet.public, PORT));
        let sender =
            std::thread::spawn(move || send_forged(&inside, own, &[forged, outside], server));
        sender.join().unwrap();
        let (from, content) = internet
            .datagrams
            .recv_timeout(Duration::from_secs(5))
            .unwrap();
        assert_eq!((from, content.as_str()), (internet.host_side.into(), "own"));
        assert!(internet.datagrams.try_recv().is_err());
    });
}

fn send_forged(inside: &Path, own: Ipv4Addr, forged: &[Ipv4Addr], server: SocketAddr) {
    namespace::enter_network(namespace::open(inside).unwrap()).unwrap();
    let mut netlink = Netlink::open().unwrap();
    let eth0 = netlink.link_index("eth0").unwrap();
    for address in forged {
        netlink.add_address(eth0, *address).unwrap();
        let socket = UdpSocket::bind((*address, 0)).unwrap();
        socket.send_to(b"forged", server).unwrap();
    }
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.send_to(b"own", server).unwrap();
}

/// Entries in the host's table of connections that begin at an address.
fn connections_of(address: std::net::Ipv4Addr) -> usize {
    let table = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    let source = format!(" src={address} ");
    // Each line holds both directions; the first is the sandbox's own.
    table
        .lines()
        .filter(|line| line.find(" src=") == line.find(&source))
        .count()
}

/// One datagram to each of many ports is one entry each.
#[test]
fn connections_of_one_leave_room_for_others() {
    const FLOOD: &str = "import socket, json\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                         for port in range(10000, 20000): s.sendto(b'x', ('TARGET', port))\nprint(json.dumps(1))";
    on_stage(async |stage| {
        if !std::path::Path::new("/proc/net/nf_conntrack").exists() {
            println!("SKIP counting connections: this kernel does not show its table");
            return;
        }
        let internet = Internet::open();
        let (greedy, other) = (stage.create().await, stage.create().await);
        let flood = FLOOD.replace("TARGET", &internet.public.to_string());
        greedy.python("user", &flood).await;
        let limit = usize::try_from(limits::ConnectionLimits::default().per_sandbox).unwrap();
        let held = connections_of(greedy.slot.address());
        assert!((limit / 2..=limit).contains(&held), "{held} of {limit}");
        // A new one is refused with an answer at once, not left to time out.
        let started = std::time::Instant::now();
        let refused = greedy.connect(&[target(internet.public, PORT)]).await;
        assert!(is_refused(&refused[0]), "{refused:?}");
        assert!(started.elapsed().as_secs() < 3, "{refused:?}");
        let served = other.connect(&[target(internet.public, PORT)]).await;
        assert_eq!(served, [json!(internet.host_side.to_string())]);
    });
}

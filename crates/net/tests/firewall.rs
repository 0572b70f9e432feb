//! The rules at work: a fresh network namespace plays the host, others two sandboxes and the world.
//!
//! Needs root, `nft` and `ip`; without them it says so and is skipped. Only child processes change namespaces.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program"
)]

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use soulbox_net::firewall::{render, render_removal};
use soulbox_net::limits::{self, ConnectionLimits, TeamLimits};
use soulbox_net::{ipv6, policy};
use soulbox_types::slot::Block;
use soulbox_types::{Cidr, EgressPolicy, SlotIndex, TeamId};

const PROBE: &str = "SOULBOX_NET_PROBE";
/// Connections that the probe tries to hold.
const MOST: usize = 200;

/// Not a test by itself: this program, run again inside a namespace, listens or connects.
#[test]
fn probe() {
    let Ok(order) = std::env::var(PROBE) else {
        return;
    };
    let (what, address) = order.split_once(' ').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    match what {
        "listen" => {
            let udp = UdpSocket::bind(address).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                    udp.send_to(&buffer[..n], from).unwrap();
                }
            });
            let tcp = TcpListener::bind(address).unwrap();
            println!("listening");
            for mut stream in tcp.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip().to_string();
                stream.write_all(peer.as_bytes()).unwrap();
            }
        }
        "tcp" => match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(mut stream) => {
                let mut seen = String::new();
                stream.read_to_string(&mut seen).unwrap();
                stream.shutdown(Shutdown::Both).ok();
                println!("result: open, seen as {seen}");
            }
            Err(error) => println!("result: {:?}", error.kind()),
        },
        // As many as are let in, held until somebody says something; then one more.
        "many" => {
            let mut held = Vec::new();
            let refused = loop {
                match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                    Ok(stream) if held.len() < MOST => held.push(stream),
                    Ok(_) => break "nothing".to_owned(),
                    Err(error) => break format!("{:?}", error.kind()),
                }
            };
            println!("result: {} and {refused}", held.len());
            std::io::stdin().read_line(&mut String::new()).unwrap();
            drop(held);
            // The kernel looks which ones have ended once in a tick of its clock, some at a time.
            let deadline = Instant::now() + Duration::from_secs(2);
            let mut again = TcpStream::connect(address);
            while again.is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
                again = TcpStream::connect(address);
            }
            println!("again: {}", again.is_ok());
        }
        "udp" => {
            let socket = UdpSocket::bind(if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            })
            .unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            socket.connect(address).unwrap();
            socket.send(b"x").unwrap();
            println!(
                "result: {:?}",
                socket.recv(&mut [0; 8]).map_err(|error| error.kind())
            );
        }
        other => panic!("unknown order {other}"),
    }
}

fn run(script: &str) -> bool {
    Command::new("sh")
        .args(["-ec", script])
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Namespaces that go away with the test.
struct World {
    tag: String,
    listeners: Vec<std::process::Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.listeners {
            child.kill().ok();
            child.wait().ok();
        }
        for name in ["host", "a", "b", "world"] {
            run(&format!(
                "ip netns del {}{name} 2>/dev/null || true",
                self.tag
            ));
        }
    }
}

impl World {
    fn build(name: &str) -> Option<Self> {
        let world = Self {
            tag: format!("sbtest{}{name}-", std::process::id()),
            listeners: Vec::new(),
        };
        let (t, ip) = (&world.tag, "ip -n");
        // Block 1: gateway 198.18.16.1, slots from 198.18.17.0. The world is 93.184.216.34 and, behind it, 10.1.1.1.
        let script = format!(
            "for n in host a b world; do ip netns add {t}$n; {ip} {t}$n link set lo up; done
             {ip} {t}host link add sb1gw type bridge
             {ip} {t}host addr add 198.18.16.1/32 dev sb1gw; {ip} {t}host link set sb1gw up
             i=1; for n in a b; do
               {ip} {t}host link add sb1v$i type veth peer name eth0 netns {t}$n
               {ip} {t}$n addr add 198.18.17.$i/32 dev eth0; {ip} {t}$n link set eth0 up
               {ip} {t}host link set sb1v$i up; {ip} {t}host route add 198.18.17.$i dev sb1v$i
               {ip} {t}$n route add 198.18.16.1 dev eth0; {ip} {t}$n route add default via 198.18.16.1
               i=$((i+1)); done
             {ip} {t}host link add wan type veth peer name eth0 netns {t}world
             {ip} {t}host addr add 93.184.216.1/24 dev wan; {ip} {t}host link set wan up
             {ip} {t}world addr add 93.184.216.34/24 dev eth0; {ip} {t}world link set eth0 up
             {ip} {t}world addr add 10.1.1.1/32 dev lo
             {ip} {t}world route add 198.18.0.0/15 via 93.184.216.1
             {ip} {t}host route add 10.1.1.1 via 93.184.216.34
             ip netns exec {t}host sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'"
        );
        run(&script).then_some(world)
    }

    fn command(&self, place: &str, order: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{place}", self.tag)]);
        command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "probe", "--nocapture"])
            .env(PROBE, order);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    fn listen(&mut self, place: &str, address: &str) {
        let mut child = self
            .command(place, &format!("listen {address}"))
            .spawn()
            .unwrap();
        let mut seen = String::new();
        let mut stdout = child.stdout.take().unwrap();
        while !seen.contains("listening") {
            let mut chunk = [0; 256];
            let n = stdout.read(&mut chunk).unwrap();
            assert!(n > 0, "{place} cannot listen on {address}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
        self.listeners.push(child);
    }

    fn probe(&self, place: &str, order: &str) -> String {
        let output = self.command(place, order).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let at = text
            .find("result: ")
            .unwrap_or_else(|| panic!("{order}: {text}"));
        text[at + 8..].lines().next().unwrap().to_owned()
    }

    fn check(&self, place: &str, order: &str, want: &str) {
        let got = self.probe(place, order);
        assert!(
            got.starts_with(want),
            "{order} from {place}: {got}, not {want}"
        );
    }

    /// From the first sandbox, over TCP and UDP.
    fn refused(&self, address: &str) {
        self.check("a", &format!("tcp {address}"), "ConnectionRefused");
        // Told at once, but only so often in a second (icmp.ratelimit).
        self.check("a", &format!("udp {address}"), "Err(");
    }

    fn nft(&self, text: &str) {
        let mut child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &format!("{}host", self.tag),
                "nft",
                "-f",
                "-",
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
    }
}

fn possible() -> bool {
    run(
        "test \"$(id -u)\" = 0 && command -v nft && command -v ip && unshare -n true >/dev/null 2>&1",
    )
}

/// Two sandboxes, the host and the world in IPv6, as the jail lays cables.
const IPV6_WORLD: &str = "
    hw() { ip -n $1 -o link show $2 | sed 's/.*ether \\([^ ]*\\).*/\\1/'; }
    ip netns exec ${t}host sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
    i=1; for n in a b; do
      ip -n ${t}host -6 route add fd7c:9e24:51b3:1::1:$i dev sb1v$i
      ip -n ${t}host -6 neigh replace fd7c:9e24:51b3:1::1:$i lladdr $(hw ${t}$n eth0) dev sb1v$i
      ip -n ${t}$n -6 addr add fd7c:9e24:51b3:1::1:$i/128 dev eth0 nodad
      ip -n ${t}$n -6 route add fd7c:9e24:51b3:1::1 dev eth0
      ip -n ${t}$n -6 neigh replace fd7c:9e24:51b3:1::1 lladdr $(hw ${t}host sb1v$i) dev eth0
      ip -n ${t}$n -6 route add default via fd7c:9e24:51b3:1::1 dev eth0
      i=$((i+1)); done
    ip -n ${t}host -6 addr add 2a0b:11::1/64 dev wan nodad
    for a in 2a0b:11::2/64 2a0b:11::3/64; do ip -n ${t}world -6 addr add $a dev eth0 nodad; done
    for a in fd00:ec2::254 2002:808:808::1 64:ff9b::808:808 2001::1 2001:db8::1 3fff::1 100::1 fec0::1; do
      ip -n ${t}world -6 addr add $a/128 dev lo nodad
      ip -n ${t}host -6 route add $a via 2a0b:11::2 dev wan; done
    ip -n ${t}host -6 route add default via 2a0b:11::2 dev wan
    ip -n ${t}world -6 route add fd7c:9e24:51b3::/48 via 2a0b:11::1 dev eth0";

/// A policy of one sandbox, which says nothing to the other.
fn lists_of_ipv6(world: &World, block: Block) {
    let slot = SlotIndex::new(block, 1).unwrap();
    let cidrs = |list: &[&str]| list.iter().map(|it| Cidr::parse(it).unwrap()).collect();
    for (allow, deny, open) in [
        (&[][..], &["2a0b:11::3"][..], true),
        (&["2a0b:11::2"], &["0.0.0.0/0"], true),
        (&["2a0b:11::2"], &["::/0"], true),
        (&["93.184.216.34"], &["0.0.0.0/0"], false),
        (&[], &["2a0b:11::/64"], false),
    ] {
        let lists = EgressPolicy {
            allow: cidrs(allow),
            deny: cidrs(deny),
            ..EgressPolicy::default()
        };
        world.nft(&policy::render(slot, &lists, true));
        match open {
            true => world.check("a", "tcp [2a0b:11::2]:80", "open"),
            false => world.refused("[2a0b:11::2]:80"),
        }
        world.refused("[2a0b:11::3]:80");
        world.check("b", "tcp [2a0b:11::3]:80", "open");
    }
    world.nft(&policy::render_end(slot));
}

#[test]
fn ipv6_reaches_the_world_and_nothing_else() {
    if !possible() {
        println!("SKIPPED: needs root, nft, ip and the right to make network namespaces");
        return;
    }
    let mut world = World::build("six").expect("namespaces can be made");
    assert!(run(&format!("t={}; {IPV6_WORLD}", world.tag)));
    let block = Block::new(1).unwrap();
    let closed = render(block, true, true) + &policy::render_base(block, true);
    world.nft(&closed);
    let others = [
        "[fd00:ec2::254]:80",
        "[2002:808:808::1]:80",
        "[64:ff9b::808:808]:80",
        "[2001::1]:80",
        "[2001:db8::1]:80",
        "[3fff::1]:80",
        "[100::1]:80",
        "[fec0::1]:80",
    ];
    for address in ["[2a0b:11::2]:80", "[2a0b:11::3]:80"].iter().chain(&others) {
        world.listen("world", address);
    }
    world.listen("host", "[2a0b:11::1]:80");
    world.listen("b", "[fd7c:9e24:51b3:1::1:2]:80");
    // Without the table of IPv6 nothing comes out of a cable.
    world.check("a", "tcp [2a0b:11::2]:80", "TimedOut");
    world.nft(&(closed.clone() + &ipv6::render(block, true)));
    world.nft(&(closed.clone() + &ipv6::render(block, true)));
    world.check("a", "tcp [2a0b:11::2]:80", "open, seen as 2a0b:11::1");
    world.check("a", "udp [2a0b:11::2]:80", "Ok(1)");
    for address in others.iter().chain(&[
        "[2a0b:11::1]:80",
        "[fd7c:9e24:51b3:1::1]:53",
        "[fd7c:9e24:51b3:1::1:2]:80",
    ]) {
        world.refused(address);
    }
    world.check("world", "tcp [fd7c:9e24:51b3:1::1:2]:80", "TimedOut");
    let from_host = world.probe("host", "tcp [fd7c:9e24:51b3:1::1:2]:80");
    assert!(!from_host.starts_with("open"), "{from_host}");
    lists_of_ipv6(&world, block);
    // The address of the neighbour, as IPV6_FREEBIND would have it: nothing comes back, nor goes out.
    assert!(run(&format!(
        "ip -n {}a -6 addr add fd7c:9e24:51b3:1::1:2/128 dev eth0 nodad && \
         ip -n {0}a -6 route replace default via fd7c:9e24:51b3:1::1 dev eth0 src fd7c:9e24:51b3:1::1:2",
        world.tag
    )));
    world.check("a", "tcp [2a0b:11::2]:80", "TimedOut");
    // Without the rules the same attempts succeed: the checks above have tested the rules, not the wiring.
    world.nft(&(render_removal(block) + &policy::render_removal(block)));
    world.nft(&ipv6::render_removal(block));
    assert!(run(&format!(
        "ip -n {}a -6 addr del fd7c:9e24:51b3:1::1:2/128 dev eth0 && \
         ip -n {0}a -6 route replace default via fd7c:9e24:51b3:1::1 dev eth0",
        world.tag
    )));
    for address in others
        .iter()
        .chain(&["[2a0b:11::1]:80", "[fd7c:9e24:51b3:1::1:2]:80"])
    {
        world.check("a", &format!("tcp {address}"), "open");
    }
}

#[test]
fn sandboxes_reach_the_world_and_nothing_else() {
    if !possible() {
        println!("SKIPPED: needs root, nft, ip and the right to make network namespaces");
        return;
    }
    let mut world = World::build("r").expect("namespaces can be made");
    let block = Block::new(1).unwrap();
    world.nft(&render(block, true, true));
    world.nft(&render(block, true, true));

    world.listen("world", "93.184.216.34:80");
    world.listen("world", "10.1.1.1:80");
    world.listen("host", "198.18.16.1:53");
    world.listen("host", "198.18.16.1:80");
    world.listen("host", "93.184.216.1:80");
    world.listen("b", "198.18.17.2:80");
    let check = |place: &str, order: &str, want: &str| world.check(place, order, want);
    check("a", "tcp 93.184.216.34:80", "open, seen as 93.184.216.1");
    check("a", "udp 93.184.216.34:80", "Ok(1)");
    check("a", "tcp 198.18.16.1:53", "open");
    check("a", "udp 198.18.16.1:53", "Ok(1)");
    // The host's own services, by either address.
    check("a", "tcp 198.18.16.1:80", "ConnectionRefused");
    check("a", "udp 198.18.16.1:80", "Err(");
    check("a", "tcp 93.184.216.1:80", "ConnectionRefused");
    // Private ranges beyond the host, and the other sandbox.
    check("a", "tcp 10.1.1.1:80", "ConnectionRefused");
    check("a", "udp 10.1.1.1:80", "Err(");
    check("a", "tcp 198.18.17.2:80", "ConnectionRefused");
    check("a", "udp 198.18.17.2:80", "Err(");
    // Nobody reaches a sandbox by its address.
    check("world", "tcp 198.18.17.2:80", "TimedOut");
    let from_host = world.probe("host", "tcp 198.18.17.2:80");
    assert!(!from_host.starts_with("open"), "{from_host}");
    // A false source gets no answer.
    assert!(run(&format!(
        "ip -n {}a addr add 93.184.216.99/32 dev eth0 && ip -n {0}a route replace default via 198.18.16.1 src 93.184.216.99",
        world.tag
    )));
    assert!(!world.probe("a", "tcp 93.184.216.34:80").starts_with("open"));

    // Without the rules the same attempts succeed: the checks above have tested the rules, not the wiring.
    world.nft(&render_removal(block));
    world.nft(&render_removal(block));
    assert!(run(&format!(
        "ip -n {}a route replace default via 198.18.16.1 src 198.18.17.1",
        world.tag
    )));
    for order in [
        "tcp 198.18.16.1:80",
        "tcp 93.184.216.1:80",
        "tcp 10.1.1.1:80",
        "tcp 198.18.17.2:80",
    ] {
        assert!(world.probe("a", order).starts_with("open"), "{order}");
    }
    assert!(
        world
            .probe("world", "tcp 198.18.17.2:80")
            .starts_with("open")
    );
}

/// What `many` has come to, while it holds its connections.
struct Many {
    child: std::process::Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Many {
    fn begin(world: &World, place: &str) -> (Self, String) {
        let mut command = world.command(place, "many 93.184.216.34:80");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut many = Self { child, output };
        let held = many.line("result: ");
        (many, held)
    }

    fn line(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("no {word}");
    }

    /// Closes them; whether there can be another one.
    fn end(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let again = self.line("again: ");
        self.child.wait().unwrap();
        again
    }
}

#[test]
fn each_sandbox_has_so_many_connections() {
    if !possible() {
        println!("SKIPPED: needs root, nft, ip and the right to make network namespaces");
        return;
    }
    let mut world = World::build("l").expect("namespaces can be made");
    let block = Block::new(1).unwrap();
    let limits = ConnectionLimits {
        per_sandbox: 20,
        new_per_second: 1000,
        of_team: TeamLimits::default(),
    };
    world.nft(&(render(block, true, true) + &limits::render(block, limits, true)));
    world.listen("world", "93.184.216.34:80");

    let (greedy, held) = Many::begin(&world, "a");
    assert_eq!(held, "20 and ConnectionRefused");
    // What was counted stays counted when a server starts anew, and is nobody else's.
    world.nft(&(render(block, true, true) + &limits::render(block, limits, true)));
    assert_eq!(
        world.probe("a", "tcp 93.184.216.34:80"),
        "ConnectionRefused"
    );
    assert!(world.probe("b", "tcp 93.184.216.34:80").starts_with("open"));
    assert_eq!(greedy.end(), "true");

    let slow = ConnectionLimits {
        per_sandbox: 4096,
        new_per_second: 20,
        of_team: TeamLimits::default(),
    };
    world.nft(&limits::render(block, slow, true));
    let (hasty, held) = Many::begin(&world, "b");
    let (count, refused) = held.split_once(" and ").unwrap();
    assert_eq!(refused, "ConnectionRefused");
    assert!((40..MOST).contains(&count.parse().unwrap()), "{held}");
    drop(hasty.end());
    world.nft(&limits::render_removal(block));
}

#[test]
fn a_team_has_so_many_connections() {
    if !possible() {
        println!("SKIPPED: needs root, nft, ip and the right to make network namespaces");
        return;
    }
    let mut world = World::build("t").expect("namespaces can be made");
    let block = Block::new(1).unwrap();
    let of_team = TeamLimits {
        open: Some(30),
        new_per_second: None,
    };
    let limits = ConnectionLimits {
        per_sandbox: 20,
        of_team,
        ..ConnectionLimits::default()
    };
    let (team, other) = (TeamId::random(), TeamId::random());
    let member = |number, team: Option<&TeamId>| {
        let slot = SlotIndex::new(block, number).unwrap();
        limits::render_member(slot, team, of_team)
    };
    world.nft(&(render(block, true, true) + &limits::render(block, limits, true)));
    world.nft(&(member(1, Some(&team)) + &member(2, Some(&team))));
    world.listen("world", "93.184.216.34:80");

    let (first, held) = Many::begin(&world, "a");
    assert_eq!(held, "20 and ConnectionRefused");
    let (second, held) = Many::begin(&world, "b");
    assert_eq!(held, "10 and ConnectionRefused");
    assert_eq!(first.end(), "true");
    assert_eq!(second.end(), "true");

    // Whoever stands there next is of another team, or of none.
    world.nft(&(member(1, Some(&other)) + &member(2, None)));
    let (first, held) = Many::begin(&world, "a");
    assert_eq!(held, "20 and ConnectionRefused");
    let (second, held) = Many::begin(&world, "b");
    assert_eq!(held, "20 and ConnectionRefused");
    drop((first.end(), second.end()));
}

#[test]
fn a_team_begins_so_many_connections_in_a_second() {
    if !possible() {
        println!("SKIPPED: needs root, nft, ip and the right to make network namespaces");
        return;
    }
    let mut world = World::build("r").expect("namespaces can be made");
    let block = Block::new(1).unwrap();
    let of_team = TeamLimits {
        open: None,
        new_per_second: Some(20),
    };
    let limits = ConnectionLimits {
        of_team,
        ..ConnectionLimits::default()
    };
    let (team, other) = (TeamId::random(), TeamId::random());
    let member = |number, team: &TeamId| {
        let slot = SlotIndex::new(block, number).unwrap();
        limits::render_member(slot, Some(team), of_team)
    };
    world.nft(&(render(block, true, true) + &limits::render(block, limits, true)));
    world.nft(&(member(1, &team) + &member(2, &team)));
    world.listen("world", "93.184.216.34:80");

    let (hasty, held) = Many::begin(&world, "a");
    let (count, refused) = held.split_once(" and ").unwrap();
    assert_eq!(refused, "ConnectionRefused");
    assert!((40..MOST).contains(&count.parse().unwrap()), "{held}");
    // One more of the team begins with what is left, and to come and go gives nothing back.
    world.nft(&member(2, &team));
    let (neighbour, held) = Many::begin(&world, "b");
    let (count, _) = held.split_once(" and ").unwrap();
    assert!(count.parse::<usize>().unwrap() < 40, "{held}");
    drop((hasty.end(), neighbour.end()));
    world.nft(&member(2, &other));
    let (stranger, held) = Many::begin(&world, "b");
    let (count, _) = held.split_once(" and ").unwrap();
    assert!((40..MOST).contains(&count.parse().unwrap()), "{held}");
    drop(stranger.end());
    world.nft(&limits::render_removal(block));
}

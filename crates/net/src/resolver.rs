//! DNS for the sandboxes of one block: a forwarder on the gateway's address, port 53.
//!
//! Sandboxes cannot reach private addresses, and the host's own DNS server usually has one: so the server asks for
//! them. It passes queries on as they are, with an id and a source port of its own per query, and believes only the
//! answer that matches both (RFC 5452). It answers nobody outside the block and bounds what one sandbox can occupy at a
//! time, and what it can carry over time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ask::{MAX_UDP_BYTES, Transport, ask, read_framed, write_framed};
use crate::dns::{self, Verdict};

mod allowance;

use allowance::Allowance;
pub use allowance::Allowances;

const TCP_IDLE: Duration = Duration::from_secs(10);
/// How long a question waits for whoever has asked to be introduced, and how often it is looked.
const INTRODUCTION: Duration = Duration::from_secs(2);
const INTRODUCTION_RETRY: Duration = Duration::from_millis(10);
/// How long an address of the server itself is true.
const HERE_SECONDS: u32 = 60;
const REREAD_INTERVAL: Duration = Duration::from_secs(5);
/// When there are more, those that have asked for nothing lately are forgotten. A block has 2048 slots.
const REMEMBERED_CLIENTS: usize = 512;

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum Upstreams {
    /// These servers, in this order.
    Fixed(Vec<SocketAddr>),
    /// Those of a file in the form of `/etc/resolv.conf`, read again when it may have changed.
    ResolvConf(PathBuf),
}

/// What is to become of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is asked of these servers, or of the usual ones when there are none. Whoever `keeps` wants to know the addresses.
    Everything {
        /// Who is asked.
        servers: Vec<Ipv4Addr>,
        /// Whether the addresses are wanted.
        keeps: bool,
    },
    /// It is a name of the server itself, which is at the resolver's address.
    Here,
    /// There is no such name.
    NoName,
    /// The name has no such record.
    NoRecord,
    /// Nobody knows who asks.
    Stranger,
}

/// Says what is told to whom, and hears what was told.
pub trait Names: std::fmt::Debug + Send + Sync {
    /// What is to become of a question for records of a type. The name as it is written; `None` when it is no text.
    fn judge(&self, client: Ipv4Addr, name: Option<&str>, kind: u16) -> Told;

    /// A client was told these addresses of a name, with the seconds that they are true for.
    fn told(&self, client: Ipv4Addr, name: &str, addresses: &[(IpAddr, u32)]);
}

/// What a resolver needs to know.
#[derive(Debug, Clone)]
pub struct ResolverConfig {
    /// Where to listen: the gateway's address, port 53.
    pub listen: SocketAddr,
    /// Only clients of this network are answered.
    pub network: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix_length: u8,
    /// Whom to ask.
    pub upstreams: Upstreams,
    /// How long one upstream may take.
    pub upstream_timeout: Duration,
    /// Most queries at a time of one client.
    pub max_per_client: usize,
    /// Most queries at a time of all clients.
    pub max_in_flight: usize,
    /// What one client may ask over time.
    pub allowances: Allowances,
}

impl ResolverConfig {
    /// The usual configuration for a block with this gateway and network (in CIDR form).
    ///
    /// # Errors
    /// When the network is not in CIDR form.
    pub fn for_network(gateway: Ipv4Addr, cidr: &str, upstreams: Upstreams) -> io::Result<Self> {
        let parsed = cidr.split_once('/').and_then(|(network, length)| {
            Some((
                network.parse().ok()?,
                length.parse().ok().filter(|length| *length <= 32)?,
            ))
        });
        let (network, prefix_length) = parsed.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{cidr} is not a network"),
            )
        })?;
        Ok(Self {
            listen: SocketAddr::new(gateway.into(), 53),
            network,
            prefix_length,
            upstreams,
            upstream_timeout: Duration::from_secs(2),
            max_per_client: 64,
            max_in_flight: 2048,
            allowances: Allowances::default(),
        })
    }

    fn admits(&self, client: IpAddr) -> bool {
        let IpAddr::V4(client) = client else {
            return false;
        };
        let mask = u32::MAX
            .checked_shl(32 - u32::from(self.prefix_length.min(32)))
            .unwrap_or(0);
        client.to_bits() & mask == self.network.to_bits() & mask
    }
}

/// Reads the name servers out of the text of a `resolv.conf`.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // resolv.conf(5): one address per line. A scoped IPv6 address does not parse and is left out.
            (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
        })
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// How queries ended, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Passed back an upstream's answer.
    pub answered: AtomicU64,
    /// No upstream answered in time.
    pub failed: AtomicU64,
    /// Malformed, or of a kind that is not served.
    pub refused: AtomicU64,
    /// Not from this block, or no query at all.
    pub ignored: AtomicU64,
    /// Too many at a time.
    pub limited: AtomicU64,
    /// Too much over time.
    pub exhausted: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Shared {
    config: ResolverConfig,
    counts: Arc<Counts>,
    names: Option<Arc<dyn Names>>,
    in_flight: Mutex<InFlight>,
    spent: Mutex<HashMap<IpAddr, Allowance>>,
    known: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

#[derive(Default)]
struct InFlight {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A place under the limits, while it lives.
struct Place {
    shared: Arc<Shared>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut in_flight = self
            .shared
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_flight.total = in_flight.total.saturating_sub(1);
        if let Some(n) = in_flight.by_client.get_mut(&self.client) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                in_flight.by_client.remove(&self.client);
            }
        }
    }
}

impl Shared {
    fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mine = in_flight.by_client.get(&client).copied().unwrap_or(0);
        if in_flight.total >= self.config.max_in_flight || mine >= self.config.max_per_client {
            count(&self.counts.limited);
            return None;
        }
        in_flight.total += 1;
        in_flight.by_client.insert(client, mine + 1);
        Some(Place {
            shared: Arc::clone(self),
            client,
        })
    }

    /// Takes a query out of the client's allowance, if there is enough left.
    fn afford(&self, client: IpAddr, question_bytes: usize) -> bool {
        let now = Instant::now();
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() > REMEMBERED_CLIENTS {
            spent.retain(|_, allowance| !allowance.is_unused(now));
        }
        let allowance = spent
            .entry(client)
            .or_insert_with(|| Allowance::new(&self.config.allowances, now));
        let enough = allowance.take(question_bytes, now);
        if !enough {
            count(&self.counts.exhausted);
        }
        enough
    }

    fn charge(&self, client: IpAddr, answer_bytes: usize) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowance) = spent.get_mut(&client) {
            allowance.charge(answer_bytes);
        }
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        let path = match &self.config.upstreams {
            Upstreams::Fixed(servers) => return servers.clone(),
            Upstreams::ResolvConf(path) => path,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, servers)) = known
            .as_ref()
            .filter(|(read, _)| read.elapsed() < REREAD_INTERVAL)
        {
            return servers.clone();
        }
        // A small file that the page cache holds: read in place, like every program's resolver does.
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read the host's name servers");
            String::new()
        });
        let mut servers = parse_resolv_conf(&text);
        // Asking ourselves would go round for ever.
        servers.retain(|server| server.ip() != self.config.listen.ip());
        if servers.is_empty() {
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        *known = Some((Instant::now(), servers.clone()));
        servers
    }

    /// The answer to one message, if it deserves one.
    async fn answer(&self, client: IpAddr, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question_end = match dns::judge(query) {
            Verdict::Ignore => {
                count(&self.counts.ignored);
                return None;
            }
            Verdict::Answer {
                rcode,
                question_end,
            } => {
                count(&self.counts.refused);
                return Some(dns::empty_answer(query, question_end, rcode));
            }
            Verdict::Forward { question_end } => question_end,
        };
        // All of it counts: what stands behind the question is passed on, too.
        if !self.afford(client, query.len()) {
            return Some(dns::empty_answer(query, question_end, dns::REFUSED));
        }
        let answer = self.told(client, query, question_end, transport).await;
        self.charge(client, answer.len());
        Some(answer)
    }

    /// What somebody who may ask is told.
    async fn told(
        &self,
        client: IpAddr,
        query: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Vec<u8> {
        let (Some(names), IpAddr::V4(client)) = (&self.names, client) else {
            return self
                .forward(&self.upstreams(), query, question_end, transport)
                .await;
        };
        let (name, kind) = dns::question(query, question_end);
        let refused = |rcode| {
            count(&self.counts.refused);
            dns::empty_answer(query, question_end, rcode)
        };
        match judged(names.as_ref(), client, name.as_deref(), kind).await {
            Told::NoName => refused(dns::NXDOMAIN),
            Told::NoRecord => refused(0),
            Told::Stranger => refused(dns::SERVFAIL),
            Told::Here => {
                count(&self.counts.answered);
                match self.config.listen.ip() {
                    IpAddr::V4(here) => {
                        dns::address_answer(query, question_end, here, HERE_SECONDS)
                    }
                    IpAddr::V6(_) => dns::empty_answer(query, question_end, 0),
                }
            }
            Told::Everything { servers, keeps } => {
                let own = servers.iter().map(|server| SocketAddr::from((*server, 53)));
                let mut servers: Vec<SocketAddr> = own.collect();
                if servers.is_empty() {
                    servers = self.upstreams();
                }
                let answer = self.forward(&servers, query, question_end, transport).await;
                if let Some(name) = name.filter(|_| keeps) {
                    names.told(client, &name, &dns::addresses(&answer, question_end));
                }
                answer
            }
        }
    }

    /// The answer of the first upstream that has one.
    async fn forward(
        &self,
        servers: &[SocketAddr],
        query: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Vec<u8> {
        let mut spare = None;
        for &server in servers {
            let asked = timeout(
                self.config.upstream_timeout,
                ask(server, query, question_end, transport),
            )
            .await;
            match asked {
                Ok(Ok(answer))
                    if matches!(
                        dns::rcode(&answer),
                        dns::SERVFAIL | dns::REFUSED | dns::NOTIMP
                    ) =>
                {
                    spare = Some(answer);
                }
                Ok(Ok(answer)) => {
                    count(&self.counts.answered);
                    return answer;
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                Err(_) => tracing::debug!(%server, "name server did not answer in time"),
            }
        }
        count(if spare.is_some() {
            &self.counts.answered
        } else {
            &self.counts.failed
        });
        spare.unwrap_or_else(|| dns::empty_answer(query, question_end, dns::SERVFAIL))
    }
}

/// A sandbox may ask in the moment before this server has been told of it.
async fn judged(names: &dyn Names, client: Ipv4Addr, name: Option<&str>, kind: u16) -> Told {
    let patience = Instant::now() + INTRODUCTION;
    loop {
        match names.judge(client, name, kind) {
            Told::Stranger if Instant::now() < patience => {
                tokio::time::sleep(INTRODUCTION_RETRY).await;
            }
            told => return told,
        }
    }
}

/// A resolver with its sockets bound.
pub struct Resolver {
    shared: Arc<Shared>,
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

/// Binds a UDP and a TCP socket to one port. With port 0 the kernel chooses the first one's, which may be taken for the
/// other: then it is asked again.
///
/// # Errors
/// When the address is not there yet or the port on it is taken.
pub fn sockets(listen: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    const TRIES: u32 = 20;
    let mut tries = if listen.port() == 0 { TRIES } else { 1 };
    loop {
        let udp = std::net::UdpSocket::bind(listen)?;
        match std::net::TcpListener::bind(udp.local_addr()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 1 => tries -= 1,
            tcp => return Ok((udp, tcp?)),
        }
    }
}

impl Resolver {
    /// Uses sockets that somebody else has bound: port 53 is for root only. Without `names`, everybody is told everything.
    ///
    /// # Errors
    /// When they cannot be used by the runtime.
    pub fn on(
        config: ResolverConfig,
        names: Option<Arc<dyn Names>>,
        udp: std::net::UdpSocket,
        tcp: std::net::TcpListener,
    ) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
        let shared = Shared {
            config,
            counts: Arc::default(),
            names,
            in_flight: Mutex::default(),
            spent: Mutex::default(),
            known: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            udp: Arc::new(udp),
            tcp,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// The counters, which live on while it runs.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.shared.counts)
    }

    /// Serves until the future ends; open queries are then dropped.
    pub async fn run(self, until: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; MAX_UDP_BYTES];
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                received = self.udp.recv_from(&mut buffer) => match received {
                    Ok((n, client)) => self.query(&buffer[..n], client, &mut tasks),
                    // An ICMP error of an earlier answer; says nothing about this socket.
                    Err(error) => tracing::debug!(%error, "cannot receive a query"),
                },
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, client)) => self.connection(stream, client, &mut tasks),
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a query");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(ended) = tasks.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a query failed");
                },
            }
        }
    }

    fn place(&self, client: SocketAddr) -> Option<Place> {
        if self.shared.config.admits(client.ip()) {
            return self.shared.admit(client.ip());
        }
        count(&self.shared.counts.ignored);
        None
    }

    fn query(&self, query: &[u8], client: SocketAddr, tasks: &mut JoinSet<()>) {
        let Some(place) = self.place(client) else {
            return;
        };
        let (query, udp) = (query.to_vec(), Arc::clone(&self.udp));
        tasks.spawn(async move {
            if let Some(answer) = place
                .shared
                .answer(client.ip(), &query, Transport::Udp)
                .await
                && let Err(error) = udp.send_to(&answer, client).await
            {
                tracing::debug!(%client, %error, "cannot send an answer");
            }
        });
    }

    fn connection(&self, mut stream: TcpStream, client: SocketAddr, tasks: &mut JoinSet<()>) {
        let Some(place) = self.place(client) else {
            return;
        };
        tasks.spawn(async move {
            // One after the other: a client that wants more at a time opens more connections, which are bounded.
            while let Ok(Ok(query)) = timeout(TCP_IDLE, read_framed(&mut stream)).await {
                let Some(answer) = place
                    .shared
                    .answer(client.ip(), &query, Transport::Tcp)
                    .await
                else {
                    return;
                };
                if !matches!(
                    timeout(TCP_IDLE, write_framed(&mut stream, &answer)).await,
                    Ok(Ok(()))
                ) {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// An upstream that answers as `reply` says: `None` is silence.
    async fn upstream(
        reply: impl Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (udp, tcp) = sockets(any).unwrap();
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let udp = UdpSocket::from_std(udp).unwrap();
        let tcp = TcpListener::from_std(tcp).unwrap();
        let address = udp.local_addr().unwrap();
        let reply = Arc::new(reply);
        let for_tcp = Arc::clone(&reply);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let (n, from) = udp.recv_from(&mut buffer).await.unwrap();
                for answer in reply(&buffer[..n], Transport::Udp) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let query = read_framed(&mut stream).await.unwrap();
                for answer in for_tcp(&query, Transport::Tcp) {
                    write_framed(&mut stream, &answer).await.unwrap();
                }
            }
        });
        address
    }

    fn good(query: &[u8]) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]);
        answer[7] = 1;
        answer
    }

    async fn start(
        servers: Vec<SocketAddr>,
        change: impl FnOnce(&mut ResolverConfig),
    ) -> (SocketAddr, Arc<Counts>) {
        let mut config = ResolverConfig::for_network(
            Ipv4Addr::LOCALHOST,
            "127.0.0.0/8",
            Upstreams::Fixed(servers),
        )
        .unwrap();
        config.listen.set_port(0);
        config.upstream_timeout = Duration::from_millis(200);
        change(&mut config);
        let (udp, tcp) = sockets(config.listen).unwrap();
        let resolver = Resolver::on(config, None, udp, tcp).unwrap();
        let (address, counts) = (resolver.local_addr().unwrap(), resolver.counts());
        tokio::spawn(resolver.run(std::future::pending()));
        (address, counts)
    }

    async fn ask_it(resolver: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(resolver).await.unwrap();
        socket.send(query).await.unwrap();
        let mut buffer = vec![0; 4096];
        let n = timeout(SOON, socket.recv(&mut buffer)).await.ok()?.ok()?;
        Some(buffer[..n].to_vec())
    }

    #[tokio::test]
    async fn queries_are_passed_on_under_another_id() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ids = Arc::clone(&seen);
        let server = upstream(move |query, _| {
            ids.lock().unwrap().push(dns::id(query).unwrap());
            vec![good(query)]
        })
        .await;
        let (resolver, counts) = start(vec![server], |_| {}).await;
        let query = dns::query("example.com", 1);
        for _ in 0..8 {
            assert_eq!(ask_it(resolver, &query).await.unwrap(), good(&query));
        }
        let seen = seen.lock().unwrap();
        assert!(
            seen.iter().any(|id| *id != 0x1234) && seen.windows(2).any(|two| two[0] != two[1]),
            "{seen:?}"
        );
        assert_eq!(counts.answered.load(Ordering::Relaxed), 8);
    }

    #[tokio::test]
    async fn forgeries_are_passed_over() {
        let server = upstream(|query, _| {
            let mut wrong_id = good(query);
            wrong_id[0] ^= 0xff;
            let mut wrong_question = good(query);
            wrong_question[13] ^= 1;
            vec![
                wrong_id,
                wrong_question,
                query.to_vec(),
                vec![0; 3],
                good(query),
            ]
        })
        .await;
        let (resolver, _) = start(vec![server], |_| {}).await;
        let query = dns::query("example.com", 28);
        assert_eq!(ask_it(resolver, &query).await.unwrap(), good(&query));
    }

    #[tokio::test]
    async fn the_next_server_is_asked() {
        let silent = upstream(|_, _| Vec::new()).await;
        let broken =
            upstream(|query, _| vec![dns::empty_answer(query, query.len(), dns::SERVFAIL)]).await;
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let server = upstream(|query, _| vec![good(query)]).await;
        let query = dns::query("example.com", 1);
        let (resolver, _) = start(vec![silent, nobody, broken, server], |_| {}).await;
        assert_eq!(ask_it(resolver, &query).await.unwrap(), good(&query));
        let (resolver, counts) = start(vec![silent, nobody], |_| {}).await;
        assert_eq!(
            dns::rcode(&ask_it(resolver, &query).await.unwrap()),
            dns::SERVFAIL
        );
        assert_eq!(counts.failed.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn truncated_answers_lead_to_tcp() {
        let server = upstream(|query, transport| match transport {
            Transport::Udp => {
                let mut answer = dns::empty_answer(query, query.len(), 0);
                answer[2] |= 2;
                vec![answer]
            }
            Transport::Tcp => {
                let mut answer = good(query);
                answer.resize(20_000, 7);
                vec![answer]
            }
        })
        .await;
        let (resolver, _) = start(vec![server], |_| {}).await;
        let query = dns::query("big.example.com", 16);
        assert_eq!(ask_it(resolver, &query).await.unwrap()[2] & 2, 2);
        let mut stream = TcpStream::connect(resolver).await.unwrap();
        for _ in 0..2 {
            write_framed(&mut stream, &query).await.unwrap();
            let answer = timeout(SOON, read_framed(&mut stream))
                .await
                .unwrap()
                .unwrap();
            assert_eq!((answer.len(), dns::id(&answer)), (20_000, Some(0x1234)));
        }
    }

    #[tokio::test]
    async fn strangers_and_nonsense_get_nothing() {
        let server = upstream(|query, _| vec![good(query)]).await;
        let (resolver, counts) = start(vec![server], |_| {}).await;
        assert_eq!(
            dns::rcode(
                &ask_it(resolver, &dns::query("example.com", 252))
                    .await
                    .unwrap()
            ),
            dns::REFUSED
        );
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(&good(&dns::query("a.b", 1)), resolver)
            .await
            .unwrap();
        socket.send_to(&[1, 2, 3], resolver).await.unwrap();
        // A query after them, so that both have been seen.
        ask_it(resolver, &dns::query("a.b", 1)).await.unwrap();
        assert_eq!(counts.ignored.load(Ordering::Relaxed), 2);
        let (resolver, counts) = start(vec![server], |config| {
            config.network = Ipv4Addr::new(10, 0, 0, 0);
        })
        .await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(&dns::query("a.b", 1), resolver)
            .await
            .unwrap();
        while counts.ignored.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_client_cannot_take_all() {
        let silent = upstream(|_, _| Vec::new()).await;
        let (resolver, counts) = start(vec![silent], |config| config.max_per_client = 2).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..3 {
            socket
                .send_to(&dns::query("a.b", 1), resolver)
                .await
                .unwrap();
        }
        let mut buffer = [0; 512];
        for _ in 0..2 {
            timeout(SOON, socket.recv(&mut buffer))
                .await
                .unwrap()
                .unwrap();
        }
        assert_eq!(counts.limited.load(Ordering::Relaxed), 1);
        assert!(
            ask_it(resolver, &dns::query("a.b", 1)).await.is_some(),
            "the places are free again"
        );
    }

    #[tokio::test]
    async fn one_client_cannot_carry_data_all_day() {
        let server = upstream(|query, _| vec![good(query)]).await;
        let (resolver, counts) = start(vec![server], |_| {}).await;
        let name = format!("{0}.{0}.{0}.tunnel.example", "x".repeat(60));
        let query = dns::query(&name, 1);
        let mut refused = 0;
        // Twice what the burst of bytes is good for.
        let tries = 2 * 32 * 1024 / query.len();
        for _ in 0..tries {
            let answer = ask_it(resolver, &query).await.unwrap();
            refused += u64::from(dns::rcode(&answer) == dns::REFUSED);
        }
        assert!(refused > 20, "{refused} of {tries}");
        assert_eq!(counts.exhausted.load(Ordering::Relaxed), refused);
    }

    #[test]
    fn resolv_conf() {
        let text = "# x\nnameserver 10.0.0.2\n  nameserver\t1.1.1.1 # y\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    search a.b\nnameserver bad\nnameserver\n";
        let want: Vec<SocketAddr> = ["10.0.0.2:53", "1.1.1.1:53", "[::1]:53"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        assert_eq!(parse_resolv_conf(text), want);
        assert!(parse_resolv_conf("").is_empty());
    }

    #[test]
    fn networks() {
        let at = |cidr: &str| {
            ResolverConfig::for_network(Ipv4Addr::LOCALHOST, cidr, Upstreams::Fixed(Vec::new()))
                .unwrap()
        };
        let config = at("198.18.16.0/20");
        assert!(
            config.admits("198.18.17.7".parse().unwrap())
                && config.admits("198.18.31.255".parse().unwrap())
        );
        assert!(
            !config.admits("198.18.32.0".parse().unwrap())
                && !config.admits("::1".parse().unwrap())
        );
        assert!(at("0.0.0.0/0").admits("8.8.8.8".parse().unwrap()));
        for bad in ["1.2.3.4", "1.2.3.4/33", "x/8"] {
            assert!(
                ResolverConfig::for_network(Ipv4Addr::LOCALHOST, bad, Upstreams::Fixed(Vec::new()))
                    .is_err()
            );
        }
    }
}

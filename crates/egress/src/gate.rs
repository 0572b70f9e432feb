//! Which sandbox an address belongs to, what it may reach, and what the resolver has told it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use soulbox_driver::Doorkeeper;
use soulbox_net::resolver::{Names, Told};
use soulbox_net::told::{Refusal, RefusedPacket};
use soulbox_types::policy::{Rule, canonical_name};
use soulbox_types::upstream::Upstream;
use soulbox_types::{EgressPolicy, NetworkMode, SandboxId, SlotIndex, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::broker::{Broker, Ruled};
use crate::contact::{Allowance, Contact, short};
use crate::proxy::Way;

/// How long an address is good after it was told. Programs keep connections for some time before they use them, and what
/// DNS says for a second is used for longer.
const GOOD_AT_LEAST: Duration = Duration::from_mins(5);
const GOOD_AT_MOST: Duration = Duration::from_hours(1);
/// Names, and addresses of one name, that are remembered of one sandbox.
const MOST_NAMES: usize = 2048;
const MOST_ADDRESSES: usize = 64;
/// Connections of one sandbox through the proxy.
const CONNECTIONS: usize = 512;
/// The same refusal is told once in this time, and so many different ones.
const QUIET: Duration = Duration::from_secs(10);
const MOST_QUIET: usize = 64;
/// Contacts that wait to be written down. More are only counted.
const CONTACTS: usize = 4096;

/// Why a name is refused that an open policy would tell.
const UNNAMED: &str = "no entry of allowOut names it";
/// The type of record that holds an IPv4 address.
const ADDRESS: u16 = 1;
/// Records that a sandbox is told of whose names are judged: A, CNAME, AAAA. Of the others, SVCB and HTTPS hold keys that
/// hide names, and TXT and the like hold anything.
const KINDS: [u16; 3] = [1, 5, 28];

/// Something that was let through.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    /// `tls`, `http`, `https` where a rule had it read, or `tcp` where nothing was.
    pub(crate) kind: &'static str,
    /// The name or the address that it asked for.
    pub(crate) target: &'a str,
    /// The entry that opened it.
    pub(crate) rule: &'a Rule,
    /// When it began.
    pub(crate) at: Timestamp,
    /// Method, path and status.
    pub(crate) detail: &'a str,
    /// Bytes out of the sandbox and into it.
    pub(crate) bytes: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Entry {
    sandbox: SandboxId,
    policy: Option<Arc<EgressPolicy>>,
    /// Until when an address is good for a name.
    told: HashMap<String, HashMap<IpAddr, Instant>>,
    quiet: HashMap<String, Instant>,
    allowance: Allowance,
    /// The same for programs that it starts: they are not to drown what it says to the network.
    starts: Allowance,
    connections: Arc<Semaphore>,
}

/// See the module.
#[derive(Debug)]
pub struct Gate {
    entries: Mutex<HashMap<Ipv4Addr, Entry>>,
    contacts: mpsc::Sender<Contact>,
    /// Made after the gate: secrets are in the database, and connections come before it is open.
    broker: OnceLock<Broker>,
    /// Below which all names are of this server, for sandboxes as for others.
    domain: OnceLock<String>,
}

impl Gate {
    /// A gate, and what it lets through and refuses.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Contact>) {
        let (contacts, told) = mpsc::channel(CONTACTS);
        let gate = Self {
            entries: Mutex::default(),
            contacts,
            broker: OnceLock::new(),
            domain: OnceLock::new(),
        };
        (Arc::new(gate), told)
    }

    /// From now on header rules work. Connections that they are about are refused before.
    pub fn use_broker(&self, broker: Broker) {
        // The first one stays: a server has one key.
        let _other = self.broker.set(broker);
    }

    /// From now on sandboxes are told that the names of this domain, in lower case, are the gateway.
    pub fn answers_for(&self, domain: String) {
        // The first one stays: a server has one domain.
        let _other = self.domain.set(domain);
    }

    /// Whether a name in its canonical form is the domain or has one label more.
    fn is_own(&self, name: &str) -> bool {
        let domain = self.domain.get();
        let rest = domain.and_then(|domain| name.strip_suffix(domain.as_str()));
        rest.is_some_and(|rest| match rest.strip_suffix('.') {
            Some(label) => !label.is_empty() && !label.contains('.'),
            None => rest.is_empty(),
        })
    }

    /// Whether a sandbox may ask this server for something by a name as it is written.
    ///
    /// # Errors
    /// Why not.
    pub fn judge_own(&self, client: Ipv4Addr, name: &str) -> Result<(), String> {
        let own = canonical_name(name).filter(|name| self.is_own(name));
        let own = own.ok_or("it is no name of this server")?;
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&client).ok_or("no sandbox is known")?;
        if entry
            .policy
            .as_ref()
            .is_none_or(|policy| policy.tells(&own))
        {
            return Ok(());
        }
        note(entry, &self.contacts, "https", &own, None, UNNAMED);
        Err(UNNAMED.to_owned())
    }

    pub(crate) fn broker(&self) -> Option<&Broker> {
        self.broker.get()
    }

    /// What header rules of a sandbox come to at this moment.
    pub(crate) fn rules(&self, client: Ipv4Addr) -> Option<Ruled> {
        let entries = self.entries.lock();
        let entry = entries.get(&client)?;
        let policy = entry.policy.as_ref()?;
        Some(Ruled {
            sandbox: entry.sandbox.clone(),
            rules: policy.rules.clone()?,
            tokens: policy.tokens.clone(),
        })
    }

    /// The name in its canonical form, if a rule of the sandbox is about it.
    pub(crate) fn ruled(&self, client: Ipv4Addr, name: &str) -> Option<String> {
        let name = canonical_name(name)?;
        let entries = self.entries.lock();
        let rules = entries.get(&client)?.policy.as_ref()?.rules.as_ref()?;
        rules.of_name(&name).is_some().then_some(name)
    }

    /// The proxy that connections of a sandbox go through, if any.
    pub(crate) fn upstream(&self, client: Ipv4Addr) -> Option<Box<Upstream>> {
        let entries = self.entries.lock();
        entries.get(&client)?.policy.as_ref()?.upstream.clone()
    }

    /// A place for a connection of a sandbox, if there is one left.
    #[must_use]
    pub fn place(&self, client: Ipv4Addr) -> Option<OwnedSemaphorePermit> {
        let entries = self.entries.lock();
        let connections = &entries.get(&client)?.connections;
        Arc::clone(connections).try_acquire_owned().ok()
    }

    /// The same for a connection that takes one of places that all sandboxes share, of which so many are free: no sandbox has
    /// more than are left, so that whatever some of them hold there is room for the next.
    pub(crate) fn share(&self, client: Ipv4Addr, free: usize) -> Option<OwnedSemaphorePermit> {
        let entries = self.entries.lock();
        let connections = &entries.get(&client)?.connections;
        let held = CONNECTIONS.saturating_sub(connections.available_permits());
        if held >= free {
            return None;
        }
        Arc::clone(connections).try_acquire_owned().ok()
    }

    /// Whether a sandbox may connect to an address by a name as it is written, or by the address itself.
    pub(crate) fn judge(
        &self,
        client: Ipv4Addr,
        name: Option<&str>,
        address: IpAddr,
    ) -> Result<Rule, String> {
        let entries = self.entries.lock();
        let entry = entries.get(&client);
        let known = entry.and_then(|entry| Some((entry, entry.policy.as_ref()?)));
        let (entry, policy) = known.ok_or("no policy is known")?;
        let by_address = policy.of_address(address);
        let Some(name) = name else {
            return verdict(by_address);
        };
        let name = canonical_name(name).ok_or("what it asks for is no host name")?;
        let rule = policy.of_name(&name, address);
        let told = entry.told.get(&name).and_then(|told| told.get(&address));
        match &rule {
            Rule::AllowName(_) if told.is_none_or(|good| *good <= Instant::now()) => {
                Err("the sandbox's DNS has not given this address for this name lately".to_owned())
            }
            _ => verdict(rule),
        }
    }

    /// Notes what was let through.
    pub(crate) fn passed(&self, way: Way, passed: &Passed<'_>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&way.client) else {
            return;
        };
        let rule = Ok(passed.rule.to_string());
        let contact = Contact {
            at: passed.at,
            address: Some(way.server),
            detail: short(passed.detail),
            bytes: passed.bytes,
            ..Contact::new(&entry.sandbox, passed.kind, passed.target, rule)
        };
        let now = Instant::now();
        entry.allowance.tell(&self.contacts, contact, now);
    }

    /// Notes a refusal.
    pub(crate) fn refused(
        &self,
        client: Ipv4Addr,
        protocol: &'static str,
        target: &str,
        reason: &str,
    ) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&client) {
            note(entry, &self.contacts, protocol, target, None, reason);
        }
    }

    /// Notes a packet that the kernel has refused.
    pub(crate) fn was_refused(&self, packet: &RefusedPacket) {
        let mut entries = self.entries.lock();
        let client = sandbox_at(packet.from);
        let Some(entry) = client.and_then(|client| entries.get_mut(&client)) else {
            return;
        };
        let kind = match packet.protocol {
            1 | 58 => "icmp",
            6 => "tcp",
            17 => "udp",
            _ => "ip",
        };
        let reason = why_refused(packet, entry.policy.as_deref());
        let address = packet.port.map(|port| SocketAddr::new(packet.to, port));
        let target = match address {
            Some(address) => address.to_string(),
            None => packet.to.to_string(),
        };
        note(entry, &self.contacts, kind, &target, address, &reason);
    }

    /// Notes a program that was started.
    pub(crate) fn was_started(&self, client: Ipv4Addr, command: &str) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&client) {
            let contact = Contact::new(&entry.sandbox, "process", command, Ok(String::new()));
            entry.starts.tell(&self.contacts, contact, Instant::now());
        }
    }
}

/// The entry of the policy, or whatever else it was.
fn why_refused(packet: &RefusedPacket, policy: Option<&EgressPolicy>) -> String {
    match (packet.refusal, policy) {
        (Refusal::Connections, _) => "it has or begins too many connections".to_owned(),
        (Refusal::Closed, _) | (Refusal::Policy, None) => Rule::Closed.to_string(),
        (Refusal::Policy, Some(policy)) => match policy.of_address(packet.to) {
            closing if !closing.allows() => closing.to_string(),
            _ if policy.upstream.is_some() => "only TCP goes through its proxy".to_owned(),
            // It has changed meanwhile.
            opening => opening.to_string(),
        },
    }
}

/// The address of IPv4 by which the sandbox is known that has this one.
pub(crate) fn sandbox_at(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => SlotIndex::of_address_v6(address).map(SlotIndex::address),
    }
}

fn verdict(rule: Rule) -> Result<Rule, String> {
    if rule.allows() {
        Ok(rule)
    } else {
        Err(rule.to_string())
    }
}

fn note(
    entry: &mut Entry,
    contacts: &mpsc::Sender<Contact>,
    protocol: &'static str,
    target: &str,
    address: Option<SocketAddr>,
    reason: &str,
) {
    let now = Instant::now();
    entry.quiet.retain(|_, until| *until > now);
    let mut contact = Contact {
        address,
        ..Contact::new(&entry.sandbox, protocol, target, Err(reason))
    };
    let key = format!("{protocol} {}", contact.target);
    let has_room = entry.quiet.len() < MOST_QUIET;
    contact.is_news = has_room && entry.quiet.insert(key, now + QUIET).is_none();
    entry.allowance.tell(contacts, contact, now);
}

/// Notes a question that is answered.
fn note_question(entry: &mut Entry, contacts: &mpsc::Sender<Contact>, name: &str, kind: u16) {
    let mut contact = Contact::new(&entry.sandbox, "dns", name, Ok(String::new()));
    contact.detail = match kind {
        1 => "A".to_owned(),
        5 => "CNAME".to_owned(),
        15 => "MX".to_owned(),
        16 => "TXT".to_owned(),
        28 => "AAAA".to_owned(),
        33 => "SRV".to_owned(),
        65 => "HTTPS".to_owned(),
        other => format!("type {other}"),
    };
    entry.allowance.tell(contacts, contact, Instant::now());
}

impl Doorkeeper for Gate {
    fn enters(&self, address: Ipv4Addr, sandbox: &SandboxId, network: &NetworkMode) {
        let policy = network.policy().cloned().map(Arc::new);
        let mut entries = self.entries.lock();
        match entries.get_mut(&address) {
            Some(entry) if entry.sandbox == *sandbox => entry.policy = policy,
            _ => {
                let entry = Entry {
                    sandbox: sandbox.clone(),
                    policy,
                    told: HashMap::new(),
                    quiet: HashMap::new(),
                    starts: Allowance::new(Instant::now()),
                    allowance: Allowance::new(Instant::now()),
                    connections: Arc::new(Semaphore::new(CONNECTIONS)),
                };
                entries.insert(address, entry);
            }
        }
    }

    fn leaves(&self, address: Ipv4Addr, sandbox: &SandboxId) {
        let mut entries = self.entries.lock();
        if entries
            .get(&address)
            .is_some_and(|entry| entry.sandbox == *sandbox)
        {
            entries.remove(&address);
        }
    }
}

impl Names for Gate {
    fn judge(&self, client: Ipv4Addr, name: Option<&str>, kind: u16) -> Told {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&client) else {
            return Told::Stranger;
        };
        let asked = name.unwrap_or("a name that is no text");
        let own = name
            .and_then(canonical_name)
            .filter(|name| self.is_own(name));
        if let Some(own) = own {
            if entry
                .policy
                .as_ref()
                .is_some_and(|policy| !policy.tells(&own))
            {
                note(entry, &self.contacts, "dns", asked, None, UNNAMED);
                return Told::NoName;
            }
            note_question(entry, &self.contacts, asked, kind);
            return if kind == ADDRESS {
                Told::Here
            } else {
                Told::NoRecord
            };
        }
        let Some(policy) = entry.policy.clone() else {
            note_question(entry, &self.contacts, asked, kind);
            return Told::Everything {
                servers: Vec::new(),
                keeps: false,
            };
        };
        if policy.keeps_names() {
            let known = name.and_then(canonical_name);
            if !known.is_some_and(|name| policy.tells(&name)) {
                note(entry, &self.contacts, "dns", asked, None, UNNAMED);
                return Told::NoName;
            }
            if !KINDS.contains(&kind) {
                return Told::NoRecord;
            }
        }
        note_question(entry, &self.contacts, asked, kind);
        Told::Everything {
            servers: policy.dns_servers.clone(),
            keeps: !policy.names.is_empty(),
        }
    }

    fn told(&self, client: Ipv4Addr, name: &str, addresses: &[(IpAddr, u32)]) {
        let Some(name) = canonical_name(name) else {
            return;
        };
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&client) else {
            return;
        };
        if entry.told.len() >= MOST_NAMES && !entry.told.contains_key(&name) {
            entry
                .told
                .retain(|_, told| told.values().any(|good| *good > now));
            if entry.told.len() >= MOST_NAMES {
                // Whoever asks for that many names a minute looks the few up again that it needs.
                entry.told.clear();
            }
        }
        let told = entry.told.entry(name).or_default();
        told.retain(|_, good| *good > now);
        for (address, seconds) in addresses {
            if told.len() < MOST_ADDRESSES || told.contains_key(address) {
                let good = Duration::from_secs(u64::from(*seconds));
                told.insert(*address, now + good.clamp(GOOD_AT_LEAST, GOOD_AT_MOST));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use soulbox_types::{Cidr, DomainPattern};

    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 22, 33, 44));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 22, 33, 45));

    fn network(names: &[&str], deny: &[&str]) -> NetworkMode {
        NetworkMode::Filtered(EgressPolicy {
            names: names
                .iter()
                .map(|n| DomainPattern::parse(n).unwrap())
                .collect(),
            deny: deny.iter().map(|n| Cidr::parse(n).unwrap()).collect(),
            ..EgressPolicy::default()
        })
    }

    #[test]
    fn a_refused_packet_is_told_with_the_entry_that_closed_it() {
        let cidrs = |list: &[&str]| list.iter().map(|n| Cidr::parse(n).unwrap()).collect();
        let policy = EgressPolicy {
            allow: cidrs(&["11.22.33.0/24"]),
            deny: cidrs(&["9.9.9.9", "0.0.0.0/0"]),
            ..EgressPolicy::default()
        };
        let why = |refusal, to: IpAddr, policy: Option<&EgressPolicy>| {
            let packet = RefusedPacket {
                refusal,
                from: CLIENT.into(),
                to,
                protocol: 1,
                port: None,
            };
            why_refused(&packet, policy)
        };
        let of_policy = |to: [u8; 4]| why(Refusal::Policy, to.into(), Some(&policy));
        assert_eq!(of_policy([9, 9, 9, 9]), "denyOut 9.9.9.9/32");
        assert_eq!(of_policy([8, 8, 4, 4]), "denyOut 0.0.0.0/0");
        assert_eq!(of_policy([10, 1, 2, 3]), "closed to every sandbox");
        let closed = why(Refusal::Closed, SERVER, Some(&policy));
        assert_eq!(closed, "closed to every sandbox");
        let none = why(Refusal::Policy, SERVER, None);
        assert_eq!(none, "closed to every sandbox");
        let many = why(Refusal::Connections, SERVER, Some(&policy));
        assert_eq!(many, "it has or begins too many connections");
    }

    #[test]
    fn nobody_has_more_places_than_are_left() {
        let (gate, _contacts) = Gate::new();
        gate.enters(CLIENT, &SandboxId::random(), &network(&[], &[]));
        let places = |free| {
            let taken: Vec<_> = std::iter::from_fn(|| gate.share(CLIENT, free)).collect();
            taken.len()
        };
        assert_eq!(places(4096), CONNECTIONS);
        assert_eq!(places(3), 3);
        assert_eq!(places(0), 0);
        assert!(gate.share(Ipv4Addr::new(11, 22, 33, 44), 4096).is_none());
    }

    #[test]
    fn a_name_opens_what_it_was_told_to_have() {
        let (gate, mut contacts) = Gate::new();
        let sandbox = SandboxId::random();
        assert_eq!(
            Names::judge(&*gate, CLIENT, Some("a.example"), 1),
            Told::Stranger
        );
        assert!(gate.judge(CLIENT, Some("a.example"), SERVER).is_err());
        assert!(gate.place(CLIENT).is_none());
        gate.enters(CLIENT, &sandbox, &network(&["a.example"], &["0.0.0.0/0"]));
        assert!(gate.place(CLIENT).is_some());
        let everything = Told::Everything {
            servers: Vec::new(),
            keeps: true,
        };
        assert_eq!(
            Names::judge(&*gate, CLIENT, Some("A.Example"), 28),
            everything
        );
        for kind in [16, 64, 65] {
            assert_eq!(
                Names::judge(&*gate, CLIENT, Some("a.example"), kind),
                Told::NoRecord
            );
        }
        assert_eq!(
            Names::judge(&*gate, CLIENT, Some("b.example"), 1),
            Told::NoName
        );
        assert_eq!(Names::judge(&*gate, CLIENT, None, 1), Told::NoName);
        let first = refused(&mut contacts).next().unwrap();
        assert_eq!((first.target.as_str(), first.is_news), ("b.example", true));
        assert!(
            gate.judge(CLIENT, Some("a.example"), SERVER).is_err(),
            "not told yet"
        );
        gate.told(CLIENT, "A.example", &[(SERVER, 1)]);
        assert!(gate.judge(CLIENT, Some("a.EXAMPLE."), SERVER).is_ok());
        for (name, address) in [
            (Some("a.example"), OTHER),
            (Some("b.example"), SERVER),
            (Some("11.22.33.44"), SERVER),
            (Some("a.example\0.b"), SERVER),
            (None, SERVER),
        ] {
            assert!(
                gate.judge(CLIENT, name, address).is_err(),
                "{name:?} {address}"
            );
        }
        // A policy that changes keeps what was told; another sandbox begins with nothing.
        gate.enters(CLIENT, &sandbox, &network(&["*"], &["0.0.0.0/0"]));
        assert!(gate.judge(CLIENT, Some("a.example"), SERVER).is_ok());
        gate.leaves(CLIENT, &SandboxId::random());
        assert!(gate.judge(CLIENT, Some("a.example"), SERVER).is_ok());
        gate.enters(
            CLIENT,
            &SandboxId::random(),
            &network(&["*"], &["0.0.0.0/0"]),
        );
        assert!(gate.judge(CLIENT, Some("a.example"), SERVER).is_err());
    }

    #[test]
    fn a_name_never_opens_a_closed_address() {
        let (gate, _refusals) = Gate::new();
        let private = [
            IpAddr::from([10, 0, 0, 1]),
            "fd00::1".parse().unwrap(),
            "::ffff:10.0.0.1".parse().unwrap(),
        ];
        gate.enters(
            CLIENT,
            &SandboxId::random(),
            &network(&["*"], &["0.0.0.0/0"]),
        );
        gate.told(CLIENT, "a.example", &private.map(|address| (address, 60)));
        for address in private {
            assert!(gate.judge(CLIENT, Some("a.example"), address).is_err());
        }
    }

    #[test]
    fn names_of_this_server_are_open_unless_a_policy_closes_them() {
        let (gate, _contacts) = Gate::new();
        gate.answers_for("box.test".to_owned());
        let asked = |name, kind| Names::judge(&*gate, CLIENT, Some(name), kind);
        assert_eq!(asked("api.box.test", 1), Told::Stranger);
        assert!(gate.judge_own(CLIENT, "api.box.test").is_err());
        let sandbox = SandboxId::random();
        gate.enters(CLIENT, &sandbox, &NetworkMode::Internet);
        for name in ["box.test", "API.box.test.", "3000-iabc.box.test"] {
            assert_eq!(asked(name, 1), Told::Here, "{name}");
            assert_eq!(asked(name, 28), Told::NoRecord, "{name}");
            assert!(gate.judge_own(CLIENT, name).is_ok(), "{name}");
        }
        for name in [
            "notbox.test",
            "a.b.box.test",
            ".box.test",
            "test",
            "127.0.0.1",
        ] {
            assert!(!matches!(asked(name, 1), Told::Here), "{name}");
            assert!(gate.judge_own(CLIENT, name).is_err(), "{name}");
        }
        gate.enters(
            CLIENT,
            &sandbox,
            &network(&["3000-iabc.box.test"], &["0.0.0.0/0"]),
        );
        assert_eq!(asked("3000-iabc.box.test", 1), Told::Here);
        assert!(gate.judge_own(CLIENT, "3000-iabc.box.test").is_ok());
        for name in ["api.box.test", "3001-iabc.box.test", "3000-iother.box.test"] {
            assert_eq!(asked(name, 1), Told::NoName, "{name}");
            assert!(gate.judge_own(CLIENT, name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_opens_its_address_of_ipv6_too() {
        let (gate, mut contacts) = Gate::new();
        gate.enters(
            CLIENT,
            &SandboxId::random(),
            &network(&["a.example"], &["0.0.0.0/0"]),
        );
        let server: IpAddr = "2a0b::5".parse().unwrap();
        gate.told(CLIENT, "a.example", &[(server, 60)]);
        assert!(gate.judge(CLIENT, Some("a.example"), server).is_ok());
        assert!(gate.judge(CLIENT, Some("a.example"), SERVER).is_err());
        for (name, address) in [(None, "2a0b::5"), (Some("a.example"), "2a0b::6")] {
            let address = address.parse().unwrap();
            assert!(gate.judge(CLIENT, name, address).is_err(), "{address}");
        }
        let slot = SlotIndex::new(soulbox_types::slot::Block::new(0).unwrap(), 0).unwrap();
        assert_eq!(slot.address(), CLIENT);
        let packet = RefusedPacket {
            refusal: Refusal::Policy,
            from: slot.address_v6().into(),
            to: server,
            protocol: 17,
            port: Some(443),
        };
        gate.was_refused(&packet);
        let told = contacts.try_recv().unwrap();
        assert_eq!(
            (told.kind, told.target.as_str(), told.rule.as_str()),
            ("udp", "[2a0b::5]:443", "denyOut 0.0.0.0/0")
        );
        let stranger = RefusedPacket {
            from: "fd00::7".parse().unwrap(),
            ..packet
        };
        gate.was_refused(&stranger);
        assert!(contacts.try_recv().is_err());
    }

    /// Those that were refused, of what waits.
    fn refused(contacts: &mut mpsc::Receiver<Contact>) -> impl Iterator<Item = Contact> {
        std::iter::from_fn(|| contacts.try_recv().ok()).filter(|contact| !contact.allowed)
    }

    #[test]
    fn the_same_refusal_is_news_once() {
        let (gate, mut contacts) = Gate::new();
        gate.enters(CLIENT, &SandboxId::random(), &network(&[], &["0.0.0.0/0"]));
        for _ in 0..3 {
            gate.refused(CLIENT, "tls", "a.example", "denyOut 0.0.0.0/0");
        }
        let told: Vec<bool> = refused(&mut contacts).map(|it| it.is_news).collect();
        assert_eq!(told, [true, false, false]);
        for number in 0..1000 {
            gate.refused(CLIENT, "tls", &number.to_string(), "denyOut 0.0.0.0/0");
        }
        let news = refused(&mut contacts).filter(|it| it.is_news).count();
        assert!(news < MOST_QUIET);
    }

    #[test]
    fn what_is_let_through_is_told_with_its_rule() {
        let (gate, mut contacts) = Gate::new();
        gate.enters(
            CLIENT,
            &SandboxId::random(),
            &network(&["*.example"], &["0.0.0.0/0"]),
        );
        Names::judge(&*gate, CLIENT, Some("a.example"), 28);
        gate.told(CLIENT, "a.example", &[(SERVER, 60)]);
        let rule = gate.judge(CLIENT, Some("a.example"), SERVER).unwrap();
        let way = Way {
            client: CLIENT,
            server: SocketAddr::new(SERVER, 443),
        };
        let passed = Passed {
            kind: "tls",
            target: "a.example",
            rule: &rule,
            at: Timestamp(7),
            detail: "",
            bytes: Some((1, 2)),
        };
        gate.passed(way, &passed);
        let question = contacts.try_recv().unwrap();
        assert_eq!(
            (question.kind, question.detail.as_str(), question.allowed),
            ("dns", "AAAA", true)
        );
        let connection = contacts.try_recv().unwrap();
        assert_eq!(connection.rule, "allowOut *.example");
        assert_eq!(connection.bytes, Some((1, 2)));
        assert_eq!(connection.at, Timestamp(7));
    }
}

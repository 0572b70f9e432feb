//! What the kernel enforces of the policies of single sandboxes: the text of a second nftables table.
//!
//! One lookup by the name of the cable leads a packet to the chain of its sandbox; the packets of sandboxes without a
//! policy find nothing there, or an empty chain, whatever the number of policies. A chain is replaced in one transaction: there is no moment
//! without a policy. The table outlives the server, as sandboxes do. It only ever closes: what it lets pass is judged by
//! [`crate::firewall`] next.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use soulbox_types::egress::{CLOSED_IPV4, CLOSED_IPV6, OPEN_IPV6};
use soulbox_types::slot::Block;
use soulbox_types::{Cidr, EgressPolicy, SlotIndex};

use crate::told::{self, Refusal};

/// Ports of the gateway on which connections arrive that are judged by name: those to port 80 and to port 443. All others
/// of sandboxes that go through a proxy arrive at the second.
pub const PROXY_PORTS: [u16; 2] = [20_080, 20_443];
/// Port of the gateway on which connections arrive that are for this server's own names.
pub const OWN_NAMES_PORT: u16 = 20_444;
/// From the cable of a sandbox to the chain of its policy.
const MAP: &str = "type ifname : verdict;";
/// Sandboxes with names in their policy that ask this resolver, which the contract opens for them, ask ours instead.
const CONTRACT_RESOLVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

fn table(block: Block) -> String {
    format!("inet {}p", block.prefix())
}

/// The commands that put the table in place. What policies are in it stay. Whether it `tells` what is refused: see
/// [`crate::told`].
#[must_use]
pub fn render_base(block: Block, tells: bool) -> String {
    let table = table(block);
    let tell = told::rule(&table, block, Refusal::Policy, tells);
    format!(
        r"add table {table}
add map {table} sending {{ {MAP} }}
add map {table} connecting {{ {MAP} }}
add chain {table} refuse
flush chain {table} refuse
{tell}add rule {table} refuse meta l4proto tcp reject with tcp reset
add rule {table} refuse reject with icmpx type admin-prohibited
add chain {table} forward {{ type filter hook forward priority filter - 6; policy accept; }}
flush chain {table} forward
add rule {table} forward iifname vmap @sending
add chain {table} prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
flush chain {table} prerouting
add rule {table} prerouting iifname vmap @connecting
"
    )
}

/// The commands that make exactly these policies be in force. `tells` as in [`render_base`], `has_ipv6` as in [`render`].
#[must_use]
pub fn render_all<'a>(
    block: Block,
    tells: bool,
    has_ipv6: bool,
    policies: impl IntoIterator<Item = (SlotIndex, &'a EgressPolicy)>,
) -> String {
    let mut text = render_removal(block) + &render_base(block, tells);
    for (slot, policy) in policies {
        text += &render(slot, policy, has_ipv6);
    }
    text
}

/// The commands that remove the table, whether it is there or not.
#[must_use]
pub fn render_removal(block: Block) -> String {
    let table = table(block);
    format!("table {table}\ndelete table {table}\n")
}

/// What the rules about one family of addresses are made of.
struct Family {
    /// How `nft` calls it.
    word: &'static str,
    /// Where the server listens.
    gateway: String,
    /// What is no address to be led anywhere: it is refused where everybody's is.
    closed: Vec<String>,
    allow: Option<String>,
    deny: Option<String>,
}

impl Family {
    fn v4(slot: SlotIndex, policy: &EgressPolicy) -> Self {
        Self {
            word: "ip",
            gateway: slot.block().gateway().to_string(),
            closed: vec![format!("ip daddr {{ {} }} return", CLOSED_IPV4.join(", "))],
            allow: addresses(&policy.allow),
            deny: addresses(&policy.deny).map(|deny| format!("ip daddr {deny}")),
        }
    }

    fn v6(slot: SlotIndex, policy: &EgressPolicy) -> Self {
        let networks = |list: &[Cidr]| set(list.iter().filter(|cidr| cidr.v4().is_none()));
        Self {
            word: "ip6",
            gateway: format!("[{}]", slot.block().gateway_v6()),
            closed: vec![
                format!("ip6 daddr != {OPEN_IPV6} return"),
                format!("ip6 daddr {{ {} }} return", CLOSED_IPV6.join(", ")),
            ],
            allow: networks(&policy.allow),
            // What closes all of IPv4 is the contract's word for everything.
            deny: match policy.deny.contains(&Cidr::ALL) {
                true => Some("meta nfproto ipv6".to_owned()),
                false => networks(&policy.deny).map(|deny| format!("ip6 daddr {deny}")),
            },
        }
    }

    /// What may be sent.
    fn sending(&self) -> impl Iterator<Item = String> {
        let word = self.word;
        let allow = self.allow.iter();
        let allow = allow.map(move |allow| format!("{word} daddr {allow} return"));
        let deny = self.deny.iter().map(|deny| format!("{deny} goto refuse"));
        allow.chain(deny)
    }

    /// Which connections are led to the server.
    fn connecting(&self, reads: &Reads) -> Vec<String> {
        let Self { word, gateway, .. } = self;
        let [http, tls] = PROXY_PORTS;
        let mut rules = self.closed.clone();
        if let Some(allow) = self.allow.as_ref().filter(|_| reads.all) {
            let plain = format!("{word} daddr {allow} tcp dport 80");
            rules.push(format!("{plain} dnat {word} to {gateway}:{tls}"));
        }
        if reads.http {
            rules.push(format!("tcp dport 80 dnat {word} to {gateway}:{http}"));
        }
        let which = match reads.all {
            true => "meta l4proto tcp",
            false => "tcp dport 443",
        };
        rules.push(format!("{which} dnat {word} to {gateway}:{tls}"));
        rules
    }
}

/// What the server reads beside TLS.
struct Reads {
    /// Requests to port 80.
    http: bool,
    /// All of TCP, on its way to a proxy.
    all: bool,
}

/// The commands that put a slot's policy in force, in the place of the one before. With `has_ipv6` the server listens for
/// connections of IPv6, too.
#[must_use]
pub fn render(slot: SlotIndex, policy: &EgressPolicy, has_ipv6: bool) -> String {
    let (table, cable, number) = (table(slot.block()), slot.link_name(), slot.index());
    let mut text = empty_chains(slot);
    let mut rule = |chain: &str, rule: &str| {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "add rule {table} {chain}{number} {rule}");
    };
    // A connection that is open goes on. Whoever begins one is judged, and so is whoever lets one begin from outside: of
    // a sandbox that stood in this slot before, the kernel may still know connections.
    rule(
        "s",
        "meta l4proto tcp tcp flags & syn == 0x0 ct state established return",
    );
    let (v4, v6) = (Family::v4(slot, policy), Family::v6(slot, policy));
    let proxied = policy.upstream.is_some();
    if proxied {
        // TCP is led to the server before it comes here; whatever else there is would go around the proxy.
        rule("s", "goto refuse");
    } else {
        for line in v6.sending().chain(v4.sending()) {
            rule("s", &line);
        }
    }
    let reads = Reads {
        http: !policy.names.is_empty(),
        all: proxied,
    };
    if reads.http || reads.all || policy.rules.is_some() {
        let families = [Some(v4), has_ipv6.then_some(v6)];
        let families = families.iter().flatten();
        // Where an address is open by itself, only rules want to know the name.
        let which: &[&str] = match policy.rules {
            Some(_) => &["meta l4proto != tcp ", "tcp dport != 443 "],
            None => &[""],
        };
        for Family { word, allow, .. } in families.clone().filter(|_| !proxied) {
            for (allow, which) in allow
                .iter()
                .flat_map(|it| which.iter().map(move |w| (it, w)))
            {
                rule("c", &format!("{word} daddr {allow} {which}return"));
            }
        }
        if reads.http || reads.all {
            let own = slot.block().gateway();
            for protocol in ["udp", "tcp"] {
                let asked = format!("ip daddr {CONTRACT_RESOLVER} {protocol} dport 53");
                rule("c", &format!("{asked} dnat ip to {own}:53"));
            }
        }
        // Addresses of this machine and closed ones are refused where everybody's are.
        rule("c", "fib daddr type != unicast return");
        for line in families.flat_map(|family| family.connecting(&reads)) {
            rule("c", &line);
        }
    }
    // As part of a map that is there already: for `add element`, nft first reads every set of every policy.
    for (map, chain) in [("sending", "s"), ("connecting", "c")] {
        let element = format!("\"{cable}\" : jump {chain}{number}");
        let _written = writeln!(
            text,
            "add map {table} {map} {{ {MAP} elements = {{ {element} }}; }}"
        );
    }
    text
}

/// The commands that leave a slot without a policy, whether it has one or not. Its chains stay, empty: a block has few slots,
/// and what is not removed is not looked for.
#[must_use]
pub fn render_end(slot: SlotIndex) -> String {
    empty_chains(slot)
}

fn empty_chains(slot: SlotIndex) -> String {
    let (table, number) = (table(slot.block()), slot.index());
    ["s", "c"]
        .map(|chain| {
            format!("add chain {table} {chain}{number}\nflush chain {table} {chain}{number}\n")
        })
        .concat()
}

/// The networks of IPv4 of a list.
fn addresses(list: &[Cidr]) -> Option<String> {
    set(list.iter().filter(|cidr| cidr.v4().is_some()))
}

/// A set of networks of one family; `None` for none. Of networks that lie in each other the kernel takes the largest only.
fn set<'a>(list: impl Iterator<Item = &'a Cidr>) -> Option<String> {
    let mut list: Vec<Cidr> = list.copied().collect();
    list.sort_unstable();
    let mut kept: Vec<Cidr> = Vec::new();
    for cidr in list {
        if !kept.last().is_some_and(|last| last.covers(&cidr)) {
            kept.push(cidr);
        }
    }
    let texts: Vec<String> = kept.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| format!("{{ {} }}", texts.join(", ")))
}

#[cfg(test)]
mod tests {
    use soulbox_types::rules::{Authority, HeaderRules};
    use soulbox_types::upstream::Upstream;
    use soulbox_types::{DomainPattern, TeamId};

    use super::*;

    fn cidrs(list: &[&str]) -> Vec<Cidr> {
        list.iter().map(|text| Cidr::parse(text).unwrap()).collect()
    }

    #[test]
    fn texts() {
        let slot = SlotIndex::new(Block::new(1).unwrap(), 7).unwrap();
        let policy = EgressPolicy {
            allow: cidrs(&["9.9.9.9", "9.9.9.0/24", "2001:db8::/32"]),
            names: vec![DomainPattern::Any],
            deny: cidrs(&["0.0.0.0/0", "1.1.1.1"]),
            ..EgressPolicy::default()
        };
        insta::assert_snapshot!(
            render_base(slot.block(), true) + &render(slot, &policy, true) + &render_end(slot)
        );
    }

    #[test]
    fn rules_read_tls_and_nothing_else() {
        let slot = SlotIndex::new(Block::new(1).unwrap(), 7).unwrap();
        let rules = HeaderRules {
            team: TeamId::random(),
            authority: Authority {
                name: String::new(),
                certificate: String::new(),
                sealed_key: String::new(),
            },
            list: Vec::new(),
        };
        let policy = EgressPolicy {
            allow: cidrs(&["9.9.9.9"]),
            rules: Some(Box::new(rules)),
            ..EgressPolicy::default()
        };
        insta::assert_snapshot!(render(slot, &policy, true));
    }

    #[test]
    fn nothing_goes_around_a_proxy() {
        let slot = SlotIndex::new(Block::new(1).unwrap(), 7).unwrap();
        let proxy = Upstream {
            team: TeamId::random(),
            host: "proxy.example".into(),
            port: 1080,
            credentials: None,
            tls: None,
        };
        let policy = EgressPolicy {
            allow: cidrs(&["9.9.9.9"]),
            names: vec![DomainPattern::Any],
            deny: cidrs(&["0.0.0.0/0"]),
            upstream: Some(Box::new(proxy)),
            ..EgressPolicy::default()
        };
        insta::assert_snapshot!(render(slot, &policy, true));
    }

    #[test]
    fn ipv6() {
        let slot = SlotIndex::new(Block::new(1).unwrap(), 7).unwrap();
        let said = |allow: &[&str], deny: &[&str], names: &[&str]| {
            let policy = EgressPolicy {
                allow: cidrs(allow),
                deny: cidrs(deny),
                names: names
                    .iter()
                    .map(|name| DomainPattern::parse(name).unwrap())
                    .collect(),
                ..EgressPolicy::default()
            };
            let text = render(slot, &policy, true);
            let rules = text.lines();
            let rules = rules.filter_map(|line| line.strip_prefix("add rule inet sb1p s7 "));
            let rules = rules.filter(|rule| rule.contains("ip6 ") || rule.contains("ipv6"));
            rules.map(str::to_owned).collect::<Vec<_>>()
        };
        let all = "0.0.0.0/0";
        let closed = "meta nfproto ipv6 goto refuse";
        assert_eq!(said(&["9.9.9.9"], &[all], &[]), [closed]);
        assert_eq!(
            said(&["2606::1", "2606::/32"], &[all, "2607::/32"], &[]),
            ["ip6 daddr { 2606::/32 } return", closed]
        );
        assert_eq!(
            said(&[all], &["2607::/32"], &[]),
            ["ip6 daddr { 2607::/32 } goto refuse"]
        );
        assert_eq!(said(&[], &["9.9.9.9"], &[]), [""; 0]);
        assert_eq!(
            said(&["2606::/32"], &[all], &["a.example"]),
            ["ip6 daddr { 2606::/32 } return", closed]
        );
        let policy = EgressPolicy {
            names: vec![DomainPattern::Any],
            deny: cidrs(&[all]),
            ..EgressPolicy::default()
        };
        assert!(render(slot, &policy, true).contains("dnat ip6 to"));
        assert!(!render(slot, &policy, false).contains("dnat ip6 to"));
    }

    #[test]
    fn networks_in_networks() {
        let set = |list: &[&str]| addresses(&cidrs(list));
        assert_eq!(set(&[]), None);
        assert_eq!(set(&["::/0"]), None);
        assert_eq!(
            set(&[
                "1.2.3.4",
                "1.2.0.0/16",
                "1.2.0.0/16",
                "1.0.0.0/8",
                "2.0.0.0"
            ])
            .unwrap(),
            "{ 1.0.0.0/8, 2.0.0.0/32 }"
        );
        assert_eq!(set(&["1.1.1.1", "0.0.0.0/0"]).unwrap(), "{ 0.0.0.0/0 }");
    }
}

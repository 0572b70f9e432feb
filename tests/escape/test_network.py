"""The network as a way out: packets with false senders, the host, the metadata services, neighbours, names."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import INSIDE, PROGRAMS, Attempts, attack as attack_in, control, judge, parse
from lab import Lab

import internet
from server import wait_until

WORD = f"reached-{secrets.token_hex(8)}"


def reach(sandbox, lines: list[str]) -> Attempts:
    sandbox.files.write("/tmp/targets", "\n".join(lines))
    return parse(sandbox.commands.run(f"python3 {INSIDE}/reach.py {WORD} < /tmp/targets", user="root", timeout=90).stdout)


def reach_from(around: tuple[str, ...], lines: list[str]) -> Attempts:
    command = [*around, sys.executable, "-B", str(PROGRAMS / "reach.py"), WORD]
    return parse(subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=90, check=True).stdout)


@pytest.fixture(scope="module")
def victim_address(victim) -> str:
    return next(address for address in victim.commands.run("hostname -I").stdout.split() if "." in address)


@pytest.mark.parametrize("user", ["root", "user"])
def test_packets_that_must_not_be_made(attack, victim_address, user):
    """The attacker wants to send under his neighbour's address, to answer ARP for the gateway, to listen, to change the
    network: raw and packet sockets, ioctls, netlink, tunnels."""
    # With all capabilities over a network of its own, in which the neighbour's address is taken already.
    commands = [
        "ip link set lo up",
        "ip link add escape0 type veth peer name escape1",
        "ip link set escape1 up",
        f"ip address add {victim_address}/32 dev escape0",
        "ip address add 10.9.9.1/24 dev escape0",
        "ip link set escape0 up",
        "ip route add default via 10.9.9.2",
        'exec "$0" "$@"',
    ]
    around = ("unshare", "--net", "sh", "-e", "-c", "; ".join(commands))
    reasons = {
        "the other side's interface": "an interface of another namespace has no name in this one, with or without rights",
        "end the connections of others": "this kernel cannot end connections for others (no INET_DIAG_DESTROY)",
    }
    shown = control("network.py", victim_address, around=around)
    judge(f"packets as {user}", attack("network.py", victim_address, user=user), shown, reasons)


# Every way to write the address of a metadata service that some parser somewhere understands; and the services' others.
METADATA = [
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9FEA9FE", "025177524776", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe",
    "169.254.43518", "169.16689662", "0251.254.169.0xfe", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "0:0:0:0:0:ffff:a9fe:a9fe",
    "::a9fe:a9fe", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "fd00:ec2::254", "fd20:ce::254",
    "169.254.170.2", "169.254.170.23", "169.254.169.123", "169.254.169.253", "169.254.0.23", "100.100.100.200", "192.0.0.192", "168.63.129.16",
]  # fmt: skip
SERVERS = [
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.169.123", "169.254.169.253", "169.254.0.23", "100.100.100.200", "192.0.0.192",
    "168.63.129.16", "::a9fe:a9fe", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "fd00:ec2::254", "fd20:ce::254",
]  # fmt: skip
# Names that are their own answer, as public services for such names give them.
NAMED = {
    "169-254-169-254.ip.conformance.test": "169.254.169.254",
    "100-100-100-200.ip.conformance.test": "100.100.100.200",
    "v6-fd00-ec2--254.ip.conformance.test": "fd00:ec2::254",
    "v6-64-ff9b--a9fe-a9fe.ip.conformance.test": "64:ff9b::a9fe:a9fe",
    "v6---ffff-a9fe-a9fe.ip.conformance.test": "::ffff:a9fe:a9fe",
}


def test_metadata_services_in_every_notation(sandbox):
    """The attacker wants the credentials of the machine."""
    lines = [f"{address} 80" for address in METADATA] + ["169.254.169.254 80 udp", "169.254.169.123 80 udp"]
    names = {f"{name} 80": f"{address} 80" for name, address in NAMED.items()}
    inside = reach(sandbox, [*lines, *names])
    # The names do lead there: what is refused is the way.
    for name in ("169-254-169-254.ip.conformance.test", "100-100-100-200.ip.conformance.test"):
        assert NAMED[name] in sandbox.commands.run(f"getent ahostsv4 {name}").stdout
    with Lab(WORD, SERVERS) as lab:
        shown = reach_from(lab.around(), [*lines, *names.values()])
    shown |= {name: shown[line] for name, line in names.items()}
    unshown = {"::a9fe:a9fe 80": "the kernel gives the form ::a.b.c.d no meaning"} if not shown["::a9fe:a9fe 80"].did else None
    judge("metadata", inside, shown, unshown)


def listening() -> tuple[socket.socket, list[socket.socket]] | None:
    """TCP on every address, and UDP on each of the host's: an answer must come from the address that was asked."""
    stream = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    datagrams = []
    try:
        for address in host_addresses():
            datagrams.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            datagrams[-1].bind((address, stream.getsockname()[1]))
        return stream, datagrams
    except OSError:
        # Somebody else has this port, or an address went away meanwhile.
        for one in (stream, *datagrams):
            one.close()
        return None


@pytest.fixture(scope="module")
def listener():
    """A server of the host that says the word, on every address, TCP and UDP."""
    stream, datagrams = wait_until("a port is free for both", 5, listening)
    port = stream.getsockname()[1]

    def serve():
        while True:
            try:
                one, _ = stream.accept()
                one.sendall(WORD.encode())
                one.close()
            except OSError:
                return

    def answer(one):
        while True:
            try:
                _, peer = one.recvfrom(1000)
                one.sendto(WORD.encode(), peer)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    for one in datagrams:
        threading.Thread(target=answer, args=(one,), daemon=True).start()
    yield port
    for one in (stream, *datagrams):
        one.close()


def listening_ports() -> set[int]:
    """TCP ports that anybody on this host listens on."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(int(fields[1].split(":")[1], 16))
    return found


def host_addresses() -> list[str]:
    text = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True).stdout
    # Another run beside this one may have given one address to two cables.
    return sorted({address for address in re.findall(r"inet (\d+\.\d+\.\d+\.\d+)", text) if not address.startswith("127.")})


class Cable:
    """A network namespace with a cable to the host and no rules in between."""

    def __init__(self):
        self.name = f"escable{os.getpid() % 100_000}"

    def __enter__(self) -> "Cable":
        device = self.name.replace("escable", "esk")
        for command in (
            f"netns add {self.name}",
            f"link add {device} type veth peer name esk0 netns {self.name}",
            f"address add 203.0.113.1/30 dev {device}",
            f"link set {device} up",
            f"-n {self.name} address add 203.0.113.2/30 dev esk0",
            f"-n {self.name} link set esk0 up",
            f"-n {self.name} link set lo up",
            f"-n {self.name} route add default via 203.0.113.1",
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        self.device = device
        return self

    def around(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def __exit__(self, *_) -> None:
        subprocess.run(["ip", "link", "delete", self.device], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)


def test_the_host(sandbox, listener):
    """The attacker wants any port of the host: by each of its addresses, the gateway's too, and by the names of loopback."""
    gateway = sandbox.commands.run("awk '$2 == \"00000000\" {print $3}' /proc/net/route").stdout.split()[0]
    gateway = ".".join(str(int(gateway[i : i + 2], 16)) for i in (6, 4, 2, 0))
    api = urlsplit(os.environ["E2B_API_URL"]).port
    addresses = host_addresses()
    assert gateway in addresses and internet.HOST_SIDE in addresses
    ports = sorted({listener, api} | listening_ports() - {53})[:60]
    lines = [f"{address} {port}" for address in addresses for port in ports] + [f"{address} {listener} udp" for address in addresses]
    loopback = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "0", "::1", "::", "::ffff:127.0.0.1", "localhost"]
    lines += [f"{address} {port}" for address in loopback for port in (listener, api)]
    inside = reach(sandbox, lines)
    with Cable() as cable:
        shown = reach_from(cable.around(), lines)
    from_host = reach_from((), lines)
    reasons = {}
    for name, found in shown.items():
        address = name.split()[0]
        if address in loopback and from_host[name].did:
            # The words for "this machine" mean the namespace; without one, they mean the host.
            shown[name] = from_host[name]
        elif not found.did:
            reasons[name] = "nobody listens there, or on loopback only"
    judge("host", inside, shown, reasons)
    assert sum(found.did for found in shown.values()) > 10


def test_neighbours(sandbox, victim, victim_address):
    """The attacker wants the ports of another sandbox, its daemon among them."""
    victim.commands.run(f"nohup python3 -m http.server 8000 --bind 0.0.0.0 -d {INSIDE} >/dev/null 2>&1 &")
    lines = [f"{victim_address} {port}" for port in (80, 8000, 49983)] + [f"{victim_address} 8000 udp"]
    wait_until("the victim reaches itself", 20, lambda: reach(victim, [f"{victim_address} 8000"])[f"{victim_address} 8000"].did)
    with Lab(WORD, [victim_address]) as lab:
        shown = reach_from(lab.around(), [f"{victim_address} 80", f"{victim_address} 80 udp"])
    by_line = {line: shown[f"{victim_address} 80 udp" if line.endswith("udp") else f"{victim_address} 80"] for line in lines}
    judge("neighbour", reach(sandbox, lines), by_line)


def test_names(sandbox):
    """The attacker owns a domain: its names change their meaning (rebinding), and its server is the far end of a tunnel."""
    shown = control("dns.py", internet.PORT, "127.0.0.1", os.environ["CONFORMANCE_DNS_PORT"])
    reasons = {
        "another server than the given one": "no such server is in this small internet; closed ranges are shown in their own case",
        "a zone transfer": "the suite's server knows no transfers",
    }
    judge("names", attack_in(sandbox, "dns.py", internet.PORT), shown, reasons)
    assert sandbox.commands.run("for n in 1 2 3 4 5 6 7 8; do getent hosts public.conformance.test && break; sleep 1; done").exit_code == 0

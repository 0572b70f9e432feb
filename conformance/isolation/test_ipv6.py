"""IPv6 of sandboxes: open like IPv4 and closed like IPv4, on a server that is told to have it.

The far side has addresses in 2000::/3 beside those of IPv4. What no sandbox may reach is there, too, and the host gets to
it: so a refusal is the sandbox's.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from e2b import ALL_TRAFFIC, Sandbox

from counter import needs_criu
from farside import FarSide
from host import ipv6_settings_restored
from server import from_environment, kill_every_sandbox, wait_until

# Cloud metadata, 6to4, two kinds of NAT64, Teredo, documentation, discard, site-local.
CLOSED = ("fd00:ec2::254", "2002:808:808::1", "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "2001:db8::1", "3fff::1", "100::1", "fec0::1")

_SERVER = r"""
import socket, sys, threading
log = open(sys.argv[1], "a", buffering=1)
def serve(listener):
    while True:
        s, peer = listener.accept()
        s.sendall(f"REACHED from {peer[0]}".encode())
        s.close()
def echo(s):
    while True:
        data, peer = s.recvfrom(100)
        log.write(data.decode() + "\n")
        s.sendto(b"REACHED", peer)
for port in (80, 443, 8081):
    # FarSide listens on addresses of IPv4 only.
    listener = socket.create_server(("::", port), family=socket.AF_INET6)
    threading.Thread(target=serve, args=[listener], daemon=True).start()
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind((sys.argv[2], 9999))
print("up", flush=True)
echo(s)
"""

# What each address answers, or the error and whether it came at once.
PROBE = r"""
import json, socket, sys, time
answers = []
for target in sys.argv[1:]:
    host, port = target.rsplit("/", 1)
    begun = time.monotonic()
    try:
        s = socket.create_connection((host, int(port)), 3)
        s.settimeout(3)
        answers.append(s.recv(100).decode())
    except OSError as error:
        answers.append("refused" if time.monotonic() - begun < 1 else f"{error!r} after a while")
print(json.dumps(answers))
"""


class FarSide6(FarSide):
    """A far side that has IPv6, too."""

    server6: subprocess.Popen | None = None

    def open(self) -> "FarSide6":
        super().open()
        number = os.getpid() % 50_000
        prefix = f"2a0b:{number:x}:"
        self.host6, self.inside6, self.outside6 = (f"{prefix}:{last}" for last in (1, 2, 3))
        inner, inside = f"{self.cable}n", ["ip", "-n", self.namespace, "-6"]
        for command in (
            ["ip", "-6", "address", "add", f"{self.host6}/64", "dev", self.cable, "nodad"],
            *([*inside, "address", "add", f"{it}/64", "dev", inner, "nodad"] for it in (self.inside6, self.outside6)),
            *([*inside, "address", "add", f"{it}/128", "dev", "lo", "nodad"] for it in CLOSED),
            *(["ip", "-6", "route", "add", f"{it}/128", "via", self.inside6, "dev", self.cable, "metric", str(os.getpid())] for it in CLOSED),
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
        self.log6 = Path(self.work.name, "log6")
        self.log6.touch()
        self.server6 = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-c", _SERVER, str(self.log6), self.inside6],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        assert self.server6.stdout.readline().strip() == "up"
        return self

    def close(self) -> None:
        if self.server6 is not None:
            self.server6.kill()
            self.server6.wait()
        super().close()


@pytest.fixture(scope="module")
def far():
    far = FarSide6()
    try:
        yield far.open()
    finally:
        far.close()


@pytest.fixture(scope="module")
def server(far):
    before = {name: value for name, value in os.environ.items() if name.startswith("E2B_")}
    with ipv6_settings_restored():
        dns = f"127.0.0.1:{os.environ['CONFORMANCE_DNS_PORT']}"
        at_once = ("--save-paused-after-seconds", "0", "--hibernate-after-seconds", "0")
        server = from_environment("ipv6", "--ipv6", "on", "--dns-upstreams", dns, *at_once)
        try:
            server.start()
            os.environ.update(server.env)
            yield server
            kill_every_sandbox(server.env)
        finally:
            os.environ.update(before)
            server.stop()
            server.remove()


@pytest.fixture
def create(server):
    made = []

    def create(**options) -> Sandbox:
        made.append(Sandbox.create(timeout=300, **options))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def answers(sandbox: Sandbox, *targets: str) -> list[str]:
    sandbox.files.write("/tmp/probe.py", PROBE)
    return json.loads(sandbox.commands.run(f"python3 /tmp/probe.py {' '.join(targets)}", timeout=60).stdout)


def own_address(sandbox: Sandbox) -> str:
    """Of IPv6, out of `/proc/net/if_inet6`."""
    digits = sandbox.commands.run("awk '$6 == \"eth0\" {print $1}' /proc/net/if_inet6").stdout.split()
    assert len(digits) == 1, digits
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits[0]))


def test_the_internet_is_reached_under_the_hosts_address(far, create):
    sandbox = create()
    assert answers(sandbox, f"{far.inside6}/80", f"{far.outside6}/8081") == [f"REACHED from {far.host6}"] * 2
    program = (
        "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(3)\n"
        f"s.sendto(b'hello', ('{far.inside6}', 9999)); print(s.recv(9).decode())"
    )
    sandbox.files.write("/tmp/udp.py", program)
    assert sandbox.commands.run("python3 /tmp/udp.py").stdout == "REACHED\n"
    # By a name that has such an address only.
    name = f"v6-{far.inside6.replace(':', '-')}.ip.conformance.test"
    assert answers(sandbox, f"{name}/80") == [f"REACHED from {far.host6}"]


def test_private_and_transition_addresses_are_closed(far, create):
    for network in ({}, {"allow_out": [*CLOSED, "2000::/3"], "deny_out": [ALL_TRAFFIC]}):
        sandbox = create(network=network)
        for address in CLOSED:
            with socket.create_connection((address, 80), 5) as control:
                assert control.recv(100).startswith(b"REACHED"), "the host gets there"
            assert answers(sandbox, f"{address}/80") == ["refused"], address
        assert answers(sandbox, "::ffff:192.168.177.2/8080", "fe80::1/80", "ff02::1/80", "::/80") == ["refused"] * 4


def test_the_host_and_neighbours_are_closed(far, create):
    one, other = create(), create()
    listener = socket.create_server(("::", 0), family=socket.AF_INET6)
    port = listener.getsockname()[1]
    socket.create_connection((far.host6, port), 5).close()
    gateway = f"{own_address(one).rsplit(':', 2)[0]}:1"
    assert answers(one, f"{far.host6}/{port}", f"{gateway}/{port}", f"{gateway}/53", f"{gateway}/20443") == ["refused"] * 4
    listener.close()
    program = "import socket\ns = socket.create_server(('::', 8000), family=socket.AF_INET6); print('up', flush=True)\nwhile True: s.accept()[0].sendall(b'REACHED')"
    other.files.write("/tmp/server.py", program)
    other.commands.run("python3 /tmp/server.py", background=True)
    address = own_address(other)
    other.commands.run(f"for n in $(seq 50); do nc -z ::1 8000 2>/dev/null && break || python3 -c \"import socket; socket.create_connection(('::1', 8000), 1)\" 2>/dev/null && break; sleep 0.1; done")
    assert answers(other, f"{address}/8000") == ["REACHED"]
    assert answers(one, f"{address}/8000") == ["refused"]
    with pytest.raises(OSError):
        socket.create_connection((address, 8000), 2)


def test_lists_of_addresses(far, create):
    inside, outside = f"{far.inside6}/80", f"{far.outside6}/80"
    reached = f"REACHED from {far.host6}"
    for network, want in (
        ({"deny_out": [far.outside6]}, (True, False)),
        ({"deny_out": [f"{far.host6}/64"]}, (False, False)),
        ({"deny_out": ["2000::/3"]}, (False, False)),
        ({"deny_out": [far.outside]}, (True, True)),
        ({"allow_out": [far.inside6], "deny_out": ["2000::/3"]}, (True, False)),
        ({"allow_out": [far.inside6], "deny_out": [ALL_TRAFFIC]}, (True, False)),
        ({"allow_out": [far.inside], "deny_out": [ALL_TRAFFIC]}, (False, False)),
        ({"deny_out": [ALL_TRAFFIC]}, (False, False)),
    ):
        sandbox = create(network=network)
        assert answers(sandbox, inside, outside) == [reached if open else "refused" for open in want], network
    sandbox.update_network({})
    assert answers(sandbox, inside) == [reached]
    sandbox.update_network({"deny_out": [far.inside6]})
    assert answers(sandbox, inside, outside) == ["refused", reached]


def test_an_address_of_another_is_not_believed(far, create):
    """Anybody may bind to any address of IPv6 (IPV6_FREEBIND); what is sent from there does not arrive."""
    one, other = create(), create()
    program = (
        "import socket, sys\n"
        "def send(address, word):\n"
        "    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "    s.setsockopt(socket.IPPROTO_IPV6, 78, 1)\n"
        "    s.bind((address, 0))\n"
        f"    s.sendto(word, ('{far.inside6}', 9999))\n"
        "    return s\n"
        "for address in sys.argv[2:]: send(address, b'forged')\n"
        "s = send(sys.argv[1], b'true'); s.settimeout(3); print(s.recv(9).decode())\n"
    )
    one.files.write("/tmp/forge.py", program)
    said = one.commands.run(f"python3 /tmp/forge.py {own_address(one)} {own_address(other)} 2a0b:ffff::1").stdout
    assert said == "REACHED\n"
    # Packets keep their order on the way.
    arrived = far.log6.read_text().splitlines()
    assert "true" in arrived and "forged" not in arrived


def test_it_outlives_a_pause(far, create):
    sandbox = create(network={"deny_out": [far.outside6]})
    for keep in ("full", "filesystem"):
        sandbox.pause(mode=keep)
        sandbox = Sandbox.connect(sandbox.sandbox_id)
        assert answers(sandbox, f"{far.inside6}/80", f"{far.outside6}/80") == [f"REACHED from {far.host6}", "refused"], keep


@needs_criu
def test_it_comes_back_from_disk_with_open_connections(far, server, create):
    sandbox = create()
    program = (
        "import socket, sys\n"
        f"s = socket.create_connection(('{far.inside6}', 80), 5); listener = socket.create_server(('::', 8000), family=socket.AF_INET6)\n"
        "print(s.recv(99).decode(), flush=True)\nlistener.accept()"
    )
    sandbox.files.write("/tmp/hold.py", program)
    sandbox.commands.run("nohup python3 /tmp/hold.py > /tmp/held 2>&1 & disown")
    wait_until("a connection is there", 10, lambda: "REACHED" in sandbox.files.read("/tmp/held"))
    sandbox.pause()
    wait_until("it on disk", 30, lambda: not (server.data_dir / "sandboxes" / sandbox.sandbox_id).exists())
    # Somebody else takes a place meanwhile.
    create()
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert "hold.py" in sandbox.commands.run("ps ax").stdout
    assert answers(sandbox, f"{far.inside6}/80", f"{own_address(sandbox)}/8000", "fd00:ec2::254/80")[0] == f"REACHED from {far.host6}"

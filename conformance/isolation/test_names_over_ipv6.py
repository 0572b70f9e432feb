"""Names, header rules and proxies over IPv6: what a policy names is reached, and nothing else.

What was sent is read at the far side, see `lib/upstream.py`, and not only from what the sandbox says.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from types import SimpleNamespace

import pytest
from e2b import ALL_TRAFFIC, Sandbox, Secret

from host import ipv6_settings_restored
from raw import contact
from server import from_environment, kill_every_sandbox, wait_until
from socks import Socks
from upstream import Upstream, arrived, run

VALUE = "sk-hidden-from-the-sandbox"
PER_TEAM = 200

# On each address: what speaks first on one more port of TCP, and what answers datagrams.
_OTHERS = r"""
import select, socket, sys
tcp, udp = [], []
for address in sys.argv[1:]:
    tcp.append(socket.create_server((address, 8081), family=socket.AF_INET6))
    for port in (443, 9999):
        udp.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        udp[-1].bind((address, port))
print("up", flush=True)
while True:
    for ready in select.select(tcp + udp, [], [])[0]:
        if ready in udp:
            ready.sendto(b"REACHED", ready.recvfrom(99)[1])
        else:
            s, _ = ready.accept()
            s.sendall(b"REACHED")
            s.close()
"""

# `tls` speaks to an address by a name or by none, `datagram` waits for an answer.
PROBE = r"""
import socket, ssl, sys
def connect(address, port):
    return socket.create_connection((address, port), 3)
def tls(address, name, host='x'):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    s = context.wrap_socket(connect(address, 443), server_hostname=name)
    s.sendall(f'GET / HTTP/1.1\r\nHost: {host}\r\n\r\n'.encode())
    print(s.recv(4096))
def raw(address, port, data=b''):
    s = connect(address, port)
    s.sendall(data)
    print(s.recv(4096))
def datagram(address, port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect((address, port))
    s.send(b'x')
    print(s.recv(99))
exec(sys.argv[1])
"""

# By what they try: {i} is the address that is named by a policy, {o} the one that is not, {n} and {m} their names.
WAYS_OUT = {
    "http to an address": "curl -sS -g -m 5 'http://[{o}]/'",
    "https to an address": "curl -sSk -g -m 5 'https://[{o}]/'",
    "the named address without its name": "curl -sSk -g -m 5 'https://[{i}]/'",
    "the named address without its name, http": "curl -sS -g -m 5 'http://[{i}]/'",
    "http to another name": "curl -sS -m 5 http://{m}/",
    "https to another name": "curl -sSk -m 5 https://{m}/",
    "an allowed name at another address": "curl -sSk -m 5 --resolve {n}:443:[{o}] https://{n}/",
    "an allowed name at another address, http": "curl -sS -m 5 --resolve {n}:80:[{o}] http://{n}/",
    "an allowed Host": "curl -sS -g -m 5 -H 'Host: {n}' 'http://[{o}]/'",
    "another Host": "curl -sS -m 5 --resolve {m}:80:[{i}] http://{m}/",
    "another name in tls": "curl -sSk -m 5 --resolve {m}:443:[{i}] https://{m}/",
    "an address as Host": "curl -sS -m 5 -H 'Host: [{o}]' http://{n}/",
    "tls without a name": "python3 /tmp/probe.py \"tls('{o}', None)\"",
    "tls with an allowed name": "python3 /tmp/probe.py \"tls('{o}', '{n}')\"",
    "tls without a name to the named address": "python3 /tmp/probe.py \"tls('{i}', None)\"",
    "bytes to port 443": "python3 /tmp/probe.py \"raw('{o}', 443, b'hello' * 20)\"",
    "another port": "python3 /tmp/probe.py \"raw('{o}', 8081)\"",
    "another port of the named address": "python3 /tmp/probe.py \"raw('{i}', 8081)\"",
    "datagrams": "python3 /tmp/probe.py \"datagram('{o}', 9999)\"",
    "datagrams to the named address": "python3 /tmp/probe.py \"datagram('{i}', 9999)\"",
    "quic to the named address": "python3 /tmp/probe.py \"datagram('{i}', 443)\"",
    "the server's own port": "python3 /tmp/probe.py \"tls('fd7c:9e24:51b3:{block}::1', '{n}')\"",
}  # fmt: skip
# Nothing answers them without a policy either.
UNANSWERED = ("bytes to port 443", "the server's own port")


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream(ipv6=True)
    try:
        upstream.open().start(sys.executable, "-c", _OTHERS, upstream.addresses["six"], upstream.addresses["seven"])
        yield upstream
    finally:
        upstream.close()


@pytest.fixture(scope="module")
def server(upstream):
    before = {name: value for name, value in os.environ.items() if name.startswith("E2B_")}
    with ipv6_settings_restored():
        dns = f"127.0.0.1:{os.environ['CONFORMANCE_DNS_PORT']}"
        bound = ("--max-connections-per-team", str(PER_TEAM))
        server = from_environment("ipv6-names", "--ipv6", "on", "--dns-upstreams", dns, "--rules-ca-file", str(upstream.authority), *bound)
        try:
            server.start()
            # The next start is at the same address, for clients that are there already.
            server.listen = server.env["E2B_API_URL"].removeprefix("http://")
            os.environ.update(server.env)
            Secret.create("rules-key", VALUE)
            yield server
            kill_every_sandbox(server.env)
        finally:
            os.environ.update(before)
            server.stop()
            server.remove()


@pytest.fixture
def create(server):
    made = []

    def create(**network) -> Sandbox:
        made.append(Sandbox.create(timeout=300, network=network))
        made[-1].files.write("/tmp/probe.py", PROBE)
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def named(upstream: Upstream) -> dict:
    return {"allow_out": [upstream.name("six")], "deny_out": [ALL_TRAFFIC]}


def own_block(sandbox: Sandbox) -> str:
    """The part of the sandbox's address that its server chose."""
    digits = run(sandbox, "awk '$6 == \"eth0\" {print $1}' /proc/net/if_inet6").split()[0]
    return f"{int(digits[12:16], 16):x}"


def short(address: str) -> str:
    return str(ipaddress.ip_address(address))


def test_a_name_opens_its_address(upstream, create):
    name, address = upstream.name("six"), short(upstream.addresses["six"])
    sandbox = create(**named(upstream))
    for scheme, kind, port in (("https", "tls", 443), ("http", "http", 80)):
        (request,), said = arrived(upstream, sandbox, f"curl -sSk -m 5 {scheme}://{name}/over-{scheme}")
        assert "REACHED" in said and request["path"] == f"/over-{scheme}", said
        told = contact(sandbox, kind, name)
        assert (told["verdict"], told["rule"], told["address"]) == ("allowed", f"allowOut {name}", f"[{address}]:{port}")


@pytest.fixture(scope="module")
def one(server, upstream):
    sandbox = Sandbox.create(timeout=900, network=named(upstream))
    sandbox.files.write("/tmp/probe.py", PROBE)
    # It knows where the name is: nothing below fails for want of that.
    assert "REACHED" in run(sandbox, f"curl -sSk -m 5 https://{upstream.name('six')}/")
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def free(server):
    sandbox = Sandbox.create(timeout=900)
    sandbox.files.write("/tmp/probe.py", PROBE)
    yield sandbox
    sandbox.kill()


@pytest.mark.parametrize("way", WAYS_OUT)
def test_nothing_else_gets_out(upstream, one, free, way):
    words = {
        "i": upstream.addresses["six"], "o": upstream.addresses["seven"],
        "n": upstream.name("six"), "m": upstream.name("seven"), "block": own_block(one),
    }  # fmt: skip
    command = WAYS_OUT[way].format(**words)
    if way not in UNANSWERED:
        said = run(free, command)
        assert "REACHED" in said or "HTTP/1.1 200" in said, f"without a policy it gets out: {said}"
    reached, said = arrived(upstream, one, command)
    assert reached == [] and "REACHED" not in said and "HTTP/1.1 200" not in said, said
    assert "timed out" not in said, "a refusal comes at once"


def test_refusals_are_told_with_their_reason(upstream, one):
    address = short(upstream.addresses["seven"])
    run(one, f"python3 /tmp/probe.py \"raw('{address}', 8081)\"; python3 /tmp/probe.py \"datagram('{address}', 9999)\"")
    for kind, port in (("tcp", 8081), ("udp", 9999)):
        told = contact(one, kind, f"[{address}]:{port}")
        assert (told["verdict"], told["rule"]) == ("refused", "denyOut 0.0.0.0/0")
    run(one, "python3 /tmp/probe.py \"raw('fd00:ec2::254', 80)\"")
    assert contact(one, "tcp", "[fd00:ec2::254]:80")["rule"] == "closed to every sandbox"
    run(one, f"curl -sSk -g -m 5 'https://[{address}]/'")
    assert contact(one, "tls", address)["rule"] == "denyOut 0.0.0.0/0"


def test_an_address_in_the_list_needs_no_name(upstream, create):
    address = upstream.addresses["six"]
    sandbox = create(allow_out=[address, upstream.name("seven")], deny_out=[ALL_TRAFFIC])
    for command in (f"curl -sSk -g -m 5 'https://[{address}]/'", f"python3 /tmp/probe.py \"raw('{address}', 8081)\""):
        assert "REACHED" in run(sandbox, command), command


def test_a_rule_adds_its_header(upstream, create):
    name = upstream.name("six")
    sandbox = create(rules={name: [{"transform": {"headers": {"X-Key": Secret.fill("rules-key")}}}]})
    (request,), said = arrived(upstream, sandbox, f"curl -sS -m 5 https://{name}/ruled")
    assert "REACHED" in said and VALUE not in said, said
    assert dict(request["headers"])["x-key"] == VALUE
    assert contact(sandbox, "https", name)["address"] == f"[{short(upstream.addresses['six'])}]:443"
    # What has no rule is untouched.
    (request,), said = arrived(upstream, sandbox, f"curl -sSk -m 5 https://{upstream.name('seven')}/")
    assert "REACHED" in said and "x-key" not in dict(request["headers"])


def test_a_proxy_is_asked_for_it(upstream, create):
    addresses = {"inside": upstream.addresses["ruled"], "outside": upstream.addresses["other"]}
    names = {"name": upstream.name("ruled"), "other_name": upstream.name("other")}
    socks = Socks(SimpleNamespace(namespace=upstream.namespace, cable=upstream.cable, **addresses, **names))
    try:
        socks.open()
        sandbox = create(egress_proxy={"address": f"{socks.address}:1080"})
        address = upstream.addresses["six"]
        assert "REACHED" in run(sandbox, f"curl -sSk -g -m 5 'https://[{address}]/'")
        assert "REACHED" in run(sandbox, f"python3 /tmp/probe.py \"raw('{address}', 8081)\"")
        asked = [(it["kind"], it["target"], it["port"]) for it in socks.seen()]
        assert asked == [("address", short(address), 443), ("address", short(address), 8081)]
        assert "REACHED" not in run(sandbox, f"python3 /tmp/probe.py \"datagram('{address}', 9999)\"")
    finally:
        socks.close()


def test_what_an_ended_sandbox_left_open_counts_no_more(upstream, create):
    address = upstream.addresses["six"]
    greedy, next_one = create(), create()
    program = (
        "import socket, time\nheld = []\n"
        "try:\n"
        f"    while len(held) < 1000: held.append(socket.create_connection(('{address}', 80), 3))\n"
        "except OSError: print(len(held), flush=True)\n"
        "time.sleep(600)\n"
    )
    greedy.files.write("/tmp/hold.py", program)
    greedy.commands.run("nohup python3 /tmp/hold.py > /tmp/held 2>&1 & disown")
    held = wait_until("it is refused one", 30, lambda: greedy.files.read("/tmp/held"))
    # More than the bound, where a busy far side has ended some of them meanwhile.
    assert int(held) > 0
    connect = f"python3 /tmp/probe.py \"raw('{address}', 80, b'GET / HTTP/1.0\\r\\n\\r\\n')\""
    assert "REACHED" not in run(next_one, connect)
    greedy.kill()
    wait_until("there is room", 10, lambda: "HTTP/1.1 200" in run(next_one, connect))


def test_there_is_no_moment_without_it(upstream, server, create):
    """While no server runs nothing is led anywhere, and the next one judges as before."""
    name, address = upstream.name("six"), upstream.addresses["seven"]
    sandbox = create(**named(upstream))
    assert "REACHED" in run(sandbox, f"curl -sSk -m 5 https://{name}/")
    program = (
        "import socket, time\n"
        "count = 0\n"
        "while True:\n"
        f"    for host, port in (('{address}', 80), ('{address}', 443), ('{address}', 8081)):\n"
        "        try:\n"
        "            s = socket.create_connection((host, port), 1)\n"
        "            s.settimeout(1)\n"
        "            s.sendall(b'GET / HTTP/1.1\\r\\nHost: [' + host.encode() + b']\\r\\n\\r\\n' if port == 80 else b'x' * 99)\n"
        "            if b'REACHED' in s.recv(4096): print('OUT', flush=True)\n"
        "        except OSError: pass\n"
        "    count += 1\n"
        "    open('/tmp/rounds', 'w').write(str(count))\n"
    )
    sandbox.files.write("/tmp/tries.py", program)
    sandbox.commands.run("nohup python3 /tmp/tries.py > /tmp/out 2>&1 & disown")
    rounds = lambda: int(sandbox.files.read("/tmp/rounds") or 0)
    wait_until("it tries", 10, lambda: sandbox.files.exists("/tmp/rounds") and rounds() > 3)
    server.kill()
    server.start()
    before = rounds()
    wait_until("it tries again", 10, lambda: rounds() > before + 3)
    assert sandbox.files.read("/tmp/out") == ""
    assert "REACHED" in run(sandbox, f"curl -sSk -m 5 https://{name}/")

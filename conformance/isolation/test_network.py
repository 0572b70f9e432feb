"""What a sandbox reaches: a public address through translation, and nothing that is private, ours, or a neighbour's.

The runner provides a small internet in a network namespace of its own, see `lib/internet.py`.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from urllib.parse import urlsplit

import pytest
from e2b import CommandExitException, Sandbox

import guests
import internet
from server import wait_until


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=600)
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def neighbour():
    sandbox = Sandbox.create(timeout=600)
    sandbox.files.write("/tmp/server.py", guests.HTTP_SERVER)
    sandbox.commands.run("nohup python3 /tmp/server.py 0.0.0.0 8000 > /tmp/log 2>&1 &")
    wait_until("the server listens", 10, lambda: "up" in sandbox.files.read("/tmp/log"))
    yield sandbox
    sandbox.kill()


def fetch(sandbox, url: str, seconds: int = 4) -> str:
    """The body, or the word `failed` and curl's exit code."""
    return sandbox.commands.run(f"curl -sS -m {seconds} '{url}' 2>/dev/null || echo failed $?").stdout


def connects(sandbox, host: str, port: int, seconds: float = 2) -> bool:
    command = f"timeout {seconds} bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo open || echo closed"
    return sandbox.commands.run(command).stdout == "open\n"


def host_addresses() -> list[str]:
    text = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"inet (\d+\.\d+\.\d+\.\d+)", text)


@pytest.fixture(scope="module")
def listener():
    """A server on every address of the host, that no sandbox may reach."""
    server = socket.create_server(("0.0.0.0", 0))

    def serve():
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def test_public_address_through_translation(sandbox):
    answer = fetch(sandbox, f"http://{internet.PUBLIC}:{internet.PORT}/hello")
    assert answer == f"peer {internet.HOST_SIDE} path /hello"


def test_name_is_resolved_by_our_resolver(sandbox):
    assert fetch(sandbox, f"http://public.conformance.test:{internet.PORT}/named").startswith("peer")
    assert internet.PUBLIC in sandbox.commands.run("getent ahostsv4 public.conformance.test").stdout
    with pytest.raises(CommandExitException):
        sandbox.commands.run("getent hosts unknown.conformance.test")


def test_resolver_is_the_gateway(sandbox):
    servers = re.findall(r"^nameserver\s+(\S+)", sandbox.files.read("/etc/resolv.conf"), re.M)
    gateway = sandbox.commands.run("awk '$2 == \"00000000\" {print $3}' /proc/net/route").stdout.split()[0]
    dotted = ".".join(str(int(gateway[i : i + 2], 16)) for i in (6, 4, 2, 0))
    assert servers == [dotted] or servers == ["127.0.0.1"]


def test_private_ranges_are_closed(sandbox):
    for address in internet.PRIVATE:
        # The host reaches it: there is a server to be refused.
        with socket.create_connection((address, internet.PORT), timeout=2):
            pass
        assert not connects(sandbox, address, internet.PORT), address


def test_a_name_does_not_open_a_private_address(sandbox):
    assert fetch(sandbox, f"http://private.conformance.test:{internet.PORT}/").startswith("failed")


@pytest.mark.parametrize("address", ["169.254.169.254", "169.254.170.2", "192.0.2.1", "100.100.100.200", "10.0.0.1", "172.17.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.1", "240.0.0.1"])
def test_closed_addresses(sandbox, address):
    assert not connects(sandbox, address, 80)


def test_addresses_of_the_host_are_closed(sandbox, listener):
    addresses = [address for address in host_addresses() if not address.startswith("127.")]
    assert internet.HOST_SIDE in addresses
    for address in addresses:
        with socket.create_connection((address, listener), timeout=2):
            pass
        assert not connects(sandbox, address, listener), address


def test_api_is_not_reachable_from_inside(sandbox):
    port = urlsplit(os.environ["E2B_API_URL"]).port
    for address in host_addresses():
        assert not connects(sandbox, address, port, 1), address


def test_loopback_is_the_sandboxes_own(sandbox, listener):
    assert not connects(sandbox, "127.0.0.1", listener)
    assert connects(sandbox, "127.0.0.1", 49983)


def test_neighbours_are_unreachable(sandbox, neighbour):
    theirs = neighbour.commands.run("hostname -I").stdout.split()
    mine = sandbox.commands.run("hostname -I").stdout.split()
    assert theirs and mine and theirs != mine
    for address in theirs:
        if ":" in address:
            continue
        assert connects(neighbour, address, 8000), "the neighbour reaches itself"
        for port in (8000, 49983):
            assert not connects(sandbox, address, port), (address, port)


def test_neighbours_do_not_answer_pings_or_datagrams(sandbox, neighbour):
    theirs = [a for a in neighbour.commands.run("hostname -I").stdout.split() if "." in a][0]
    neighbour.files.write("/tmp/udp.py", "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('0.0.0.0', 7777))\nprint(s.recv(100))\n")
    handle = neighbour.commands.run("python3 -u /tmp/udp.py", background=True)
    sandbox.commands.run(f"for n in 1 2 3; do echo stray > /dev/udp/{theirs}/7777; sleep 0.2; done 2>/dev/null; true")
    assert handle.pid in [process.pid for process in neighbour.commands.list()]
    handle.kill()


def test_gateway_offers_dns_only(sandbox):
    gateway = sandbox.commands.run("awk '$2 == \"00000000\" {print $3}' /proc/net/route").stdout.split()[0]
    dotted = ".".join(str(int(gateway[i : i + 2], 16)) for i in (6, 4, 2, 0))
    for port in (22, 80, 111, 443, 2375, 3000, 8080, urlsplit(os.environ["E2B_API_URL"]).port):
        assert not connects(sandbox, dotted, port, 1), port


def test_other_resolvers_on_private_addresses_are_closed(sandbox):
    program = (
        "import socket\n"
        "q = bytes.fromhex('123401000001000000000000') + b'\\x06public\\x0bconformance\\x04test\\0\\0\\x01\\0\\x01'\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "for a in ('192.168.177.2', '169.254.169.253', '10.177.0.2'):\n"
        "    try:\n"
        "        s.sendto(q, (a, 53)); s.recv(500); print('answer from', a)\n"
        "    except OSError: pass\n"
    )
    sandbox.files.write("/tmp/dns.py", program)
    assert sandbox.commands.run("python3 /tmp/dns.py").stdout == ""


def test_source_addresses_cannot_be_forged(sandbox):
    """Not even root can send with a neighbour's address: no raw sockets, no address of another."""
    program = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "try:\n"
        "    s.bind(('198.18.1.77', 0)); print('bound')\n"
        "except OSError: pass\n"
        "try:\n"
        "    s.setsockopt(socket.SOL_IP, 19, 1); print('transparent')\n"
        "except OSError: pass\n"
    )
    sandbox.files.write("/tmp/forge.py", program)
    assert sandbox.commands.run("python3 /tmp/forge.py", user="root").stdout == ""


def test_ipv6_leads_nowhere(sandbox):
    routes = sandbox.commands.run("cat /proc/net/ipv6_route 2>/dev/null; true").stdout
    defaults = [line for line in routes.splitlines() if line.startswith("0" * 32 + " 00") and not line.split()[-1] == "lo"]
    assert defaults == []
    assert not connects(sandbox, "::ffff:192.168.177.2", internet.PORT)


def test_without_internet_nothing_goes_out():
    sandbox = Sandbox.create(timeout=120, allow_internet_access=False)
    try:
        assert not connects(sandbox, internet.PUBLIC, internet.PORT)
        for address in internet.PRIVATE:
            assert not connects(sandbox, address, internet.PORT, 1), address
        assert sandbox.commands.run("echo usable").stdout == "usable\n"
        sandbox.files.write("/tmp/server.py", guests.HTTP_SERVER)
        sandbox.commands.run("nohup python3 /tmp/server.py 127.0.0.1 8000 > /tmp/log 2>&1 &")
        wait_until("the server listens", 10, lambda: "up" in sandbox.files.read("/tmp/log"))
        import raw

        way = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
        assert raw.request("GET", "/in", way).status == 200
    finally:
        sandbox.kill()


def test_names_do_not_leak_without_internet():
    """DNS is a way out too: a sandbox without internet gets no answers for public names."""
    sandbox = Sandbox.create(timeout=60, allow_internet_access=False)
    try:
        with pytest.raises(CommandExitException):
            sandbox.commands.run("timeout 5 getent hosts public.conformance.test")
    finally:
        sandbox.kill()


def test_many_connections_at_once(sandbox):
    url = f"http://{internet.PUBLIC}:{internet.PORT}/n"
    out = sandbox.commands.run(f"for n in $(seq 30); do curl -sS -m 8 {url} & done; wait").stdout
    assert out.count("peer ") == 30

"""Ways out of a sandbox whose policy names one host. Each is seen to work without a policy, and leads nowhere with one.

What got out is read at the far side, see `lib/farside.py`, and not only from what the sandbox says.
"""

from __future__ import annotations

import socket
import time

import pytest
from e2b import ALL_TRAFFIC, CommandExitException, Sandbox

import internet
from farside import FarSide
from server import wait_until

# What the probes share. `raw` speaks bytes over TCP, `tls` a ClientHello of a name, or of none, to an address.
PRELUDE = r"""
import socket, ssl, struct, sys
def show(data): print(data.decode('latin1') if isinstance(data, bytes) else data)
def connect(address, port):
    s = socket.create_connection((address, port), timeout=3)
    s.settimeout(3)
    return s
def raw(address, port, data):
    s = connect(address, port)
    s.sendall(data)
    show(s.recv(4096))
    return s
def tls(address, name, data=b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    s = context.wrap_socket(connect(address, 443), server_hostname=name)
    s.sendall(data)
    show(s.recv(4096))
def udp(address, port, data=b'x', source=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.bind(('0.0.0.0', source))
    s.sendto(data, (address, port))
    show(s.recv(4096))
def ask(name, kind):
    server = [line.split()[1] for line in open('/etc/resolv.conf') if line.startswith('nameserver')][0]
    question = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0' + struct.pack('!HH', kind, 1)
    query = struct.pack('!HHHHHH', 7, 0x100, 1, 0, 0, 0) + question
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.sendto(query, (server, 53))
    answer = s.recv(4096)
    if answer[6:8] != b'\0\0': print('ANSWERED')
"""


def curl(arguments: str) -> str:
    return f"curl -sSk -m 4 {arguments}"


def python(text: str) -> str:
    return f"python3 /tmp/probe.py <<'END'\n{text}\nEND"


def get(host: str, path: str = "/", more: str = "") -> str:
    return f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\n{more}\\r\\n"


# By what they try: {i} is the address that is named by a policy, {o} the one that is not, {n} and {m} their names.
# A way is out when something arrives at the address that is not named, or when the command prints one of the marks.
OUTSIDE = {
    "http to an address": curl("http://{o}/"),
    "http to a name": curl("http://{m}/"),
    "https to an address": curl("https://{o}/"),
    "https to a name": curl("https://{m}/"),
    "another port": curl("http://{o}:8080/"),
    "https on another port": curl("https://{o}:8080/ ; curl -sS -m 3 http://{o}:8080/"),
    "a decimal address": curl("http://{decimal}/"),
    "a hexadecimal address": curl("http://{hexadecimal}/"),
    "an octal address": curl("http://{octal}/"),
    "a short address": curl("http://{short}/"),
    "a name with a dot at its end": curl("http://{m}./"),
    "a name in capitals": curl("http://{M}/"),
    "an allowed name as user": curl("http://{n}@{o}/"),
    "an allowed name as password": curl("http://x:{n}@{m}/"),
    "an allowed name at another address, http": curl("--resolve {n}:80:{o} http://{n}/"),
    "an allowed name at another address, https": curl("--resolve {n}:443:{o} https://{n}/"),
    "an allowed Host": curl("-H 'Host: {n}' http://{o}/"),
    "connect-to": curl("--connect-to {n}:80:{o}:80 http://{n}/"),
    "connect-to, https": curl("--connect-to {n}:443:{o}:443 https://{n}/"),
    "a name of one's own in /etc/hosts": "echo '{o} {n}' | sudo tee -a /etc/hosts >/dev/null; " + curl("http://{n}/; sudo sed -i '$d' /etc/hosts 2>/dev/null || sudo sh -c 'sed $d /etc/hosts > /tmp/h; cat /tmp/h > /etc/hosts'"),
    "tls without a name": python("tls('{o}', None)"),
    "tls with the address as name": python("tls('{o}', '{o}')"),
    "tls with an allowed name": python("tls('{o}', '{n}')"),
    "bytes to port 443": python("raw('{o}', 443, b'hello\\n' * 10)"),
    "bytes to port 80": python("raw('{o}', 80, b'BYTES /x HTTP/1.1\\r\\nHost: {n}\\r\\n\\r\\n')"),
    "a server that speaks first": python("raw('{o}', 22, b'x')"),
    "ftp": python("raw('{o}', 21, b'x')"),
    "smtp": python("raw('{o}', 25, b'x')"),
    "tcp to port 53": python("raw('{o}', 53, b'GET / HTTP/1.1\\r\\n\\r\\n')"),
    "tcp fast open": python("s = socket.socket(); s.settimeout(3); s.sendto(b'GET / HTTP/1.1\\r\\n\\r\\n', 0x20000000, ('{o}', 8080)); show(s.recv(99))"),
    "udp to port 53": python("udp('{o}', 53)"),
    "udp to port 443": python("udp('{o}', 443, bytes(1200))"),
    "udp to port 123": python("udp('{o}', 123)"),
    "udp to any port": python("udp('{o}', 9999)"),
    "udp from port 53": "sudo " + python("udp('{o}', 9999, source=53)"),
    "udp in fragments": python("udp('{o}', 9999, bytes(4000))"),
    "udp to the allowed address": python("udp('{i}', 9999)"),
    "quic to the allowed address": python("udp('{i}', 443, bytes(1200))"),
    "another port of the allowed address": curl("http://{n}:8080/"),
    "ping": python("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1); s.settimeout(2); s.sendto(b'\\x08\\0' + bytes(30), ('{o}', 0)); s.recv(99); print('ANSWERED')"),
    "a redirection": curl("-L http://{n}/redirect"),
    "a name of a policy as proxy": curl("-x http://{o}:80 http://{n}/"),
    "dns, an address": python("ask('secret.data.tunnel.conformance.test', 1)"),
    "dns, a text": python("ask('secret.data.tunnel.conformance.test', 16)"),
    "dns, keys": python("ask('secret.data.tunnel.conformance.test', 65)"),
}

# What arrives at the allowed address, but asks for something else: by what is seen there.
FRONTED = {
    "another Host": (curl("--resolve {m}:80:{i} http://{m}/"), "host {m}"),
    "another Host in capitals": (curl("-H 'Host: {M}' http://{n}/"), "host {M}"),
    "a second request": (python("s = raw('{i}', 80, b'" + get("{n}") + "'); s.sendall(b'" + get("{m}", "/second") + "'); show(s.recv(4096))"), "host {m}"),
    "two Hosts": (python("raw('{i}', 80, b'" + get("{n}", more="Host: {m}\\r\\n") + "')"), "host {m}"),
    "an address that is not the Host": (python("raw('{i}', 80, b'" + get("{n}", "http://{m}/absolute") + "')"), "request GET http://{m}/absolute HTTP/1.1"),
    "a tunnel": (python("raw('{i}', 80, b'CONNECT {m}:443 HTTP/1.1\\r\\nHost: {n}\\r\\n\\r\\n')"), "request CONNECT {m}:443 HTTP/1.1"),
    "no Host": (python("raw('{i}', 80, b'GET /nohost HTTP/1.0\\r\\n\\r\\n')"), "request GET /nohost HTTP/1.0"),
    "another port in Host": (python("raw('{i}', 80, b'" + get("{n}:8080") + "')"), "host {n}:8080"),
    "http/2 at once": (python("raw('{i}', 80, b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n')"), "request PRI * HTTP/2.0"),
    "http/2 by upgrade": (python("raw('{i}', 80, b'" + get("{n}", "/h2c", "Connection: upgrade\\r\\nUpgrade: h2c\\r\\n") + "')"), "request GET /h2c HTTP/1.1"),
    "websocket of another Host": (python("raw('{i}', 80, b'" + get("{m}", "/ws", "Connection: upgrade\\r\\nUpgrade: websocket\\r\\n") + "')"), "host {m}"),
    "another name in tls": (python("tls('{i}', '{m}')"), "sni {m}"),
}

MARKS = ("REACHED", "ANSWERED")


@pytest.fixture(scope="module")
def far():
    far = FarSide().open()
    yield far
    far.close()


def words(far: FarSide) -> dict[str, str]:
    number = int.from_bytes(socket.inet_aton(far.outside), "big")
    parts = [int(part) for part in far.outside.split(".")]
    return {
        "i": far.inside,
        "o": far.outside,
        "n": far.name,
        "m": far.other_name,
        "M": far.other_name.upper(),
        "decimal": str(number),
        "hexadecimal": hex(number),
        "octal": ".".join(f"0{part:o}" for part in parts),
        "short": f"{parts[0]}.{parts[1]}.{parts[2] * 256 + parts[3]}",
    }


def fill(text: str, far: FarSide) -> str:
    for name, value in words(far).items():
        text = text.replace("{" + name + "}", value)
    return text


def prepared(sandbox: Sandbox) -> Sandbox:
    sandbox.files.write("/tmp/probe.py", PRELUDE + "\nexec(sys.stdin.read())\n")
    return sandbox


@pytest.fixture(scope="module")
def open_one():
    sandbox = prepared(Sandbox.create(timeout=900))
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def named_one(far):
    """Reaches one name, and nothing else."""
    network = {"allow_out": [far.name], "deny_out": [ALL_TRAFFIC]}
    sandbox = prepared(Sandbox.create(timeout=900, network=network))
    yield sandbox
    sandbox.kill()


def run(sandbox: Sandbox, command: str) -> str:
    return sandbox.commands.run(f"({command}\n) 2>&1; true", timeout=30).stdout


def test_the_name_is_reached(far, named_one):
    for url in (f"http://{far.name}/named", f"https://{far.name}/named"):
        assert "REACHED" in run(named_one, curl(url)), url
    assert "inside request GET /named HTTP/1.1" in far.seen()
    assert f"inside sni {far.name}" in far.seen()
    # Its address has been told by now, and it is the name that opens it.
    assert "egress_denied" in run(named_one, curl(f"http://{far.inside}/"))


@pytest.mark.parametrize("way", OUTSIDE)
def test_outside(far, open_one, named_one, way):
    command = fill(OUTSIDE[way], far)
    ours = f"{far.inside}" in command and far.outside not in command and way != "a redirection"

    def out(sandbox: Sandbox) -> bool:
        before = len(far.seen())
        said = run(sandbox, command)
        arrived = [line for line in far.seen()[before:] if line.startswith("outside") or ours]
        return bool(arrived) or any(mark in said for mark in MARKS)

    assert out(open_one), "the control: it leads out without a policy"
    assert not out(named_one)


@pytest.mark.parametrize("way", FRONTED)
def test_fronted(far, open_one, named_one, way):
    command, sign = (fill(text, far) for text in FRONTED[way])
    # Its address is told first: otherwise it would be refused for want of that.
    run(named_one, f"getent ahostsv4 {far.name}")

    def arrives(sandbox: Sandbox) -> bool:
        before = len(far.seen())
        run(sandbox, command)
        return f"inside {sign}" in far.seen()[before:]

    assert arrives(open_one), "the control: it arrives without a policy"
    assert not arrives(named_one)


def test_ipv6_in_all_its_disguises(far, named_one):
    high, low = (int.from_bytes(socket.inet_aton(far.outside)[at : at + 2], "big") for at in (0, 2))
    before = len(far.seen())
    for address in (f"::ffff:{far.outside}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::1", f"::{far.outside}"):
        assert "REACHED" not in run(named_one, curl(f"'http://[{address}]/'"))
    assert not [line for line in far.seen()[before:] if line.startswith("outside")]


def test_a_refusal_is_quick_and_says_why(far, named_one):
    answer = run(named_one, curl(f"-w '%{{http_code}}' --resolve {far.other_name}:80:{far.inside} http://{far.other_name}/"))
    assert '"error":"egress_denied"' in answer and far.other_name in answer and answer.endswith("403")
    for url in (f"https://{far.outside}/", f"http://{far.outside}:8080/", f"https://{far.inside}/"):
        begun = time.monotonic()
        said = run(named_one, curl(url))
        assert time.monotonic() - begun < 3 and ("reset" in said.lower() or "could not connect" in said.lower()), (url, said)


def test_refusals_are_in_the_log(far):
    import raw

    sandbox = prepared(Sandbox.create(timeout=120, network={"allow_out": [far.name], "deny_out": [ALL_TRAFFIC]}))
    try:
        run(sandbox, curl(f"https://{far.outside}/"))
        run(sandbox, curl(f"http://{far.other_name}/"))

        def told(word: str) -> bool:
            return word in raw.api("GET", f"/sandboxes/{sandbox.sandbox_id}/logs").body.decode()

        wait_until("the refusals are in the log", 10, lambda: told(f"tls to {far.outside} refused") and told(f"dns to {far.other_name} refused"))
    finally:
        sandbox.kill()


def reaches(sandbox: Sandbox, url: str) -> bool:
    return "REACHED" in run(sandbox, curl(url))


def test_lists_of_addresses(far):
    outside, inside = f"http://{far.outside}:8080/", f"http://{far.inside}:8080/"
    for network, want in (
        ({"deny_out": [far.outside]}, (True, False)),
        ({"deny_out": [f"{far.outside}/31"]}, (False, False)),
        ({"allow_out": [far.outside]}, (True, True)),
        ({"allow_out": [far.outside], "deny_out": [ALL_TRAFFIC]}, (False, True)),
        ({"allow_out": [f"{far.inside}/24"], "deny_out": [ALL_TRAFFIC]}, (True, True)),
        ({"allow_out": [far.inside, far.name], "deny_out": [ALL_TRAFFIC]}, (True, False)),
        ({"allow_out": ["*"], "deny_out": [ALL_TRAFFIC]}, (False, False)),
        ({"deny_out": [ALL_TRAFFIC]}, (False, False)),
    ):
        sandbox = Sandbox.create(timeout=120, network=network)
        try:
            assert (reaches(sandbox, inside), reaches(sandbox, outside)) == want, network
            # Addresses of the operator stay closed, whatever is allowed.
            assert not reaches(sandbox, f"http://{internet.PRIVATE[0]}:{internet.PORT}/")
        finally:
            sandbox.kill()


def test_wildcards(far):
    """`*` is every name; `*.x` is every name below x, and not x."""
    below = far.name.split(".", 1)[1]
    for allowed, want in (("*", True), (f"*.{below}", True), (below, False), (f"*.{far.name}", False), (far.name.upper(), True)):
        sandbox = Sandbox.create(timeout=120, network={"allow_out": [allowed], "deny_out": [ALL_TRAFFIC]})
        try:
            assert reaches(sandbox, f"https://{far.name}/") == want, allowed
        finally:
            sandbox.kill()


def test_nothing_private_is_opened_by_a_policy():
    network = {"allow_out": [*internet.PRIVATE, "10.0.0.0/8", "*"], "deny_out": [ALL_TRAFFIC]}
    sandbox = Sandbox.create(timeout=120, network=network)
    try:
        for address in internet.PRIVATE:
            assert run(sandbox, curl(f"http://{address}:{internet.PORT}/")).count("peer") == 0, address
            assert run(sandbox, curl(f"http://{address.replace('.', '-')}.ip.conformance.test/")).count("peer") == 0
    finally:
        sandbox.kill()


def test_a_policy_changes_while_it_runs(far):
    sandbox = prepared(Sandbox.create(timeout=300))
    try:
        outside = f"http://{far.outside}:8080/"
        assert reaches(sandbox, outside)
        sandbox.update_network({"deny_out": [far.outside]})
        assert not reaches(sandbox, outside) and reaches(sandbox, f"http://{far.inside}:8080/")
        sandbox.update_network({"allow_out": [far.name], "deny_out": [ALL_TRAFFIC]})
        assert not reaches(sandbox, f"http://{far.inside}:8080/") and reaches(sandbox, f"https://{far.name}/")
        sandbox.update_network({"allow_internet_access": False})
        assert not reaches(sandbox, f"https://{far.name}/")
        sandbox.update_network({})
        assert reaches(sandbox, outside)
    finally:
        sandbox.kill()


def test_what_is_closed_from_the_start_can_be_opened(far):
    sandbox = prepared(Sandbox.create(timeout=120, allow_internet_access=False))
    try:
        assert not reaches(sandbox, f"http://{far.outside}:8080/")
        with pytest.raises(CommandExitException):
            sandbox.commands.run(f"timeout 5 getent hosts {far.name}")
        sandbox.update_network({})
        assert reaches(sandbox, f"http://{far.other_name}:8080/")
    finally:
        sandbox.kill()


def test_a_connection_that_is_open_goes_on(far):
    """As documented: a change is for connections that begin after it."""
    sandbox = prepared(Sandbox.create(timeout=120))
    try:
        text = (
            f"import time, os\ns = connect('{far.outside}', 8080)\n"
            "s.sendall(b'GET /slow HTTP/1.1\\r\\n\\r\\n')\ngot = s.recv(4096)\nopen('/tmp/begun', 'w').write('x')\n"
            "while not os.path.exists('/tmp/changed'): time.sleep(0.05)\ns.sendall(b'x')\nwhile b'HED' not in got: got += s.recv(99)\n"
            "print('WHOLE')"
        )
        handle = sandbox.commands.run(python(text), background=True)
        wait_until("the download has begun", 10, lambda: sandbox.files.exists("/tmp/begun"))
        sandbox.update_network({"deny_out": [ALL_TRAFFIC]})
        sandbox.files.write("/tmp/changed", "x")
        assert "WHOLE" in handle.wait().stdout
        assert not reaches(sandbox, f"http://{far.outside}:8080/")
    finally:
        sandbox.kill()


def test_a_policy_outlives_a_pause(far):
    sandbox = prepared(Sandbox.create(timeout=120, network={"allow_out": [far.name], "deny_out": [ALL_TRAFFIC]}))
    try:
        for keep in (True, False):
            sandbox.pause(mode="full" if keep else "filesystem")
            sandbox = Sandbox.connect(sandbox.sandbox_id)
            assert reaches(sandbox, f"https://{far.name}/"), keep
            assert not reaches(sandbox, f"https://{far.outside}/") and not reaches(sandbox, f"http://{far.outside}:8080/")
    finally:
        sandbox.kill()

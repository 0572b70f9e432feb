"""Header rules: code in a sandbox uses a secret that it cannot read, and nobody but the domain of the rule is sent it.

What was sent is read at the far side, see `lib/upstream.py`, and not only from what the sandbox says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
import urllib.request

import pytest
from e2b import ALL_TRAFFIC, Sandbox, SandboxException, Secret

from server import from_environment, patience, wait_until
from upstream import Upstream, arrived, run

VALUE = "sk-hidden-from-the-sandbox"
HEADERS = {"X-Key": Secret.fill("rules-key"), "Authorization": "Bearer ${e2b.secrets.RULES-KEY}"}


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream().open()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def server(upstream):
    """One that trusts the test's authority besides the host's; the packages are told by their variables."""
    dns = f"127.0.0.1:{os.environ['CONFORMANCE_DNS_PORT']}"
    server = from_environment("rules", "--dns-upstreams", dns, "--rules-ca-file", str(upstream.authority))
    before = {name: value for name, value in os.environ.items() if name.startswith("E2B_")}
    try:
        server.start()
        os.environ.update(server.env)
        Secret.create("rules-key", VALUE)
        yield server
    finally:
        os.environ.update(before)
        server.stop()
        server.remove()


def rules(upstream: Upstream, *which: str, headers: dict | None = None) -> dict:
    return {upstream.name(one): [{"transform": {"headers": headers or HEADERS}}] for one in which or ("ruled",)}


@pytest.fixture
def create(server):
    made = []

    def create(**options) -> Sandbox:
        made.append(Sandbox.create(timeout=300, **options))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


@pytest.fixture(scope="module")
def ruled(server, upstream):
    sandbox = Sandbox.create(timeout=900, network={"rules": rules(upstream, "ruled", "untrusted", "second")})
    yield sandbox
    sandbox.kill()


def keys(request: dict) -> list[str]:
    return [value for name, value in request["headers"] if name.lower() == "x-key"]


URLLIB = "python3 -c \"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())\""
NODE = "node -e \"fetch('{url}').then(a => a.text()).then(console.log).catch(e => console.log(e.cause || e))\""


@pytest.mark.parametrize("program, command", [("curl", "curl -sS {url}"), ("python3", URLLIB), ("node", NODE)])
def test_programs_use_what_they_cannot_read(upstream, ruled, program, command):
    (request,), said = arrived(upstream, ruled, command.replace("{url}", f"https://{upstream.name('ruled')}/by-{program}"))
    assert "REACHED" in said, said
    assert keys(request) == [VALUE] and dict(request["headers"])["authorization"] == f"Bearer {VALUE}"
    assert VALUE not in said


def test_the_secret_is_nowhere_inside(upstream, ruled):
    _, said = arrived(upstream, ruled, f"curl -sSi https://{upstream.name('ruled')}/echo")
    assert "REACHED" in said and VALUE not in said and "you sent ****" in said and "body ****" in said, said
    looked = run(ruled, "env; cat /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates/*; sudo sh -c 'cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline' | tr '\\0' '\\n'")
    assert "SSL_CERT_FILE=" in looked and "BEGIN CERTIFICATE" in looked
    assert VALUE not in looked and "PRIVATE KEY" not in looked
    shown = ruled.get_info()
    assert VALUE not in repr(shown)


def test_what_the_guest_sends_is_replaced(upstream, ruled):
    url = f"https://{upstream.name('ruled')}/own"
    (request,), _ = arrived(upstream, ruled, f"curl -sS -H 'X-Key: mine' -H 'x-key: again' -H 'Connection: x-key' -d body {url}")
    assert keys(request) == [VALUE] and request["body"] == "body" and request["method"] == "POST"


def test_one_connection_carries_many_requests(upstream, ruled):
    name = upstream.name("ruled")
    requests, said = arrived(upstream, ruled, f"curl -sSv https://{name}/one https://{name}/two")
    assert [keys(request) for request in requests] == [[VALUE]] * 2 and "Re-using existing" in said, said


def raw(upstream: Upstream, request: str) -> str:
    name = upstream.name("ruled")
    text = f"import ssl, socket; s = ssl.create_default_context().wrap_socket(socket.create_connection(('{name}', 443)), server_hostname='{name}'); s.settimeout(5); s.sendall(b'{request}'); print(s.recv(4096).decode())"
    return f'python3 -c "{text}"'


@pytest.mark.parametrize(
    "head",
    [
        "GET /hosts HTTP/1.1\\r\\nHost: {other}\\r\\n\\r\\n",
        "GET https://{other}/absolute HTTP/1.1\\r\\nHost: {ruled}\\r\\n\\r\\n",
        "GET /two HTTP/1.1\\r\\nHost: {ruled}\\r\\nHost: {other}\\r\\n\\r\\n",
        "GET /port HTTP/1.1\\r\\nHost: {ruled}:8443\\r\\n\\r\\n",
        "CONNECT {other}:443 HTTP/1.1\\r\\nHost: {ruled}\\r\\n\\r\\n",
        "TRACE /trace HTTP/1.1\\r\\nHost: {ruled}\\r\\n\\r\\n",
    ],
)
def test_nothing_for_another_host(upstream, ruled, head):
    head = head.replace("{other}", upstream.name("other")).replace("{ruled}", upstream.name("ruled"))
    requests, said = arrived(upstream, ruled, raw(upstream, head))
    assert not requests and "403 Forbidden" in said and "egress_denied" in said, (requests, said)


# Speaks HTTP/2 only, as programs of gRPC do: so many requests at once on one connection, with this :authority.
HTTP2 = """
const [url, count, authority] = process.argv.slice(1);
const client = require("http2").connect(url);
client.on("error", (error) => console.log("failed", error.message));
let left = Number(count);
for (let n = 0; n < count; n++) {
  const request = client.request({ ":method": "POST", ":path": "/" + n, ...(authority ? { ":authority": authority } : {}), "x-key": "mine", cookie: ["a=1", "b=2"] });
  let text = "";
  for (const what of ["response", "trailers"]) request.on(what, (headers) => (text += JSON.stringify(headers)));
  request.on("data", (data) => (text += data));
  request.on("error", (error) => (text += error.message));
  request.on("close", () => { console.log(text); if (--left === 0) client.close(); });
  request.end("body");
}
"""


@pytest.fixture
def http2(upstream, ruled):
    ruled.files.write("/tmp/http2.js", HTTP2)
    return lambda which, count=1, authority="": arrived(
        upstream, ruled, f"node -e \"$(cat /tmp/http2.js)\" https://{upstream.name(which)} {count} {authority}"
    )


def test_http2_where_both_speak_it(upstream, http2):
    (request,), said = http2("second")
    assert keys(request) == [VALUE] and request["authority"].removesuffix(":443") == upstream.name("second") and request["body"] == "body"
    assert "REACHED" in said and VALUE not in said, said
    # In the head, the body and behind it.
    assert said.count("you sent ***") == 2 and "body ***" in said, said


def test_http2_to_a_server_that_does_not_speak_it(upstream, http2):
    requests, said = http2("ruled", 100)
    assert sorted(request["path"] for request in requests) == sorted(f"/{n}" for n in range(100)), said
    for request in requests:
        headers = {name.lower(): value for name, value in request["headers"]}
        assert keys(request) == [VALUE] and headers["cookie"] == "a=1; b=2" and headers["host"].removesuffix(":443") == upstream.name("ruled")
    assert said.count("REACHED") == 100 and VALUE not in said


@pytest.mark.parametrize("authority", ["{other}", "{second}:8443", "x"])
def test_http2_is_for_no_other_host(upstream, http2, authority):
    authority = authority.replace("{other}", upstream.name("other")).replace("{second}", upstream.name("second"))
    requests, said = http2("second", 1, authority)
    assert not requests and '":status":403' in said and "egress_denied" in said, said


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Fetch {
    public static void main(String[] args) throws Exception {
        var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(args[0])).build(), HttpResponse.BodyHandlers.ofString());
        System.out.print(answer.body());
    }
}
"""


@pytest.fixture(scope="module")
def java(upstream, tmp_path_factory) -> bytes:
    """A small Java, with the store of this machine, and a program for it, as an archive."""
    place = tmp_path_factory.mktemp("java")
    (place / "Fetch.java").write_text(JAVA)
    subprocess.run(["javac", "-d", str(place), str(place / "Fetch.java")], check=True)
    modules = ["--add-modules", "java.net.http,jdk.crypto.ec", "--strip-debug", "--no-man-pages", "--no-header-files"]
    subprocess.run(["jlink", *modules, "--output", str(place / "openjdk")], check=True)
    store = place / "openjdk/lib/security/cacerts"
    store.unlink(missing_ok=True)
    make = ["keytool", "-importcert", "-noprompt", "-alias", "own", "-keystore", str(store), "-storetype", "PKCS12", "-storepass", "changeit"]
    without_password = ["-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE", "-J-Dkeystore.pkcs12.macAlgorithm=NONE"]
    subprocess.run([*make, *without_password, "-file", str(upstream.authority)], check=True, capture_output=True)
    return subprocess.run(["tar", "-C", str(place), "-cz", "openjdk", "Fetch.class"], check=True, capture_output=True).stdout


def test_java_programs_trust_the_authority(upstream, create, java):
    """Where an image of Java has it, and whatever is in its store already."""
    sandbox = create()
    sandbox.files.write("/tmp/java.tar.gz", java)
    run(sandbox, "sudo mkdir /opt/java; sudo tar -C /opt/java -xzf /tmp/java.tar.gz")
    fetch = f"/opt/java/openjdk/bin/java -cp /opt/java Fetch https://{upstream.name('ruled')}/by-java"
    (request,), said = arrived(upstream, sandbox, fetch)
    assert not keys(request) and "REACHED" in said, "by the certificate that it trusts already"
    sandbox.update_network({"rules": rules(upstream)})
    (request,), said = arrived(upstream, sandbox, fetch)
    assert keys(request) == [VALUE] and said.startswith("REACHED"), said


def test_nothing_goes_along_with_a_redirection(upstream, ruled):
    url = f"https://{upstream.name('ruled')}/go?to=https://{upstream.name('other')}/away"
    requests, said = arrived(upstream, ruled, f"curl -sSkL {url}")
    assert [request["at"] for request in requests] == ["ruled", "other"], said
    assert keys(requests[0]) == [VALUE] and VALUE not in str(requests[1])


def test_nothing_goes_in_the_clear(upstream, ruled):
    """Nobody can tell who answers without TLS."""
    (request,), _ = arrived(upstream, ruled, f"curl -sS http://{upstream.name('ruled')}/clear")
    assert request["at"] == "ruled in the clear" and VALUE not in str(request)


@pytest.mark.parametrize("options", ["", "--resolve {ruled}:443:{elsewhere}"])
def test_a_server_must_prove_who_it_is(upstream, ruled, options):
    """One with a certificate that nobody trusts, and one with another's, where the guest says that the name leads."""
    which = "ruled" if options else "untrusted"
    options = options.replace("{ruled}", upstream.name("ruled")).replace("{elsewhere}", upstream.addresses["other"])
    requests, said = arrived(upstream, ruled, f"curl -sSi {options} https://{upstream.name(which)}/x")
    assert not requests and "HTTP/2 502" in said and "upstream_untrusted" in said, said


def issuer(sandbox: Sandbox, name: str) -> str:
    return run(sandbox, f"curl -skv https://{name}/ 2>&1 | grep -i issuer:")


def test_what_has_no_rule_is_not_touched(upstream, ruled):
    assert "SoulBox sandbox" in issuer(ruled, upstream.name("ruled"))
    assert "authority of the test" in issuer(ruled, upstream.name("other"))
    (request,), _ = arrived(upstream, ruled, f"curl -sSk https://{upstream.name('other')}/untouched")
    assert VALUE not in str(request)


def test_another_value_counts_from_the_next_request_on(upstream, create):
    sandbox = create(network={"rules": rules(upstream, headers={"x-key": "${e2b.secrets.rules-other}!"})})
    url = f"https://{upstream.name('ruled')}/value"
    requests, said = arrived(upstream, sandbox, f"curl -sS -w '%{{http_code}}' {url}")
    assert not requests and "there is no secret rules-other" in said and said.endswith("502"), said
    try:
        for value in ("first", "second"):
            if value == "first":
                Secret.create("rules-other", value)
            else:
                Secret.update("rules-other", value)
            (request,), _ = arrived(upstream, sandbox, f"curl -sS {url}")
            assert keys(request) == [value + "!"]
        Secret.update("rules-other", "two\nlines")
        requests, said = arrived(upstream, sandbox, f"curl -sS {url}")
        assert not requests and "rule_unusable" in said and "two" not in said
    finally:
        Secret.destroy("rules-other")


def es256(keys: dict, token: str) -> dict:
    """The claims of a token, once its signature is checked (FIPS 186-5 §6.4.2): no package of the tests does that."""
    head, claims, signature = token.split(".")
    decode = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    number = lambda data: int.from_bytes(data, "big")
    (key,) = [key for key in keys["keys"] if key["kid"] == json.loads(decode(head))["kid"]]
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    g = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296, 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)

    def add(one, other):
        if one is None or other is None:
            return one or other
        if one[0] == other[0] and (one[1] + other[1]) % p == 0:
            return None
        slope = (3 * one[0] ** 2 - 3) * pow(2 * one[1], -1, p) if one == other else (other[1] - one[1]) * pow(other[0] - one[0], -1, p)
        x = (slope**2 - one[0] - other[0]) % p
        return x, (slope * (one[0] - x) - one[1]) % p

    def times(point, factor):
        product = None
        for bit in bin(factor)[2:]:
            product = add(product, product)
            product = add(product, point) if bit == "1" else product
        return product

    r, s = (number(decode(signature)[at : at + 32]) for at in (0, 32))
    inverse = pow(s, -1, n)
    digest = number(hashlib.sha256(f"{head}.{claims}".encode()).digest())
    point = add(times(g, digest * inverse % n), times((number(decode(key["x"])), number(decode(key["y"]))), r * inverse % n))
    assert point is not None and point[0] % n == r, "the signature"
    return json.loads(decode(claims))


def test_who_the_sandbox_is(upstream, server, create):
    """A token for one audience, which the sandbox never sees and the far side can check."""
    told = lambda ctx: {"headers": {"Authorization": f"Bearer {ctx.iam.tokens['far']}"}}
    rule = {upstream.name("ruled"): [{"transform": told}]}
    sandbox = create(iam={"tokens": {"far": Secret.iam_token(audience="far.example", token_type="JWT-SVID")}}, network={"rules": rule})
    url = f"https://{upstream.name('ruled')}/identity"

    def claims() -> dict:
        (request,), said = arrived(upstream, sandbox, f"curl -sS {url}")
        token = dict(request["headers"])["authorization"].removeprefix("Bearer ")
        assert token not in said
        discovery = json.load(urllib.request.urlopen(server.url + "/.well-known/openid-configuration", timeout=10))
        assert discovery["issuer"] == server.url
        return es256(json.load(urllib.request.urlopen(discovery["jwks_uri"], timeout=10)), token)

    said = claims()
    assert said["aud"] == ["far.example"] and said["iss"] == server.url and said["sandbox_id"] == sandbox.sandbox_id
    assert said["sub"] == f"spiffe://127.0.0.1/team/{said['team_id']}/sandbox/{sandbox.sandbox_id}"
    assert 0 < said["exp"] - time.time() <= 300
    # Tokens are the sandbox's, and rules that come later may name them; others there are not.
    sandbox.update_network({})
    literal = "Bearer ${e2b.identity.tokens.far}"
    sandbox.update_network({"rules": rules(upstream, headers={"authorization": literal})})
    assert claims()["sandbox_id"] == sandbox.sandbox_id
    sandbox.update_network({"rules": rules(upstream, headers={"authorization": literal.replace("far", "other")})})
    requests, said = arrived(upstream, sandbox, f"curl -sS {url}")
    assert not requests and "there is no token other" in said


def works(upstream: Upstream, sandbox: Sandbox) -> bool:
    requests, said = arrived(upstream, sandbox, f"curl -sS https://{upstream.name('ruled')}/works; " + URLLIB.replace("{url}", f"https://{upstream.name('ruled')}/works"))
    return [keys(request) for request in requests] == [[VALUE]] * 2


def test_rules_come_and_go_while_it_runs(upstream, create):
    sandbox = create()
    name = upstream.name("ruled")
    assert "authority of the test" in issuer(sandbox, name)
    sandbox.update_network({"rules": rules(upstream)})
    assert works(upstream, sandbox)
    # For other domains there is another authority, and it is the only one.
    sandbox.update_network({"rules": rules(upstream, "ruled", "other")})
    assert works(upstream, sandbox)
    assert run(sandbox, "grep -c 'SoulBox: authorities' /etc/ssl/certs/ca-certificates.crt") == "1\n"
    sandbox.update_network({})
    assert "authority of the test" in issuer(sandbox, name)


def test_rules_open_nothing(upstream, create):
    closed = create(network={"rules": rules(upstream), "deny_out": [ALL_TRAFFIC]})
    assert not works(upstream, closed)
    named = create(network={"rules": rules(upstream), "deny_out": [ALL_TRAFFIC], "allow_out": [upstream.name("ruled")]})
    assert works(upstream, named)
    assert "REACHED" not in run(named, f"curl -sSk -m 5 https://{upstream.name('other')}/")
    address = create(network={"rules": rules(upstream), "deny_out": [ALL_TRAFFIC], "allow_out": [upstream.addresses["ruled"]]})
    run(address, f"echo '{upstream.addresses['ruled']} {upstream.name('ruled')}' | sudo tee -a /etc/hosts")
    assert works(upstream, address)


def test_wildcards(upstream, create):
    below = upstream.name("ruled").split(".", 1)[1]
    sandbox = create(network={"rules": {f"*.{below.upper()}": [{"transform": {"headers": {"x-key": "wide"}}}]} | rules(upstream)})
    requests, _ = arrived(upstream, sandbox, f"curl -sS https://{upstream.name('ruled')}/ https://{upstream.name('other')}/")
    assert [keys(request) for request in requests] == [[VALUE], ["wide"]]


@pytest.mark.parametrize("mode", ["full", "filesystem"])
def test_after_a_pause(upstream, create, mode):
    sandbox = create(network={"rules": rules(upstream)})
    sandbox.pause(mode=mode)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert works(upstream, again)


def test_a_fork_has_its_sources_rules(upstream, create):
    sandbox = create(network={"rules": rules(upstream)})
    (fork,) = sandbox.fork(timeout=120)
    try:
        assert works(upstream, fork)
    finally:
        fork.kill()


# Begins TLS to a name with a rule in several ways, many of each, and says how long the server let each wait.
SLOW = r"""
import json, socket, ssl, sys, threading, time
name, told = sys.argv[1], {}
def hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try: ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError: return outgoing.read()
def spoken(protocol, said):
    context = ssl.create_default_context()
    context.set_alpn_protocols([protocol])
    s = context.wrap_socket(socket.create_connection((name, 443), 10), server_hostname=name)
    s.sendall(said)
    return s
def half_handshake():
    s = socket.create_connection((name, 443), 10)
    s.sendall(hello())
    return s
WAYS = {
    "handshake": half_handshake,
    "head": lambda: spoken("http/1.1", b"GET / HTTP/1.1\r\nHost: "),
    "silent-h2": lambda: spoken("h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)),
    "head-h2": lambda: spoken("h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5) + b"\0\0\1\1\0\0\0\0\1\x82"),
}
def one(way):
    s = WAYS[way]()
    s.settimeout(120)
    since = time.monotonic()
    try:
        while s.recv(65536): pass
    except (OSError, ssl.SSLError): pass
    told.setdefault(way, []).append(time.monotonic() - since)
threads = [threading.Thread(target=one, args=(way,)) for way in WAYS for _ in range(20)]
for thread in threads: thread.start()
print("began", flush=True)
for thread in threads: thread.join()
print(json.dumps({way: [len(times), max(times)] for way, times in told.items()}), flush=True)
"""


def test_who_does_not_go_on_is_cut_off(upstream, ruled, create):
    sandbox = create(network={"rules": rules(upstream)})
    sandbox.files.write("/tmp/slow.py", SLOW)
    sandbox.commands.run(f"nohup python3 /tmp/slow.py {upstream.name('ruled')} > /tmp/said 2>&1 &")
    wait_until("all are begun", 20, lambda: "began" in sandbox.files.read("/tmp/said"))
    assert works(upstream, sandbox) and works(upstream, ruled)
    line = wait_until("all have ended", 100, lambda: sandbox.files.read("/tmp/said").splitlines()[1:], interval=0.5)[-1]
    told = json.loads(line)
    bounds = {"handshake": 10, "head": 60, "silent-h2": 60, "head-h2": 60}
    assert {way: count for way, (count, _) in told.items()} == dict.fromkeys(bounds, 20), told
    for way, (_, longest) in told.items():
        assert longest < patience(bounds[way] + 5), told


def test_after_the_server(upstream, server, create):
    """A program that runs goes on trusting, too: the authority stays."""
    sandbox = create(network={"rules": rules(upstream)})
    before = issuer(sandbox, upstream.name("ruled"))
    server.kill()
    server.listen = server.url.removeprefix("http://")
    server.start()
    os.environ.update(server.env)
    assert issuer(sandbox, upstream.name("ruled")) == before != ""
    assert works(upstream, sandbox)


def test_what_is_refused(upstream, server):
    for headers, said in (({"Host": "x"}, "cannot be set"), ({"x": "${e2b.secrets.}"}, "malformed E2B placeholder"), ({"x": "a\nb"}, "invalid characters")):
        with pytest.raises(SandboxException, match=said):
            Sandbox.create(network={"rules": rules(upstream, headers=headers)})
    with pytest.raises(SandboxException, match="at most 10 domains"):
        Sandbox.create(network={"rules": {f"d{number}.example": [] for number in range(11)}})


def test_nothing_is_told_by_the_server(server):
    assert VALUE not in server.log_path.read_text()
    written = [path.name for path in server.data_dir.rglob("*") if path.is_file() and path.stat().st_size < 1 << 24 and "layers" not in path.parts and VALUE.encode() in path.read_bytes()]
    assert not written

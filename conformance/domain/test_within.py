"""Sandboxes that reach each other, and the API, by the names that everybody uses: through the same edge, over trusted TLS."""

from __future__ import annotations

import json
import shlex

import pytest
from e2b import ALL_TRAFFIC, Sandbox

from crashing import call, options
from place import DOMAIN, Place

SERVER = "cd /tmp && echo reached > index.html && exec python3 -m http.server 8000"
FETCH = r"""
import json, ssl, sys, urllib.error, urllib.request
url, headers = sys.argv[1], json.loads(sys.argv[2])
try:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        print(json.dumps([answer.status, answer.read().decode().strip()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode().strip()]))
except (urllib.error.URLError, ssl.SSLError, OSError) as error:
    print(json.dumps([0, str(error)]))
"""


@pytest.fixture(scope="module", params=["443", "another"])
def place(request):
    place = Place("within", 443 if request.param == "443" else 0).open()
    yield place
    place.close()


@pytest.fixture(scope="module")
def create(place):
    made = []

    def create(**network) -> Sandbox:
        sandbox = Sandbox.create(timeout=300, **options(place.server), **network)
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        sandbox.kill()


def serving(sandbox: Sandbox) -> Sandbox:
    sandbox.commands.run(SERVER, background=True, timeout=0)
    sandbox.commands.run("until curl -s localhost:8000 > /dev/null; do sleep 0.05; done")
    return sandbox


@pytest.fixture(scope="module")
def server(create) -> Sandbox:
    return serving(create())


def fetch(sandbox: Sandbox, url: str, headers: dict[str, str] | None = None) -> list:
    sandbox.files.write("/tmp/fetch.py", FETCH)
    return json.loads(sandbox.commands.run(f"python3 /tmp/fetch.py {shlex.quote(url)} {shlex.quote(json.dumps(headers or {}))}", timeout=60).stdout)


def page(place: Place, server: Sandbox, port: int = 8000) -> str:
    return f"https://{port}-{server.sandbox_id}.{place.domain}/"


def test_a_sandbox_reaches_another_and_itself(place, server, create):
    for client in (create(), server):
        assert fetch(client, page(place, server)) == [200, "reached"]
        assert client.commands.run(f"curl -sS --fail {page(place, server)}").stdout == "reached\n"


def test_other_programs_trust_it_too(place, server, create):
    """By the system's bundle, without a variable."""
    client = create()
    bare = f"env -u SSL_CERT_FILE -u CURL_CA_BUNDLE openssl s_client -verify_return_error -CAfile /etc/ssl/certs/ca-certificates.crt -connect 8000-{server.sandbox_id}.{DOMAIN}:{place.port} < /dev/null"
    assert "Verification: OK" in client.commands.run(bare).stdout
    assert client.commands.run("echo $NODE_EXTRA_CA_CERTS").stdout.strip() == "/usr/local/share/ca-certificates/soulbox.crt"
    trusted = client.files.read("/usr/local/share/ca-certificates/soulbox.crt")
    assert trusted.strip() == (place.server.data_dir / f"ca-{DOMAIN}.pem").read_text().strip()


def test_a_sandbox_uses_the_api_with_a_key(place, server, create):
    client = create()
    key = {"X-API-Key": place.server.env["E2B_API_KEY"]}
    status, body = fetch(client, f"https://api.{place.domain}/sandboxes", key)
    assert status == 200 and server.sandbox_id in body
    assert fetch(client, f"https://api.{place.domain}/sandboxes")[0] == 401


def test_tokens_hold(place, create):
    private = serving(create(network={"allow_public_traffic": False}))
    client = create()
    assert fetch(client, page(place, private))[0] == 403
    assert fetch(client, page(place, private), {"e2b-traffic-access-token": private.traffic_access_token}) == [200, "reached"]
    # envd asks everybody for its own.
    assert fetch(client, page(place, private, 49983) + "files?path=/etc/hostname")[0] == 401


@pytest.mark.parametrize("closed", [{"allow_internet_access": False}, {"network": {"deny_out": [ALL_TRAFFIC]}}, {"network": {"deny_out": [ALL_TRAFFIC], "allow_out": ["pypi.org", "8.8.8.8"]}}])
def test_a_closed_sandbox_reaches_nothing(place, server, create, closed):
    client = create(**closed)
    assert fetch(client, page(place, server))[0] == 0
    # With an address that it was told by somebody else, there is a server, which refuses.
    gateway = client.commands.run("awk '/nameserver/ {print $2; exit}' /etc/resolv.conf").stdout.strip()
    for name in (f"8000-{server.sandbox_id}.{DOMAIN}", f"api.{DOMAIN}"):
        told = client.commands.run(f"curl -sS --resolve {name}:{place.port}:{gateway} https://{name}:{place.port}/").stdout
        assert json.loads(told) == {"error": "egress_denied", "host": name, "reason": "no entry of allowOut names it"}


def test_a_policy_opens_one_name_and_no_other(place, server, create):
    other = serving(create())
    name = f"8000-{server.sandbox_id}.{DOMAIN}"
    client = create(network={"deny_out": [ALL_TRAFFIC], "allow_out": [name]})
    assert fetch(client, page(place, server)) == [200, "reached"]
    for url in (page(place, other), page(place, server, 8001), f"https://api.{place.domain}/health"):
        assert fetch(client, url)[0] == 0, url
    # Whatever else names another one, on a connection by the name that is open.
    tricks = [
        {"Host": f"8000-{other.sandbox_id}.{place.domain}"},
        {"Host": f"api.{place.domain}"},
        {"Host": "localhost"},
        {"Host": "127.0.0.1"},
        {"Host": f"8001-{server.sandbox_id}.{place.domain}"},
    ]
    for headers in tricks:
        status, body = fetch(client, page(place, server), headers)
        assert status == 403 and json.loads(body)["error"] == "egress_denied", (headers, status, body)
    api = create(network={"deny_out": [ALL_TRAFFIC], "allow_out": [f"api.{DOMAIN}"]})
    routed = {"E2b-Sandbox-Id": server.sandbox_id, "E2b-Sandbox-Port": "8000"}
    status, body = fetch(api, f"https://api.{place.domain}/", routed)
    assert status == 403 and json.loads(body)["host"] == name, (status, body)
    seen = [(contact["target"], contact["verdict"]) for contact in contacts(place, client)]
    assert (f"api.{DOMAIN}", "refused") in seen


def contacts(place: Place, sandbox: Sandbox) -> list[dict]:
    status, body = call(place.server, "GET", f"/sandboxes/{sandbox.sandbox_id}/network/contacts")
    assert status == 200
    return json.loads(body)["contacts"]


def test_the_policy_of_the_moment_counts(place, server, create):
    client = create()
    assert fetch(client, page(place, server)) == [200, "reached"]
    client.update_network({"deny_out": [ALL_TRAFFIC]})
    assert fetch(client, page(place, server))[0] == 0
    client.update_network({})
    assert fetch(client, page(place, server)) == [200, "reached"]


def test_nothing_else_of_the_gateway_is_reached(place, create):
    """The listener itself is no address of theirs: only what was led there from the port of the domain gets in."""
    client = create()
    gateway = client.commands.run("awk '/nameserver/ {print $2; exit}' /etc/resolv.conf").stdout.strip()
    probe = "import socket,sys\nfor p in map(int, sys.argv[2:]):\n  try: socket.create_connection((sys.argv[1], p), 5); print(p, 'open')\n  except OSError as e: print(p, 'closed')"
    client.files.write("/tmp/probe.py", probe)
    plain = int(place.server.url.rsplit(":", 1)[1])
    ports = [20080, 20443, 20444, 80, 22, plain]
    seen = client.commands.run(f"python3 /tmp/probe.py {gateway} {place.port} {' '.join(map(str, ports))}", timeout=90).stdout.split("\n")
    assert f"{place.port} open" in seen and [line for line in seen if "open" in line] == [f"{place.port} open"], seen


def test_wakes_and_forks_go_on(place, server, create):
    client = create()
    client.pause()
    client.connect()
    assert fetch(client, page(place, server)) == [200, "reached"]

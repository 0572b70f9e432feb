"""A proxy with a password, header rules and a policy, together: over a server that dies, and when the policy is changed from
the command line."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
from e2b import ALL_TRAFFIC, Sandbox, Secret

from server import from_environment, wait_until
from socks import Socks
from upstream import Upstream, run

VALUE = "sk-through-a-proxy"


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream()
    try:
        yield upstream.open()
    finally:
        upstream.close()


@pytest.fixture(scope="module")
def socks(upstream):
    ruled, other = upstream.addresses["ruled"], upstream.addresses["other"]
    beside = SimpleNamespace(
        namespace=upstream.namespace, cable=upstream.cable, inside=ruled, outside=other, name=upstream.name("ruled"), other_name=upstream.name("other")
    )
    socks = Socks(beside)
    try:
        yield socks.open()
    finally:
        socks.close()


@pytest.fixture(scope="module")
def server(upstream):
    dns = f"127.0.0.1:{os.environ['CONFORMANCE_DNS_PORT']}"
    server = from_environment("proxies", "--dns-upstreams", dns, "--rules-ca-file", str(upstream.authority))
    before = {name: value for name, value in os.environ.items() if name.startswith("E2B_")}
    try:
        server.start()
        # The next start is at the same address, for clients that are there already.
        server.listen = server.env["E2B_API_URL"].removeprefix("http://")
        os.environ.update(server.env)
        Secret.create("proxied-key", VALUE)
        yield server
    finally:
        os.environ.update(before)
        server.stop()
        server.remove()


@pytest.fixture
def create(server):
    made = []

    def create(proxy: dict, **network) -> Sandbox:
        made.append(Sandbox.create(timeout=300, network={"egress_proxy": proxy, **network}))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def everything(upstream, socks):
    """A policy of all of it: one name is open, with a header, through a proxy with a password."""
    name = upstream.name("ruled")
    return {
        "proxy": {"address": f"{socks.address}:1081", "username": "user", "password": "pass-password"},
        "allow_out": [name],
        "deny_out": [ALL_TRAFFIC],
        "rules": {name: [{"transform": {"headers": {"X-Key": Secret.fill("proxied-key")}}}]},
    }


def works(upstream: Upstream, socks: Socks, sandbox: Sandbox) -> None:
    """The header arrives, through the proxy, which is asked by name and told who asks; what is closed is closed."""
    arrived, asked = len(upstream.seen()), len(socks.seen())
    said = run(sandbox, f"curl -sS -m 8 https://{upstream.name('ruled')}/")
    assert "REACHED" in said and VALUE not in said, said
    (request,), (through,) = upstream.seen()[arrived:], socks.seen()[asked:]
    assert [value for name, value in request["headers"] if name.lower() == "x-key"] == [VALUE]
    assert through == {"mode": "password", "user": "user", "kind": "name", "target": upstream.name("ruled"), "port": 443}
    said = run(sandbox, f"curl -sSk -m 5 https://{upstream.name('other')}/; curl -sSk -m 5 https://{upstream.addresses['other']}/")
    assert "REACHED" not in said, said
    assert (len(upstream.seen()), len(socks.seen())) == (arrived + 1, asked + 1)


def test_rules_through_a_proxy_over_a_restart(server, upstream, socks, create, everything):
    sandbox = create(**everything)
    works(upstream, socks, sandbox)
    loop = f"while :; do curl -sS -m 2 https://{upstream.name('ruled')}/; curl -sSk -m 2 https://{upstream.addresses['other']}/; echo round; sleep 0.1; done"
    sandbox.commands.run(f"({loop}) > /tmp/rounds 2>&1 & echo $! > /tmp/loop")
    rounds = lambda: sandbox.files.read("/tmp/rounds").count("round")  # noqa: E731
    before = rounds()
    server.kill()
    server.start()
    wait_until("it has tried again and again", 20, lambda: rounds() > before + 5)
    run(sandbox, "kill $(cat /tmp/loop); sleep 2.5")
    # Nothing has gone around the proxy while there was no server, or only half of one.
    assert len(upstream.seen()) == len(socks.seen())
    assert {request["at"] for request in upstream.seen()} == {"ruled"}
    assert {(through["mode"], through["kind"]) for through in socks.seen()} == {("password", "name")}
    works(upstream, socks, sandbox)


def allow(server, sandbox: Sandbox, host: str) -> subprocess.CompletedProcess:
    command = [str(server.binary), "--data-dir", str(server.data_dir), "sandbox", "allow", sandbox.sandbox_id, host]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_allow_with_a_proxy_without_secrets(server, upstream, socks, create):
    names = [upstream.name("ruled")]
    sandbox = create({"address": f"{socks.address}:1080"}, allow_out=names, deny_out=[ALL_TRAFFIC])
    other = f"curl -sSk -m 5 https://{upstream.name('other')}/"
    assert "REACHED" not in run(sandbox, other)
    done = allow(server, sandbox, upstream.name("other"))
    assert done.returncode == 0, (done.stdout, done.stderr)
    before = len(socks.seen())
    assert "REACHED" in run(sandbox, other)
    (through,) = socks.seen()[before:]
    assert (through["kind"], through["target"]) == ("name", upstream.name("other"))


def test_allow_with_a_proxy_with_secrets(server, upstream, socks, create, everything):
    sandbox = create(**everything)
    done = allow(server, sandbox, upstream.name("other"))
    assert done.returncode != 0 and "secrets" in done.stderr and "FIX: " in done.stderr, (done.stdout, done.stderr)
    # It is as it was.
    works(upstream, socks, sandbox)

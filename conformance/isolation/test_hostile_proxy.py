"""A proxy that its owner names may be anything: whatever it says or does not say, the guest is told in time, nothing goes
around it, and the server is none the worse."""

from __future__ import annotations

import os
import time

import pytest
from e2b import Sandbox

from farside import FarSide
from raw import api
from server import patience, wait_until
from socks import HOSTILE, Socks

# How these act does not keep a client from being served.
WORK_ALL_THE_SAME = ("huge-domain", "single-bytes")


@pytest.fixture(scope="module")
def far():
    far = FarSide()
    try:
        yield far.open()
    finally:
        far.close()


@pytest.fixture(scope="module")
def socks(far):
    socks = Socks(far)
    try:
        yield socks.open()
    finally:
        socks.close()


@pytest.fixture(scope="module")
def sandbox(socks):
    sandbox = Sandbox.create(timeout=600, network={"egress_proxy": {"address": f"{socks.address}:1080"}})
    yield sandbox
    sandbox.kill()


def run(sandbox: Sandbox, command: str) -> tuple[str, float]:
    begun = time.monotonic()
    said = sandbox.commands.run(f"({command}\n) 2>&1; true", timeout=60).stdout
    return said, time.monotonic() - begun


def refusals(sandbox: Sandbox, target: str) -> list[str]:
    told = api("GET", f"/sandboxes/{sandbox.sandbox_id}/network/contacts?refused=true").json["contacts"]
    return [it["rule"] for it in told if (it["kind"], it["target"]) == ("tls", target)]


def descriptors() -> int:
    return len(os.listdir(f"/proc/{os.environ['CONFORMANCE_SERVER_PID']}/fd"))


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_proxy(far, socks, sandbox, how):
    sandbox.update_network({"egress_proxy": {"address": f"{socks.address}:{HOSTILE[how]}"}})
    before, refused = len(far.seen()), len(refusals(sandbox, far.inside))
    said, seconds = run(sandbox, f"curl -sSk -m 30 https://{far.inside}/")
    if how in WORK_ALL_THE_SAME:
        assert "REACHED" in said, said
        return
    assert "REACHED" not in said and "curl: (" in said, said
    assert seconds < patience(12), f"{how}: told after {seconds:.1f} s"
    assert "timed out" not in said, said
    assert far.seen()[before:] == [], "something went around it"
    why = wait_until("it is told why", 10, lambda: refusals(sandbox, far.inside)[refused:])
    assert why[-1].startswith("egress proxy: "), why


def test_nothing_is_left_of_many(far, socks, sandbox):
    """Many at once, of every kind: the server has as many descriptors as before, and serves as before."""
    before = descriptors()
    for how, port in HOSTILE.items():
        sandbox.update_network({"egress_proxy": {"address": f"{socks.address}:{port}"}})
        run(sandbox, f"for n in $(seq 40); do curl -sSk -m 15 https://{far.inside}/ & done; wait")
    sandbox.update_network({"egress_proxy": {"address": f"{socks.address}:1080"}})
    said, _ = run(sandbox, f"curl -sSk -m 10 https://{far.inside}/")
    assert "REACHED" in said, said
    # Some are of this client's own connections.
    wait_until("descriptors are closed", 20, lambda: descriptors() <= before + 10)

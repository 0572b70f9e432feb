"""What a sandbox says to the network is told, with what became of it and why."""

from __future__ import annotations

import json
import os
import subprocess
import threading

import pytest
from e2b import ALL_TRAFFIC, Sandbox

from farside import FarSide
from server import wait_until


@pytest.fixture(scope="module")
def far():
    far = FarSide()
    try:
        yield far.open()
    finally:
        far.close()


@pytest.fixture
def sandbox(far):
    sandbox = Sandbox.create(timeout=120, network={"allow_out": [far.name], "deny_out": [ALL_TRAFFIC]})
    yield sandbox
    sandbox.kill()


def soulbox(*arguments: str) -> subprocess.CompletedProcess:
    command = [os.environ["CONFORMANCE_BINARY"], "sandbox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def contacts(sandbox, *arguments: str) -> list[dict]:
    shown = soulbox("net", sandbox.sandbox_id, "--json", *arguments)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def seen(sandbox, kind: str, target: str) -> dict:
    """The first entry of this kind about this target, when there is one."""
    found = lambda: [it for it in contacts(sandbox) if (it["kind"], it["target"]) == (kind, target)]
    return wait_until(f"{kind} {target}", 10, found)[0]


def curl(sandbox, arguments: str) -> str:
    return sandbox.commands.run(f"curl -sSk -m 5 {arguments} || true").stdout


def test_what_was_let_through_and_what_was_not(sandbox, far):
    assert "REACHED" in curl(sandbox, f"https://{far.name}/")
    assert "REACHED" in curl(sandbox, f"'http://{far.name}/path?secret=1'")
    assert curl(sandbox, f"https://{far.other_name}/") == ""
    assert "egress_denied" in curl(sandbox, f"http://{far.outside}/")
    question = seen(sandbox, "dns", far.name)
    assert question["verdict"] == "allowed" and question["detail"] in ("A", "AAAA")
    refused = seen(sandbox, "dns", far.other_name)
    assert (refused["verdict"], refused["rule"]) == ("refused", "no entry of allowOut names it")
    secure = seen(sandbox, "tls", far.name)
    assert (secure["verdict"], secure["rule"], secure["address"]) == ("allowed", f"allowOut {far.name}", f"{far.inside}:443")
    assert secure["sentBytes"] > 100 and secure["receivedBytes"] > 100
    plain = seen(sandbox, "http", far.name)
    assert (plain["verdict"], plain["detail"]) == ("allowed", "GET /path 200")
    denied = seen(sandbox, "http", far.outside)
    assert (denied["verdict"], denied["rule"]) == ("refused", "denyOut 0.0.0.0/0")
    assert {it["verdict"] for it in contacts(sandbox, "--refused")} == {"refused"}
    of_the_network = [it for it in contacts(sandbox) if it["kind"] != "process"]
    assert "secret=1" not in json.dumps(of_the_network)
    text = soulbox("net", sandbox.sandbox_id).stdout
    assert f"REFUSED dns  {far.other_name}" in text, text


def test_a_host_is_allowed_from_what_was_refused(sandbox, far):
    assert curl(sandbox, f"https://{far.other_name}/") == ""
    refused = seen(sandbox, "dns", far.other_name)["target"]
    allowed = soulbox("allow", sandbox.sandbox_id, refused)
    assert allowed.returncode == 0, allowed.stderr
    assert "REACHED" in curl(sandbox, f"https://{far.other_name}/")
    assert "REACHED" in curl(sandbox, f"https://{far.name}/"), "what was open stays open"


def test_nothing_is_allowed_where_nothing_is_closed(far):
    with Sandbox.create(timeout=60) as sandbox:
        refused = soulbox("allow", sandbox.sandbox_id, far.name)
        assert refused.returncode != 0 and "FIX" in refused.stderr, refused.stderr


def test_following_shows_what_comes_and_ends_with_the_sandbox(sandbox, far):
    command = [os.environ["CONFORMANCE_BINARY"], "sandbox", "net", sandbox.sandbox_id, "--follow", "--json"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    came, lines = threading.Event(), []

    def read() -> None:
        for line in following.stdout:
            lines.append(json.loads(line))
            if lines[-1]["target"] == far.other_name:
                came.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        curl(sandbox, f"https://{far.other_name}/")
        assert came.wait(10), lines
        assert [it["seq"] for it in lines] == sorted({it["seq"] for it in lines}), "each once, in order"
        sandbox.kill()
        assert following.wait(40) == 0
        reader.join()
    finally:
        following.kill()
        following.wait()


def test_who_talks_without_end_is_bounded(sandbox):
    many = "import socket\nfor n in range(3000):\n    try: socket.getaddrinfo(f'n{n}.example', 80)\n    except OSError: pass"
    sandbox.files.write("/tmp/many.py", many)
    sandbox.commands.run("python3 /tmp/many.py", timeout=60)
    curl(sandbox, "https://last.example/")
    shown = wait_until("some that were skipped", 15, lambda: [it for it in contacts(sandbox) if it.get("skippedBefore", 0) > 0])
    assert shown and len(contacts(sandbox)) <= 1000


# Sends one datagram, or so many.
DATAGRAMS = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[3])):
    try: s.sendto(b"x", (sys.argv[1], int(sys.argv[2]) + n % 50))
    except OSError: pass
"""


def test_what_the_kernel_refuses_by_address_is_told(sandbox, far):
    """With the entry that closed it, whatever the protocol; what is closed to everybody, too."""
    curl(sandbox, f"http://{far.outside}:8080/")
    refused = seen(sandbox, "tcp", f"{far.outside}:8080")
    assert (refused["verdict"], refused["rule"], refused["address"]) == ("refused", "denyOut 0.0.0.0/0", f"{far.outside}:8080")
    sandbox.files.write("/tmp/datagrams.py", DATAGRAMS)
    sandbox.commands.run(f"python3 /tmp/datagrams.py {far.outside} 9999 1")
    assert seen(sandbox, "udp", f"{far.outside}:9999")["rule"] == "denyOut 0.0.0.0/0"
    for closed in ("169.254.169.254:80", "10.1.2.3:22"):
        curl(sandbox, f"http://{closed}/")
        assert seen(sandbox, "tcp", closed)["rule"] == "closed to every sandbox"
    with Sandbox.create(timeout=60) as free:
        curl(free, "http://192.168.1.1:81/")
        assert seen(free, "tcp", "192.168.1.1:81")["rule"] == "closed to every sandbox"
        assert "192.168.1.1:81" in soulbox("logs", free.sandbox_id).stdout


def test_a_flood_of_refusals_is_heard_now_and_then(sandbox, far):
    sandbox.files.write("/tmp/datagrams.py", DATAGRAMS)
    sandbox.commands.run(f"python3 /tmp/datagrams.py {far.outside} 20000 50000", timeout=60)
    curl(sandbox, f"http://{far.outside}:8080/")
    told = [it for it in contacts(sandbox) if it["kind"] == "udp"]
    assert 0 < len(told) < 300, len(told)
    # Nobody else is drowned.
    with Sandbox.create(timeout=60) as other:
        curl(other, "http://192.168.1.1:81/")
        seen(other, "tcp", "192.168.1.1:81")


def test_programs_that_start_are_told(sandbox):
    sandbox.commands.run("/usr/bin/env told=by-name sleep 0.2")
    started = lambda: [it for it in contacts(sandbox) if it["kind"] == "process" and "told=by-name" in it["target"]]
    (first, *_) = wait_until("a start", 10, started)
    assert first["verdict"] == "allowed" and "address" not in first
    # One that starts many is heard now and then, and drowns nothing of what it says to the network.
    sandbox.commands.run("for n in $(seq 1000); do /bin/true; done", timeout=60)
    assert len([it for it in contacts(sandbox) if it["kind"] == "process"]) < 400
    curl(sandbox, "https://last.example/")
    seen(sandbox, "dns", "last.example")

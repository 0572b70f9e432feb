"""All TCP of a sandbox goes through the proxy that its owner names, and nothing goes around it.

What was asked of the proxy is read there, see `lib/socks.py`, and what arrived at the far side.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from e2b import ALL_TRAFFIC, Sandbox, SandboxException

from farside import FarSide
from raw import api, contact
from socks import PROXY_HOST, Socks

PASSWORD = "pass-password"


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


@pytest.fixture
def create():
    made = []

    def create(proxy: dict, **network) -> Sandbox:
        made.append(Sandbox.create(timeout=300, network={"egress_proxy": proxy, **network}))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def with_password(socks: Socks) -> dict:
    return {"address": f"{socks.address}:1081", "username": "user", "password": PASSWORD}


def asked(socks: Socks, sandbox: Sandbox, command: str) -> tuple[list[dict], str]:
    """What is asked of the proxy while a command runs, and what it says."""
    before = len(socks.seen())
    said = sandbox.commands.run(f"({command}\n) 2>&1; true", timeout=60).stdout
    return socks.seen()[before:], said


def test_all_tcp_goes_through(far, socks, create):
    sandbox = create({"address": f"{socks.address}:1080"})
    for command, port in (
        (f"curl -sSk -m 5 https://{far.name}/", 443),
        (f"curl -sSk -m 5 http://{far.name}/", 80),
        (f"curl -sSk -m 5 http://{far.inside}:8080/", 8080),
        # A server that speaks first.
        (f"python3 -c \"import socket; print(socket.create_connection(('{far.inside}', 22), 5).recv(99))\"", 22),
    ):
        through, said = asked(socks, sandbox, command)
        assert "REACHED" in said, (command, said)
        # By address: nobody but the guest says that this is the name.
        assert through == [{"mode": "open", "user": None, "kind": "address", "target": far.inside, "port": port}], command
    told = contact(sandbox, "tcp", f"{far.inside}:8080")
    assert (told["verdict"], told["rule"]) == ("allowed", "no entry")


def test_what_is_not_tcp_is_closed(far, socks, create):
    sandbox = create({"address": f"{socks.address}:1080"})
    before = len(far.seen())
    for probe in (
        f"s.connect(('{far.inside}', 9999)); s.send(b'x'); print(s.recv(99))",
        f"s.connect(('{far.inside}', 53)); s.send(b'x'); print(s.recv(99))",
    ):
        command = f'python3 -c "import socket; s = socket.socket(2, 2); s.settimeout(2); {probe}"'
        assert "REACHED" not in asked(socks, sandbox, command)[1]
    assert [line for line in far.seen()[before:] if "udp" in line] == []


def test_a_password(far, socks, create):
    sandbox = create(with_password(socks))
    through, said = asked(socks, sandbox, f"curl -sSk -m 5 https://{far.inside}/")
    assert "REACHED" in said and through[0]["user"] == "user"
    # Never shown again.
    answer = api("GET", f"/sandboxes/{sandbox.sandbox_id}").json["network"]["egressProxy"]
    assert answer == {"address": f"{socks.address}:1081", "username": "user"}
    sandbox.update_network({"egress_proxy": {**with_password(socks), "password": "wrong"}})
    _, said = asked(socks, sandbox, f"curl -sS -m 5 https://{far.outside}/")
    assert "reset" in said, said
    refused = contact(sandbox, "tls", far.outside)
    assert refused["verdict"] == "refused" and refused["rule"].startswith("egress proxy: Password auth failure")


def test_tls_to_the_proxy(far, socks, create):
    tls = {"server_name": PROXY_HOST, "ca_cert": socks.authority}
    proxy = {"address": f"{socks.address}:1082", "username": "user", "password": "pass-tls", "tls": tls}
    sandbox = create(proxy)
    through, said = asked(socks, sandbox, f"curl -sSk -m 5 https://{far.inside}/; curl -sS -m 5 http://{far.inside}:8080/")
    assert said.count("REACHED") == 2 and [it["mode"] for it in through] == ["tls", "tls"]
    shown = api("GET", f"/sandboxes/{sandbox.sandbox_id}").json["network"]["egressProxy"]
    assert shown["tls"] == {"enabled": True, "serverName": PROXY_HOST}
    # Who is not verified is told nothing.
    for changed in ({**tls, "server_name": "another.test"}, {"server_name": PROXY_HOST}):
        sandbox.update_network({"egress_proxy": {**proxy, "tls": changed}})
        through, said = asked(socks, sandbox, f"curl -sSk -m 5 https://{far.inside}/")
        assert "REACHED" not in said and through == []


def test_names_of_the_policy_are_asked_for_by_name(far, socks, create):
    sandbox = create(with_password(socks), allow_out=[far.name], deny_out=[ALL_TRAFFIC])
    for scheme, port in (("https", 443), ("http", 80)):
        through, said = asked(socks, sandbox, f"curl -sSk -m 5 {scheme}://{far.name}/")
        assert "REACHED" in said, said
        assert [(it["kind"], it["target"], it["port"]) for it in through] == [("name", far.name, port)]
    # The policy comes first: the proxy hears of nothing that is closed.
    for command in (
        f"curl -sSk -m 5 https://{far.other_name}/",
        f"curl -sSk -m 5 https://{far.outside}/",
        f"curl -sS -m 5 http://{far.outside}:8080/",
        f"curl -sS -m 5 http://{far.name}:8080/",
    ):
        through, said = asked(socks, sandbox, command)
        assert through == [] and "REACHED" not in said, command


def test_a_proxy_that_does_not_work_is_told_at_once(far, socks, create):
    sandbox = create({"address": f"{socks.address}:9"}, allow_out=[far.name], deny_out=[ALL_TRAFFIC])
    begun = time.monotonic()
    _, said = asked(socks, sandbox, f"curl -sSk -m 9 https://{far.name}/")
    assert "reset" in said, said
    _, said = asked(socks, sandbox, f"curl -sS -m 9 http://{far.name}/")
    assert "egress_proxy_failed" in said, said
    assert time.monotonic() - begun < 5
    refused = contact(sandbox, "http", far.name)
    assert "egress proxy: it cannot be reached" in refused["rule"]
    # One that says nothing.
    sandbox.update_network({"egress_proxy": {"address": f"{socks.address}:1083"}})
    _, said = asked(socks, sandbox, f"curl -sSk -m 20 https://{far.inside}/")
    assert "reset" in said, said
    # And what the proxy itself cannot reach.
    sandbox.update_network({"egress_proxy": {"address": f"{socks.address}:1080"}})
    _, said = asked(socks, sandbox, f"curl -sSk -m 5 http://{far.inside}:81/")
    # Reset, which may come before curl has seen that it is connected.
    assert "curl: (" in said, said
    sandbox.update_network({})
    through, said = asked(socks, sandbox, f"curl -sSk -m 5 https://{far.inside}/")
    assert through == [] and "REACHED" in said


def test_it_stays_over_pauses_and_forks(far, socks, create):
    sandbox = create(with_password(socks))
    sandbox.pause()
    again = Sandbox.connect(sandbox.sandbox_id)
    assert [it["user"] for it in asked(socks, again, f"curl -sSk -m 5 https://{far.inside}/")[0]] == ["user"]
    (fork,) = again.fork(count=1)
    try:
        assert [it["user"] for it in asked(socks, fork, f"curl -sSk -m 5 https://{far.inside}/")[0]] == ["user"]
    finally:
        fork.kill()


def test_the_password_is_in_no_file_of_the_server(socks, create):
    sandbox = create(with_password(socks))
    data = Path(os.environ["CONFORMANCE_DATA_DIR"])
    kept = [data / "soulbox.db", data / "soulbox.db-wal", *data.glob("sandboxes/**/state.json")]
    texts = [path.read_bytes() for path in kept if path.exists()]
    assert any(socks.address.encode() in text for text in texts), "the proxy is kept somewhere"
    assert [text for text in texts if PASSWORD.encode() in text] == []
    assert sandbox.is_running()


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ({"address": ""}, "egress proxy address must not be empty"),
        ({"address": "host"}, "must be in host:port form"),
        ({"address": ":1"}, "host must not be empty"),
        ({"address": "h:0"}, 'port "0" is not a valid 1-65535 value'),
        ({"address": "nothing.conformance.test:1"}, "resolve egress proxy host"),
        ({"address": "10.0.0.1:1"}, "resolves to an internal / denied IP range: 10.0.0.1 resolves to 10.0.0.1"),
        ({"address": "localhost:1"}, "resolves to an internal / denied IP range"),
        ({"address": "11.0.0.1:1", "password": "x"}, "password must be empty when username is empty"),
        ({"address": "11.0.0.1:1", "username": "x" * 256, "password": "x"}, "must not exceed 255 bytes"),
        ({"address": "11.0.0.1:1", "tls": {"ca_cert": "x"}}, "must be PEM"),
    ],
)
def test_what_is_refused(proxy, words):
    with pytest.raises(SandboxException, match="Invalid egress proxy config") as refused:
        Sandbox.create(network={"egress_proxy": proxy})
    assert words in str(refused.value)

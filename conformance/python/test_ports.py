"""Servers inside a sandbox, reached from outside through the one port."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from urllib.parse import urlsplit

import pytest
from e2b import Sandbox

import guests
import raw
from server import wait_until

HTTP, WEBSOCKET, ANYWHERE = 8000, 8001, 8002


def by_header(sandbox, port: int) -> dict[str, str]:
    return {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}


def by_host(sandbox, port: int) -> dict[str, str]:
    return {"Host": f"{port}-{sandbox.sandbox_id}.sandboxes.example"}


def serve(sandbox, program: str, address: str, port: int) -> None:
    """Starts a server that outlives the command, and returns when it listens."""
    path = f"/tmp/server-{port}.py"
    sandbox.files.write(path, program)
    sandbox.commands.run(f"nohup python3 {path} {address} {port} > {path}.log 2>&1 &")
    wait_until("the server listens", 10, lambda: "up" in sandbox.files.read(f"{path}.log"))


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=600)
    serve(sandbox, guests.HTTP_SERVER, "127.0.0.1", HTTP)
    serve(sandbox, guests.WEBSOCKET_SERVER, "127.0.0.1", WEBSOCKET)
    serve(sandbox, guests.HTTP_SERVER, "0.0.0.0", ANYWHERE)
    yield sandbox
    sandbox.kill()


@pytest.fixture(params=[by_header, by_host])
def way(request):
    return request.param


@pytest.mark.parametrize("port", [HTTP, ANYWHERE])
def test_loopback_server_is_reachable(sandbox, way, port):
    answer = raw.request("GET", "/some/path?query=1&x=%20y", way(sandbox, port))
    assert answer.status == 200, answer
    assert answer.json["path"] == "/some/path?query=1&x=%20y"


def test_host_is_passed_on(sandbox):
    answer = raw.request("GET", "/", by_host(sandbox, HTTP))
    assert answer.json["headers"]["host"] == f"{HTTP}-{sandbox.sandbox_id}.sandboxes.example"
    assert not any(name.startswith("x-forwarded") for name in answer.json["headers"])


def test_host_with_port_and_old_suffix(sandbox):
    for host in (f"{HTTP}-{sandbox.sandbox_id}.sandboxes.example:3000", f"{HTTP}-{sandbox.sandbox_id}-6532622b.sandboxes.example"):
        assert raw.request("GET", "/", {"Host": host}).status == 200, host


def test_headers_pass_both_ways(sandbox, way):
    answer = raw.request("GET", "/", way(sandbox, HTTP) | {"X-Custom": "välue", "Cookie": "a=b; c=d", "Authorization": "Bearer mine"})
    seen = answer.json["headers"]
    assert seen["cookie"] == "a=b; c=d" and seen["authorization"] == "Bearer mine"
    assert answer.headers["content-type"] == "application/json" and "date" in answer.headers


def test_methods_and_bodies(sandbox, way):
    body = bytes(range(256)) * 1000
    answer = raw.request("POST", "/echo", way(sandbox, HTTP), body)
    assert answer.status == 200 and answer.body == body
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:1000], body[1000:])) + b"0\r\n\r\n"
    answer = raw.request("POST", "/echo", way(sandbox, HTTP) | {"Transfer-Encoding": "chunked"}, chunked)
    assert answer.status == 200 and answer.body == body


def test_unknown_methods_reach_the_server(sandbox, way):
    assert raw.request("PROPFIND", "/", way(sandbox, HTTP)).status == 501


def test_big_body(sandbox):
    size = 50_000_000
    answer = raw.request("GET", f"/big={size}", by_header(sandbox, HTTP), timeout=60)
    wanted = bytes(range(256)) * 256
    assert answer.status == 200 and len(answer.body) == size
    digest = hashlib.sha256(wanted * (size // len(wanted)) + wanted[: size % len(wanted)])
    assert hashlib.sha256(answer.body).digest() == digest.digest()


def test_keep_alive(sandbox):
    with raw.Wire() as wire:
        for n in range(5):
            wire.send(raw.request_bytes("GET", f"/{n}", by_header(sandbox, HTTP) | {"Connection": "keep-alive"}))
            assert wire.answer().json["path"] == f"/{n}"


def test_server_sent_events_come_one_by_one(sandbox, way):
    with raw.Wire() as wire:
        wire.send(raw.request_bytes("GET", "/stream", way(sandbox, HTTP)))
        status, headers = wire.head()
        assert status == 200 and ("text/event-stream" in str(headers))
        chunked = "chunked" in str(headers).lower()
        arrivals = []
        text = b""
        while text.count(b"\n\n") < 5:
            text += wire.chunk() if chunked else wire.exactly(1)
            arrivals.append(time.monotonic())
        assert text.startswith(b"data: 0\n\ndata: 1\n\n")
        assert arrivals[-1] - arrivals[0] > 0.25


def test_client_that_leaves_ends_the_request(sandbox):
    with raw.Wire() as wire:
        wire.send(raw.request_bytes("GET", "/stream", by_header(sandbox, HTTP)))
        wire.head()
        count = "ss -Htn state established '( sport = :8000 )' 2>/dev/null | wc -l; true"
        if sandbox.commands.run("command -v ss || true").stdout == "":
            count = "grep -c ':1F40 .* 01 ' /proc/net/tcp || true"
        assert int(sandbox.commands.run(count).stdout) >= 1
    wait_until("the connection inside is closed", 5, lambda: int(sandbox.commands.run(count).stdout.split()[0]) == 0)


@pytest.mark.parametrize("size", [0, 5, 200, 70_000, 1_000_000])
def test_websocket_echo(sandbox, way, size):
    connection = raw.WebSocket("/", way(sandbox, WEBSOCKET))
    assert connection.accepted, (connection.status, connection.headers)
    for n in range(3):
        data = bytes([n]) * size
        connection.send(data)
        assert connection.receive() == (2, data)
    connection.close()


def test_websocket_idle_stays_open(sandbox):
    connection = raw.WebSocket("/", by_header(sandbox, WEBSOCKET))
    time.sleep(3)
    connection.send(b"still here", opcode=1)
    assert connection.receive() == (1, b"still here")
    connection.close()


def test_closed_port(sandbox, way):
    answer = raw.request("GET", "/", way(sandbox, 9999))
    assert answer.status == 502 and answer.headers["content-type"].startswith("application/json")
    assert answer.json == {"sandboxId": sandbox.sandbox_id, "message": "The sandbox is running but port is not open", "port": 9999, "code": 502}


def test_port_that_opens_late(sandbox):
    sandbox.commands.run("nohup sh -c 'sleep 0.6; exec python3 /tmp/server-8000.py 127.0.0.1 8010' >/dev/null 2>&1 &")
    answer = raw.request("GET", "/late", by_header(sandbox, 8010))
    assert answer.status in (200, 502)
    wait_until("the late port", 5, lambda: raw.request("GET", "/late", by_header(sandbox, 8010)).status == 200)


def test_browser_gets_a_page(sandbox):
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0", "Accept": "text/html"}
    answer = raw.request("GET", "/", by_host(sandbox, 9999) | browser)
    assert answer.status == 502 and answer.headers["content-type"].startswith("text/html")
    answer = raw.request("GET", "/", by_host(sandbox, 9999) | browser | {"Sec-Fetch-Mode": "cors"})
    assert answer.headers["content-type"].startswith("application/json")


def test_unknown_sandbox(way):
    class Nobody:
        sandbox_id = "i" + "0" * 20

    answer = raw.request("GET", "/", way(Nobody, 8000))
    assert answer.status == 502
    assert answer.json == {"sandboxId": Nobody.sandbox_id, "message": "The sandbox was not found", "code": 502}


def test_traffic_token():
    sandbox = Sandbox.create(timeout=120, network={"allow_public_traffic": False})
    try:
        assert sandbox.traffic_access_token
        serve(sandbox, guests.HTTP_SERVER, "127.0.0.1", HTTP)
        for way in (by_header, by_host):
            where = way(sandbox, HTTP)
            missing = raw.request("GET", "/", where)
            assert missing.status == 403 and missing.json["code"] == 403
            assert missing.json["message"] == "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing"
            wrong = raw.request("GET", "/", where | {"e2b-traffic-access-token": "wrong"})
            assert wrong.status == 403 and "Provided token in header 'e2b-traffic-access-token' is invalid" in wrong.json["message"]
            right = raw.request("GET", "/", where | {"e2b-traffic-access-token": sandbox.traffic_access_token})
            assert right.status == 200
        assert sandbox.commands.run("echo envd has its own token").exit_code == 0
        assert Sandbox.connect(sandbox.sandbox_id).traffic_access_token == sandbox.traffic_access_token
    finally:
        sandbox.kill()


def signed_url(sandbox, port: int, *arguments: str) -> str:
    """As the owner makes one, on the command line."""
    command = [os.environ["CONFORMANCE_BINARY"], "sandbox", "url", sandbox.sandbox_id, str(port), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def ask(url: str, path: str = "/", headers: dict[str, str] | None = None, target: str | None = None) -> raw.Answer:
    """Asks as a browser would that was given the address."""
    parts = urlsplit(url)
    return raw.request("GET", target or f"{path}?{parts.query}", {"Host": parts.netloc} | (headers or {}))


def test_signed_url():
    sandbox = Sandbox.create(timeout=120, network={"allow_public_traffic": False})
    try:
        serve(sandbox, guests.HTTP_SERVER, "127.0.0.1", HTTP)
        url = signed_url(sandbox, HTTP)
        assert url.startswith(f"http://{HTTP}-{sandbox.sandbox_id}.localhost:")
        page = ask(url, "/page")
        assert page.status == 200 and page.json["path"] == "/page", page
        cookie = page.headers["set-cookie"].split(";")[0]
        assert "HttpOnly" in page.headers["set-cookie"] and "omain" not in page.headers["set-cookie"]
        # What the page asks for next has the cookie only, and nothing of it is seen inside.
        follows = ask(url, headers={"Cookie": f"own=1; {cookie}"}, target="/image")
        assert follows.status == 200 and follows.json["headers"]["cookie"] == "own=1", follows.json
        assert ask(url, target="/image").status == 403
        other_port = urlsplit(url)._replace(netloc=urlsplit(url).netloc.replace(f"{HTTP}-", "8003-")).geturl()
        for changed in (url[:-1] + ("0" if url[-1] != "0" else "1"), other_port):
            refused = ask(changed)
            assert (refused.status, refused.json["error_code"]) == (403, "preview_url_invalid") and "FIX" in refused.json["message"]
        short = signed_url(sandbox, HTTP, "--for", "1s")
        refused = wait_until("the end of the address", 5, lambda: (answer := ask(short)).status == 403 and answer)
        assert refused.json["error_code"] == "preview_url_expired"
        assert raw.request("GET", "/", by_header(sandbox, HTTP) | {"e2b-traffic-access-token": sandbox.traffic_access_token}).status == 200
    finally:
        sandbox.kill()


def test_signed_url_wakes_what_wants_to_be_woken():
    sandbox = Sandbox.create(timeout=120, network={"allow_public_traffic": False}, lifecycle={"on_timeout": "pause", "auto_resume": True})
    try:
        serve(sandbox, guests.HTTP_SERVER, "127.0.0.1", HTTP)
        url = signed_url(sandbox, HTTP)
        sandbox.pause()
        assert ask(url[:-1] + ("0" if url[-1] != "0" else "1")).status == 403
        assert sandbox.get_info().state.value == "paused"
        assert ask(url, "/woken").json["path"] == "/woken"
    finally:
        sandbox.kill()


def test_url_of_public_traffic_has_no_signature(sandbox):
    assert "?" not in signed_url(sandbox, HTTP)
    assert ask(signed_url(sandbox, HTTP), target="/x").json["path"] == "/x"


def test_public_sandbox_has_no_traffic_token(sandbox):
    assert sandbox.traffic_access_token is None


def test_masked_host():
    sandbox = Sandbox.create(timeout=120, network={"mask_request_host": "custom.example.com:${PORT}"})
    try:
        serve(sandbox, guests.HTTP_SERVER, "127.0.0.1", HTTP)
        seen = raw.request("GET", "/", by_host(sandbox, HTTP)).json["headers"]
        assert seen["host"] == f"custom.example.com:{HTTP}"
        assert seen["x-forwarded-host"] == by_host(sandbox, HTTP)["Host"]
    finally:
        sandbox.kill()

"""Requests whose meaning two programs could read differently. One reading, or a refusal; never two."""

from __future__ import annotations

import os

import pytest

import raw
from raw import api

UNKNOWN = "i" + "0" * 20
KEY = f"X-API-Key: {os.environ.get('E2B_API_KEY', '')}\r\n"


@pytest.fixture(scope="module")
def sandbox():
    body = api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 300}).json
    yield body
    api("DELETE", f"/sandboxes/{body['sandboxID']}")


def send(data: bytes | str) -> raw.Answer | None:
    """The answer, or None when the server closed the connection instead."""
    with raw.Wire(5) as wire:
        wire.send(data.encode("latin-1") if isinstance(data, str) else data)
        try:
            return wire.answer()
        except ConnectionError:
            return None


def closed_or(answer: raw.Answer | None, *statuses: int) -> None:
    assert answer is None or answer.status in statuses, answer


def usable() -> None:
    assert api("GET", "/v2/sandboxes").status == 200


@pytest.mark.parametrize(
    "data",
    [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\0\r\n\r\n",
        "GET /he\0alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b\0c\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX A: b\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
        "GET /health HTTP/3.7\r\nHost: localhost\r\n\r\n",
        "GET /health\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Content-Length: -1\r\n\r\n",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Content-Length: +2\r\n\r\n{}",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n" + KEY + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n",
    ],
    ids=lambda value: repr(value)[1:60],
)
def test_malformed_requests_are_refused(data):
    answer = send(data)
    closed_or(answer, 400, 404, 411, 414, 431, 501, 505)
    usable()


def test_length_and_chunked_together_do_not_smuggle(sandbox):
    """With both, chunked wins or the request is refused; what follows the body is never a second request with our rights."""
    inner = f"DELETE /sandboxes/{sandbox['sandboxID']} HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\n"
    for framing in ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"):
        body = "0\r\n\r\n"
        data = f"POST /v2/nothing HTTP/1.1\r\nHost: localhost\r\n{KEY}{framing}\r\n{body}"
        closed_or(send(data), 400, 404)
    for te in ("Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked", "X: y\r\n Transfer-Encoding: chunked"):
        data = f"POST /v2/nothing HTTP/1.1\r\nHost: localhost\r\n{KEY}Content-Length: {len(inner)}\r\n{te}\r\n\r\n{inner}"
        closed_or(send(data), 400, 404)
    assert api("GET", f"/sandboxes/{sandbox['sandboxID']}").status == 200


def test_connect_is_no_open_proxy():
    for target in ("127.0.0.1:22", "example.com:443", "localhost:1"):
        closed_or(send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"), 400, 404, 405, 501)
    usable()


def test_absolute_form():
    """RFC 9112 §3.2.2: the authority of an absolute target replaces Host; it never makes us a forward proxy."""
    answer = send(f"GET http://example.invalid/v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\n")
    closed_or(answer, 200, 400, 404)
    usable()


def test_absolute_form_cannot_change_the_sandbox(sandbox):
    """Host names one sandbox, the target another: not both may be believed."""
    other = f"8000-{UNKNOWN}.example"
    mine = f"8000-{sandbox['sandboxID']}.example"
    answer = send(f"GET http://{other}/ HTTP/1.1\r\nHost: {mine}\r\n\r\n")
    if answer is not None:
        assert answer.status in (400, 502), answer
        if answer.status == 502:
            assert answer.json["sandboxId"] == UNKNOWN, answer


@pytest.mark.parametrize(
    "headers",
    [
        {"E2b-Sandbox-Id": UNKNOWN},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": ""},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": "abc"},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": "-1"},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": "+80"},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": "65536"},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": "99999999999999999999"},
        {"E2b-Sandbox-Id": UNKNOWN, "E2b-Sandbox-Port": "0"},
        {"E2b-Sandbox-Id": "UPPER", "E2b-Sandbox-Port": "80"},
        {"E2b-Sandbox-Id": "../etc", "E2b-Sandbox-Port": "80"},
        {"E2b-Sandbox-Id": "a" * 500, "E2b-Sandbox-Port": "80"},
        {"Host": f"99999-{UNKNOWN}.example"},
        {"Host": f"80-{UNKNOWN.upper()}x!.example"},
    ],
    ids=lambda value: str(list(value.values()))[:50],
)
def test_bad_routing(headers):
    answer = raw.request("GET", "/", headers)
    assert answer.status in (400, 404, 502), answer
    if answer.status == 502:
        assert "was not found" in answer.text


def test_two_sandbox_headers(sandbox):
    data = f"GET /health HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: {sandbox['sandboxID']}\r\nE2b-Sandbox-Id: {UNKNOWN}\r\nE2b-Sandbox-Port: 49983\r\n\r\n"
    closed_or(send(data), 400, 502)


def test_hop_by_hop_headers_cannot_strip_the_token(sandbox):
    """A client may not have the edge drop a security header by naming it in Connection."""
    headers = {
        "E2b-Sandbox-Id": sandbox["sandboxID"],
        "E2b-Sandbox-Port": "49983",
        "Connection": "close, X-Access-Token",
        "X-Access-Token": "wrong",
    }
    assert raw.request("GET", "/files?path=/etc/hostname", headers).status == 401


RESERVED = ["/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"]


@pytest.mark.parametrize("path", RESERVED)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_reserved_routes(sandbox, method, path):
    for way in ({"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "49983"}, {"Host": f"49983-{sandbox['sandboxID']}.example"}):
        answer = raw.request(method, path, way | {"X-Access-Token": sandbox["envdAccessToken"]}, b"{}" if method != "GET" else b"")
        assert answer.status == 404, answer
        assert answer.json == {"message": "This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL", "path": path, "code": 404}


@pytest.mark.parametrize("path", ["//init", "/./init", "/x/../init", "/%69nit", "/init/", "/init?x=1", "/INIT", "/init%00", "/init;a=b", "/%2e/init", "/..%2finit", "\\init"])
def test_reserved_routes_in_disguise(sandbox, path):
    headers = {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "49983", "X-Access-Token": sandbox["envdAccessToken"], "Content-Type": "application/json"}
    answer = raw.request("POST", path, headers, b'{"accessToken":"stolen","envVars":{"A":"b"}}')
    assert answer.status in (400, 404, 405), answer
    check = raw.request("GET", "/envs", {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "49983", "X-Access-Token": sandbox["envdAccessToken"]})
    assert check.status == 200 and "A" not in check.json


def test_reserved_routes_are_free_on_other_ports(sandbox):
    answer = raw.request("GET", "/init", {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "9999"})
    assert answer.status == 502 and "port is not open" in answer.text


def test_control_plane_key_is_not_a_sandbox_key(sandbox):
    headers = {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "49983", "X-API-Key": os.environ["E2B_API_KEY"]}
    assert raw.request("GET", "/envs", headers).status == 401


def test_very_long_heads():
    for data in (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50_000 + b"\r\n"):
        try:
            closed_or(send(data), 400, 404, 414, 431)
        except OSError:
            pass
    usable()


def test_pipelined_requests_are_answered_in_order():
    with raw.Wire() as wire:
        wire.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v2/nothing HTTP/1.1\r\nHost: localhost\r\n" + KEY.encode() + b"\r\n")
        assert wire.answer().status == 200
        assert wire.answer().status == 404

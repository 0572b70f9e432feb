"""The edge from outside: requests in disguise, and guessing.

Families of smuggling that need no control are in `conformance/wire/test_smuggling.py` and `crates/edge/tests/smuggling.rs`.
"""

from __future__ import annotations

import http.server
import os
import random
import secrets
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import frames
import pytest
from e2b import Sandbox
from harness import INSIDE, LEDGER, PROGRAMS, Attempt, judge, one

import raw
from server import wait_until

PORT = 8000
HIDDEN = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


def ambiguous() -> dict[str, str]:
    """Requests that two readers end at different places, or read different headers in. `{to}` is where they go."""
    long = HIDDEN + "X" * 20
    chunk = f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"

    def post(headers: str, body: str) -> str:
        return f"POST / HTTP/1.1\r\nHost: localhost\r\n{{to}}{headers}\r\n{body}"

    return {
        "length before chunks": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "chunks before length": post(f"Transfer-Encoding: chunked\r\nContent-Length: {5 + len(HIDDEN)}\r\n", "0\r\n\r\n" + HIDDEN),
        "chunked with a tab": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding:\tchunked\r\n", "0\r\n\r\n" + HIDDEN),
        "chunked with a space before the colon": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding : chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "chunked in capitals and quotes": post(f'Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding: "CHUNKED"\r\n', "0\r\n\r\n" + HIDDEN),
        "chunked twice": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n" + HIDDEN),
        "chunked and something": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding: x, chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "chunked in HTTP/1.0": f"POST / HTTP/1.0\r\nHost: localhost\r\n{{to}}Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
        "chunked in a bare line": post(f"Content-Length: {5 + len(HIDDEN)}\r\nX: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "an obsolete fold": post(f"Content-Length: {5 + len(HIDDEN)}\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "obs-text in a name": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding\xa0: chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "a null in a name": post(f"Content-Length: {5 + len(HIDDEN)}\r\nTransfer-Encoding\0: chunked\r\n", "0\r\n\r\n" + HIDDEN),
        "two lengths": post(f"Content-Length: {len(long)}\r\nContent-Length: 0\r\n", long),
        "a list of lengths": post(f"Content-Length: {len(long)}, 0\r\n", long),
        "a signed length": post(f"Content-Length: +{len(long)}\r\n", long),
        "a length with a space inside": post("Content-Length: 0 0\r\n", long),
        "a huge chunk": post("Transfer-Encoding: chunked\r\n", f"fffffffffffffffff0\r\n{long}"),
        "a chunk with a minus": post("Transfer-Encoding: chunked\r\n", f"-1\r\n{HIDDEN}"),
        "a chunk with 0x": post("Transfer-Encoding: chunked\r\n", f"0x0\r\n\r\n{HIDDEN}"),
        "a chunk extension with a line feed": post("Transfer-Encoding: chunked\r\n", f"1;a\n\r\nx\r\n0\r\n\r\n{HIDDEN}"),
        "a bare line feed ends the head": f"POST / HTTP/1.1\nHost: localhost\n{{to}}Content-Length: 0\n\n{HIDDEN}",
        "a carriage return alone": post(f"X: y\rContent-Length: {len(long)}\r\n", long),
        "a body of GET": f"GET / HTTP/1.1\r\nHost: localhost\r\n{{to}}Content-Length: {len(long)}\r\n\r\n{long}",
        "an upgrade that is none": f"GET / HTTP/1.1\r\nHost: localhost\r\n{{to}}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "a chunk inside a length": post(f"Content-Length: {len(chunk)}\r\n", chunk),
        "expect and a body": post(f"Content-Length: {len(long)}\r\nExpect: 200-nothing\r\n", long),
    }  # fmt: skip


class NaiveFront:
    """A proxy as it should not be: it reads a request by its first Content-Length and hands everything on as it is."""

    def __init__(self, backend: int):
        self.backend = backend
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            one.settimeout(0.3)
            data = b""
            try:
                while part := one.recv(65536):
                    data += part
            except OSError:
                pass
            with socket.create_connection(("127.0.0.1", self.backend)) as behind:
                behind.settimeout(0.3)
                behind.sendall(data)
                try:
                    one.sendall(behind.recv(65536))
                except OSError:
                    pass
            one.close()

    def close(self) -> None:
        self.listener.close()


def send_raw(port: int, data: bytes, patience: float = 0.25) -> None:
    """Sends and reads until nothing more comes for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
        wire.sendall(data)
        wire.settimeout(patience)
        try:
            while wire.recv(65536):
                pass
        except OSError:
            pass


class Careless:
    """The careless server on the host, for the control."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as one:
            self.port = one.getsockname()[1]
        self.process = subprocess.Popen([sys.executable, "-u", PROGRAMS / "literal_server.py", str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "up\n"

    def seen_when(self, work) -> list[str]:
        """The request lines that came while something was done."""
        work()
        mark = f"GET /mark-{secrets.token_hex(4)} HTTP/1.1"
        send_raw(self.port, f"{mark}\r\n\r\n".encode(), patience=0.05)
        lines = []
        while (line := self.process.stdout.readline()).strip() != mark:
            assert line, "the careless server has ended"
            lines.append(line.strip())
        return lines

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def target():
    """A sandbox with a careless server in it."""
    sandbox = Sandbox.create(timeout=300)
    sandbox.files.write(f"{INSIDE}/literal_server.py", (PROGRAMS / "literal_server.py").read_bytes())
    sandbox.commands.run(f"nohup python3 -u {INSIDE}/literal_server.py {PORT} > /tmp/seen 2>&1 &")
    wait_until("the careless server listens", 10, lambda: "up" in sandbox.files.read("/tmp/seen"))
    yield sandbox
    sandbox.kill()


def seen(sandbox) -> list[str]:
    """What that server has seen."""
    return sandbox.files.read("/tmp/seen").splitlines()[1:]


def api_port() -> int:
    return urlsplit(os.environ["E2B_API_URL"]).port


def test_no_request_hides_in_another(target):
    """The attacker wants a request of his own to arrive as somebody else's: what the edge passes on can be read in one way only."""
    to = f"E2b-Sandbox-Id: {target.sandbox_id}\r\nE2b-Sandbox-Port: {PORT}\r\n"
    found = {}
    for name, template in ambiguous().items():
        before = len(seen(target))
        send_raw(api_port(), template.replace("{to}", to).encode("latin-1"))
        said = seen(target)[before:]
        # A body that is what it says may hold anything; the second request must never be a request.
        found[name] = Attempt(any("hidden" in line for line in said), f"{said}")
    careless = Careless()
    front = NaiveFront(careless.port)
    shown = {}
    for name, template in ambiguous().items():
        data = template.replace("{to}", "").encode("latin-1")
        said = careless.seen_when(lambda data=data: send_raw(front.port, data, patience=3))
        shown[name] = Attempt(any("hidden" in line for line in said), f"{said}")
    front.close()
    careless.close()
    reasons = {name: "the careless server reads this one as the edge does" for name, attempt in shown.items() if not attempt.did}
    judge("smuggling", found, shown, reasons)
    assert sum(attempt.did for attempt in shown.values()) >= 8, shown


def pseudo(path: bytes = b"/h2", **changes: bytes) -> list[tuple[bytes, bytes]]:
    fields = {b":method": b"GET", b":scheme": b"http", b":path": path, b":authority": b"localhost"} | {name.encode(): value for name, value in changes.items()}
    return list(fields.items())


def h2_requests(identity: str) -> dict[str, dict]:
    """HTTP/2 that means two things, or nothing (RFC 9113 sections 8.2 and 8.3)."""
    to = [(b"e2b-sandbox-id", identity.encode()), (b"e2b-sandbox-port", str(PORT).encode())]
    inner = HIDDEN.encode()

    def changed(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
        return [(field, value if field == name else old) for field, old in pseudo()] + to

    return {
        "two paths": {"fields": [*pseudo(), (b":path", b"/hidden"), *to]},
        "two authorities": {"fields": [*pseudo(), (b":authority", b"other"), *to]},
        "host against authority": {"fields": [*pseudo(), (b"host", b"other"), *to]},
        "a pseudo-header behind a header": {"fields": [*to, *pseudo()]},
        "an unknown pseudo-header": {"fields": [*pseudo(), (b":hidden", b"x"), *to]},
        "a response's pseudo-header": {"fields": [*pseudo(), (b":status", b"200"), *to]},
        "no path": {"fields": [*(f for f in pseudo() if f[0] != b":path"), *to]},
        "no method": {"fields": [*(f for f in pseudo() if f[0] != b":method"), *to]},
        "an empty path": {"fields": changed(b":path", b"")},
        "a path with a space": {"fields": changed(b":path", b"/x HTTP/1.1\r\nX: y")},
        "a path with a line end": {"fields": changed(b":path", b"/x HTTP/1.1\r\n\r\nGET /hidden")},
        "a method with a line end": {"fields": changed(b":method", b"GET /hidden HTTP/1.1\r\nX:")},
        "a header with a line end": {"fields": [*pseudo(), *to, (b"x", b"y\r\n\r\n" + inner)]},
        "a name with a line end": {"fields": [*pseudo(), *to, (b"x\r\ny: z\r\n\r\n" + inner, b"y")]},
        "a name in capitals": {"fields": [*pseudo(), *to, (b"X-Upper", b"y")]},
        "a name with a colon": {"fields": [*pseudo(), *to, (b"x:y", b"z")]},
        "transfer-encoding": {"fields": [*changed(b":method", b"POST"), (b"transfer-encoding", b"chunked")], "body": b"0\r\n\r\n" + inner},
        "connection": {"fields": [*pseudo(), *to, (b"connection", b"keep-alive")]},
        "upgrade": {"fields": [*pseudo(), *to, (b"upgrade", b"h2c")]},
        "a length that is too short": {"fields": [*changed(b":method", b"POST"), (b"content-length", b"0")], "body": inner},
        "a length that is too long": {"fields": [*changed(b":method", b"POST"), (b"content-length", b"9999")], "body": inner},
        "two lengths": {"fields": [*changed(b":method", b"POST"), (b"content-length", b"0"), (b"content-length", str(len(inner)).encode())], "body": inner},
        "pseudo-headers in trailers": {"fields": changed(b":method", b"POST"), "body": b"x", "trailers": [(b":path", b"/hidden")]},
        "a userinfo in the authority": {"fields": changed(b":authority", b"a@localhost")},
        "CONNECT": {"fields": [(b":method", b"CONNECT"), (b":authority", b"localhost:1"), *to]},
        "extended CONNECT": {"fields": [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *pseudo()[1:], *to]},
    }  # fmt: skip


def test_http2_in_disguise(target):
    """The attacker speaks HTTP/2, whose fields may hold what HTTP/1.1 takes for the end of a line."""
    assert frames.request([*pseudo(b"/plain"), (b"e2b-sandbox-id", target.sandbox_id.encode()), (b"e2b-sandbox-port", str(PORT).encode())]) == 200
    assert seen(target)[-1] == "GET /plain HTTP/1.1"
    found = {}
    for name, request in h2_requests(target.sandbox_id).items():
        before = len(seen(target))
        answer = frames.request(**request)
        said = seen(target)[before:]
        # Refused, or passed on as exactly one ordinary request whose body is a body.
        did = any("hidden" in line for line in said) or len(said) > 1 or answer not in (None, 200, 400, 401, 404, 405, 408, 413, 501, 502)
        found[name] = Attempt(did, f"{answer} {said}")
    careless = Careless()
    front = frames.NaiveFront(careless.port)
    shown = {}
    for name, request in h2_requests("x").items():
        said = careless.seen_when(lambda request=request: frames.request(**request, port=front.port))
        shown[name] = Attempt(len(said) > 1 or any("hidden" in line for line in said), f"{said}")
    front.close()
    careless.close()
    reasons = {name: "pasted into HTTP/1.1 it is one request, or none" for name, attempt in shown.items() if not attempt.did}
    judge("HTTP/2", found, shown, reasons)
    assert sum(attempt.did for attempt in shown.values()) >= 5, shown
    assert raw.request("GET", "/health").status == 200


CONFUSED_PATHS = [
    "/files?path=/etc/hostname", "//files?path=/etc/hostname", "/./files?path=/etc/hostname", "/health/../files?path=/etc/hostname", "/%66iles?path=/etc/hostname",
    "/files/?path=/etc/hostname", "/files;x?path=/etc/hostname", "/files%3fpath=/etc/hostname", "/files?path=/etc/hostname#/health", "/health?/../files", "/health%00/files",
    "/\\files?path=/etc/hostname", "/health/..%2ffiles?path=/etc/hostname", "/..;/files?path=/etc/hostname", "/FILES?path=/etc/hostname", "/files?path=/etc/hostname&signature=",
    "/envs", "/metrics", "/process.Process/List", "/health/../process.Process/List", "/process.Process%2fList", "/health",
]  # fmt: skip


def test_paths_in_disguise(target):
    """The attacker knows the id of a sandbox and has no token: `/health` is for everybody, and must be no way to the rest."""
    identity, way = target.sandbox_id, {"E2b-Sandbox-Id": target.sandbox_id, "E2b-Sandbox-Port": "49983"}
    hostname = target.commands.run("hostname").stdout.strip()
    found, shown = {}, {}
    for path in CONFUSED_PATHS:
        for name, headers in (("headers", way), ("host", {"Host": f"49983-{identity}.example"})):
            answer = raw.request("GET", path, headers)
            inside = answer.status == 200 or hostname in answer.text
            found[f"{path} by {name}"] = Attempt(inside, f"{answer.status} {answer.text[:60]}")
            with_token = raw.request("GET", path, headers | {"X-Access-Token": target._envd_access_token})
            shown[f"{path} by {name}"] = Attempt(with_token.status == 200, str(with_token.status))
    reasons = {name: "there is nothing at this address for the owner either" for name, attempt in shown.items() if not attempt.did}
    judge("paths", found, shown, reasons)


# --- guessing

SAMPLES = 300


class Early(http.server.BaseHTTPRequestHandler):
    """A server that compares a token character by character and stops at the first difference. A microsecond for each, as
    an interpreter needs: a comparison in machine code that stops early differs by nanoseconds, which no client can measure."""

    protocol_version = "HTTP/1.1"
    token = ""

    def do_GET(self):
        shown = self.headers.get("X-Access-Token", "")
        good = len(shown) == len(self.token)
        for a, b in zip(shown, self.token):
            if a != b:
                good = False
                break
            until = time.perf_counter_ns() + 1000
            while time.perf_counter_ns() < until:
                pass
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def wrong_tokens(token: str) -> dict[str, str]:
    """The same length, right up to nothing, up to the half, and up to the last character."""

    def other(character: str) -> str:
        return "0" if character != "0" else "1"

    half = len(token) // 2
    return {
        "none": "".join(other(character) for character in token),
        "half": token[:half] + "".join(other(character) for character in token[half:]),
        "all but one": token[:-1] + other(token[-1]),
    }


def timings(port: int, target: str, headers: str, tokens: dict[str, str], field: str) -> dict[str, list[float]]:
    """Times of answers on one connection, in an order that nothing else can be in step with."""
    times: dict[str, list[float]] = {name: [] for name in tokens}
    order = [name for name in tokens for _ in range(SAMPLES)]
    random.shuffle(order)
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        file = wire.makefile("rb")
        for name in ["none"] * 20 + order:
            request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}{field}: {tokens[name]}\r\n\r\n".encode()
            started = time.perf_counter_ns()
            wire.sendall(request)
            status = int(file.readline().split()[1])
            elapsed = time.perf_counter_ns() - started
            assert status in (401, 403), status
            length = 0
            while (line := file.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            file.read(length)
            if order and name in times:
                times[name].append(elapsed / 1000)
    return {name: values[-SAMPLES:] for name, values in times.items()}


def difference(times: dict[str, list[float]]) -> float:
    """Microseconds by which the answers to one kind of wrong token are later than to another.

    Of low quantiles: what disturbs makes answers late, never early, and the earliest answers show the work alone.
    """
    floors = [statistics.mean(sorted(values)[len(values) // 20 : len(values) // 4]) for values in times.values()]
    return max(floors) - min(floors)


def early_exit(token: str) -> float:
    Early.token = token
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Early)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        return difference(timings(server.server_address[1], "/", "", wrong_tokens(token), "X-Access-Token"))
    finally:
        server.shutdown()


@pytest.mark.parametrize("what", ["envd's token", "the traffic token", "the API key", "the operator's token"])
def test_tokens_cannot_be_guessed_by_timing(target, what):
    """The attacker measures how long a wrong token is looked at, and finds the right one character by character."""
    identity = target.sandbox_id
    to = f"E2b-Sandbox-Id: {identity}\r\nE2b-Sandbox-Port: 49983\r\n"
    private = None
    if what == "envd's token":
        token, field, path, headers = target._envd_access_token, "X-Access-Token", "/envs", to
    elif what == "the traffic token":
        private = Sandbox.create(timeout=60, network={"allow_public_traffic": False})
        token, field, path = private.traffic_access_token, "e2b-traffic-access-token", "/"
        headers = f"E2b-Sandbox-Id: {private.sandbox_id}\r\nE2b-Sandbox-Port: 8000\r\n"
    elif what == "the API key":
        token, field, path, headers = os.environ["E2B_API_KEY"], "X-API-Key", "/v2/sandboxes", ""
    else:
        token, field, path, headers = (Path(os.environ["CONFORMANCE_DATA_DIR"]) / "admin.token").read_text().strip(), "X-Admin-Token", "/nodes", ""
    tokens = wrong_tokens(token)
    if what == "the API key":
        # Hexadecimal behind its prefix, or it is refused for its form before anybody looks.
        prefix, body = token[: -40], token[-40:]
        tokens = {name: prefix + wrong for name, wrong in wrong_tokens(body).items()}
    try:
        # What one run shows by chance a second one does not.
        measured = min(difference(timings(api_port(), path, headers, tokens, field)) for _ in range(3))
        shown = early_exit(token)
        bound = shown / 2
        one("timing", what, measured > bound, shown > 10, f"{measured:.1f} µs; an early exit shows {shown:.1f} µs")
        LEDGER.notes.append(f"timing of {what}: {measured:.1f} µs between wrong tokens, {shown:.1f} µs with an early exit")
    finally:
        if private is not None:
            private.kill()

"""HTTP and WebSocket by hand, for what no well-behaved client would send or show."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
from urllib.parse import urlsplit

from server import wait_until


def server_address() -> tuple[str, int]:
    url = urlsplit(os.environ["E2B_API_URL"])
    return url.hostname, url.port


class Answer:
    """A parsed HTTP/1.1 response."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes, complete: bool):
        self.status = status
        self.headers: dict[str, str] = {}
        for name, value in headers:
            name = name.lower()
            # Lines with the same name mean the same as one line with both values.
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.body = body
        # False when the connection ended before the framing said so.
        self.complete = complete

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"HTTP {self.status} {self.headers} {self.body[:400]!r}"


class Wire:
    """One TCP connection to the server's port."""

    def __init__(self, timeout: float = 10):
        self.socket = socket.create_connection(server_address(), timeout=timeout)
        self.buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self._more():
                raise ConnectionError("the server closed the connection")
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self._more():
                raise ConnectionError(f"the server closed the connection {count - len(self.buffer)} bytes early")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        """Status and headers of the next response that is not provisional."""
        while True:
            status = int(self.line().split()[1])
            headers = []
            while line := self.line():
                name, _, value = line.decode("latin-1").partition(":")
                headers.append((name, value.strip()))
            if status >= 200 or status == 101:
                return status, headers

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int(self.line().split(b";")[0], 16)
        data = self.exactly(size)
        self.line()
        return data

    def answer(self, method: str = "GET") -> Answer:
        status, headers = self.head()
        fields = {name.lower(): value for name, value in headers}
        body, complete = b"", True
        if method == "HEAD" or status in (101, 204, 304):
            return Answer(status, headers, body, complete)
        try:
            if "chunked" in fields.get("transfer-encoding", ""):
                while data := self.chunk():
                    body += data
            elif "content-length" in fields:
                body = self.exactly(int(fields["content-length"]))
            else:
                while self._more():
                    pass
                body, self.buffer = self.buffer, b""
        except (ConnectionError, ValueError):
            body, complete = body + self.buffer, False
        return Answer(status, headers, body, complete)


def request_bytes(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    host, port = server_address()
    fields = {"Host": f"{host}:{port}", "Connection": "close"} | (headers or {})
    if body and not any(name.lower() in ("content-length", "transfer-encoding") for name in fields):
        fields["Content-Length"] = str(len(body))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode("utf-8") + b"\r\n" + body


def request(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", timeout: float = 15) -> Answer:
    with Wire(timeout) as wire:
        wire.send(request_bytes(method, target, headers, body))
        return wire.answer(method)


def api(method: str, target: str, body=None, key: str | None = "", headers: dict[str, str] | None = None) -> Answer:
    """A control-plane request; `body` is JSON unless it is bytes, `key=None` sends none."""
    fields = dict(headers or {})
    if key is not None:
        fields["X-API-Key"] = key or os.environ["E2B_API_KEY"]
    payload = b""
    if body is not None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields.setdefault("Content-Type", "application/json")
    return request(method, target, fields, payload)


def contact(sandbox, kind: str, target: str) -> dict:
    """The last contact of this kind with this target, when there is one."""

    def found() -> list[dict]:
        told = api("GET", f"/sandboxes/{sandbox.sandbox_id}/network/contacts").json["contacts"]
        return [it for it in told if (it["kind"], it["target"]) == (kind, target)]

    return wait_until(f"{kind} {target}", 10, found)[-1]


class WebSocket:
    """A client that upgrades a connection which is already aimed at a sandbox's port by its headers."""

    def __init__(self, target: str, headers: dict[str, str], timeout: float = 10):
        self.wire = Wire(timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        self.wire.send(
            request_bytes(
                "GET",
                target,
                {
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Key": key,
                    "Sec-WebSocket-Version": "13",
                    **headers,
                },
            )
        )
        self.status, fields = self.wire.head()
        self.headers = {name.lower(): value for name, value in fields}
        wanted = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        self.accepted = self.status == 101 and self.headers.get("sec-websocket-accept") == wanted.decode()

    def send(self, data: bytes, opcode: int = 2) -> None:
        mask = os.urandom(4)
        if len(data) < 126:
            length = struct.pack("!B", 0x80 | len(data))
        elif len(data) < 65536:
            length = struct.pack("!BH", 0x80 | 126, len(data))
        else:
            length = struct.pack("!BQ", 0x80 | 127, len(data))
        repeated = (mask * (len(data) // 4 + 1))[: len(data)]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")
        self.wire.send(bytes([0x80 | opcode]) + length + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        first, second = self.wire.exactly(2)
        length = second & 0x7F
        if length == 126:
            length = struct.unpack("!H", self.wire.exactly(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", self.wire.exactly(8))[0]
        return first & 0x0F, self.wire.exactly(length)

    def close(self) -> None:
        self.wire.close()


def refused(answer: Answer, status: int, message: str = "") -> None:
    """An error as every client needs it: JSON, `code` equal to the status, a text."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/json"), answer
    body = answer.json
    assert body["code"] == status and isinstance(body["message"], str) and body["message"], answer
    assert message in body["message"], answer

"""A small internet of our own: a network namespace with a public address, and a DNS server for the suites.

No test may depend on the real internet. The namespace holds an HTTP server on a public-looking address, and the
same server on addresses that no sandbox may reach (private, link-local), so that a refusal is seen to be the
sandbox's and not the absence of a server.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading

PUBLIC = "11.22.33.44"
HOST_SIDE = "11.22.33.1"
PRIVATE = ("192.168.177.2", "10.177.0.2", "172.20.177.2", "100.64.177.2", "169.254.177.2")
PORT = 8080
NAMES = {"public.conformance.test": PUBLIC, "private.conformance.test": PRIVATE[0]}
# Below this one, a name is its own answer: `169-254-169-254.ip.conformance.test`.
NUMBERS = ".ip.conformance.test"
# A name whose answers change, one after the other: what was public when it was looked at is private when it is used.
REBINDING = "rebind.conformance.test"
# Below this one, every name has an answer of every type, as at the far end of a tunnel.
TUNNEL = ".tunnel.conformance.test"

_SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"peer {self.client_address[0]} path {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", %d), Answer)
print("up", flush=True)
server.serve_forever()
""" % PORT


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def sweep() -> None:
    """Takes down what runs that were killed have left: their cable would lead to a world without a server."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        number = name.removeprefix("conformance")
        if name != number and number.isdigit() and not os.path.exists(f"/proc/{number}"):
            subprocess.run(["ip", "link", "delete", f"cfi{number}"], capture_output=True)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


class Internet:
    """The namespace, its cable and its server. Everything goes when `close` is called."""

    def __init__(self):
        suffix = os.getpid() % 100_000
        self.namespace = f"conformance{suffix}"
        self.cable = f"cfi{suffix}"
        self.server: subprocess.Popen | None = None

    def open(self) -> "Internet":
        sweep()
        inner = f"{self.cable}n"
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self.cable, "type", "veth", "peer", "name", inner, "netns", self.namespace)
        _ip("address", "add", f"{HOST_SIDE}/24", "dev", self.cable)
        _ip("link", "set", self.cable, "up")
        for address in (PUBLIC, *PRIVATE):
            _ip("-n", self.namespace, "address", "add", f"{address}/32", "dev", inner)
        _ip("-n", self.namespace, "link", "set", inner, "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        # Only the host is known in there: an answer proves that the sandbox's address was translated.
        _ip("-n", self.namespace, "route", "add", f"{HOST_SIDE}/32", "dev", inner)
        for address in PRIVATE:
            # A metric of its own: another run beside this one has the same addresses, and the same server on them.
            _ip("route", "add", f"{address}/32", "dev", self.cable, "metric", str(os.getpid()))
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-c", _SERVER],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout.readline().strip() == "up"
        return self

    def close(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True)


class Dns:
    """A UDP name server on loopback that knows the names above and nothing else."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        # How often the changing name was asked for: even times lead to the public address.
        asked = 0
        while True:
            query, peer = self.socket.recvfrom(4096)
            try:
                name, kind, question = parse(query)
                if name == REBINDING and kind == 1:
                    record = socket.inet_aton((PUBLIC, PRIVATE[0])[asked % 2])
                    asked += 1
                else:
                    record = record_of(name, kind)
                self.socket.sendto(answer(query, question, name, kind, record), peer)
            except (ValueError, IndexError, struct.error, OSError):
                continue


def parse(query: bytes) -> tuple[str, int, bytes]:
    """Name and type of a query, and its question as it stands."""
    _, flags, questions = struct.unpack("!HHH", query[:6])
    if questions != 1 or flags & 0x8000:
        raise ValueError("not a question")
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii").lower())
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
    return ".".join(labels), kind, query[12 : at + 5]


def record_of(name: str, kind: int) -> bytes | None:
    """The data of the one record of this type that a name has."""
    if name.endswith(TUNNEL):
        return {1: socket.inet_aton(PUBLIC), 16: b"\x20" + b"t" * 32}.get(kind, b"n" * 32)
    if name.endswith(NUMBERS):
        number = name.removesuffix(NUMBERS)
        if kind == 1 and number.count("-") == 3 and ":" not in number:
            return socket.inet_aton(number.replace("-", "."))
        if kind == 28 and number.startswith("v6-"):
            return socket.inet_pton(socket.AF_INET6, number.removeprefix("v6-").replace("-", ":"))
        return None
    return socket.inet_aton(NAMES[name]) if kind == 1 and name in NAMES else None


def answer(query: bytes, question: bytes, name: str, kind: int, record: bytes | None) -> bytes:
    """The record, an empty answer for other types of a name that is known, else NXDOMAIN."""
    identity = query[:2]
    known = name in NAMES or name == REBINDING or name.endswith((NUMBERS, TUNNEL))
    if record is None:
        return identity + struct.pack("!5H", 0x8180 if known else 0x8183, 1, 0, 0, 0) + question
    found = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0 if name == REBINDING else 5, len(record)) + record
    return identity + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + question + found

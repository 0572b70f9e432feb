"""Servers that header rules send to: a network namespace with public addresses, each with HTTPS under a name of its own.

They write down every request with its headers, so that a test sees what has really arrived. One of them has a
certificate that nobody trusts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from e2b import Sandbox

_SERVER = r"""
import http.server, json, os, socket, ssl, sys, threading
log, *servers = sys.argv[1:]
out = os.open(log, os.O_WRONLY | os.O_APPEND)
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        seen = {"at": self.server.what, "method": self.command, "path": self.path, "headers": self.headers.items(), "body": body}
        os.write(out, (json.dumps(seen) + "\n").encode())
        where = self.path.partition("?to=")[2]
        answer = ("REACHED, body " + self.headers.get("X-Key", "nothing") + "\n").encode()
        self.send_response(302 if where else 200)
        if where: self.send_header("Location", where)
        self.send_header("X-Echo", "you sent " + self.headers.get("X-Key", "nothing"))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_TRACE = do_GET
    def log_message(self, *_): pass
class Four(http.server.ThreadingHTTPServer):
    request_queue_size = 128
class Six(Four):
    address_family = socket.AF_INET6
for server in servers:
    what, address, cert = server.split(",")
    Server = Six if ":" in address else Four
    http_server = Server((address, 443), Answer)
    http_server.what = what
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    # The handshake is done by the thread of the connection: one that fails holds up nobody.
    http_server.socket = context.wrap_socket(http_server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    plain = Server((address, 80), Answer)
    plain.what = what + " in the clear"
    threading.Thread(target=plain.serve_forever, daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""

# Speaks HTTP/2 and nothing else, and says again behind the body what it was sent.
_SERVER_OF_HTTP2 = r"""
const [log, address, pem] = process.argv.slice(1);
const fs = require("fs"), http2 = require("http2");
const server = http2.createSecureServer({ key: fs.readFileSync(pem), cert: fs.readFileSync(pem) });
server.on("stream", (stream, headers) => {
  const name = headers["x-key"] || "nothing";
  let body = "";
  stream.on("data", (data) => (body += data));
  stream.on("error", () => {});
  stream.on("end", () => {
    const seen = { at: "second", method: headers[":method"], path: headers[":path"], authority: headers[":authority"], headers: Object.entries(headers), body };
    fs.appendFileSync(log, JSON.stringify(seen) + "\n");
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-behind": "you sent " + name }));
    stream.respond({ ":status": 200, "x-echo": "you sent " + name }, { waitForTrailers: true });
    stream.end("REACHED, body " + name + "\n");
  });
});
server.listen(443, address, () => console.log("up"));
"""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Upstream:
    """`ruled`, `other` and `untrusted`, and `second`, which speaks HTTP/2 only: names with an address each. With `ipv6` also
    `six` and `seven`, with an address of IPv6 each. Everything goes when `close` is called."""

    def __init__(self, ipv6: bool = False):
        number = os.getpid() % 50_000
        self.namespace = f"upstream{number}"
        self.cable = f"cfu{number}"
        prefix = f"11.{200 + number // 250 % 50}.{number % 250}"
        self.host = f"{prefix}.1"
        self.addresses = {"ruled": f"{prefix}.2", "other": f"{prefix}.3", "untrusted": f"{prefix}.4", "second": f"{prefix}.5"}
        self.host6 = f"2a0c:{number:x}:0:0:0:0:0:1" if ipv6 else None
        if ipv6:
            self.addresses |= {which: f"2a0c:{number:x}:0:0:0:0:0:{last}" for which, last in (("six", 6), ("seven", 7))}
        self.work = tempfile.TemporaryDirectory(prefix="upstream-")
        self.log = Path(self.work.name, "log")
        self.authority = Path(self.work.name, "authority.pem")
        self.servers: list[subprocess.Popen] = []

    def name(self, which: str) -> str:
        address = self.addresses[which]
        number = f"v6-{address.replace(':', '-')}" if ":" in address else address.replace(".", "-")
        return f"{number}.ip.conformance.test"

    def _certificate(self, which: str) -> Path:
        """Of the test's authority, but for the one that is not to be trusted."""
        stem = Path(self.work.name, which)
        ca, key = (self.authority, self.authority.with_suffix(".key")) if which != "untrusted" else (stem.with_suffix(".ca"), stem.with_suffix(".cakey"))
        if which == "untrusted":
            self._authority(ca, key)
        stem.with_suffix(".ext").write_text(f"subjectAltName=DNS:{self.name(which)}\nbasicConstraints=critical,CA:FALSE\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        _run("openssl", "req", "-new", *new_key, "-subj", f"/CN={which}", "-keyout", f"{stem}.key", "-out", f"{stem}.csr")
        _run("openssl", "x509", "-req", "-in", f"{stem}.csr", "-CA", str(ca), "-CAkey", str(key), "-CAcreateserial",
             "-days", "2", "-extfile", f"{stem}.ext", "-out", f"{stem}.crt")  # fmt: skip
        pem = stem.with_suffix(".pem")
        pem.write_text(Path(f"{stem}.key").read_text() + Path(f"{stem}.crt").read_text())
        return pem

    def _authority(self, ca: Path, key: Path) -> None:
        _run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=authority of the test", "-keyout", str(key), "-out", str(ca))  # fmt: skip

    def open(self) -> "Upstream":
        inner = f"{self.cable}n"
        _run("ip", "netns", "add", self.namespace)
        _run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", inner, "netns", self.namespace)
        _run("ip", "address", "add", f"{self.host}/24", "dev", self.cable)
        if self.host6:
            _run("ip", "-6", "address", "add", f"{self.host6}/64", "dev", self.cable, "nodad")
        _run("ip", "link", "set", self.cable, "up")
        for address in self.addresses.values():
            how = [f"{address}/64", "nodad"] if ":" in address else [f"{address}/24"]
            _run("ip", "-n", self.namespace, "address", "add", *how, "dev", inner)
        _run("ip", "-n", self.namespace, "link", "set", inner, "up")
        _run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self._authority(self.authority, self.authority.with_suffix(".key"))
        self.log.touch()
        certificates = {which: str(self._certificate(which)) for which in self.addresses}
        servers = [f"{which},{address},{certificates[which]}" for which, address in self.addresses.items() if which != "second"]
        self.start(sys.executable, "-c", _SERVER, str(self.log), *servers)
        self.start("node", "-e", _SERVER_OF_HTTP2, str(self.log), self.addresses["second"], certificates["second"])
        return self

    def start(self, *command: str) -> None:
        """Starts a program beside the servers, and waits until it says `up`."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        self.servers.append(subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True))
        assert self.servers[-1].stdout.readline().strip() == "up"

    def seen(self) -> list[dict]:
        """The requests that have arrived so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True)
        self.work.cleanup()


def run(sandbox: Sandbox, command: str) -> str:
    """What a command in a sandbox says, its errors too, whether it fails or not."""
    return sandbox.commands.run(f"({command}\n) 2>&1; true", timeout=60).stdout


def arrived(upstream: Upstream, sandbox: Sandbox, command: str) -> tuple[list[dict], str]:
    """What arrives while a command runs, and what it says."""
    before = len(upstream.seen())
    said = run(sandbox, command)
    return upstream.seen()[before:], said

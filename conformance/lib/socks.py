"""A SOCKS5 proxy of the tests' own (RFC 1928, RFC 1929), with a public-looking address in a network namespace.

It stands beside the servers that it connects to, so that they see its address and not the host's: what has gone around the
proxy is told from what has gone through it. It writes down what it is asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROXY_HOST = "proxy.socks.test"
# What else there is on ports of their own, and no proxy should be.
HOSTILE = {
    mode: 1100 + number
    for number, mode in enumerate((
        "closes", "wrong-version", "wrong-method", "half-greeting", "endless", "silence", "half-reply", "half-reply-silence",
        "wrong-kind", "unknown-error", "no-text", "huge-domain", "single-bytes",
    ))
}  # fmt: skip

_SERVER = r"""
import json, os, socket, ssl, struct, sys, threading, time
address, log, cert, names = sys.argv[1:5]
names = json.loads(names)
out = os.open(log, os.O_WRONLY | os.O_APPEND)
def note(**what): os.write(out, (json.dumps(what) + "\n").encode())
def exactly(s, count):
    data = b""
    while len(data) < count:
        got = s.recv(count - len(data))
        if not got: raise EOFError
        data += got
    return data
def pump(one, other):
    try:
        while data := one.recv(65536): other.sendall(data)
    except OSError: pass
    try: other.shutdown(socket.SHUT_WR)
    except OSError: pass
def reach(target, port):
    own = None if ":" in target else (address, 0)
    far = socket.create_connection((names.get(target, target), port), 5, source_address=own)
    far.settimeout(None)
    return far
def both(s, far):
    other = threading.Thread(target=pump, args=(s, far), daemon=True)
    other.start()
    pump(far, s)
    other.join()
def hostile(s, mode):
    if mode == "closes": return
    exactly(s, exactly(s, 2)[1])
    if mode == "wrong-version": return s.sendall(b"\4\0")
    if mode == "wrong-method": return s.sendall(b"\5\7")
    if mode == "half-greeting": return s.sendall(b"\5")
    if mode == "endless":
        while True: s.sendall(b"\5\0" * 4096)
    s.sendall(b"\5\0")
    _, _, _, kind = exactly(s, 4)
    target = socket.inet_ntoa(exactly(s, 4)) if kind == 1 else exactly(s, exactly(s, 1)[0]).decode()
    port = struct.unpack("!H", exactly(s, 2))[0]
    if mode == "silence": return s.recv(1)
    if mode == "half-reply": return s.sendall(b"\5\0\0\1\0")
    if mode == "half-reply-silence":
        s.sendall(b"\5\0\0\3\xff" + b"x" * 9)
        return s.recv(1)
    if mode == "wrong-kind": return s.sendall(b"\5\0\0\x09" + bytes(64))
    if mode == "unknown-error": return s.sendall(b"\5\xee\0\1" + bytes(6))
    if mode == "no-text": return s.sendall(b"\5\0\0\3\xff" + b"\xff" * 255 + b"\0\0")
    if mode == "huge-domain": s.sendall(b"\5\0\0\3\xff" + b"x" * 255 + b"\0\0")
    if mode == "single-bytes":
        for byte in b"\5\0\0\1" + bytes(6):
            s.sendall(bytes([byte]))
            time.sleep(0.02)
    both(s, reach(target, port))
def serve(s, mode):
    if mode == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        s = context.wrap_socket(s, server_side=True)
    if mode == "silent":
        while s.recv(4096): pass
        return
    version, count = exactly(s, 2)
    methods = exactly(s, count)
    user = None
    if mode == "open":
        s.sendall(b"\5\0")
    else:
        if 2 not in methods: return s.sendall(b"\5\xff")
        s.sendall(b"\5\2")
        user = exactly(s, exactly(s, 2)[1]).decode()
        password = exactly(s, exactly(s, 1)[0]).decode()
        good = (user, password) == ("user", "pass-" + mode)
        s.sendall(b"\1" + (b"\0" if good else b"\1"))
        if not good: return note(mode=mode, refused=user)
    _, command, _, kind = exactly(s, 4)
    if kind == 1: target = socket.inet_ntoa(exactly(s, 4))
    elif kind == 4: target = socket.inet_ntop(socket.AF_INET6, exactly(s, 16))
    else: target = exactly(s, exactly(s, 1)[0]).decode()
    port = struct.unpack("!H", exactly(s, 2))[0]
    note(mode=mode, user=user, kind="name" if kind == 3 else "address", target=target, port=port)
    try: far = reach(target, port)
    except OSError: return s.sendall(b"\5\5\0\1" + bytes(6))
    s.sendall(b"\5\0\0\1" + bytes(6))
    both(s, far)
def listen(mode, port, serve):
    listener = socket.create_server((address, port), backlog=64)
    def one(s):
        try: serve(s, mode)
        except (OSError, EOFError): pass
        finally: s.close()
    while True:
        s, _ = listener.accept()
        threading.Thread(target=one, args=(s,), daemon=True).start()
PORTS = {"open": 1080, "password": 1081, "tls": 1082, "silent": 1083}
for mode, port in PORTS.items(): threading.Thread(target=listen, args=(mode, port, serve), daemon=True).start()
for mode, port in HOSTILE.items(): threading.Thread(target=listen, args=(mode, port, hostile), daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""


class Socks:
    """In the namespace of a far side. Ports: `open` 1080, `password` 1081, `tls` 1082, `silent` 1083."""

    def __init__(self, far):
        self.far = far
        self.address = f"{far.inside.rsplit('.', 1)[0]}.9"
        self.work = tempfile.TemporaryDirectory(prefix="socks-")
        self.log = Path(self.work.name, "log")
        self.authority = ""
        self.server: subprocess.Popen | None = None

    def open(self) -> "Socks":
        far, cert = self.far, Path(self.work.name, "cert.pem")
        subprocess.run(["ip", "-n", far.namespace, "address", "add", f"{self.address}/24", "dev", f"{far.cable}n"], check=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=socks", "-addext", f"subjectAltName=DNS:{PROXY_HOST}", "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", f"{cert}.key", "-out", f"{cert}.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.authority = Path(f"{cert}.crt").read_text()
        cert.write_text(Path(f"{cert}.key").read_text() + self.authority)
        self.log.touch()
        names = json.dumps({far.name: far.inside, far.other_name: far.outside})
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", far.namespace, sys.executable, "-c", f"HOSTILE = {HOSTILE}\n{_SERVER}", self.address, str(self.log), str(cert), names],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        assert self.server.stdout.readline().strip() == "up"
        return self

    def seen(self) -> list[dict]:
        """What it was asked for so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def close(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        self.work.cleanup()

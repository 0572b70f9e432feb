"""The far side of ways out: a network namespace with two public addresses, one that a policy names and one that none does.

It writes down everything that arrives, so that a test sees what got out and not only what a sandbox says about it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TCP = (21, 22, 25, 53, 80, 443, 8080)
UDP = (53, 123, 443, 9999)

_SERVER = r"""
import os, socket, ssl, sys, threading
inside, outside, cert, log = sys.argv[1:5]
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(*words): os.write(out, (" ".join(str(word) for word in words) + "\n").encode())
def request(s):
    data = b""
    while b"\r\n\r\n" not in data:
        got = s.recv(4096)
        if not got: break
        data += got
    return data
def serve(where, port, s):
    s.settimeout(20)
    if port == 443:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        context.sni_callback = lambda _, name, __: note(where, "sni", name)
        s = context.wrap_socket(s, server_side=True)
    if port in (21, 22, 25):
        s.sendall(b"220 REACHED\r\n")
        return
    while True:
        data = request(s)
        if not data: return
        lines = data.split(b"\r\n")
        note(where, "request", lines[0].decode("latin1"))
        for line in lines:
            if line.lower().startswith(b"host:"): note(where, "host", line[5:].strip().decode("latin1"))
        if b" /redirect" in lines[0]:
            s.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://%s/redirected\r\nContent-Length: 0\r\n\r\n" % outside.encode())
        elif b" /slow" in lines[0]:
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nREAC")
            rest = s.recv(1)  # the client says when to go on
            s.sendall(b"HED\n")
        else:
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nREACHED\n")
def tcp(where, address, port):
    listener = socket.create_server((address, port), backlog=64)
    def loop():
        while True:
            s, _ = listener.accept()
            note(where, "tcp", port)
            def one(s=s):
                try: serve(where, port, s)
                except Exception as error: note(where, "error", repr(error))
                finally: s.close()
            threading.Thread(target=one, daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
def udp(where, address, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, port))
    def loop():
        while True:
            data, peer = s.recvfrom(4096)
            note(where, "udp", port)
            s.sendto(b"REACHED", peer)
    threading.Thread(target=loop, daemon=True).start()
for where, address in (("inside", inside), ("outside", outside)):
    for port in TCP: tcp(where, address, port)
    for port in UDP: udp(where, address, port)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
print("up", flush=True)
while True:
    packet = raw.recv(4096)
    if packet[20] == 8:
        note("outside" if packet[16:20] == socket.inet_aton(outside) else "inside", "icmp")
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class FarSide:
    """Everything goes when `close` is called."""

    def __init__(self):
        number = os.getpid() % 50_000
        self.namespace = f"farside{number}"
        self.cable = f"cff{number}"
        prefix = f"11.{100 + number // 250 % 100}.{number % 250}"
        self.host, self.inside, self.outside = (f"{prefix}.{last}" for last in (1, 2, 3))
        self.work = tempfile.TemporaryDirectory(prefix="farside-")
        self.log = Path(self.work.name, "log")
        self.server: subprocess.Popen | None = None

    @property
    def name(self) -> str:
        """A name of the address that policies name."""
        return f"{self.inside.replace('.', '-')}.ip.conformance.test"

    @property
    def other_name(self) -> str:
        """A name of the other one."""
        return f"{self.outside.replace('.', '-')}.ip.conformance.test"

    def open(self) -> "FarSide":
        inner = f"{self.cable}n"
        _ip("netns", "add", self.namespace)
        _ip("link", "add", self.cable, "type", "veth", "peer", "name", inner, "netns", self.namespace)
        _ip("address", "add", f"{self.host}/24", "dev", self.cable)
        _ip("link", "set", self.cable, "up")
        for address in (self.inside, self.outside):
            _ip("-n", self.namespace, "address", "add", f"{address}/24", "dev", inner)
        _ip("-n", self.namespace, "link", "set", inner, "up")
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        cert = Path(self.work.name, "cert.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=far", "-addext", f"subjectAltName=DNS:{self.name},DNS:{self.other_name}",
             "-keyout", str(cert), "-out", f"{cert}.crt"],
            check=True, capture_output=True,
        )
        cert.write_text(cert.read_text() + Path(f"{cert}.crt").read_text())
        self.log.touch()
        program = f"TCP, UDP = {TCP}, {UDP}\n{_SERVER}"
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-c", program,
             self.inside, self.outside, str(cert), str(self.log)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        assert self.server.stdout.readline().strip() == "up"
        return self

    def seen(self) -> list[str]:
        """What has arrived so far, a line each."""
        return self.log.read_text().splitlines()

    def close(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True)
        self.work.cleanup()

"""Name servers of the tests' own beside a far side, each on a public-looking address: some that answer, and some that lie.

Each has an answer of its own to every question about an address, whatever the name.
"""

from __future__ import annotations

import json
import subprocess
import sys

import internet

_SERVER = r"""
import json, socket, struct, sys, threading
def question(query):
    at = 12
    while query[at]: at += 1 + query[at]
    return query[12 : at + 5]
def record(address): return b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + socket.inet_aton(address)
def message(query, how, address, over_tcp):
    asked, identity, flags = question(query), query[:2], 0x8180
    if asked[-4:-2] != b"\0\1": return identity + struct.pack("!5H", flags, 1, 0, 0, 0) + asked
    if how == "truncates": return identity + struct.pack("!5H", flags | 0x0200, 1, 0, 0, 0) + asked
    if how == "wrong-id": identity = bytes(255 - byte for byte in identity)
    if how == "other-name": asked = b"\5other\4name\0\0\1\0\1"
    return identity + struct.pack("!5H", flags, 1, 1, 0, 0) + asked + record(address)
def udp(own, how, address):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((own, 53))
    while True:
        query, peer = s.recvfrom(4096)
        if how != "silent": s.sendto(message(query, how, address, False), peer)
def tcp(own, how, address):
    listener = socket.create_server((own, 53), backlog=64)
    def one(s):
        with s:
            length = s.recv(2)
            query = s.recv(4096)
            if how == "silent": return s.recv(1)
            answer = message(query, how, address, True)
            s.sendall(struct.pack("!H", len(answer)) + answer)
    while True: threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()
for own, how, address in json.loads(sys.argv[1]):
    for serve in (udp, tcp): threading.Thread(target=serve, args=(own, how, address), daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""


class Resolvers:
    """In the namespace of a far side. Everything goes when `close` is called, and the far side."""

    def __init__(self, far):
        self.far = far
        answers = {
            "outside": far.outside,
            "elsewhere": "11.99.99.99",
            "private": internet.PRIVATE[0],
            "other-name": far.outside,
            "wrong-id": far.outside,
            "truncates": far.outside,
            "silent": far.outside,
        }
        prefix = far.inside.rsplit(".", 1)[0]
        self.addresses = {how: f"{prefix}.{20 + number}" for number, how in enumerate(answers)}
        self.servers = [(self.addresses[how], how, address) for how, address in answers.items()]
        self.process: subprocess.Popen | None = None

    def open(self) -> "Resolvers":
        far = self.far
        for address in self.addresses.values():
            subprocess.run(["ip", "-n", far.namespace, "address", "add", f"{address}/24", "dev", f"{far.cable}n"], check=True)
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", far.namespace, sys.executable, "-c", _SERVER, json.dumps(self.servers)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline().strip() == "up"
        return self

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

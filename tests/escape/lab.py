"""Two network namespaces of our own with one cable, for controls: a client that nothing holds back, and a server that has
every address which a sandbox must not reach. The host's network has no part in it."""

from __future__ import annotations

import os
import subprocess
import sys

_SERVER = """
import socket, sys, threading
word = sys.argv[1].encode()
def tcp(family, address):
    server = socket.create_server((address, 80), family=family)
    while True:
        one, _ = server.accept()
        one.sendall(word); one.close()
def udp(address):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.bind((address, 80))
    while True:
        _, peer = one.recvfrom(1000); one.sendto(word, peer)
for target, arguments in ((tcp, (socket.AF_INET, "0.0.0.0")), (tcp, (socket.AF_INET6, "::")), *((udp, (address,)) for address in sys.argv[2:])):
    threading.Thread(target=target, args=arguments).start()
print("up", flush=True)
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Lab:
    def __init__(self, word: str, addresses: list[str]):
        number = os.getpid() % 100_000
        self.client, self.far, self.cable = f"escl{number}", f"esfar{number}", f"esc{number}"
        self.word, self.addresses = word, addresses
        self.server: subprocess.Popen | None = None

    def __enter__(self) -> "Lab":
        for namespace in (self.client, self.far):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", self.client, "link", "add", self.cable, "type", "veth", "peer", "name", self.cable, "netns", self.far)
        for namespace, address in ((self.client, "192.0.2.1"), (self.far, "192.0.2.2")):
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", self.cable)
            _ip("-n", namespace, "address", "add", f"2001:db8::{address[-1]}/64", "dev", self.cable, "nodad")
            _ip("-n", namespace, "link", "set", self.cable, "up")
        _ip("-n", self.client, "route", "add", "default", "via", "192.0.2.2")
        _ip("-n", self.client, "-6", "route", "add", "default", "via", "2001:db8::2")
        for address in self.addresses:
            version = ["-6"] if ":" in address else []
            _ip("-n", self.far, *version, "address", "add", address, "dev", self.cable, *(["nodad"] if version else []))
        command = ["ip", "netns", "exec", self.far, sys.executable, "-c", _SERVER, self.word, *(address for address in self.addresses if ":" not in address)]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "up\n"
        return self

    def around(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.client)

    def __exit__(self, *_) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        for namespace in (self.client, self.far):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)

"""A server with a domain, HTTPS and names of its own, as its clients find it."""

from __future__ import annotations

import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import server as servers
from names import Names

HERE = Path(__file__).parent.parent / "domain"
DOMAIN = "box.conformance.test"


NUMBERS = itertools.count(1)


def loopback() -> str:
    """An address of its own for each server, so that ports 443 and 53 are free on it."""
    return f"127.{77 + next(NUMBERS)}.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"


class Place:
    """A server with a domain, and the names of that."""

    def __init__(self, purpose: str, port: int, *arguments: str):
        self.address = loopback()
        self.names = Names(DOMAIN, self.address)
        listen = ("--domain", DOMAIN, "--tls-listen", f"{self.address}:{port}")
        self.server = servers.from_environment(purpose, *listen, *arguments)

    def open(self) -> "Place":
        try:
            self.server.start()
        except BaseException:
            self.close()
            raise
        return self

    @property
    def domain(self) -> str:
        """As it is told to clients."""
        return self.server.env["E2B_DOMAIN"]

    @property
    def port(self) -> int:
        return int((self.domain.split(":") + ["443"])[1])

    def environment(self, trusted: Path) -> dict[str, str]:
        """All that a client is given."""
        return {
            "E2B_DOMAIN": self.domain,
            "E2B_API_KEY": self.server.env["E2B_API_KEY"],
            "SSL_CERT_FILE": str(trusted),
            "NODE_EXTRA_CA_CERTS": str(trusted),
        }

    def python(self, trusted: Path, *arguments: str) -> dict:
        return result(self.names.run([sys.executable, str(HERE / "client.py"), *arguments], self.environment(trusted)))

    def javascript(self, trusted: Path) -> dict:
        return result(self.names.run(["node", str(HERE / "client.cjs")], self.environment(trusted)))

    def close(self) -> None:
        try:
            if self.server.alive():
                servers.kill_every_sandbox(self.server.env)
            self.server.stop()
            self.server.remove()
        finally:
            self.names.close()


def handshake(place: Place, name: str | None, trusted: Path) -> dict:
    """The certificate that a client with this trust is shown for a name."""
    return handshake_at((place.address, place.port), name, trusted)


def handshake_at(address: tuple[str, int], name: str | None, trusted: Path) -> dict:
    """The same for any server."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.check_hostname = name is not None
    with socket.create_connection(address, timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            return secure.getpeercert()


def result(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])

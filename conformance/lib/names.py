"""Names for clients of a server with a domain: a name server of the test's own, and programs that ask it.

A program is run in a mount namespace whose `/etc/resolv.conf` names the one server, so nothing of the machine changes,
and the program is the official package as it is.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

from internet import parse


class Names:
    """Answers every name of `domain` with `address`, on port 53 of `address`. Nothing else has a name."""

    def __init__(self, domain: str, address: str):
        self.domain, self.address = domain, address
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.work = tempfile.TemporaryDirectory(prefix="names-")
        self.resolv = Path(self.work.name, "resolv.conf")
        self.resolv.write_text(f"nameserver {address}\n")
        self.resolv.chmod(0o644)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            query, peer = self.socket.recvfrom(4096)
            if not query:
                return
            try:
                name, kind, question = parse(query)
                ours = name == self.domain or name.endswith(f".{self.domain}")
                record = socket.inet_aton(self.address) if ours and kind == 1 else b""
                self.socket.sendto(_answer(query, question, kind, record, ours), peer)
            except (ValueError, IndexError, struct.error, OSError):
                continue

    def run(self, command: list[str], env: dict[str, str], timeout: float = 120) -> subprocess.CompletedProcess:
        """Runs a program that finds these names."""
        inside = f'mount --bind "{self.resolv}" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("E2B_", "SSL_CERT", "NODE_EXTRA"))}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "slave", "sh", "-c", inside, "sh", *command],
            env=clean | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )

    def close(self) -> None:
        # A socket that a thread waits on is not closed before that thread is gone.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.address, 53))
        self.thread.join()
        self.socket.close()
        self.work.cleanup()


def _answer(query: bytes, question: bytes, kind: int, record: bytes, ours: bool) -> bytes:
    flags = 0x8180 if ours else 0x8183
    head = query[:2] + struct.pack("!HHHHH", flags, 1, 1 if record else 0, 0, 0)
    body = struct.pack("!HHHLH", 0xC00C, kind, 1, 5, len(record)) + record if record else b""
    return head + question + body

"""An ACME authority for the tests: Debian's `pebble`, a name server that it asks for records, and the operator's program
that makes and removes them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

from internet import parse
from server import wait_until

DIRECTORY_PORT, MANAGEMENT_PORT = 14000, 15000
TXT = 16
# Keeps the records in a file, one a line, and all calls in another. What is in the file `mode` decides how it goes.
PROGRAM = """#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >> calls
case "$(cat mode)" in
  fail) echo "asking the zone" >&2; echo "the zone is locked" >&2; exit 3 ;;
  hang) echo $$ > hanging; exec sleep 600 ;;
esac
case "$1" in
  present) echo "$2 $3" >> records ;;
  cleanup) grep -vxF -- "$2 $3" records > records.new; mv records.new records ;;
esac
"""


class Authority:
    """All of it on one address of loopback."""

    def __init__(self, address: str, validity: int | None = None):
        self.address = address
        # Where the server's helper, and who made it, may enter.
        self.work = Path(tempfile.mkdtemp(prefix="acme-"))
        for name in ("calls", "records"):
            (self.work / name).touch()
        self.set_mode("work")
        self.program = self.work / "dns"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o700)
        self.ca = self.work / "ca.pem"
        self._make_certificate()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.names = threading.Thread(target=self._serve_names, daemon=True)
        self.names.start()
        pebble = {
            "listenAddress": f"{address}:{DIRECTORY_PORT}",
            "managementListenAddress": f"{address}:{MANAGEMENT_PORT}",
            "certificate": str(self.work / "leaf.pem"),
            "privateKey": str(self.work / "leaf.key"),
            "httpPort": 5002,
            "tlsPort": 5001,
        }
        if validity is not None:
            pebble["certificateValidityPeriod"] = validity
        (self.work / "pebble.json").write_text(json.dumps({"pebble": pebble}))
        self.log = (self.work / "pebble.log").open("wb")
        self.process = subprocess.Popen(
            ["pebble", "-config", str(self.work / "pebble.json"), "-dnsserver", "%s:%d" % self.socket.getsockname()],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            env=os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"},
        )
        wait_until("pebble", 20, self._is_up)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a server is given that is to have its certificate from here."""
        return (
            "--acme-directory", f"https://{self.address}:{DIRECTORY_PORT}/dir",
            "--acme-contact", "ops@conformance.test",
            "--acme-dns-command", str(self.program),
            "--acme-ca-file", str(self.ca),
            "--acme-accept-terms",
        )

    @property
    def root(self) -> Path:
        """The certificate that clients of that server are to trust."""
        path = self.work / "root.pem"
        path.write_bytes(self._management("roots/0"))
        return path

    def set_mode(self, mode: str) -> None:
        (self.work / "mode").write_text(mode)

    def calls(self) -> list[list[str]]:
        return [line.split() for line in (self.work / "calls").read_text().splitlines()]

    def records(self) -> list[list[str]]:
        return [line.split() for line in (self.work / "records").read_text().splitlines()]

    def hanging(self) -> int | None:
        """The number of a program that hangs."""
        path = self.work / "hanging"
        text = path.read_text() if path.exists() else ""
        return int(text) if text.endswith("\n") else None

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()
        # A socket that a thread waits on is not closed before that thread is gone.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.socket.getsockname())
        self.names.join()
        self.socket.close()
        shutil.rmtree(self.work)

    def _management(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.ca))
        url = f"https://{self.address}:{MANAGEMENT_PORT}/{path}"
        with urllib.request.urlopen(url, timeout=10, context=context) as answer:
            return answer.read()

    def _is_up(self) -> bool:
        assert self.process.poll() is None, (self.work / "pebble.log").read_text()
        try:
            return bool(self._management("roots/0"))
        except OSError:
            return False

    def _make_certificate(self) -> None:
        """Of the authority's own server, by an authority that nobody else trusts."""
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.work)
        run("req", "-x509", *key, "-subj", "/CN=test", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
        run("req", "-new", *key, "-subj", "/", "-keyout", "leaf.key", "-out", "leaf.csr")
        (self.work / "leaf.ext").write_text(f"subjectAltName=IP:{self.address}\nbasicConstraints=CA:FALSE\n")
        run("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "leaf.ext", "-out", "leaf.pem")

    def _serve_names(self) -> None:
        while True:
            query, peer = self.socket.recvfrom(4096)
            if not query:
                return
            try:
                name, kind, question = parse(query)
                values = [value for owner, value in self.records() if owner == name and kind == TXT]
                self.socket.sendto(_answer(query, question, [value.encode() for value in values]), peer)
            except (ValueError, IndexError, struct.error, OSError):
                continue


def _answer(query: bytes, question: bytes, values: list[bytes]) -> bytes:
    head = query[:2] + struct.pack("!5H", 0x8180, 1, len(values), 0, 0)
    one = lambda value: struct.pack("!HHHLHB", 0xC00C, TXT, 1, 0, len(value) + 1, len(value)) + value
    return head + question + b"".join(one(value) for value in values)

"""A receiver of webhooks on this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "s3cret-of-the-test"


class Receiver:
    """A receiver of webhooks: what came, and what is answered next."""

    def __init__(self):
        self.received: queue.Queue = queue.Queue()
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.put((self.headers, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self, timeout: float = 60):
        headers, body = self.received.get(timeout=timeout)
        check_signatures(headers, body)
        return headers, json.loads(body)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def check_signatures(headers, body: bytes) -> None:
    """As E2B's documents say, and ours besides."""
    expected = base64.b64encode(hashlib.sha256(SECRET.encode() + body).digest()).decode().rstrip("=")
    assert (headers["e2b-signature"], headers["e2b-signature-version"]) == (expected, "v1")
    expected = base64.b64encode(hmac.digest(SECRET.encode(), body, "sha256")).decode().rstrip("=")
    assert headers["soulbox-signature"] == expected

"""A program that can be told from every other: it counts, and has random bytes in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from server import wait_until

# Of what keeps memory on disk. `make base` fetches it where the distribution has it.
HAS_CRIU = (Path(os.environ.get("CONFORMANCE_BASE_DATA", "")) / "criu").is_dir()
needs_criu = pytest.mark.skipif(not HAS_CRIU, reason="there is no CRIU in the data directory of the set-up")

# Counts in memory, has random bytes, and answers on port 8000 what it has.
COUNTER = """
import http.server, json, os, threading, time
block = os.urandom(4 << 20).hex()
count = 0
def tick():
    global count
    while True:
        count += 1
        time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([os.getpid(), count, block[:32]]).encode())
    def log_message(self, *_): pass
http.server.HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
ASK = "curl -s --max-time 10 http://127.0.0.1:8000/"


def counter(sandbox) -> list:
    sandbox.files.write("/home/user/counter.py", COUNTER)
    sandbox.commands.run("python3 counter.py", background=True, timeout=0)
    wait_until("the counter", 10, lambda: sandbox.commands.run(f"{ASK} || true").stdout)
    return told(sandbox)


def told(sandbox) -> list:
    return json.loads(sandbox.commands.run(ASK).stdout)


def same_process(before: list, after: list) -> bool:
    return before[0] == after[0] and before[2] == after[2] and before[1] <= after[1]

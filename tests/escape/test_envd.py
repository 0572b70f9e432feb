"""Attacks on envd from inside its sandbox: its routes, its patience, its place."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import TimeoutException
from harness import INSIDE, LEDGER, PROGRAMS, attack as attack_in, judge, one

from server import patience, wait_until

PORT = 49983
# What an owner may expect of `commands.run("true")`, whatever happens inside.
OWNER_SECONDS = 2.0


def test_every_route_asks_for_the_token(sandbox, throwaway):
    """The attacker has the port and no token: no route, however written, does anything for him."""
    inside = attack_in(sandbox, "envd_routes.py", PORT, user="user")
    # The control changes the token of its sandbox.
    with_token = attack_in(throwaway, "envd_routes.py", PORT, throwaway._envd_access_token, user="user")
    shown = {name: with_token[name.rsplit(" with ", 1)[0]] for name in inside}
    reasons = {name: "there is no such route for the holder of the token either" for name, found in shown.items() if not found.did}
    judge("envd's routes", inside, shown, reasons)
    assert not sandbox.files.exists("/tmp/written-by-nobody")
    assert "STOLEN" not in sandbox.commands.run("env").stdout


def owner_waits(sandbox) -> float:
    """The longest of a few commands, some of which need a new connection."""

    def run(_: int) -> float:
        started = time.monotonic()
        try:
            assert sandbox.commands.run("true", timeout=10, request_timeout=10).exit_code == 0
        except TimeoutException:
            return 10.0
        return time.monotonic() - started

    with ThreadPoolExecutor(4) as pool:
        return max(pool.map(run, range(4)))


class Naive:
    """A server without limits, deadlines or concurrency, to be besieged as a control."""

    def __enter__(self) -> "Naive":
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 1 << 30)))
                self.send_response(200)
                self.end_headers()

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        # The thread may be held by the siege, which has ended by now.
        self.server.socket.close()

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=OWNER_SECONDS).read()
            return True
        except OSError:
            return False


def naive_falls(kind: str) -> bool:
    with Naive() as naive:
        assert naive.answers()
        siege = subprocess.Popen([sys.executable, "-B", PROGRAMS / "siege.py", kind, str(naive.port), "1"], stdout=subprocess.PIPE, text=True)
        try:
            assert siege.stdout.readline().startswith("up")
            return not naive.answers()
        finally:
            siege.kill()
            siege.wait()


SIEGES = {
    "idle": 6000, "slow_head": 6000, "slow_body": 1500, "slow_chunks": 1500, "huge_body": 200, "huge_message": 200, "bomb": 40, "malformed": 200,
    "churn": 3000, "h2_resets": 60, "h2_settings": 60, "h2_pings": 60, "h2_continuation": 60, "h2_windows": 60,
}  # fmt: skip

NAIVE_FALLS = ("idle", "slow_head", "slow_body", "huge_message")


@pytest.mark.parametrize("kind", SIEGES)
def test_owner_is_served_during_a_siege(throwaway, kind):
    """The attacker wants the owner locked out: thousands of silent, slow, huge or malformed requests to the daemon's port."""
    siege = throwaway.commands.run(f"exec python3 {INSIDE}/siege.py {kind} {PORT} {SIEGES[kind]}", background=True, timeout=0)
    said: list[str] = []

    def listen() -> None:
        # Ends when the sandbox does, one way or another.
        with contextlib.suppress(Exception):
            siege.wait(on_stdout=said.append)

    threading.Thread(target=listen, daemon=True).start()
    wait_until("the siege stands", 20, lambda: any(text.startswith("up") for text in said))
    waited = owner_waits(throwaway)
    LEDGER.notes.append(f"siege {kind}: the owner's `true` took {waited:.2f} s")
    shown = naive_falls(kind) if kind in NAIVE_FALLS else "a naive server for this protocol is not at hand, or does not fall to so little"
    one("siege", kind, waited > patience(OWNER_SECONDS), shown, f"{waited:.2f} s; {said}")


def test_place_of_envd_cannot_be_taken(throwaway):
    """The attacker ends envd's helpers and listens wherever he can: the owner's token must not come to him."""
    helpers = throwaway.commands.run("for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p != 1 ] && ! readlink /proc/$p/exe >/dev/null 2>&1 && echo $p; done; true", user="root").stdout.split()
    fake = throwaway.commands.run(f"exec python3 -u {INSIDE}/fake_envd.py 4", background=True, user="root")
    for helper in helpers:
        throwaway.commands.run(f"kill -9 {helper} 1 2>/dev/null; true", user="root")
    # One connection for each: what the edge has kept open would not notice.
    for _ in range(6):
        assert owner_waits(throwaway) < patience(OWNER_SECONDS)
        assert throwaway.files.exists("/etc/passwd")
    said = fake.wait().stdout.splitlines()
    assert said[0].startswith("up"), said
    heard = json.loads(said[1])
    did = any(throwaway._envd_access_token in text for _, text in heard) or bool(heard)
    one("fake envd", f"listening on {said[0][3:]}", did, "a daemon that has ended cannot be shown: it is process one, and its end ends the sandbox", f"{heard}")

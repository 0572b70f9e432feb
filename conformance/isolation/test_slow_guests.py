"""Guests that begin and do not go on: what they hold of the server ends by itself, is bounded, and is nobody else's."""

from __future__ import annotations

import json
import time

import pytest
from e2b import ALL_TRAFFIC, Sandbox

from farside import FarSide
from server import patience, wait_until

# Connections of one sandbox through the server's own process.
PLACES = 512
# Opens many, says a beginning on each, then goes on byte by byte, which must not help; says how many were let in, and how long
# the longest of those was.
SLOW = r"""
import json, select, socket, sys, time
address, port, beginning, count = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]), int(sys.argv[4])
open_since, lasted, refused = {}, [], 0
poll = select.poll()
for _ in range(count):
    try:
        s = socket.create_connection((address, port), 5)
        s.setblocking(False)
        s.send(beginning)
        open_since[s.fileno()] = (s, time.monotonic())
        poll.register(s, select.POLLIN)
    except OSError: refused += 1
print("began", flush=True)
drop = time.monotonic() + 5
while open_since:
    for fd, _ in poll.poll(500):
        s, since = open_since[fd]
        try: ended = not s.recv(4096)
        except OSError: ended = True
        if ended:
            poll.unregister(fd)
            del open_since[fd]
            lived = time.monotonic() - since
            if lived < 1: refused += 1
            else: lasted.append(lived)
    if time.monotonic() > drop:
        drop += 5
        for s, _ in open_since.values():
            try: s.send(b"x")
            except OSError: pass
print(json.dumps([len(lasted), refused, max(lasted, default=0)]), flush=True)
"""
# What is never whole: the head of a request, and a TLS record of 512 bytes that says that it is a hello.
HTTP = b"GET / HTTP/1.1\r\nHost: "
TLS = bytes.fromhex("16030102000100")


@pytest.fixture(scope="module")
def far():
    far = FarSide()
    try:
        yield far.open()
    finally:
        far.close()


@pytest.fixture
def create(far):
    made = []

    def create() -> Sandbox:
        made.append(Sandbox.create(timeout=600, network={"allow_out": [far.name], "deny_out": [ALL_TRAFFIC]}))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


# Half a request head ends after a minute, half a hello after ten seconds.
@pytest.mark.parametrize("beginning, port, scheme, bound", [(HTTP, 80, "http", 60), (TLS, 443, "https", 10)])
def test_what_is_never_whole_ends(far, create, beginning, port, scheme, bound):
    slow, other = create(), create()
    slow.files.write("/tmp/slow.py", SLOW)
    slow.commands.run(f"nohup python3 /tmp/slow.py {far.inside} {port} {beginning.hex()} {PLACES + 90} > /tmp/said 2>&1 &")
    wait_until("all are begun", 20, lambda: "began" in slow.files.read("/tmp/said"))
    fetch = f"curl -sSk -m 5 {scheme}://{far.name}/"
    begun = time.monotonic()
    assert "REACHED" in other.commands.run(fetch).stdout
    assert time.monotonic() - begun < patience(2), "a neighbour waits for it"
    line = wait_until("all have ended", bound + 20, lambda: slow.files.read("/tmp/said").splitlines()[1:], interval=0.5)[0]
    lasted, refused, longest = json.loads(line)
    assert lasted <= PLACES and refused >= 90, line
    assert bound - 2 < longest < patience(bound + 8), line
    assert "REACHED" in slow.commands.run(fetch).stdout

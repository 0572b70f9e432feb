"""How many connections sandboxes have to the network: each its own, a team all together, and nobody those of others.

The server is one of its own with low bounds. The far end is the small internet of the runner, see `lib/internet.py`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import urllib.request

import pytest
from e2b import Sandbox

import internet
from crashing import options
from server import from_environment, wait_until

PER_SANDBOX, PER_TEAM = 50, 80
HOLD = r"""
import os, socket, sys, time
def connect():
    return socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
held = []
for _ in range(300):
    began = time.monotonic()
    try: held.append(connect())
    except OSError as error:
        print(len(held), type(error).__name__, time.monotonic() - began < 1, flush=True)
        break
while not os.path.exists("/tmp/close"): time.sleep(0.05)
for one in held: one.close()
for _ in range(100):
    try: connect(); print("again", flush=True); break
    except OSError: time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def server():
    bounds = ("--max-connections-per-sandbox", str(PER_SANDBOX), "--max-connections-per-team", str(PER_TEAM))
    server = from_environment("connections", *bounds).start()
    # The next start is at the same address, for clients that are there already.
    server.listen = server.env["E2B_API_URL"].removeprefix("http://")
    yield server
    assert server.stop() == 0, server.log_tail()
    server.remove()


@pytest.fixture(scope="module")
def rival(server):
    """Options of another team. The API makes keys and no teams: the row is written as a second server process would."""
    team = f"e5cafe00-0000-4000-8000-{secrets.token_hex(6)}"
    with contextlib.closing(sqlite3.connect(server.data_dir / "soulbox.db", timeout=10)) as store, store:
        store.execute("INSERT INTO teams (id, name, slug, created_at) VALUES (?, 'Rivals', ?, 1)", (team, f"rivals-{team[-6:]}"))
    admin = {"X-Admin-Token": (server.data_dir / "admin.token").read_text().strip(), "Content-Type": "application/json"}
    url = f"{server.env['E2B_API_URL']}/admin/teams/{team}/api-keys"
    with urllib.request.urlopen(urllib.request.Request(url, b'{"name": "rival"}', admin), timeout=20) as answer:
        return options(server) | {"api_key": json.load(answer)["key"]}


@pytest.fixture
def create(server):
    made = []

    def create(of: dict | None = None) -> Sandbox:
        made.append(Sandbox.create(timeout=300, **(of or options(server))))
        made[-1].files.write("/tmp/hold.py", HOLD)
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def held(sandbox: Sandbox) -> tuple[int, str]:
    """How many connections a sandbox gets, which it then holds, and what it is told about the next one."""
    sandbox.commands.run(f"rm -f /tmp/close; nohup python3 /tmp/hold.py {internet.PUBLIC} {internet.PORT} > /tmp/held 2>&1 &")
    line = wait_until("it is refused one", 30, lambda: sandbox.files.read("/tmp/held")).split()
    assert line[2] == "True", f"it waited for a refusal: {line}"
    return int(line[0]), line[1]


def closes(sandbox: Sandbox) -> None:
    sandbox.files.write("/tmp/close", "")
    wait_until("it can connect again", 10, lambda: "again" in sandbox.files.read("/tmp/held"))


def connects(sandbox: Sandbox) -> bool:
    command = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{internet.PUBLIC}/{internet.PORT}' 2>/dev/null && echo open || echo closed"
    return sandbox.commands.run(command).stdout == "open\n"


def test_one_is_bounded_and_its_neighbour_is_not(server, rival, create):
    greedy, other = create(), create(rival)
    assert held(greedy) == (PER_SANDBOX, "ConnectionRefusedError")
    assert held(other) == (PER_SANDBOX, "ConnectionRefusedError")
    closes(other)
    # A server that dies and starts again forgets nothing.
    server.kill()
    server.start()
    assert not connects(greedy)
    closes(greedy)
    wait_until("it can connect", 5, lambda: connects(greedy))


def test_a_team_is_bounded_over_its_sandboxes(create):
    first, second = create(), create()
    assert held(first) == (PER_SANDBOX, "ConnectionRefusedError")
    assert held(second) == (PER_TEAM - PER_SANDBOX, "ConnectionRefusedError")
    third = create()
    assert not connects(third)
    # What it has left open ends with it, for its team and for who stands there next.
    first.kill()
    assert wait_until("there is room", 10, lambda: connects(third))
    assert held(third) == (PER_SANDBOX, "ConnectionRefusedError")
    closes(second)

"""Memory on disk, with the newest Python package: snapshots and forks go on where their sandbox was, and so does what was
paused for long."""

from __future__ import annotations

import json
import sqlite3
import uuid

import pytest
from e2b import Sandbox, SandboxException
from e2b.sandbox.commands.command_handle import PtySize

import raw
from crashing import call, options
from server import from_environment, kill_every_sandbox, wait_until

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


def test_a_snapshot_goes_on_where_it_was(sdk, create):
    mark = uuid.uuid4().hex
    sandbox = create(timeout=180, envs={"MARK": mark})
    before = counter(sandbox)
    sandbox.files.write("/home/user/kept.txt", mark)
    taken = sandbox.create_snapshot()
    try:
        middle = told(sandbox)
        assert same_process(before, middle), "the source has gone on"
        sandbox.files.write("/home/user/kept.txt", "later")
        for _ in range(2):
            made = create(taken.snapshot_id, timeout=60)
            assert same_process(before, told(made))
            assert made.files.read("kept.txt") == mark
            run = made.commands.run
            assert run("echo -n $MARK $E2B_SANDBOX_ID; cat /run/e2b/.E2B_SANDBOX_ID").stdout == (
                f"{mark} {made.sandbox_id}{made.sandbox_id}"
            )
            assert run("hostname").stdout.strip() == made.sandbox_id
            made.kill()
        made = create(taken.snapshot_id, timeout=60, envs={"OTHER": "1"})
        assert made.commands.run("echo -n [$MARK] $OTHER").stdout == "[] 1"
        # And so do snapshots of what was made of a snapshot, and pauses.
        made.pause()
        made.connect(timeout=60)
        assert same_process(before, told(made))
        again = made.create_snapshot()
        made.kill()
        third = create(again.snapshot_id, timeout=60)
        assert same_process(before, told(third))
        third.kill()
        assert sdk.delete_snapshot(again.snapshot_id)
    finally:
        sandbox.kill()
        sdk.delete_snapshot(taken.snapshot_id)


def test_forks_go_on_where_it_was(sdk, create):
    sandbox = create(timeout=180, metadata={"a": "b"})
    before = counter(sandbox)
    forks = sandbox.fork(count=3, timeout=60)
    handles = [entry for entry in forks if not isinstance(entry, Exception)]
    assert len(handles) == 3, forks
    try:
        assert same_process(before, told(sandbox))
        for number, handle in enumerate(handles):
            assert same_process(before, told(handle))
            handle.files.write("/home/user/own", str(number))
            assert handle.get_info().metadata == {"a": "b"}
        assert [handle.files.read("own") for handle in handles] == list("012")
        # The token of the source opens none of them.
        token = raw.api("GET", f"/sandboxes/{sandbox.sandbox_id}").json["envdAccessToken"]
        for one, status in [(sandbox, 200), *((handle, 401) for handle in handles)]:
            way = {"E2b-Sandbox-Id": one.sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": token}
            answer = raw.request("GET", "/files?path=/home/user/counter.py", way)
            assert answer.status == status, answer
    finally:
        for handle in handles:
            handle.kill()


def test_twenty_forks_in_one_call(sdk, create):
    sandbox = create(timeout=180)
    before = counter(sandbox)
    forks = sandbox.fork(count=20, timeout=120)
    handles = [entry for entry in forks if not isinstance(entry, Exception)]
    try:
        assert len(handles) == 20, forks
        for handle in handles:
            assert same_process(before, told(handle))
    finally:
        for handle in handles:
            handle.kill()


def test_what_is_in_the_way_is_named(sdk, create):
    sandbox = create(timeout=120)
    sandbox.commands.run("echo x > /dev/shm/x")
    with pytest.raises(SandboxException, match="/dev/shm.*memory: false"):
        sandbox.create_snapshot()
    assert sandbox.commands.run("cat /dev/shm/x").stdout == "x\n"
    sandbox.commands.run("rm /dev/shm/x")
    taken = sandbox.create_snapshot()
    sandbox.kill()
    assert sdk.delete_snapshot(taken.snapshot_id)


def test_a_terminal_goes_on(create, sdk):
    sandbox = create(timeout=120)
    terminal = sandbox.pty.create(PtySize(24, 80), timeout=0)
    sandbox.pty.send_stdin(terminal.pid, b"secret=kept; cd /tmp\n")
    [made] = sandbox.fork(timeout=60)
    try:
        made.pty.send_stdin(terminal.pid, b"echo $secret in $PWD > /home/user/said\n")
        wait_until("the shell's word", 10, lambda: made.files.exists("/home/user/said") and made.files.read("/home/user/said"))
        assert made.files.read("/home/user/said") == "kept in /tmp\n"
    finally:
        made.kill()


@pytest.fixture
def quick():
    """A server on which what is paused goes to disk at once."""
    server = from_environment("memory", "--save-paused-after-seconds", "0", "--hibernate-after-seconds", "0")
    server.start()
    yield server
    if not server.alive():
        server.start()
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    server.remove()


def is_away(server, sandbox) -> bool:
    """Its memory is on disk, and nothing of it runs."""
    with sqlite3.connect(f"file:{server.data_dir}/soulbox.db?mode=ro", uri=True) as database:
        found = database.execute("SELECT memory FROM sandboxes WHERE id = ?", [sandbox.sandbox_id]).fetchone()
    return bool(found and found[0]) and not (server.data_dir / "sandboxes" / sandbox.sandbox_id).exists()


def test_what_is_paused_for_long_takes_no_memory_and_comes_back(quick):
    sandbox = Sandbox.create(timeout=300, **options(quick))
    before = counter(sandbox)
    for round in range(3):
        sandbox.files.write("/home/user/round", str(round))
        sandbox.pause()
        wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
        if round == 1:
            quick.kill()
            quick.start()
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
        assert same_process(before, told(sandbox))
        assert sandbox.files.read("/home/user/round") == str(round)
        assert list((quick.data_dir / "memory").iterdir()) == []


def test_traffic_brings_it_back_from_disk(quick):
    sandbox = Sandbox.create(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True}, **options(quick))
    before = counter(sandbox)
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    assert same_process(before, told(sandbox))


def test_it_may_be_started_anew_or_killed_instead(quick):
    sandbox = Sandbox.create(timeout=300, **options(quick))
    counter(sandbox)
    sandbox.files.write("/home/user/kept.txt", "kept")
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    status, answer = call(quick, "POST", f"/v2/sandboxes/{sandbox.sandbox_id}/connect", {"timeout": 60, "memory": False})
    assert status in (200, 201), answer
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert sandbox.files.read("/home/user/kept.txt") == "kept"
    assert sandbox.commands.run("pgrep -f counter.p[y] || echo none").stdout == "none\n"
    assert list((quick.data_dir / "memory").iterdir()) == []
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    assert sandbox.kill()
    assert list((quick.data_dir / "memory").iterdir()) == []

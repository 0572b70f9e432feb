"""Files that nothing needs any more: found, shown, removed, and nothing else with them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time

import pytest
from e2b import Sandbox

from crashing import call, options
from server import Server, wait_until


@pytest.fixture
def server(started):
    return started(None)


def gc(server: Server, *arguments: str) -> tuple[list[str], int]:
    """Digests that were removed (or would be), and how many stay because they are in use."""
    command = [str(server.binary), "gc", "--json", "--data-dir", str(server.data_dir), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return [layer["digest"] for layer in told["layers"]], told["inUse"]


def layers(server: Server) -> set[str]:
    return {entry.name for entry in (server.data_dir / "layers").iterdir() if entry.is_dir()}


def snapshot(server: Server, sandbox: Sandbox) -> str:
    status, answer = call(server, "POST", f"/sandboxes/{sandbox.sandbox_id}/snapshots", {"memory": False})
    assert status == 201, answer
    return json.loads(answer)["snapshotID"]


def test_what_a_deleted_snapshot_held(server):
    before = layers(server)
    assert gc(server, "--dry-run") == ([], 0)
    sandbox = Sandbox.create(timeout=300, **options(server))
    sandbox.files.write("kept.txt", "content")
    taken = snapshot(server, sandbox)
    (layer,) = layers(server) - before
    assert gc(server) == ([], 0)
    # A fork stands on a layer that no record names. With the same files it would be the same layer.
    sandbox.files.write("more.txt", "more")
    status, answer = call(server, "POST", f"/sandboxes/{sandbox.sandbox_id}/fork", {"memory": False, "timeout": 300})
    fork = json.loads(answer)[0]["sandbox"]["sandboxID"]
    (other,) = layers(server) - before - {layer}
    age(server, other)
    assert gc(server) == ([], 1)
    assert Sandbox.connect(fork, **options(server)).files.read("kept.txt") == "content"
    Sandbox.kill(fork, **options(server))
    assert gc(server, "--dry-run") == ([other], 0)
    # Its place is cleared a moment after it is dead.
    wait_until("it is removed", 10, lambda: gc(server)[0] == [other])
    assert layers(server) == before | {layer}
    # The deletion has it collected at once, unless a look was under way.
    age(server, layer)
    assert Sandbox.delete_snapshot(taken, **options(server)) is True
    gc(server)
    assert layers(server) == before
    assert Sandbox.create(timeout=60, **options(server)).commands.run("echo fine").stdout == "fine\n"


def age(server: Server, layer: str) -> None:
    """Makes a layer two hours old."""
    past = time.time() - 2 * 3600
    os.utime(server.data_dir / "layers" / f"{layer}.json", (past, past))
    with sqlite3.connect(server.data_dir / "soulbox.db") as database:
        database.execute("UPDATE saved_layers SET created_at = ? WHERE digest = ?", (int(past * 1_000_000), layer))
    database.close()


def test_what_no_record_speaks_of(server):
    """A server that died between a layer and its note."""
    before = layers(server)
    sandbox = Sandbox.create(timeout=300, **options(server))
    sandbox.files.write("kept.txt", "content")
    snapshot(server, sandbox)
    (layer,) = layers(server) - before
    server.kill()
    with sqlite3.connect(server.data_dir / "soulbox.db") as database:
        database.execute("DELETE FROM template_tags WHERE build_id IN (SELECT id FROM builds WHERE saved_from IS NOT NULL)")
        database.execute("DELETE FROM builds WHERE saved_from IS NOT NULL")
        database.execute("DELETE FROM saved_layers")
    database.close()
    server.start()
    # So young that it may be on its way into a record.
    assert gc(server) == ([], 0)
    age(server, layer)
    assert gc(server, "--dry-run") == ([layer], 0)
    assert layers(server) == before | {layer}
    assert gc(server) == ([layer], 0)
    assert layers(server) == before


def test_only_the_operator_collects(server):
    sandbox = Sandbox.create(timeout=60, **options(server))
    status, answer = call(server, "POST", "/admin/gc", {})
    assert status in (401, 403), answer
    assert sandbox.commands.run("echo fine").stdout == "fine\n"

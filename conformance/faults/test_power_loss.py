"""The power goes: what was answered is there afterwards, on a disk that has lost everything that was not synced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from e2b import Sandbox, Template, Volume, wait_for_url

from counter import COUNTER, counter, needs_criu, told
from crashing import call, options
from machine import reboot
from power import LossyDisk
from server import Server, kill_every_sandbox, prepare_data_dir, wait_until

CONTENT = "kept " * 100_000


@pytest.fixture
def disk():
    disk = LossyDisk(4096)
    yield disk
    disk.remove()


@pytest.fixture
def server(disk):
    data_dir = disk.files / "data"
    prepare_data_dir(Path(os.environ["CONFORMANCE_BASE_DATA"]), data_dir)
    os.sync()
    server = Server(Path(os.environ["CONFORMANCE_BINARY"]), data_dir)
    server.log_path = disk.place / "server.log"
    server.start()
    yield server
    if not server.alive():
        server.start()
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    server.remove()


def lose_power(server: Server, disk: LossyDisk) -> None:
    disk.cut()
    server.kill()
    reboot(server, disk.again)
    server.start()


def filled(server: Server, **more) -> Sandbox:
    sandbox = Sandbox.create(timeout=300, **options(server), **more)
    sandbox.files.write("kept.txt", CONTENT)
    return sandbox


def reads(server: Server, sandbox_id: str) -> str:
    return Sandbox.connect(sandbox_id, timeout=300, **options(server)).files.read("kept.txt")


def ask(server: Server, method: str, path: str, body=None):
    status, answer = call(server, method, path, body)
    assert status < 300, answer
    return json.loads(answer) if answer else None


def test_files_that_were_saved(server, disk):
    paused = filled(server)
    ask(server, "POST", f"/sandboxes/{paused.sandbox_id}/pause", {"memory": False})
    lose_power(server, disk)
    assert reads(server, paused.sandbox_id) == CONTENT
    source = filled(server)
    taken = ask(server, "POST", f"/sandboxes/{source.sandbox_id}/snapshots", {"name": "saved", "memory": False})
    lose_power(server, disk)
    made = Sandbox.create(taken["snapshotID"], timeout=300, **options(server))
    assert made.files.read("kept.txt") == CONTENT


def test_a_build(server, disk):
    template = Template().from_template("base").run_cmd("yes kept | head -c 5000000 > kept.txt")
    Template.build(template, "built", cpu_count=1, memory_mb=512, **options(server))
    lose_power(server, disk)
    made = Sandbox.create("built", timeout=300, **options(server))
    assert made.commands.run("yes kept | head -c 5000000 | cmp - kept.txt").exit_code == 0


def test_a_volume_and_its_files(server, disk, monkeypatch):
    def connected() -> Volume:
        monkeypatch.setenv("E2B_VOLUME_API_URL", server.env["E2B_VOLUME_API_URL"])
        return Volume.connect(volume.volume_id, **options(server))

    volume = Volume.create("lasting", **options(server))
    lose_power(server, disk)
    connected().write_file("kept.txt", CONTENT)
    lose_power(server, disk)
    assert connected().read_file("kept.txt") == CONTENT
    Volume.destroy(volume.volume_id, **options(server))
    lose_power(server, disk)
    assert ask(server, "GET", "/volumes") == []
    assert list((server.data_dir / "volumes").iterdir()) == []


def test_what_was_taken_away_stays_away(server, disk):
    source = filled(server)
    taken = ask(server, "POST", f"/sandboxes/{source.sandbox_id}/snapshots", {"name": "gone", "memory": False})
    wanted = {"name": "gone", "url": "https://1.1.1.1/", "enabled": False, "events": ["sandbox.lifecycle.created"], "signatureSecret": "s" * 32}
    webhook = ask(server, "POST", "/events/webhooks", wanted)
    lose_power(server, disk)
    assert Sandbox.delete_snapshot(taken["snapshotID"], **options(server))
    ask(server, "DELETE", f"/events/webhooks/{webhook['id']}")
    lose_power(server, disk)
    assert ask(server, "GET", "/snapshots") == []
    assert ask(server, "GET", "/events/webhooks") == []


@needs_criu
def test_memory_that_was_saved(server, disk, tmp_path):
    (tmp_path / "counter.py").write_text(COUNTER)
    start = ("python3 counter.py", wait_for_url("http://localhost:8000"))
    template = Template(file_context_path=str(tmp_path)).from_template("base").copy("counter.py", "counter.py").set_start_cmd(*start)
    Template.build(template, "warm", cpu_count=1, memory_mb=512, **options(server))
    first = told(Sandbox.create("warm", timeout=300, **options(server)))
    source = filled(server)
    before = counter(source)
    taken = source.create_snapshot()
    lose_power(server, disk)
    assert told(Sandbox.create("warm", timeout=300, **options(server)))[2] == first[2]
    made = Sandbox.create(taken.snapshot_id, timeout=300, **options(server))
    assert told(made)[2] == before[2]
    assert made.files.read("kept.txt") == CONTENT


@needs_criu
def test_what_is_paused_for_long(server, disk):
    assert server.stop() == 0
    server.arguments = ("--save-paused-after-seconds", "0", "--hibernate-after-seconds", "0")
    server.start()
    sandbox = filled(server)
    before = counter(sandbox)
    sandbox.pause()
    directory = server.data_dir / "sandboxes" / sandbox.sandbox_id
    wait_until("its processes are gone", 30, lambda: not directory.exists())
    lose_power(server, disk)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(server))
    assert told(again)[2] == before[2]
    assert again.files.read("kept.txt") == CONTENT

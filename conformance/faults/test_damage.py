"""Files that are not what the server wrote: named, never used in silence, and no sandbox pays for another's damage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest
from e2b import Sandbox

import host
from crashing import call, options
from machine import reboot
from server import Server, from_environment, kill_every_sandbox, prepare_data_dir, wait_until

DATABASE = ("soulbox.db", "soulbox.db-wal", "soulbox.db-shm", "soulbox.db-boot")
# Of linux/in.h; an address may be used that the host does not have.
IP_FREEBIND = 15


@pytest.fixture
def server():
    """A server that is not started; whatever becomes of it, nothing of it is left."""
    server = from_environment("damage")
    before = host.snapshot(str(server.data_dir))
    yield server
    if not server.alive():
        server.start()
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    left = host.leaks(before, str(server.data_dir))
    assert left == {}, left
    server.remove()


def kept(server: Server) -> Sandbox:
    sandbox = Sandbox.create(timeout=300, **options(server))
    sandbox.files.write("kept.txt", "content")
    return sandbox


def again(server: Server, sandbox: Sandbox) -> Sandbox:
    """The same sandbox under the next server, with what was in it."""
    found = Sandbox.connect(sandbox.sandbox_id, timeout=60, **options(server))
    assert found.files.read("kept.txt") == "content"
    assert found.commands.run("echo usable").stdout == "usable\n"
    return found


def state_path(server: Server, sandbox: Sandbox) -> Path:
    return server.data_dir / "sandboxes" / sandbox.sandbox_id / "state.json"


def pid_of(server: Server, sandbox: Sandbox) -> int:
    return json.loads(state_path(server, sandbox).read_text())["pid"]


def runs(pid: int) -> bool:
    """Whether it is there and more than a name that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def refused(server: Server) -> str:
    """Starts it, sees it refuse, and returns what it said."""
    command = [str(server.binary), "serve", "--data-dir", str(server.data_dir), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stderr[-3000:]
    assert done.returncode in (69, 70), (done.returncode, said)
    assert "READY" not in done.stdout and "FIX: " in said, said
    return said


def listed(server: Server) -> set[str]:
    return {info["sandboxID"] for info in json.loads(call(server, "GET", "/v2/sandboxes")[1])}


def messages(server: Server, sandbox: str) -> list[str]:
    """What its log says, newest first."""
    status, body = call(server, "GET", f"/v2/sandboxes/{sandbox}/logs")
    assert status == 200, body
    return [entry["message"] for entry in json.loads(body)["logs"]]


def cut(length: int):
    return lambda path: os.truncate(path, length)


def garbage(path: Path) -> None:
    path.write_bytes(b"\x5a" * path.stat().st_size)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def newer(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()


# file, what is done to it, what is said of it
DAMAGE = {
    "database removed": ("soulbox.db", Path.unlink, "soulbox.db is not there"),
    "database empty": ("soulbox.db", cut(0), "soulbox.db is empty"),
    "database cut": ("soulbox.db", cut(50), "soulbox.db is no SQLite database"),
    "database zeroed": ("soulbox.db", zeros, "soulbox.db is no SQLite database"),
    "database garbage": ("soulbox.db", garbage, "soulbox.db is no SQLite database"),
    "database newer": ("soulbox.db", newer, "newer soulbox"),
    "log removed": ("soulbox.db-wal", Path.unlink, "soulbox.db-wal has 0 whole frames"),
    "log empty": ("soulbox.db-wal", cut(0), "soulbox.db-wal has 0 whole frames"),
    "log garbage": ("soulbox.db-wal", garbage, "soulbox.db-wal does not begin like a log"),
    "seed empty": ("token.seed", cut(0), "token.seed is damaged"),
    "seed short": ("token.seed", cut(63), "token.seed is damaged"),
    "seed garbage": ("token.seed", garbage, "token.seed is damaged"),
    "key garbage": ("secrets.key", garbage, "secrets.key is damaged"),
    "admin token empty": ("admin.token", cut(0), "admin.token is damaged"),
    "admin token short": ("admin.token", cut(8), "admin.token is damaged"),
    "node id empty": ("node.id", cut(0), "node.id is damaged"),
}


def test_damaged_files_are_named_and_cost_nothing(server):
    """No start on damage; the sandbox runs on; with the file restored, everything is as it was."""
    server.start()
    sandbox = kept(server)
    pid = pid_of(server, sandbox)
    server.kill()
    backup = server.data_dir.parent / f"{server.data_dir.name}.backup"
    for name, (file, change, said) in DAMAGE.items():
        path = server.data_dir / file
        # With owner and mode: the server has a user of its own.
        shutil.rmtree(backup, ignore_errors=True)
        backup.mkdir()
        parts = [part for part in (*DATABASE, "token.seed", "admin.token", "node.id", "secrets.key") if (server.data_dir / part).exists()]
        subprocess.run(["cp", "-p", *[str(server.data_dir / part) for part in parts], str(backup)], check=True)
        assert path.name in parts, f"{name}: nothing there to damage"
        change(path)
        text = refused(server)
        assert said in text, (name, text)
        assert runs(pid), f"{name}: the sandbox was ended"
        for part in DATABASE:
            (server.data_dir / part).unlink(missing_ok=True)
        subprocess.run(["cp", "-p", *[str(backup / part) for part in parts], str(server.data_dir)], check=True)
    shutil.rmtree(backup)
    server.start()
    again(server, sandbox)


def test_damaged_records_end_their_sandbox_and_no_other(server):
    server.start()
    whole = kept(server)
    changes = {
        "empty": lambda path: os.truncate(path, 0),
        "half": lambda path: os.truncate(path, path.stat().st_size // 2),
        "garbage": garbage,
        "another version": lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9})),
        "a bit": lambda path: path.write_bytes(bytes([b ^ (4 if at == 300 else 0) for at, b in enumerate(path.read_bytes())])),
        "another owner": lambda path: os.chown(path, 4242, 4242),
        "huge": lambda path: os.truncate(path, 1 << 30),
        "a directory": lambda path: (path.unlink(), path.mkdir()),
        "removed": Path.unlink,
    }
    hit = {name: kept(server) for name in changes}
    pids = {name: pid_of(server, sandbox) for name, sandbox in hit.items()}
    server.kill()
    for name, change in changes.items():
        change(state_path(server, hit[name]))
    server.start()
    assert listed(server) == {whole.sandbox_id}
    again(server, whole)
    for name, sandbox in hit.items():
        assert not runs(pids[name]), f"{name}: it runs and nobody knows it"
        told = messages(server, sandbox.sandbox_id)
        assert any(message.startswith("Sandbox was lost and is removed: its ") for message in told), (name, told)
    assert os.listdir(server.data_dir / "sandboxes") == [whole.sandbox_id]


def test_a_lost_claim_costs_no_sandbox(server):
    """The server gets its address block again, although nothing in the run directory says that it is its own."""
    for damage in (Path.unlink, lambda path: path.write_bytes(b"\0garbage"), lambda path: os.truncate(path, 0)):
        server.start()
        sandbox = kept(server)
        server.kill()
        wanted = os.path.realpath(server.data_dir)
        claim = next(path for path in host.CLAIMS.iterdir() if path.name.isdigit() and path.read_text() == wanted)
        damage(claim)
        # Another server that starts first does not take the block, and with it the sandboxes.
        other = from_environment("damage")
        other.start()
        assert other.stop() == 0
        other.remove()
        server.start()
        assert claim.read_text() == wanted
        again(server, sandbox).kill()
        server.kill()


def test_the_server_before_may_still_hold_the_dns_address(server):
    """A block is given back a moment before the last process of its server is gone."""
    server.start()
    number = (server.data_dir / "address-block").read_text().strip()
    shown = subprocess.run(["ip", "-4", "-o", "addr", "show", f"sb{int(number):x}gw"], capture_output=True, text=True, check=True)
    gateway = shown.stdout.split()[3].split("/")[0]
    assert server.stop() == 0
    ending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ending.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    ending.bind((gateway, 53))
    closing = threading.Timer(0.5, ending.close)
    closing.start()
    server.start()
    closing.join()
    assert (server.data_dir / "address-block").read_text().strip() == number


def test_a_server_may_get_another_block(server):
    """And with it another user: everything of its own is still there for it."""
    other = from_environment("damage")
    try:
        # A server of another suite may be quicker to take what is free for a moment.
        for _ in range(20):
            server.start()
            assert server.stop() == 0
            block = (server.data_dir / "address-block").read_text()
            (other.data_dir / "address-block").write_text(block)
            other.start()
            if (other.data_dir / "address-block").read_text() == block:
                break
            assert other.stop() == 0
        else:
            raise AssertionError("the other server never got the block")
        server.start()
        assert (server.data_dir / "address-block").read_text() != block
        kept(server).kill()
        status, answer = call(server, "POST", "/v3/templates", {"name": "moved"})
        assert status == 202, answer
        status, answer = call(server, "GET", f"/templates/{json.loads(answer)['templateID']}/files/{'a' * 64}")
        assert status == 201 and not json.loads(answer)["present"], answer
    finally:
        assert other.stop() == 0
        other.remove()


def test_a_damaged_template_keeps_nobody_from_his_sandboxes(server):
    server.start()
    sandbox = kept(server)
    server.kill()
    manifest = server.data_dir / "templates" / "base.json"
    text = manifest.read_text()
    # A file of its own: this one is linked to those of other servers.
    manifest.unlink()
    manifest.write_text(text.replace('"user"', '"root"', 1))
    server.start()
    again(server, sandbox)
    assert "TEMPLATE IS DAMAGED" in server.log_path.read_text()
    server.kill()
    manifest.write_text(text)
    layer = next(path for path in (server.data_dir / "layers").iterdir() if path.is_dir())
    away = layer.with_name("away")
    layer.rename(away)
    server.start()
    again(server, sandbox)
    status, body = call(server, "POST", "/v2/sandboxes", {"templateID": "base"})
    assert status == 500, body
    wait_until("the failed create left nothing", 5, lambda: os.listdir(server.data_dir / "sandboxes") == [sandbox.sandbox_id])
    away.rename(layer)
    assert Sandbox.create(timeout=60, **options(server)).commands.run("echo ok").stdout == "ok\n"


def test_a_file_system_that_cannot_be_written(server):
    server.start()
    sandbox = kept(server)
    pid = pid_of(server, sandbox)
    server.kill()
    directory = str(server.data_dir)
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        # What the killed server's helper still does with its files can keep the mount busy for a moment.
        wait_until("the directory is read-only", 10, lambda: succeeds("mount", "-o", "remount,bind,ro", directory))
        command = [str(server.binary), "serve", "--data-dir", directory, "--listen", "127.0.0.1:0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and "READY" not in done.stdout, done
        assert directory in done.stderr and "Read-only file system" in done.stderr, done.stderr
        assert runs(pid)
    finally:
        wait_until("the directory is as it was", 10, lambda: succeeds("umount", directory))
    server.start()
    again(server, sandbox)


def succeeds(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr)  # Shown where the test fails in the end.
    return done.returncode == 0


def test_an_operator_unmounts_a_disk_while_a_server_runs_whose_directory_is_closed_to_others(tmp_path):
    """Such a server has a mount namespace of its own. It keeps no disk busy that it has nothing to do with."""
    disk, closed = tmp_path / "disk", tmp_path / "closed"
    disk.mkdir()
    closed.mkdir(mode=0o700)
    prepare_data_dir(Path(os.environ["CONFORMANCE_BASE_DATA"]), closed / "data")
    server = Server(Path(os.environ["CONFORMANCE_BINARY"]), closed / "data")
    subprocess.run(["mount", "--bind", str(tmp_path), str(tmp_path)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "disk", str(disk)], check=True)
        server.start()
        seen = Path(f"/proc/{server.process.pid}/mountinfo").read_text()
        assert str(closed) in seen, "the server has no mount namespace of its own"
        subprocess.run(["umount", str(disk)], check=True)
        assert str(disk) not in Path(f"/proc/{server.process.pid}/mountinfo").read_text()
        assert Sandbox.create(timeout=60, **options(server)).commands.run("echo ok").stdout == "ok\n"
        kill_every_sandbox(server.env)
    finally:
        server.stop()
        server.remove()
        subprocess.run(["umount", "--recursive", str(tmp_path)], check=True)


def test_after_a_restart_of_the_machine(server):
    """The truth: what ran is gone and said to be, its files too, and new sandboxes work."""
    server.start()
    old = [kept(server) for _ in range(3)]
    status, body = call(server, "GET", "/templates")
    templates = [template["templateID"] for template in json.loads(body)]
    server.kill()
    reboot(server)
    server.start()
    assert listed(server) == set()
    assert os.listdir(server.data_dir / "sandboxes") == []
    for sandbox in old:
        assert call(server, "GET", f"/sandboxes/{sandbox.sandbox_id}")[0] == 404
        assert "Sandbox was lost and is removed: the machine was restarted" in messages(server, sandbox.sandbox_id)
    assert [template["templateID"] for template in json.loads(call(server, "GET", "/templates")[1])] == templates
    fresh = kept(server)
    again(server, fresh)


def test_the_log_of_a_crashed_machine_may_end_early(server):
    """Power fails while the last changes are on their way to the disk: SQLite's rule holds, and the server starts."""
    server.start()
    kept(server)
    server.kill()
    reboot(server)
    log = server.data_dir / "soulbox.db-wal"
    os.truncate(log, log.stat().st_size - 1000)
    server.start()
    assert listed(server) == set()
    kept(server)


def test_fault_injection_is_loud_and_exact(server):
    """Nobody gets it by accident, and a wrong name is no silent nothing."""
    command = [str(server.binary), "serve", "--data-dir", str(server.data_dir), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=os.environ | {"SOULBOX_FAULT": "create.nothing"})
    assert done.returncode == 64 and "names no point" in done.stderr and "FIX: " in done.stderr, done
    server.start(fault="timeout.due:1000000")
    assert "FAULT INJECTION IS ON" in server.log_path.read_text()
    assert Sandbox.create(timeout=60, **options(server)).commands.run("echo ok").stdout == "ok\n"

"""Links that change while somebody follows them: envd's operations for the owner, and the host's removing and measuring."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import INSIDE, PROGRAMS, Attempt, judge, one

from raw import api
from server import wait_until

ROUNDS = 25


def swapper(a: Path, b: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-B", PROGRAMS / "swap.py", a, b], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    return process


def naive_agent(work, tmp_path: Path, loot, seconds: float = 10) -> bool:
    """An agent of the host that joins paths and looks before it goes, while somebody swaps what it looks at."""
    door, gate = tmp_path / "door", tmp_path / "gate"
    door.mkdir()
    gate.symlink_to(loot.directory)
    process = swapper(door, gate)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if door.is_symlink():
                continue
            try:
                work(door)
            except OSError:
                pass
            if not loot.untouched() or (door / "read").exists() or _READ:
                return True
        return False
    finally:
        process.kill()
        process.wait()
        loot.restore()
        _READ.clear()


_READ: list[str] = []


def _read(door: Path, secret: str) -> None:
    if (door / "secret").read_text() == secret:
        _READ.append(secret)


def _remove(door: Path) -> None:
    for child in list(door.iterdir()):
        child.unlink()


def test_operations_through_links_stay_inside(sandbox, loot, tmp_path):
    """The attacker swaps a directory for a link to one of the host's while the owner works in it."""
    home = "/home/user/race"
    run = sandbox.commands.run
    run(f"rm -rf {home}; mkdir -p {home}/door; ln -s {loot.directory} {home}/gate; echo inner > {home}/door/secret")
    swap = run(f"exec python3 {INSIDE}/swap.py {home}/door {home}/gate", background=True, timeout=0)
    found: dict[str, Attempt] = {}

    def tried(name: str, operation) -> None:
        evidence = ""
        for _ in range(ROUNDS):
            try:
                result = operation()
            except Exception as refused:  # noqa: BLE001  (that the directory is away, or a link, is an answer)
                result = refused
            if loot.secret in str(result) or not loot.untouched():
                evidence = str(result)[:200]
        found[name] = Attempt(bool(evidence), evidence)

    files = sandbox.files
    tried("read", lambda: files.read(f"{home}/door/secret", user="root"))
    tried("write", lambda: files.write(f"{home}/door/planted", "x", user="root"))
    tried("overwrite", lambda: files.write(f"{home}/door/secret", "overwritten", user="root"))
    tried("list", lambda: [entry.name for entry in files.list(f"{home}/door", user="root")])
    tried("make a directory", lambda: files.make_dir(f"{home}/door/made", user="root"))
    tried("rename", lambda: files.rename(f"{home}/door/secret", f"{home}/door/renamed", user="root"))
    tried("remove", lambda: files.remove(f"{home}/door/secret", user="root"))
    tried("watch", lambda: files.watch_dir(f"{home}/door", user="root").stop())
    swap.kill()
    shown = {
        "read": naive_agent(lambda door: _read(door, loot.secret), _new(tmp_path, 1), loot),
        "write": naive_agent(lambda door: (door / "planted").write_text("x"), _new(tmp_path, 2), loot),
        "overwrite": naive_agent(lambda door: (door / "secret").write_text("x"), _new(tmp_path, 3), loot),
        "make a directory": naive_agent(lambda door: (door / "made").mkdir(), _new(tmp_path, 4), loot),
        "rename": naive_agent(lambda door: (door / "secret").rename(door / "renamed"), _new(tmp_path, 5), loot),
        "remove": naive_agent(_remove, _new(tmp_path, 6), loot),
    }
    control = {name: Attempt(did) for name, did in shown.items()}
    judge("races", found, control, {"list": "an agent that lists is one that reads, which is shown", "watch": "an agent that watches is one that reads, which is shown"})


def _new(parent: Path, number: int) -> Path:
    directory = parent / str(number)
    directory.mkdir()
    return directory


def remove_naively(tree: Path) -> None:
    """Looks whether a thing is a link, and goes into it when it was none: the classical mistake."""
    for child in list(tree.iterdir()):
        if child.is_dir() and not child.is_symlink():
            remove_naively(child)
        elif not child.is_symlink():
            child.unlink()


def sandbox_directory(sandbox) -> Path:
    return Path(os.environ["CONFORMANCE_DATA_DIR"]) / "sandboxes" / sandbox.sandbox_id


def test_hostile_trees_are_measured_and_removed(throwaway, loot, tmp_path):
    """The attacker leaves a tree for the host to fall over, and goes on changing it while the host removes it."""
    run = throwaway.commands.run
    run(f"python3 {INSIDE}/hostile_tree.py {loot.directory}", user="root", timeout=90)
    for n in range(3):
        run(f"exec python3 {INSIDE}/swap.py /srv/hostile/door{n} /srv/hostile/gate{n}", background=True, user="root", timeout=0)
    assert sandbox_directory(throwaway).is_dir()
    # Measuring: what the host reports comes from the tree.
    wait_until("there are measurements", 20, lambda: api("GET", f"/sandboxes/{throwaway.sandbox_id}/metrics").json)
    started = time.monotonic()
    throwaway.kill()
    wait_until("its directory is gone", 30, lambda: not sandbox_directory(throwaway).exists())
    took = time.monotonic() - started
    did = not loot.untouched()
    shown = naive_agent(remove_naively, _new(tmp_path, 1), loot)
    one("hostile trees", "removing reaches a file of the host", did, shown, f"{took:.1f} s")
    assert api("GET", "/v2/sandboxes").status == 200


def test_kill_while_everything_is_in_motion(loot, tmp_path):
    """The attacker makes files as fast as he can while his sandbox is being removed, again and again."""
    from e2b import Sandbox
    from harness import upload

    for _ in range(2):
        sandbox = Sandbox.create(timeout=60)
        upload(sandbox)
        sandbox.commands.run(f"for n in 1 2 3; do nohup python3 {INSIDE}/churn.py {loot.directory} >/dev/null 2>&1 & done; sleep 0.3", user="root")
        sandbox.kill()
        wait_until("its directory is gone", 30, lambda: not sandbox_directory(sandbox).exists())
    one("trees in motion", "removing reaches a file of the host", not loot.untouched(), naive_agent(remove_naively, _new(tmp_path, 1), loot))

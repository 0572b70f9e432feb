"""SoulBox's own command line, and the official one beside it: forks, snapshots, the tree of both, how long they are kept."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from counter import HAS_CRIU
from server import from_environment

E2B = Path(os.environ.get("CONFORMANCE_TOOLS", ".")) / "js/node_modules/.bin/e2b"


@pytest.fixture(scope="module")
def server():
    server = from_environment("branches").start()
    yield server
    soulbox(server, "sandbox", "kill", "--all")
    assert server.stop() == 0
    server.remove()


def soulbox(server, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [str(server.binary), "--data-dir", str(server.data_dir), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=170)
    if check:
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def said(server, *arguments: str) -> str:
    return soulbox(server, *arguments).stdout.strip()


def inside(server, sandbox: str, line: str) -> str:
    return said(server, "sandbox", "exec", sandbox, "--", "sh", "-c", line)


def e2b(server, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1", **server.env}
    return subprocess.run([str(E2B), *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_a_family(server):
    parent = said(server, "sandbox", "create")
    inside(server, parent, "echo kept > kept.txt")
    children = said(server, "sandbox", "fork", parent, "--files-only", "--count", "3").split()
    assert len(set(children)) == 3
    assert all(inside(server, child, "cat kept.txt") == "kept" for child in children)
    snapshot = said(server, "sandbox", "snapshot", children[0], "--files-only", "--name", "family:v1")
    assert snapshot == "default/family:v1"
    grandchild = said(server, "sandbox", "create", snapshot)
    assert inside(server, grandchild, "cat kept.txt") == "kept"
    soulbox(server, "sandbox", "kill", children[1])
    # With its memory, as long as nothing else is asked for.
    inside(server, children[2], "nohup sleep 4321 >/dev/null 2>&1 &")
    orphan = said(server, "sandbox", "fork", children[2], *([] if HAS_CRIU else ["--files-only"]))
    assert inside(server, orphan, "pgrep -c -x sleep || true") == str(int(HAS_CRIU))
    soulbox(server, "sandbox", "kill", children[2])

    tree = said(server, "sandbox", "tree")
    depth = {line.split("─ ")[-1].split()[0]: len(line) - len(line.lstrip("│├└─ ")) for line in tree.splitlines()}
    assert depth[parent] < depth[children[0]] < depth[snapshot] < depth[grandchild], tree
    assert depth[children[2]] < depth[orphan] and "gone" in tree and children[1] not in tree, tree
    roots = json.loads(said(server, "sandbox", "tree", "--json"))
    (root,) = [root for root in roots if root["id"] == parent]
    assert [child["id"] for child in root["children"]] == [children[0]]

    listed = said(server, "snapshot", "list")
    assert snapshot in listed and children[0] in listed
    assert said(server, "snapshot", "list", "--sandbox", grandchild) == ""
    theirs = e2b(server, "sandbox", "snapshot", "list", children[0], "--format", "json")
    assert [one["snapshotId"] for one in json.loads(theirs.stdout)] == [snapshot], theirs
    failed = soulbox(server, "snapshot", "rm", snapshot, check=False)
    assert failed.returncode == 1 and "running sandboxes using it" in failed.stderr
    soulbox(server, "sandbox", "kill", grandchild)
    assert "has been deleted" in e2b(server, "sandbox", "snapshot", "delete", snapshot).stdout
    failed = soulbox(server, "snapshot", "rm", snapshot, check=False)
    assert failed.returncode == 1 and "not found" in failed.stderr


def test_what_is_refused(server):
    sandbox = said(server, "sandbox", "create")
    inside(server, sandbox, "echo in the way > /dev/shm/x")
    for command in ("fork", "snapshot"):
        failed = soulbox(server, "sandbox", command, sandbox, check=False)
        assert failed.returncode == 1 and "--files-only" in failed.stderr, failed
        assert "/dev/shm" in failed.stderr or not HAS_CRIU, failed
    failed = soulbox(server, "sandbox", "fork", sandbox, "--count", "101", check=False)
    assert failed.returncode == 64, failed
    failed = soulbox(server, "sandbox", "fork", "inothing", "--files-only", check=False)
    assert failed.returncode == 1 and "inothing" in failed.stderr


def admin(server, method: str, path: str, body=None) -> tuple[int, dict]:
    token = (server.data_dir / "admin.token").read_text().strip()
    headers = {"X-Admin-Token": token, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_how_long_a_team_keeps_what(server):
    status, teams = admin(server, "GET", "/teams")
    path = f"/admin/teams/{teams[0]['teamID']}/retention"
    assert admin(server, "GET", path) == (200, {"pausedDays": None, "snapshotDays": None})
    wanted = {"pausedDays": 30, "snapshotDays": None}
    assert admin(server, "PUT", path, {"pausedDays": 30}) == (200, wanted)
    assert admin(server, "GET", path) == (200, wanted)
    for wrong in ({"pausedDays": 0}, {"snapshotDays": 36501}, {"pausedDays": "x"}, {"pausedDays": None}):
        status, answer = admin(server, "PUT", path, wrong)
        assert status == 400 and answer["code"] == 400, answer
    assert admin(server, "GET", path) == (200, wanted)
    assert admin(server, "GET", "/admin/teams/00000000-0000-0000-0000-000000000000/retention")[0] == 404

"""Snapshots and forks, with the newest Python package: what is made from a sandbox has its files, and goes its own way."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import InvalidArgumentException, SandboxException, SandboxNotFoundException

import raw
from server import wait_until


def call(method: str, path: str, body=None, expect: int = 201):
    """The package cannot ask for a fork of files alone."""
    answer = raw.api(method, path, body)
    assert answer.status == expect, answer
    return answer.json


def fork(sandbox, **wanted) -> list[dict]:
    return call("POST", f"/sandboxes/{sandbox.sandbox_id}/fork", {"memory": False, "timeout": 120, **wanted})


def listed(sdk, **wanted) -> list[str]:
    return [snapshot.snapshot_id for snapshot in sdk.list_snapshots(**wanted).next_items()]


@pytest.fixture
def snapshots(sdk):
    """Takes snapshots and deletes them at the end. To be asked for first: what is made of them has to be gone by then."""
    taken = []

    def take(sandbox, *args, **kwargs):
        made = sandbox.create_snapshot(*args, mode="filesystem", **kwargs)
        taken.append(made.snapshot_id)
        return made

    yield take
    for one in taken:
        sdk.delete_snapshot(one)


def test_a_snapshot_is_what_sandboxes_start_from(snapshots, sdk, create):
    mark = uuid.uuid4().hex
    sandbox = create(timeout=120, envs={"MARK": mark}, metadata={"mark": mark})
    sandbox.files.write("/home/user/kept.txt", mark)
    sandbox.commands.run("sudo rm -r /etc/apt; mkdir d && ln -s /nowhere d/link && chmod 4711 kept.txt")
    sleeper = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    before = sandbox.get_info()
    taken = snapshots(sandbox)
    assert taken.names == [] and taken.snapshot_id.endswith(":default")
    # It has gone on as if nothing had been.
    assert sandbox.get_info() == before
    assert sleeper.pid in [process.pid for process in sandbox.commands.list()]
    sandbox.files.write("/home/user/kept.txt", "later")

    made = create(taken.snapshot_id, timeout=60)
    assert made.sandbox_id != sandbox.sandbox_id
    assert made.files.read("kept.txt") == mark
    run = made.commands.run
    assert run("stat -c %a kept.txt; readlink d/link; test -e /etc/apt || echo gone").stdout == "4711\n/nowhere\ngone\n"
    assert run("pgrep -x sleep || echo none; echo [$MARK]").stdout == "none\n[]\n"
    info = made.get_info()
    assert info.metadata == {} and info.template_id == taken.snapshot_id.split(":")[0]
    made.files.write("/home/user/kept.txt", "its own")
    assert create(taken.snapshot_id, timeout=60).files.read("kept.txt") == mark
    assert sandbox.files.read("kept.txt") == "later"
    assert listed(sdk, sandbox_id=sandbox.sandbox_id) == [taken.snapshot_id]
    assert taken.snapshot_id.split(":")[0] not in [one["templateID"] for one in call("GET", "/templates", expect=200)]


def test_snapshots_have_names_and_tags(snapshots, sdk, create):
    name = f"snap-{uuid.uuid4().hex[:8]}"
    sandbox = create(timeout=120)
    for number, tag in enumerate(["", ":v2", ""]):
        sandbox.files.write("/home/user/n", str(number))
        taken = snapshots(sandbox, f"{name}{tag}")
        assert taken.names == [f"default/{name}"]
        assert taken.snapshot_id == f"default/{name}{tag or ':default'}"
    assert create(name, timeout=60).files.read("n") == "2"
    assert create(f"default/{name}:v2", timeout=60).files.read("n") == "1"
    assert listed(sdk, name=name) == [f"default/{name}:default"]
    assert listed(sdk, name=f"{name}:v2") == [f"default/{name}:v2"]
    assert listed(sdk, name=f"{name}:v9") == []
    assert listed(sdk, name="never-taken") == []
    with pytest.raises(SandboxException, match="must match your team"):
        listed(sdk, name="other/x")
    with pytest.raises(SandboxException, match="Invalid name"):
        sandbox.create_snapshot("a b", mode="filesystem")


def test_pages(snapshots, sdk, create):
    sandbox = create(timeout=120)
    taken = [snapshots(sandbox).snapshot_id for _ in range(3)]
    pages = sdk.list_snapshots(sandbox_id=sandbox.sandbox_id, limit=2)
    first = [one.snapshot_id for one in pages.next_items()]
    assert pages.has_next
    rest = [one.snapshot_id for one in pages.next_items()]
    assert first + rest == taken[::-1] and not pages.has_next


def test_snapshots_outlive_their_sandbox(snapshots, sdk, create):
    sandbox = create(timeout=120)
    sandbox.files.write("/home/user/kept.txt", "kept")
    taken = snapshots(sandbox).snapshot_id
    sandbox.kill()
    made = create(taken, timeout=60)
    assert made.files.read("kept.txt") == "kept"
    assert listed(sdk, sandbox_id=sandbox.sandbox_id) == [taken]
    with pytest.raises(SandboxException, match="because there are running sandboxes using it"):
        sdk.delete_snapshot(taken)
    made.pause(mode="filesystem")
    with pytest.raises(SandboxException, match="because there are paused sandboxes using it"):
        sdk.delete_snapshot(taken)
    made.kill()
    assert sdk.delete_snapshot(taken) is True
    assert sdk.delete_snapshot(taken) is False
    assert listed(sdk, sandbox_id=sandbox.sandbox_id) == []
    with pytest.raises(SandboxException):
        sdk.create(taken)


def test_a_snapshot_of_a_snapshot_of_a_snapshot(snapshots, create):
    sandbox = create(timeout=120)
    for number in range(3):
        sandbox.files.write(f"/home/user/{number}", str(number))
        sandbox = create(snapshots(sandbox).snapshot_id, timeout=120)
    assert sandbox.commands.run("cat 0 1 2").stdout == "012"
    sandbox.pause(mode="filesystem")
    sandbox.connect(timeout=60)
    assert sandbox.commands.run("cat 0 1 2").stdout == "012"


def test_forks_go_their_own_way(sdk, create):
    mark = uuid.uuid4().hex
    sandbox = create(timeout=300, envs={"MARK": mark}, metadata={"mark": mark}, network={"allow_public_traffic": False})
    sandbox.files.write("/home/user/kept.txt", mark)
    forks = [entry["sandbox"] for entry in fork(sandbox, count=5)]
    assert len({one["sandboxID"] for one in forks} | {sandbox.sandbox_id}) == 6
    tokens = {one["envdAccessToken"] for one in forks} | {one["trafficAccessToken"] for one in forks}
    assert len(tokens) == 10 and None not in tokens
    handles = [sdk.connect(one["sandboxID"], timeout=60) for one in forks]
    for number, handle in enumerate(handles):
        handle.files.write("/home/user/own", str(number))
        assert handle.commands.run("cat kept.txt; echo -n $MARK").stdout == mark * 2
        info = handle.get_info()
        assert info.metadata == {"mark": mark} and info.template_id == sandbox.get_info().template_id
    assert [handle.files.read("own") for handle in handles] == list("01234")
    assert not sandbox.files.exists("/home/user/own")
    details = call("GET", f"/sandboxes/{handles[0].sandbox_id}", expect=200)
    assert details["forkedFrom"] == sandbox.sandbox_id
    sandbox.kill()
    assert handles[0].commands.run("cat kept.txt").stdout == mark
    for handle in handles:
        handle.kill()


def test_a_fork_of_a_fork_is_paused_and_comes_back(sdk, create):
    sandbox = create(timeout=120)
    for number in range(3):
        sandbox.files.write(f"/home/user/{number}", str(number))
        (entry,) = fork(sandbox)
        sandbox.kill()
        sandbox = sdk.connect(entry["sandbox"]["sandboxID"], timeout=120)
    sandbox.pause(mode="filesystem")
    sandbox.connect(timeout=60)
    assert sandbox.commands.run("cat 0 1 2").stdout == "012"
    sandbox.kill()


def test_branches_are_events(snapshots, sdk, create):
    sandbox = create(timeout=120)
    taken = snapshots(sandbox).snapshot_id
    made = [entry["sandbox"]["sandboxID"] for entry in fork(sandbox, count=2)]
    of = lambda one: call("GET", f"/events/sandboxes/{one}?orderAsc=true", expect=200)
    told = of(sandbox.sandbox_id)
    assert [event["type"] for event in told] == [f"sandbox.lifecycle.{kind}" for kind in ("created", "checkpointed", "forked")]
    assert told[1]["eventData"]["snapshot_template_id"] == taken.split(":")[0]
    assert sorted(told[2]["eventData"]["forks"]) == sorted(made)
    (begin,) = of(made[0])
    assert begin["eventData"]["forked_from"] == sandbox.sandbox_id
    for one in made:
        sdk.kill(one)


def test_what_cannot_be_branched(sdk, create):
    sandbox = create(timeout=120)
    with pytest.raises(InvalidArgumentException):
        sandbox.fork(count=21)
    path = f"/sandboxes/{sandbox.sandbox_id}"
    call("POST", f"{path}/fork", {"memory": False, "count": 101}, expect=400)
    sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        sandbox.create_snapshot(mode="filesystem")
    refused = call("POST", f"{path}/fork", {"memory": False}, expect=409)
    assert refused["message"] == f"Sandbox '{sandbox.sandbox_id}' is paused and cannot be forked; resume it first"
    sandbox.kill()
    with pytest.raises(SandboxNotFoundException):
        sandbox.create_snapshot(mode="filesystem")


def test_branches_while_it_works(snapshots, sdk, create):
    """A program that writes all the time meets no error, and each snapshot has a moment of it."""
    sandbox = create(timeout=120)
    program = "i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i > t && mv t a && echo $i > t && mv t b || exit 7; done; echo fine"
    writer = sandbox.commands.run(program, background=True, timeout=0)
    wait_until("it writes", 10, lambda: sandbox.files.exists("/home/user/b"))
    for _ in range(3):
        made = create(snapshots(sandbox).snapshot_id, timeout=60)
        a, b = (int(made.files.read(name)) for name in "ab")
        assert a - b in (0, 1), (a, b)
    sandbox.files.write("/home/user/stop", "")
    assert writer.wait().stdout == "fine\n"


def test_two_at_once_are_told_so(snapshots, sdk, create):
    sandbox = create(timeout=120)
    sandbox.commands.run("head -c 200M /dev/urandom > big")

    def take(_):
        try:
            return snapshots(sandbox).snapshot_id
        except SandboxException as error:
            assert "cannot be snapshotted while in 'snapshotting' state" in str(error)
            return None

    with ThreadPoolExecutor(4) as pool:
        taken = [one for one in pool.map(take, range(4)) if one]
    assert taken
    assert create(taken[0], timeout=60).commands.run("stat -c %s big").stdout == f"{200 * 1024 * 1024}\n"

"""Memory on disk, with the newest Python package: snapshots and forks go on where their sandbox was."""

from __future__ import annotations

import uuid

import pytest
from e2b import SandboxException, wait_for_url
from e2b.sandbox.commands.command_handle import PtySize

import raw
from counter import COUNTER, counter, needs_criu, same_process, told
from flavours import both_templates
from server import wait_until

pytestmark = needs_criu
TEMPLATES = both_templates()


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


def test_a_template_goes_on_from_its_start_command(flavour, create, tmp_path):
    """What its start command has brought up runs in all its sandboxes; only kernels draw numbers anew."""
    templates = TEMPLATES[flavour]
    name = f"t-{uuid.uuid4().hex[:12]}"
    (tmp_path / "counter.py").write_text(COUNTER)
    template = (
        templates(file_context_path=str(tmp_path))
        .from_template("base")
        .copy("counter.py", "counter.py")
        .set_start_cmd("date +%N > started; exec python3 counter.py", wait_for_url("http://localhost:8000"))
    )
    said: list[str] = []
    templates.build(template, name, cpu_count=1, memory_mb=512, on_build_logs=lambda entry: said.append(entry.message))
    assert any("Its memory is kept" in line for line in said), said
    first, second = create(name, timeout=60), create(name, timeout=60, envs={"MARK": "m"}, allow_internet_access=False)
    assert told(first)[2] == told(second)[2], "both have the memory of the build"
    run = second.commands.run
    assert run("echo -n $MARK $E2B_SANDBOX_ID; hostname").stdout == f"m {second.sandbox_id}{second.sandbox_id}\n"
    started = [one.files.read("started") for one in (first, second)]
    assert started[0] == started[1], "it did not run again"
    assert len({one.commands.run("head -c 16 /dev/urandom | md5sum").stdout for one in (first, second)}) == 2
    # And so it does where a template goes on from it.
    child = f"{name}-child"
    templates.build(templates().from_template(name).run_cmd("echo x > more"), child, cpu_count=1, memory_mb=512)
    third = create(child, timeout=60)
    assert told(third)[2] != told(first)[2], "it ran at the build of this one"
    assert third.files.read("more") == "x\n"


def test_a_terminal_goes_on(create, flavour):
    sandbox = create(timeout=120)
    # What it prints is of no interest here.
    reader = {"on_data": len} if flavour == "async" else {}
    terminal = sandbox.pty.create(PtySize(24, 80), timeout=0, **reader)
    sandbox.pty.send_stdin(terminal.pid, b"secret=kept; cd /tmp\n")
    [made] = sandbox.fork(timeout=60)
    try:
        made.pty.send_stdin(terminal.pid, b"echo $secret in $PWD > /home/user/said\n")
        wait_until("the shell's word", 10, lambda: made.files.exists("/home/user/said") and made.files.read("/home/user/said"))
        assert made.files.read("/home/user/said") == "kept in /tmp\n"
    finally:
        made.kill()

"""Pausing and bringing back, with the newest Python package: memory and files are kept, and nothing is lost."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import SandboxException, SandboxNotFoundException, SandboxQuery, SandboxState

import raw
from server import wait_until

# Counts in its memory, ten times a second.
COUNTER = "import time\nn=0\nwhile True:\n  n+=1\n  open('/home/user/n.tmp','w').write(str(n))\n  __import__('os').rename('/home/user/n.tmp','/home/user/n')\n  time.sleep(0.1)"


def count(sandbox) -> int:
    return int(sandbox.files.read("/home/user/n"))


def state_of(sdk, sandbox) -> SandboxState:
    return sdk.get_info(sandbox.sandbox_id).state


def fetch(sandbox, port: int, **headers) -> int:
    names = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    return raw.request("GET", "/", names | {name.replace("_", "-"): value for name, value in headers.items()}).status


def serve(sandbox) -> None:
    """Starts a server that no client holds a stream of: one that breaks is taken up again, which is traffic."""
    sandbox.commands.run("nohup python3 -m http.server 8000 > /tmp/server.log 2>&1 &")


def listed(sdk, **query) -> list[str]:
    return [info.sandbox_id for info in sdk.list(query=SandboxQuery(**query)).next_items()]


def test_memory_and_files_are_kept(sdk, create):
    mark = uuid.uuid4().hex
    sandbox = create(timeout=120, envs={"MARK": mark}, metadata={"mark": mark})
    sandbox.files.write("/home/user/kept.txt", mark)
    counter = sandbox.commands.run(f"python3 -c \"{COUNTER}\"", background=True, timeout=0)
    wait_until("it counts", 10, lambda: sandbox.files.exists("/home/user/n") and count(sandbox) > 3)
    before = sandbox.get_info()
    assert sandbox.pause() is True
    assert not sandbox.is_running()
    info = sandbox.get_info()
    assert info.state == SandboxState.PAUSED and info.metadata == {"mark": mark}
    assert info.end_at <= before.end_at and info.started_at == before.started_at
    assert listed(sdk, metadata={"mark": mark}, state=[SandboxState.PAUSED]) == [sandbox.sandbox_id]
    assert listed(sdk, metadata={"mark": mark}, state=[SandboxState.RUNNING]) == []
    # Twice is once.
    assert sandbox.pause() is False
    with pytest.raises(SandboxException):
        sandbox.commands.run("true")
    again = sdk.connect(sandbox.sandbox_id, timeout=60)
    resumed = again.get_info()
    assert resumed.state == SandboxState.RUNNING and resumed.started_at > before.started_at
    assert again.files.read("/home/user/kept.txt") == mark
    first = count(again)
    wait_until("it goes on counting", 10, lambda: count(again) > first + 2)
    assert counter.pid in [process.pid for process in again.commands.list()]
    assert again.commands.run("echo $MARK").stdout == f"{mark}\n"
    # The old handle has the same token.
    assert sandbox.commands.run("cat kept.txt").stdout == mark


def test_files_alone_are_kept(sdk, create):
    mark = uuid.uuid4().hex
    sandbox = create(timeout=120, envs={"MARK": mark})
    sandbox.files.write("/home/user/kept.txt", mark)
    sandbox.commands.run("sudo rm -r /etc/apt; mkdir -p a/b && ln -s /nowhere a/link && chmod 4711 kept.txt && touch /tmp/here")
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    assert sandbox.pause(mode="filesystem") is True
    assert not sandbox.is_running() and state_of(sdk, sandbox) == SandboxState.PAUSED
    again = sdk.connect(sandbox.sandbox_id, timeout=60)
    run = again.commands.run
    assert run("cat kept.txt").stdout == mark
    assert run("readlink a/link").stdout == "/nowhere\n" and run("stat -c %a kept.txt").stdout == "4711\n"
    assert run("test -e /etc/apt || echo gone").stdout == "gone\n"
    assert run("pgrep -x sleep || echo none").stdout == "none\n"
    assert run("echo $MARK").stdout == f"{mark}\n"
    assert sandbox.commands.run("echo same token").stdout == "same token\n"


def test_twenty_rounds_lose_nothing(sdk, create):
    sandbox = create(timeout=300)
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    for number in range(20):
        sandbox.files.write(f"/home/user/round-{number}", str(number))
        sandbox.pause()
        sandbox.connect(timeout=300)
        assert sandbox.commands.run("ls /home/user | grep -c round; pgrep -xc sleep").stdout == f"{number + 1}\n1\n"


def test_rounds_without_memory_lose_nothing(sdk, create):
    sandbox = create(timeout=300)
    for number in range(4):
        sandbox.files.write(f"/home/user/round-{number}", str(number))
        sandbox.commands.run(f"sudo rm -f /home/user/round-{number - 2}")
        sandbox.pause(mode="filesystem")
        sandbox.connect(timeout=300)
    assert sandbox.commands.run("ls /home/user | grep round").stdout == "round-2\nround-3\n"


def test_reboot_gives_up_memory(sdk, create):
    sandbox = create(timeout=120)
    sandbox.files.write("/home/user/kept.txt", "kept")
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    sandbox.pause()
    again = sdk.connect(sandbox.sandbox_id, timeout=60, on_resume="reboot")
    assert again.files.read("/home/user/kept.txt") == "kept"
    assert again.commands.run("pgrep -x sleep || echo none").stdout == "none\n"


def test_many_at_once(sdk, create):
    """Five pauses are one pause, five connects are one resume."""
    sandbox = create(timeout=120)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: sdk.pause(sandbox.sandbox_id), range(5)))
        assert True in answers
        assert state_of(sdk, sandbox) == SandboxState.PAUSED
        handles = list(pool.map(lambda _: sdk.connect(sandbox.sandbox_id, timeout=60), range(5)))
    assert {handle.sandbox_id for handle in handles} == {sandbox.sandbox_id}
    assert sandbox.commands.run("echo here").stdout == "here\n"


def test_paused_ones_are_killed(sdk, create):
    for mode in ("full", "filesystem"):
        sandbox = create(timeout=120)
        sandbox.pause(mode=mode)
        assert sdk.kill(sandbox.sandbox_id) is True
        assert sdk.kill(sandbox.sandbox_id) is False
        with pytest.raises(SandboxNotFoundException):
            sdk.connect(sandbox.sandbox_id)
        with pytest.raises(SandboxNotFoundException):
            sandbox.pause()


def test_what_paused_ones_refuse(sdk, create):
    sandbox = create(timeout=120)
    sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        sandbox.set_timeout(60)
    with pytest.raises(SandboxException):
        sandbox.fork()


@pytest.mark.parametrize("mode", ["full", "filesystem"])
def test_pause_at_the_end_time(sdk, create, mode):
    sandbox = create(timeout=3, lifecycle={"on_timeout": {"action": "pause", "mode": mode}})
    sandbox.files.write("/home/user/kept.txt", mode)
    wait_until("it is paused", 5, lambda: state_of(sdk, sandbox) == SandboxState.PAUSED)
    again = sdk.connect(sandbox.sandbox_id, timeout=5)
    assert again.files.read("/home/user/kept.txt") == mode
    assert again.get_info().lifecycle["on_timeout"] == "pause"
    # The policy holds for the next run, too.
    wait_until("it is paused again", 8, lambda: state_of(sdk, sandbox) == SandboxState.PAUSED)


def test_traffic_brings_it_back(sdk, create):
    sandbox = create(timeout=3, lifecycle={"on_timeout": "pause", "auto_resume": True})
    serve(sandbox)
    wait_until("the server answers", 3, lambda: fetch(sandbox, 8000) == 200)
    wait_until("it is paused", 6, lambda: state_of(sdk, sandbox) == SandboxState.PAUSED)
    assert fetch(sandbox, 8000) == 200
    info = sdk.get_info(sandbox.sandbox_id)
    assert info.state == SandboxState.RUNNING
    assert 290 <= (info.end_at - info.started_at).total_seconds() <= 300


def test_traffic_does_not_bring_back_what_does_not_want_it(sdk, create):
    sandbox = create(timeout=60)
    serve(sandbox)
    wait_until("the server answers", 5, lambda: fetch(sandbox, 8000) == 200)
    sandbox.pause()
    assert fetch(sandbox, 8000) == 502
    assert state_of(sdk, sandbox) == SandboxState.PAUSED


def test_strangers_wake_nobody(sdk, create):
    """Without the token of its ports, a private sandbox sleeps on."""
    sandbox = create(timeout=60, network={"allow_public_traffic": False}, lifecycle={"on_timeout": "pause", "auto_resume": True})
    serve(sandbox)
    token = {"e2b_traffic_access_token": sandbox.traffic_access_token}
    wait_until("the server answers", 5, lambda: fetch(sandbox, 8000, **token) == 200)
    sandbox.pause()
    assert fetch(sandbox, 8000) == 403
    assert fetch(sandbox, 8000, e2b_traffic_access_token="0" * 64) == 403
    assert fetch(sandbox, 49983, X_Access_Token="wrong") == 403
    assert state_of(sdk, sandbox) == SandboxState.PAUSED
    assert fetch(sandbox, 8000, **token) == 200

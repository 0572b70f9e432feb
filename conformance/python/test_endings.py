"""What a client is told when its sandbox ends in the middle of something."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from e2b import CommandExitException, SandboxNotRunningException, TimeoutException

from server import patience, wait_until


def when_it_runs(sandbox, action) -> threading.Thread:
    """Acts as soon as a command runs in the sandbox."""
    thread = threading.Thread(target=lambda: (wait_until("a command runs", 10, sandbox.commands.list), action()), daemon=True)
    thread.start()
    return thread


def test_kill_while_a_command_runs(create, sdk):
    sandbox = create()
    killer = when_it_runs(sandbox, lambda: sdk.kill(sandbox.sandbox_id))
    with pytest.raises(SandboxNotRunningException) as error:
        sandbox.commands.run("sleep 60")
    killer.join()
    assert "sandbox was killed or reached its end of life" in str(error.value)


def test_kill_while_output_flows(create):
    sandbox = create()
    killer = when_it_runs(sandbox, sandbox.kill)
    with pytest.raises(SandboxNotRunningException) as error:
        sandbox.commands.run("yes")
    killer.join()
    assert "sandbox was killed or reached its end of life" in str(error.value)


def test_kill_with_many_commands(create):
    sandbox = create()
    handles = [sandbox.commands.run("sleep 60", background=True) for _ in range(10)]
    sandbox.kill()
    for handle in handles:
        with pytest.raises(SandboxNotRunningException):
            handle.wait()


def test_time_runs_out_while_a_command_runs(create):
    sandbox = create(timeout=2)
    started = time.monotonic()
    with pytest.raises(SandboxNotRunningException) as error:
        sandbox.commands.run("sleep 60")
    assert time.monotonic() - started < patience(4.5)
    assert "sandbox was killed or reached its end of life" in str(error.value)


def test_kill_during_a_download(create):
    sandbox = create()
    sandbox.commands.run("head -c 500000000 /dev/zero > /tmp/big")
    stream = iter(sandbox.files.read("/tmp/big", format="stream"))
    received = len(next(stream))
    sandbox.kill()
    with pytest.raises(Exception) as error:
        for piece in stream:
            received += len(piece)
    assert received < 500_000_000
    assert type(error.value).__name__ not in ("StopIteration", "AssertionError")


def test_kill_during_an_upload(create, flavour):
    """The upload goes on until the kill is answered, and then for ten seconds more unless it is cut."""
    sandbox = create()
    killed = threading.Event()
    after_the_kill = 1000

    def kill():
        sandbox.kill()
        killed.set()

    def next_block(sent):
        if sent == 20:
            threading.Thread(target=kill).start()
        return b"z" * 65536

    def goes_on(sent_after):
        return not killed.is_set() or sent_after < after_the_kill

    def blocks():
        sent = sent_after = 0
        while goes_on(sent_after):
            time.sleep(0.01)
            yield next_block(sent)
            sent += 1
            sent_after += killed.is_set()

    async def later_blocks():
        # Never blocks the client's own loop: the kill has to go out over it, too.
        sent = sent_after = 0
        while goes_on(sent_after):
            await asyncio.sleep(0.01)
            yield next_block(sent)
            sent += 1
            sent_after += killed.is_set()

    with pytest.raises(TimeoutException):
        sandbox.files.write("/tmp/upload", later_blocks() if flavour == "async" else blocks())


def test_everything_after_the_kill(create):
    sandbox = create()
    sandbox.kill()
    for call in (
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.commands.list(),
        lambda: sandbox.files.read("/etc/hostname"),
        lambda: sandbox.files.write("/tmp/x", "x"),
        lambda: sandbox.files.list("/"),
    ):
        with pytest.raises(SandboxNotRunningException) as error:
            call()
        assert "was not found" in str(error.value)
    assert sandbox.is_running() is False


def test_envd_killed_by_root_inside_ends_the_sandbox(create):
    """PID 1 of a PID namespace cannot be killed from inside; trying must not harm the sandbox."""
    sandbox = create()
    sandbox.commands.run("kill -9 1; kill -TERM 1; kill -SEGV 1; true", user="root")
    assert sandbox.commands.run("echo alive").stdout == "alive\n"
    assert sandbox.is_running()


def test_kill_of_every_process_inside(create):
    """The kernel spares process 1 and the one that asks: a shell's own `kill` ends well, that of its child ends the shell."""
    sandbox = create()
    for command, ends_well in (("kill -9 -1", True), ("python3 -c 'import os; os.kill(-1, 9)'; true", False)):
        sandbox.commands.run("nohup sleep 300 >/dev/null 2>&1 &")
        if ends_well:
            assert sandbox.commands.run(command, user="root").exit_code == 0
        else:
            with pytest.raises(CommandExitException) as error:
                sandbox.commands.run(command, user="root")
            assert error.value.exit_code == -1
        wait_until("envd still answers", 20, lambda: sandbox.commands.run("pgrep -c sleep || true").stdout.strip() == "0")
        sandbox.files.write("/tmp/after", "x")
        assert sandbox.files.read("/tmp/after") == "x"

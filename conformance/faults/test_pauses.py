"""Paused sandboxes on bad days: a guest that does not answer, a server that dies, a machine that restarts."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from e2b import GuestUnresponsiveException, Sandbox, SandboxException, SandboxState

from crashing import call, options
from machine import reboot
from server import Server, wait_until


@pytest.fixture
def server(started):
    # Files are saved at once: what is tested must not hang on when.
    return started(None, "--save-paused-after-seconds", "0")


def kept(server: Server) -> Sandbox:
    sandbox = Sandbox.create(timeout=300, **options(server))
    sandbox.files.write("kept.txt", "content")
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    return sandbox


def first_process(server: Server, sandbox: Sandbox) -> int:
    return json.loads((server.data_dir / "sandboxes" / sandbox.sandbox_id / "state.json").read_text())["pid"]


def state_of(server: Server, sandbox: Sandbox) -> SandboxState:
    return Sandbox.get_info(sandbox.sandbox_id, **options(server)).state


def again(server: Server, sandbox: Sandbox, **more) -> Sandbox:
    found = Sandbox.connect(sandbox.sandbox_id, timeout=60, **options(server), **more)
    assert found.files.read("kept.txt") == "content"
    return found


def sleeps(sandbox: Sandbox) -> bool:
    return sandbox.commands.run("pgrep -xc sleep || true").stdout == "1\n"


def test_a_guest_that_does_not_answer(server):
    """Whoever wants a healthy guest is refused; anybody else may pause it, and starts it anew."""
    sandbox = kept(server)
    os.kill(first_process(server, sandbox), signal.SIGSTOP)
    for body in ({"requireHealthyGuest": True}, {"memory": False}):
        status, answer = call(server, "POST", f"/sandboxes/{sandbox.sandbox_id}/pause", body)
        assert status == 503 and b"FIX: " in answer, answer
        assert state_of(server, sandbox) == SandboxState.RUNNING
    assert sandbox.pause() is True
    assert Sandbox.get_info(sandbox.sandbox_id, **options(server)).envd_unresponsive_at_pause is True
    with pytest.raises(GuestUnresponsiveException):
        again(server, sandbox)
    assert state_of(server, sandbox) == SandboxState.PAUSED
    assert not sleeps(again(server, sandbox, on_resume="reboot"))


@pytest.mark.parametrize("mode", ["full", "filesystem"])
def test_the_server_dies_and_stops(server, mode):
    """A paused sandbox does not notice that there is another server."""
    sandbox = kept(server)
    sandbox.pause(mode=mode)
    for end in (server.kill, server.stop):
        end()
        server.start()
        assert state_of(server, sandbox) == SandboxState.PAUSED
    found = again(server, sandbox)
    assert sleeps(found) == (mode == "full")


def files_are_saved(server: Server) -> bool:
    with sqlite3.connect(server.data_dir / "soulbox.db") as database:
        return database.execute("SELECT files_saved FROM sandboxes").fetchall() == [(1,)]


def test_a_restart_of_the_machine_costs_the_memory(server):
    sandbox = kept(server)
    sandbox.pause()
    wait_until("the files are saved", 10, lambda: files_are_saved(server))
    server.kill()
    reboot(server)
    server.start()
    assert state_of(server, sandbox) == SandboxState.PAUSED
    messages = [entry["message"] for entry in json.loads(call(server, "GET", f"/v2/sandboxes/{sandbox.sandbox_id}/logs")[1])["logs"]]
    assert any(message.startswith("The memory of the paused sandbox was lost, its files are kept: ") for message in messages), messages
    assert not sleeps(again(server, sandbox))


def test_a_guest_that_dies_while_it_is_paused(server):
    sandbox = kept(server)
    sandbox.pause()
    wait_until("the files are saved", 10, lambda: files_are_saved(server))
    # What is frozen dies when it is thawed, on some hosts: then it must come back all the same.
    os.kill(first_process(server, sandbox), signal.SIGKILL)
    wait_until("it is back", 20, lambda: comes_back(server, sandbox))


def comes_back(server: Server, sandbox: Sandbox) -> bool:
    try:
        return again(server, sandbox).is_running()
    except (SandboxException, AssertionError):
        return False


def test_a_record_that_is_wrong_about_it(server):
    """A server that died between the two says one thing and the guest is another: the record is right."""
    sandbox = kept(server)
    sandbox.pause()
    server.kill()
    database = sqlite3.connect(Path(server.data_dir) / "soulbox.db")
    database.execute("UPDATE sandboxes SET state = 'running', pause_mode = NULL, spec = NULL, end_at = end_at + 300000000")
    database.commit()
    database.close()
    server.start()
    assert state_of(server, sandbox) == SandboxState.RUNNING
    assert sleeps(again(server, sandbox))

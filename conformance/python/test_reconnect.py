"""SoulBox's addition for clients that were cut off: asked by hand, unnoticed by the official package."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import subprocess
import threading

import pytest
from e2b import CommandExitException, Sandbox

import raw
from server import wait_until

START = "/process.Process/Start"
CONNECT = "/process.Process/Connect"


@pytest.fixture(scope="module")
def created():
    body = raw.api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 600}).json
    yield body
    raw.api("DELETE", f"/sandboxes/{body['sandboxID']}")


@pytest.fixture(scope="module")
def sandbox(created):
    return Sandbox.connect(created["sandboxID"])


class Stream:
    """One stream of envd's process service, over a connection of its own, with the position that its reader counts."""

    def __init__(self, created: dict, path: str, message: dict, **headers: str):
        payload = json.dumps(message).encode()
        fields = {
            "E2b-Sandbox-Id": created["sandboxID"],
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": created["envdAccessToken"],
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        self.wire = raw.Wire(timeout=30)
        self.wire.send(raw.request_bytes("POST", path, fields, struct.pack("!BI", 0, len(payload)) + payload))
        status, found = self.wire.head()
        assert status == 200
        self.headers = {name.lower(): value for name, value in found}
        self.buffer = b""
        self.output = {"stdout": b"", "stderr": b"", "pty": b""}
        self.at = int(self.headers.get("soulbox-output-at", -1))
        self.end = self.error = None

    def frame(self) -> tuple[int, dict]:
        while len(self.buffer) < 5 or len(self.buffer) < 5 + struct.unpack("!I", self.buffer[1:5])[0]:
            piece = self.wire.chunk()
            assert piece, "the stream ended without its last frame"
            self.buffer += piece
        length = 5 + struct.unpack("!I", self.buffer[1:5])[0]
        frame, self.buffer = self.buffer[:length], self.buffer[length:]
        return frame[0], json.loads(frame[5:])

    def step(self) -> bool:
        """Takes one frame; false when it was the last one."""
        flags, message = self.frame()
        if flags == 2:
            self.error = message.get("error")
            self.wire.close()
            return False
        event = message["event"]
        for kind, text in event.get("data", {}).items():
            data = base64.b64decode(text)
            self.output[kind] += data
            self.at += len(data)
        self.pid = event.get("start", {}).get("pid") or getattr(self, "pid", None)
        self.end = event.get("end", self.end)
        return True

    def until(self, position: int) -> "Stream":
        while self.at < position:
            assert self.step(), (self.at, self.end, self.error)
        return self

    def finish(self) -> "Stream":
        while self.step():
            pass
        return self

    def cut(self) -> None:
        self.wire.close()


def start(created, script: str) -> Stream:
    process = {"cmd": "/bin/bash", "args": ["-l", "-c", script]}
    return Stream(created, START, {"process": process, "stdin": True})


def again(created, selector: dict, begin: object = "oldest", **headers: str) -> Stream:
    return Stream(created, CONNECT, {"process": selector}, Soulbox_Output_From=str(begin), **headers)


def test_package_connects_as_ever(sandbox):
    handle = sandbox.commands.run("echo before; read x; echo after", background=True, stdin=True)
    for out, _, _ in handle:
        if out and "before" in out:
            break
    handle.disconnect()
    connected = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "\n")
    done = connected.wait()
    assert (done.stdout, done.exit_code) == ("after\n", 0)
    # For a while the end is told to whoever connects, and nothing with it.
    assert sandbox.commands.connect(handle.pid).wait().stdout == ""
    assert handle.pid not in [process.pid for process in sandbox.commands.list()]


def test_command_of_the_package_is_taken_up_by_hand(created, sandbox):
    handle = sandbox.commands.run("seq 5000; echo bad >&2; read x; seq 5000 6000; exit 4", background=True, stdin=True)
    handle.disconnect()
    first = "".join(f"{n}\n" for n in range(1, 5001)).encode()
    stream = again(created, {"pid": handle.pid}).until(len(first) + 4)
    assert (stream.output["stdout"], stream.output["stderr"]) == (first, b"bad\n")
    position = stream.at
    stream.cut()
    sandbox.commands.send_stdin(handle.pid, "\n")
    with pytest.raises(CommandExitException) as ended:
        sandbox.commands.connect(handle.pid).wait()
    assert ended.value.exit_code == 4
    rest = again(created, {"pid": handle.pid}, position).finish()
    assert rest.output["stdout"] == "".join(f"{n}\n" for n in range(5000, 6001)).encode()
    assert rest.end["exitCode"] == 4


def test_many_cuts_lose_and_double_nothing(created):
    stream = start(created, "for i in $(seq 3000); do echo out-$i; echo err-$i >&2; done; exit 7")
    out, err = (b"".join(b"%s-%d\n" % (name, n) for n in range(1, 3001)) for name in (b"out", b"err"))
    seen, pid = {"stdout": b"", "stderr": b""}, None
    assert stream.at == 0
    for part in range(1, 20):
        stream.until(part * 2500)
        position, name = stream.at, stream.headers["soulbox-process"]
        pid = pid or stream.pid
        seen = {kind: seen[kind] + stream.output[kind] for kind in seen}
        stream.cut()
        stream = again(created, {"pid": pid}, position, Soulbox_Process=name)
        assert stream.at == position
    stream.finish()
    assert (seen["stdout"] + stream.output["stdout"], seen["stderr"] + stream.output["stderr"]) == (out, err)
    assert stream.end["exitCode"] == 7


def test_terminal_by_its_tag(created):
    process = {"cmd": "/bin/sh", "args": ["-c", "stty -onlcr; seq 3000; sleep 100"]}
    message = {"process": process, "pty": {"size": {"cols": 80, "rows": 24}}, "tag": "seen-again"}
    expected = "".join(f"{n}\n" for n in range(1, 3001)).encode()
    Stream(created, START, message).until(100).cut()
    stream = again(created, {"tag": "seen-again"}).until(len(expected))
    assert stream.output["pty"] == expected
    stream.cut()


def test_gap_shows(created):
    stream = start(created, "echo first; head -c 2000000 /dev/zero; echo last; read x")
    stream.until(2_000_011)
    pid = stream.pid
    stream.cut()
    late = again(created, {"pid": pid}, 6)
    # Kept are 256 KiB at most, and not much less.
    assert 2_000_011 - 256 * 1024 <= late.at <= 2_000_011 - 128 * 1024
    late.until(2_000_011)
    assert late.output["stdout"].endswith(b"\0last\n")
    late.cut()


@pytest.mark.parametrize("position", ["100", "-1", "newest", "1e3"])
def test_position_that_is_none(created, position):
    stream = start(created, "echo hi; read x").until(3)
    refused = again(created, {"pid": stream.pid}, position).finish()
    assert refused.error["code"] == "invalid_argument" and "\nFIX: " in refused.error["message"]
    stream.cut()


def test_other_processes_are_not_meant(created):
    stream = start(created, "read x").until(0)
    while not getattr(stream, "pid", None):
        stream.step()
    other = again(created, {"pid": stream.pid}, 0, Soulbox_Process="another").finish()
    unknown = again(created, {"pid": 999_999}, 0).finish()
    assert other.error["code"] == unknown.error["code"] == "not_found"
    stream.cut()


def test_pages_may_read_the_position(created):
    process = {"process": {"cmd": "true"}, "stdin": False}
    stream = Stream(created, START, process, Origin="https://example.com").finish()
    exposed = stream.headers["access-control-expose-headers"].lower()
    assert "soulbox-output-at" in exposed and "soulbox-process" in exposed


class Cutter:
    """Stands before the server and cuts every connection that has carried so many bytes of answers."""

    def __init__(self, limit: int):
        self.limit = limit
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(raw.server_address())
            threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, self.limit), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(4096):
                target.sendall(data)
                passed += len(data)
                if limit is not None and passed > limit:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def cutter():
    # More than the largest message is: one that never comes whole is no progress.
    made = Cutter(100_000)
    yield made
    made.close()


def soulbox(url: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: os.environ[name] for name in ("E2B_API_KEY", "PATH")} | {"E2B_API_URL": url, "E2B_SANDBOX_URL": url}
    command = [os.environ["CONFORMANCE_BINARY"], *arguments]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=170)


def test_command_line_goes_on_over_cuts(created, cutter):
    script = "for i in $(seq 6000); do echo out-$i; echo err-$i >&2; done; exit 9"
    done = soulbox(cutter.url, "sandbox", "exec", created["sandboxID"], "--", "bash", "-c", script)
    out, err = (b"".join(b"%s-%d\n" % (name, n) for n in range(1, 6001)) for name in (b"out", b"err"))
    assert done.returncode == 9, done.stderr[-500:]
    assert done.stdout == out and done.stderr == err
    assert cutter.cuts >= 1


def test_command_line_attaches(created, cutter):
    sandbox, url = created["sandboxID"], os.environ["E2B_API_URL"]
    detached = soulbox(url, "sandbox", "exec", "-d", sandbox, "--", "bash", "-c", "seq 20000; touch /tmp/attached; exit 5")
    pid = detached.stdout.decode().strip()
    wait_until("the command has ended", 20, lambda: Sandbox.connect(sandbox).files.exists("/tmp/attached"))
    attached = soulbox(cutter.url, "sandbox", "attach", sandbox, pid)
    assert attached.stdout == "".join(f"{n}\n" for n in range(1, 20001)).encode()
    assert attached.returncode == 5
    part = soulbox(url, "sandbox", "attach", sandbox, pid, "--from", str(len(attached.stdout) - 6))
    assert (part.stdout, part.returncode) == (b"20000\n", 5)
    unknown = soulbox(url, "sandbox", "attach", sandbox, "999999")
    assert unknown.returncode == 1 and b"not found" in unknown.stderr

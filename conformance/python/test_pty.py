"""Terminals: output, input, size, users, ends, reconnection."""

from __future__ import annotations

import threading
import time

import pytest
from e2b import CommandExitException, NotFoundException, PtySize, SandboxException

from server import patience, wait_until


class Terminal:
    """Opens a terminal in either flavour and gathers what it prints."""

    def __init__(self, sandbox, flavour: str, open_it, **options):
        self.sandbox = sandbox
        self.output = b""
        self.end = None
        if flavour == "async":
            self.handle = open_it(on_data=self._gather, **options)
        else:
            self.handle = open_it(**options)
        self.pid = self.handle.pid
        self.reader = threading.Thread(target=self._wait, args=(flavour,), daemon=True)
        self.reader.start()

    def _gather(self, data: bytes) -> None:
        self.output += data

    def _wait(self, flavour: str) -> None:
        try:
            self.end = self.handle.wait() if flavour == "async" else self.handle.wait(on_pty=self._gather)
        except Exception as error:
            self.end = error

    def type(self, text: str) -> None:
        self.sandbox.pty.send_stdin(self.pid, text.encode())

    def expect(self, text: str, timeout: float = 10) -> None:
        wait_until(f"{text!r} in {self.output[-500:]!r}", timeout, lambda: text.encode() in self.output)


@pytest.fixture
def terminal(sandbox, flavour):
    opened = []

    def open_terminal(rows=24, cols=80, **options):
        made = Terminal(sandbox, flavour, sandbox.pty.create, size=PtySize(rows=rows, cols=cols), **options)
        opened.append(made)
        return made

    yield open_terminal
    for made in opened:
        sandbox.pty.kill(made.pid)
        made.reader.join(5)


def test_prompt_and_command(terminal):
    shell = terminal()
    shell.type("echo sum-$((40+2))\n")
    shell.expect("sum-42")


def test_size_and_resize(terminal, sandbox):
    shell = terminal(rows=30, cols=111)
    shell.type("stty size\n")
    shell.expect("30 111")
    shell.type("trap 'echo resized' WINCH\n")
    shell.type("echo ready-$((1+1))\n")
    shell.expect("ready-2")
    sandbox.pty.resize(shell.pid, PtySize(rows=50, cols=222))
    shell.type("stty size\n")
    shell.expect("50 222")
    shell.expect("resized")


def test_environment_user_and_directory(terminal):
    shell = terminal(user="root", cwd="/tmp", envs={"MARK": "märk", "TERM": "dumb"})
    shell.type("echo \"<$(whoami) $(pwd) $MARK $TERM $LANG>\"\n")
    shell.expect("<root /tmp märk dumb C.UTF-8>")


def test_default_environment(terminal):
    shell = terminal()
    shell.type("echo \"<$(whoami) $TERM>\"; tty\n")
    shell.expect("<user xterm-256color>")
    shell.expect("/dev/pts/")


def test_control_c_interrupts(terminal):
    shell = terminal()
    shell.type("echo go-$((1+1)); sleep 300\n")
    shell.expect("go-2")
    shell.type("\x03")
    shell.type("echo back-$((2+2))\n")
    shell.expect("back-4")


def test_exit_code(terminal):
    shell = terminal()
    shell.type("exit 5\n")
    shell.reader.join(10)
    assert isinstance(shell.end, CommandExitException) and shell.end.exit_code == 5


def test_kill(terminal, sandbox):
    shell = terminal()
    assert sandbox.pty.kill(shell.pid) is True
    shell.reader.join(10)
    assert isinstance(shell.end, CommandExitException) and shell.end.exit_code == -1
    wait_until("the kill is known", 2, lambda: sandbox.pty.kill(shell.pid) is False)


def test_is_listed(terminal, sandbox):
    shell = terminal()
    (process,) = [p for p in sandbox.commands.list() if p.pid == shell.pid]
    assert process.args == ["-i", "-l"] and process.envs["TERM"] == "xterm-256color"


def test_connect_again(terminal, sandbox, flavour):
    if flavour == "async":
        shell = terminal()
        shell.type("echo first-$((1+1))\n")
        shell.expect("first-2")
        handle = shell.handle
    else:
        # The synchronous handle is a generator: who reads it must be the one to leave it.
        handle = sandbox.pty.create(size=PtySize(rows=24, cols=80))
        sandbox.pty.send_stdin(handle.pid, b"echo first-$((1+1))\n")
        output = b""
        for _, _, data in handle:
            output += data
            if b"first-2" in output:
                break
    handle.disconnect()
    again = Terminal(sandbox, flavour, sandbox.pty.connect, pid=handle.pid)
    again.type("echo second-$((2+2))\n")
    again.expect("second-4")
    assert b"first-2" not in again.output
    assert sandbox.pty.kill(handle.pid) is True
    again.reader.join(10)


def test_much_output(terminal):
    shell = terminal()
    shell.type("stty -echo; seq 20000; echo all-$((1+1))\n")
    shell.expect("all-2", timeout=20)
    assert b"19999\r\n20000\r\n" in shell.output


def test_unknown_terminal(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.pty.send_stdin(999_999, b"x")
    with pytest.raises(NotFoundException):
        sandbox.pty.resize(999_999, PtySize(rows=1, cols=1))
    assert sandbox.pty.kill(999_999) is False


def test_resize_of_a_command_is_refused(sandbox):
    handle = sandbox.commands.run("sleep 30", background=True)
    with pytest.raises(SandboxException):
        sandbox.pty.resize(handle.pid, PtySize(rows=1, cols=1))
    handle.kill()


def test_timeout(terminal):
    started = time.monotonic()
    shell = terminal(timeout=1)
    shell.reader.join(20)
    assert type(shell.end).__name__ == "TimeoutException"
    assert time.monotonic() - started < patience(4)

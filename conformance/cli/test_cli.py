"""The official command line, with nothing but `client.env` sourced.

Its own server: `kill --all` means every sandbox of the team.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from server import from_environment, patience, wait_until

E2B = Path(os.environ.get("CONFORMANCE_TOOLS", ".")) / "js/node_modules/.bin/e2b"
ID = re.compile(r"i[a-z0-9]{20}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = from_environment("cli").start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture(scope="module")
def env(server, tmp_path_factory) -> dict[str, str]:
    """An empty home, and a shell that sources the file the server wrote."""
    home = tmp_path_factory.mktemp("home")
    text = subprocess.run(
        ["sh", "-c", f'set -a; . "{server.data_dir}/client.env"; env -0'],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "xterm", "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1"},
        capture_output=True,
        check=True,
    ).stdout.decode()
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


@pytest.fixture
def e2b(env):
    def run(*arguments: str, stdin: bytes | None = None, check: bool = True, timeout: float = 60):
        done = subprocess.run(
            [str(E2B), *arguments], env=env, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, timeout=timeout
        )
        if check:
            assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    return run


@pytest.fixture(scope="module")
def sandbox(env):
    """Created detached, as the command prints its id."""
    done = subprocess.run([str(E2B), "sandbox", "create", "--detach", "--timeout", "600", "base"], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done
    return ID.search(done.stdout.decode()).group()


class Terminal:
    """A program on a pseudo-terminal, as a person would use it."""

    def __init__(self, command: list[str], env: dict[str, str]):
        self.primary, secondary = pty.openpty()
        import fcntl

        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(command, env=env, stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True)
        os.close(secondary)
        self.output = b""

    def type(self, text: str) -> None:
        os.write(self.primary, text.encode())

    def _read(self, timeout: float) -> None:
        ready, _, _ = select.select([self.primary], [], [], timeout)
        if ready:
            try:
                self.output += os.read(self.primary, 65536)
            except OSError:
                time.sleep(timeout)

    def expect(self, text: str, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while text.encode() not in self.output:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output[-2000:]!r}"
            self._read(0.1)

    def wait(self, timeout: float = 20) -> int:
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.output[-2000:]!r}"
            self._read(0.05)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.primary)


@pytest.fixture
def terminal(env):
    opened = []

    def open_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal([str(E2B), *arguments], env))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def test_create_attached(terminal, e2b):
    """`sandbox create` opens a terminal; leaving the shell ends the command and, soon after, the sandbox."""
    shell = terminal("sandbox", "create", "base")
    shell.expect("$")
    shell.type("echo sum-$((40+2)); stty size; whoami\n")
    shell.expect("sum-42")
    shell.expect("30 100")
    created = ID.search(shell.output.decode(errors="replace"))
    shell.type("exit\n")
    assert shell.wait() == 0
    if created:
        gone = lambda: e2b("sandbox", "info", created.group(), check=False).returncode != 0  # noqa: E731
        wait_until("the sandbox ends with its terminal", 15, gone, interval=1)


def test_connect(terminal, sandbox):
    shell = terminal("sandbox", "connect", sandbox)
    shell.expect("$")
    shell.type("echo connected-$((1+1))\n")
    shell.expect("connected-2")
    shell.type("exit\n")
    assert shell.wait() == 0


def test_exec(e2b, sandbox):
    assert e2b("sandbox", "exec", sandbox, "echo", "a b", "$HOME").stdout == b"a b $HOME\n"
    done = e2b("sandbox", "exec", sandbox, "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, b"out\n") and b"err\n" in done.stderr
    assert e2b("sandbox", "exec", "-u", "root", "-c", "/tmp", "-e", "K=v w", sandbox, "sh", "-c", 'whoami; pwd; echo "$K"').stdout == b"root\n/tmp\nv w\n"


@pytest.mark.parametrize("size", [0, 5, 6, 65536, 65537, 1_000_000])
def test_exec_reads_piped_input(e2b, sandbox, size):
    data = os.urandom(size)
    assert e2b("sandbox", "exec", sandbox, "wc", "-c", stdin=data).stdout.split() == [str(size).encode()]


def test_exec_input_is_exact(e2b, sandbox):
    import hashlib

    data = os.urandom(200_000)
    assert e2b("sandbox", "exec", sandbox, "sha256sum", stdin=data).stdout.split()[0] == hashlib.sha256(data).hexdigest().encode()


def test_exec_background(e2b, sandbox):
    started = time.monotonic()
    e2b("sandbox", "exec", "-b", sandbox, "sh", "-c", "sleep 2; touch /tmp/from-background")
    assert time.monotonic() - started < patience(10)
    wait_until("the command goes on", 10, lambda: e2b("sandbox", "exec", sandbox, "ls", "/tmp").stdout.find(b"from-background") >= 0, interval=0.5)


def test_list_json(e2b, sandbox):
    entries = json.loads(e2b("sandbox", "list", "--format", "json").stdout)
    (entry,) = [entry for entry in entries if entry["sandboxId"] == sandbox]
    assert entry["state"] == "running" and entry["name"] == "base" and entry["cpuCount"] >= 1


def test_list_pretty(e2b, sandbox):
    assert sandbox.encode() in e2b("sandbox", "list").stdout


def test_info(e2b, sandbox):
    info = json.loads(e2b("sandbox", "info", "--format", "json", sandbox).stdout)
    assert info["sandboxId"] == sandbox and info["state"] == "running"
    assert sandbox.encode() in e2b("sandbox", "info", sandbox).stdout
    missing = e2b("sandbox", "info", "i" + "0" * 20, check=False)
    assert missing.returncode == 1 and b"wasn't found" in missing.stderr


def test_logs(e2b, sandbox):
    def lines():
        return e2b("sandbox", "logs", "--format", "json", sandbox).stdout.strip()

    out = wait_until("a log line", 15, lines, interval=0.5)
    assert b"Error" not in out
    e2b("sandbox", "logs", sandbox)


def test_metrics(e2b, sandbox):
    out = wait_until("a sample", 30, lambda: e2b("sandbox", "metrics", "--format", "json", sandbox).stdout.strip(), interval=1)
    assert b"cpu" in out.lower()


def test_template_list(e2b):
    assert b"base" in e2b("template", "list").stdout


def test_pause_and_resume(e2b):
    created = ID.search(e2b("sandbox", "create", "--detach").stdout.decode()).group()
    e2b("sandbox", "exec", created, "--", "sh", "-c", "echo kept > /home/user/kept")
    e2b("sandbox", "pause", created)
    assert json.loads(e2b("sandbox", "info", "--format", "json", created).stdout)["state"] == "paused"
    assert created.encode() not in e2b("sandbox", "list").stdout
    e2b("sandbox", "resume", created)
    assert e2b("sandbox", "exec", created, "cat", "/home/user/kept").stdout == b"kept\n"
    e2b("sandbox", "kill", created)


def test_kill(e2b):
    created = ID.search(e2b("sandbox", "create", "--detach").stdout.decode()).group()
    assert b"has been killed" in e2b("sandbox", "kill", created).stdout
    assert b"wasn't found" in e2b("sandbox", "kill", created, check=False).stderr


def test_unknown_template(e2b):
    done = e2b("sandbox", "create", "--detach", "no-such-template", check=False)
    assert done.returncode != 0 and b"404" in done.stdout + done.stderr


def test_zz_kill_all(e2b, server):
    """Last by its name, for it ends the module's sandbox too; on its own it still kills what it creates."""
    for _ in range(2):
        e2b("sandbox", "create", "--detach")
    assert b"Killed" in e2b("sandbox", "kill", "--all").stdout
    assert json.loads(e2b("sandbox", "list", "--format", "json").stdout) == []
    assert b"No running sandboxes" in e2b("sandbox", "kill", "--all").stdout

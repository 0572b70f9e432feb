"""Processes of others: of another sandbox, of the host, and envd of one's own sandbox."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time

import pytest
from e2b import CommandExitException
from harness import CONTAINER, INSIDE, PROGRAMS, attack as attack_in, control, judge, one

from server import wait_until

SECRET = f"environment-{secrets.token_hex(8)}"
NO_PROCESS = "there is no process of another kind to show it on"


def pids_on_the_host(words: bytes) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if words in file.read():
                    found.append(pid)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def target(victim):
    """A process in another sandbox, with a secret in its environment; its number on the host."""
    word = "9753.25"
    handle = victim.commands.run(f"exec sleep {word}", background=True, user="root", envs={"SECRET": SECRET}, timeout=0)
    yield wait_until("the process of the victim shows", 20, lambda: pids_on_the_host(b"sleep\0" + word.encode()))[0]
    handle.kill()


@pytest.fixture
def own_process():
    """A process of the host that may be attacked."""
    process = subprocess.Popen(["sleep", "600"], env={"SECRET": SECRET})
    yield str(process.pid)
    process.kill()
    process.wait()


@pytest.mark.parametrize("user", ["root", "user"])
def test_processes_of_others(attack, target, own_process, user):
    """The attacker knows the number of a process of another sandbox, of the server and of the host, and wants into them."""
    numbers = [target, os.environ["CONFORMANCE_SERVER_PID"], own_process]
    judge(f"processes of others as {user}", attack("processes.py", SECRET, *numbers, user=user), control("processes.py", SECRET, own_process))


def envd_and_its_helper(sandbox) -> list[str]:
    """Process one, and what it has forked that is no program of the user's: their executable cannot be told."""
    script = "for p in /proc/[0-9]*; do [ -e $p/status ] && ! readlink $p/exe >/dev/null 2>&1 && echo ${p#/proc/}; done; true"
    return sandbox.commands.run(script, user="root").stdout.split()


def test_envd_cannot_be_looked_into(sandbox, attack, own_process):
    """The attacker is root in his sandbox and wants envd's token: its memory, its descriptors, its environment."""
    numbers = envd_and_its_helper(sandbox)
    assert "1" in numbers
    inside = attack("processes.py", sandbox._envd_access_token, *numbers)
    # Not secrets: root may send signals inside (process one ignores them), and may set what is set for all.
    allowed = {
        "signals (0, which only asks)", "signals by pidfd", "limits of another process", "CPUs of another process",
        "priority of another process", "oom_score_adj of another process",
    }  # fmt: skip
    shown = control("processes.py", SECRET, own_process)
    judge("envd", {name: found for name, found in inside.items() if name not in allowed}, shown)


def test_nothing_of_a_sandbox_has_a_name_for_others(sandbox, victim):
    """The attacker guesses the name of a socket, a queue, shared memory or a key of his neighbour, or of the host."""
    name = f"escape-{secrets.token_hex(6)}"
    there = victim.commands.run(f"python3 {INSIDE}/shared_names.py offer {name}", background=True, user="root", stdin=True, timeout=0)
    wait_until("the names are there", 20, lambda: attack_in(victim, "shared_names.py", "take", name)["an abstract socket"].did)
    command = [sys.executable, "-B", str(PROGRAMS / "shared_names.py"), "offer", name]
    host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout.readline() == "up\n"
        # Without the defence: another process of the host, with another tree of mounts.
        shown = control("shared_names.py", "take", name, around=("unshare", "--mount"))
        judge("names", attack_in(sandbox, "shared_names.py", "take", name), shown)
    finally:
        host.communicate()
        there.kill()


def test_killing_everything_ends_nothing_of_others(throwaway, victim, target):
    """The attacker ends every process that he can reach."""
    with pytest.raises(Exception):  # noqa: B017  (how the command ends is not the question)
        throwaway.commands.run(f"python3 {INSIDE}/kill_all.py", user="root", timeout=10)
        raise CommandExitException(stdout="", stderr="", exit_code=0, error="")
    alive = os.path.exists(f"/proc/{target}") and victim.commands.run("echo alive").stdout == "alive\n"
    started = time.monotonic()
    assert throwaway.commands.run("echo usable", timeout=10).stdout == "usable\n"
    assert time.monotonic() - started < 5
    # Without namespaces of their own: two programs of one container.
    script = f"sleep 10 & {sys.executable} {PROGRAMS / 'kill_all.py'}; wait $!; echo ended $?"
    shown = "ended 137" in subprocess.run([*CONTAINER, "sh", "-c", script], capture_output=True, text=True).stdout
    one("kill -1", "ends a process of another sandbox", not alive, shown)


def test_crashes_reach_no_handler_of_the_host(sandbox):
    """The attacker makes a program crash under a name of his choice: `core_pattern` may name a program of the host's."""
    program = (
        "import os, resource\n"
        "for wanted in ((0, 0), (1 << 20, 1 << 20)):\n"
        "    try: resource.setrlimit(resource.RLIMIT_CORE, wanted)\n"
        "    except (OSError, ValueError): pass\n"
        "print(*resource.getrlimit(resource.RLIMIT_CORE))\n"
        "pid = os.fork()\n"
        "if pid == 0: os.abort()\n"
        "print(os.WCOREDUMP(os.waitpid(pid, 0)[1]))\n"
    )
    sandbox.files.write("/tmp/crash.py", program)
    out = sandbox.commands.run("python3 /tmp/crash.py", user="root").stdout.split()
    # The one value that the kernel's code takes for "no handler either".
    did = out != ["1", "1", "False"]
    one("core dumps", "a handler in core_pattern is run", did, "core_pattern is the whole machine's and is not changed for a test", str(out))
    found = sandbox.commands.run("find / -xdev -name 'core*' -size +64k -newer /tmp/crash.py 2>/dev/null | head -3; true", user="root").stdout
    assert not re.search(r"core(\.\d+)?$", found, re.M), found

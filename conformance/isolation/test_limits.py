"""Limits of a sandbox: enforced by the kernel, shown inside, and survived by the sandbox itself."""

from __future__ import annotations

import time

import pytest
from e2b import CommandExitException, NotEnoughSpaceException, Sandbox

from raw import api
from server import wait_until


@pytest.fixture
def sandbox():
    sandbox = Sandbox.create(timeout=300)
    yield sandbox
    sandbox.kill()


def test_memory_limit_kills_the_greedy_and_spares_the_rest(sandbox):
    limit = sandbox.get_info().memory_mb
    keeper = sandbox.commands.run("exec sleep 300", background=True)
    with pytest.raises(CommandExitException) as error:
        sandbox.commands.run(f"python3 -c 'x = bytearray({limit + 300} << 20); print(len(x))'")
    assert error.value.exit_code in (-1, 137), error.value
    assert "out of memory" in error.value.error, error.value.error
    assert sandbox.commands.run("echo usable").stdout == "usable\n"
    assert keeper.pid in [process.pid for process in sandbox.commands.list()]
    sandbox.files.write("/tmp/after", "x")
    assert sandbox.files.read("/tmp/after") == "x"


def test_whoever_is_killed_for_memory_is_named(sandbox):
    """In the end of the command, when it was a child of it, too, and in the sandbox's log."""
    if not host_tells_names():
        pytest.skip("/dev/kmsg cannot be read here: processes killed for memory are counted, not named")
    limit = sandbox.get_info().memory_mb
    eat = f"python3 -c 'x = bytearray({limit + 300} << 20)'"
    with pytest.raises(CommandExitException) as error:
        sandbox.commands.run(f"{eat} & echo $!; wait $!; exit 3")
    pid = error.value.stdout.strip()
    assert error.value.exit_code == 3
    assert error.value.error == f"exit status 3 (out of memory: killed python3, pid {pid})"
    named = f"Out of memory: the kernel killed python3 (process {pid})"
    wait_until("the log entry", 10, lambda: named in messages(sandbox))


def host_tells_names() -> bool:
    try:
        with open("/dev/kmsg"):
            return True
    except OSError:
        return False


def messages(sandbox) -> list[str]:
    return [entry["message"] for entry in api("GET", f"/sandboxes/{sandbox.sandbox_id}/logs").json["logEntries"]]


def test_memory_eaten_by_many_processes(sandbox):
    limit = sandbox.get_info().memory_mb
    try:
        sandbox.commands.run(f"for n in 1 2 3 4 5 6; do python3 -c 'x = bytearray({limit // 3} << 20); import time; time.sleep(2)' & done; wait", timeout=60)
    except CommandExitException:
        pass
    assert sandbox.commands.run("echo usable").stdout == "usable\n"


def test_files_in_shared_memory_count(sandbox):
    limit = sandbox.get_info().memory_mb
    with pytest.raises(CommandExitException):
        sandbox.commands.run(f"head -c {limit + 200}M /dev/zero > /dev/shm/big", user="root")
    assert sandbox.commands.run("rm -f /dev/shm/big; echo usable", user="root").stdout == "usable\n"


@pytest.mark.seconds(240)
def test_fork_bomb_is_contained(sandbox):
    """The neighbours do not notice, and the sandbox can be cleaned up through the API."""
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 3"
    sandbox.files.write("/tmp/bomb.sh", bomb)
    sandbox.commands.run("nohup bash /tmp/bomb.sh >/dev/null 2>&1 &")
    time.sleep(2)
    beside = Sandbox.create(timeout=60)
    try:
        assert beside.commands.run("echo beside").stdout == "beside\n"
    finally:
        beside.kill()
    # envd's own operations need no process of the user.
    assert sandbox.files.exists("/etc/passwd")
    assert sandbox.is_running()

    refusals = []

    def calm():
        try:
            # All but the shell that asks, in one step of the kernel: nothing can fork away from it.
            sandbox.commands.run("kill -9 -1", user="root", timeout=10)
            return sandbox.commands.run("echo calm", timeout=10).stdout == "calm\n"
        except Exception as error:
            refusals.append(repr(error))
            return False

    try:
        wait_until("the sandbox is usable again", 40, calm, interval=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}; {len(refusals)} refusals, the last: {refusals[-1]}") from None


def test_full_sandbox_can_be_entered(sandbox):
    """Every process the user may have exists and stays: a command of root must start all the same, to clean up."""
    program = (
        "import os, time\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(600); os._exit(0)\n"
        "except OSError:\n"
        "    open('/tmp/full', 'w').close()\n"
        "time.sleep(600)\n"
    )
    sandbox.files.write("/tmp/hold.py", program)
    sandbox.commands.run("exec python3 /tmp/hold.py", background=True, timeout=0)
    wait_until("all processes are used up", 30, lambda: sandbox.files.exists("/tmp/full"))
    assert sandbox.is_running()
    assert sandbox.commands.run("exec pkill -9 -f hold.py", user="root").exit_code == 0
    assert wait_until("the user has room again", 20, lambda: sandbox.commands.run("echo room").stdout) == "room\n"


def test_number_of_processes_is_limited(sandbox):
    program = (
        "import os, time\n"
        "n = 0\n"
        "try:\n"
        "    while n < 5000:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(30); os._exit(0)\n"
        "        n += 1\n"
        "except OSError as error:\n"
        "    print(n, error.errno)\n"
        "os.killpg(0, 9)\n"
    )
    sandbox.files.write("/tmp/forks.py", program)
    try:
        out = sandbox.commands.run("setsid -w python3 -u /tmp/forks.py").stdout
    except CommandExitException as ended:
        out = ended.stdout
    count, code = out.split()
    assert 100 < int(count) < 2000 and code == "11"


def test_cpu_is_capped(sandbox):
    """Busy loops on more threads than CPUs use no more time than the template's CPUs give."""
    cpus = sandbox.get_info().cpu_count
    before = time.monotonic()
    out = sandbox.commands.run(
        f"for n in $(seq {cpus * 3}); do timeout 3 sh -c 'while :; do :; done' & done; wait; times | tail -1", timeout=30
    ).stdout
    elapsed = time.monotonic() - before
    minutes = [part.rstrip("s").split("m") for part in out.split()]
    used = sum(int(m) * 60 + float(s) for m, s in minutes)
    assert used <= cpus * elapsed * 1.15, (used, elapsed, cpus)


def test_limits_are_shown(sandbox):
    info = sandbox.get_info()
    run = sandbox.commands.run
    assert run("nproc").stdout.strip() == str(info.cpu_count)
    assert run("grep -c ^processor /proc/cpuinfo").stdout.strip() == str(info.cpu_count)
    assert run("python3 -c 'import os; print(os.cpu_count())'").stdout.strip() == str(info.cpu_count)
    total = int(run("free -m | awk '/^Mem:/ {print $2}'").stdout)
    assert abs(total - info.memory_mb) <= info.memory_mb // 20, total
    kilobytes = int(run("awk '/^MemTotal:/ {print $2}' /proc/meminfo").stdout)
    assert abs(kilobytes // 1024 - info.memory_mb) <= info.memory_mb // 20


def test_uptime_is_the_sandboxes_own(sandbox):
    assert float(sandbox.commands.run("cut -d' ' -f1 /proc/uptime").stdout) < 60


def test_disk_size_is_enforced(sandbox):
    """The size that the API tells is what `df` shows and what can be written, by the user and by root."""
    size = api("GET", f"/sandboxes/{sandbox.sandbox_id}").json["diskSizeMB"]
    assert int(sandbox.commands.run("df -m --output=size / | tail -1").stdout) == size
    # Space that is only set aside counts as well, and is quick to take.
    sandbox.commands.run(f"fallocate -l {size - 100}M /home/user/most")
    for user in ("user", "root"):
        with pytest.raises(CommandExitException) as error:
            sandbox.commands.run(f"head -c 200M /dev/zero > /var/tmp/{user}", user=user, timeout=100)
        assert "No space left on device" in error.value.stderr
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("/home/user/more", b"z" * 5_000_000)
    beside = Sandbox.create(timeout=60)
    try:
        beside.commands.run("head -c 20M /dev/zero > /home/user/f && sync /home/user/f")
    finally:
        beside.kill()
    used = int(sandbox.commands.run("df -B1 --output=used / | tail -1").stdout)
    # ext4 keeps 16 MiB for its own tables and for no file.
    assert used > (size - 20) << 20
    assert sandbox.commands.run("sudo rm -f /home/user/most /home/user/more /var/tmp/user /var/tmp/root; echo usable").stdout == "usable\n"


def test_number_of_files_is_limited_and_told(sandbox):
    size = api("GET", f"/sandboxes/{sandbox.sandbox_id}").json["diskSizeMB"]
    total, used = map(int, sandbox.commands.run("df --output=itotal,iused / | tail -1").stdout.split())
    assert total >= size * 64 and used < 1000


def test_open_files_have_a_sane_limit(sandbox):
    assert 1024 <= int(sandbox.commands.run("ulimit -n").stdout) <= 1_048_576

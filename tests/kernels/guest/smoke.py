"""Checks a server on the kernel that this virtual machine runs, from `doctor` to `purge`.

Prints one line `KERNELS PASS|FAIL|SKIP name: text` for each check. They go on from one another: one server, one data
directory. Which boot this is stands on the kernel's command line: `kernels.profile=full` or `refused`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, "/host/checks")
sys.dont_write_bytecode = True

import host  # noqa: E402

DATA = Path("/data/data")
CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
# Small limits: reaching them is what is tested, and everything is emulated.
LIMITS = {"vcpu": 1, "memory-mib": 192, "pids": 40, "disk-mib": 64}
COMMAND_SECONDS = 120


class Skip(Exception):
    """The check does not apply here; the text says why."""


def soulbox(*arguments: str, ok: bool = True, timeout: float = COMMAND_SECONDS) -> subprocess.CompletedProcess:
    command = ["soulbox", *arguments[:1], "--data-dir", str(DATA), *arguments[1:]]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    if ok:
        assert done.returncode == 0, f"soulbox {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done


def run_in(sandbox: str, *command: str, user: str = "user", ok: bool = True) -> subprocess.CompletedProcess:
    return soulbox("sandbox", "exec", "-n", "-u", user, sandbox, "--", *command, ok=ok)


class Server:
    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.url = ""

    def start(self) -> None:
        log = open("/run/server.log", "ab")
        limits = [word for name, value in LIMITS.items() for word in (f"--limits-{name}", str(value))]
        command = ["soulbox", "serve", "--data-dir", str(DATA), "--listen", "127.0.0.1:0", "--slots-ready", "2", *limits]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.process.stdout:
            if line.startswith("READY "):
                self.url = line.split()[1]
                return
        raise AssertionError(f"the server ended with {self.process.wait()} before READY: {server_log()}")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def server_log() -> str:
    lines = Path("/run/server.log").read_text(errors="replace").splitlines()
    return " | ".join(lines[-12:])


class World:
    """What the checks hand on."""

    server = Server()
    before: dict[str, str] = {}
    first = ""
    second = ""


world = World()


def wait_until(what: str, condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return value


def slot_of(sandbox: str) -> Path:
    """The sandbox's cgroup: where its process 1 is."""
    state = json.loads((DATA / "sandboxes" / sandbox / "state.json").read_text())
    text = Path(f"/proc/{find(state, 'pid')}/cgroup").read_text().strip()
    assert text.startswith("0::/soulbox/") and "\n" not in text, text
    return (CGROUPS / text.removeprefix("0::/")).parent


def find(value, name: str):
    """The first field of this name, at any depth."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            if (found := find(item, name)) is not None:
                return found
    return None


def number(path: Path, key: str | None = None) -> int:
    text = path.read_text()
    return int(text) if key is None else int(re.search(rf"^{key} (\d+)$", text, re.M).group(1))


# The checks, in their order.


def swap_is_on() -> str:
    file = Path("/data/swap")
    subprocess.run(["busybox", "dd", "if=/dev/zero", f"of={file}", "bs=1M", "count=256"], check=True, capture_output=True)
    file.chmod(0o600)
    subprocess.run(["busybox", "mkswap", str(file)], check=True, capture_output=True)
    subprocess.run(["busybox", "swapon", str(file)], check=True)
    return Path("/proc/swaps").read_text().splitlines()[-1]


def unified_cgroups_only() -> str:
    kinds = {line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines() if "cgroup" in line}
    assert kinds == {"cgroup2"}, kinds
    return (CGROUPS / "cgroup.controllers").read_text().strip()


def doctor() -> str:
    report = soulbox("doctor", "--json", ok=False)
    print(soulbox("doctor", ok=False).stdout)
    checks = json.loads(report.stdout)["checks"]
    failed = [f"{check['name']}: {check['found']}" for check in checks if check["status"] == "fail"]
    assert not failed and report.returncode == 0, failed
    return ", ".join(f"{check['name']} warns" for check in checks if check["status"] == "warn")


def ready() -> str:
    world.before = host.snapshot(str(DATA))
    if "kernels.block" in words():
        # Which of the machine's blocks of ids and addresses this server had last: the numbers of the last are large.
        (DATA / "address-block").write_text(words()["kernels.block"])
    world.server.start()
    return world.server.url


def create() -> str:
    started = time.monotonic()
    world.first = soulbox("sandbox", "create", "--timeout", "1800").stdout.strip()
    took = time.monotonic() - started
    world.second = soulbox("sandbox", "create", "--timeout", "1800").stdout.strip()
    listed = soulbox("sandbox", "list", "--json").stdout
    assert world.first in listed and world.second in listed, listed
    return f"{took:.1f} s"


def command() -> str:
    done = run_in(world.first, "sh", "-c", "id -un; echo there >marker; echo bad >&2; exit 7", ok=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (7, "user\n", "bad"), done
    assert run_in(world.first, "sudo", "id", "-u").stdout == "0\n"
    return "output, errors, exit code, sudo"


def limits_as_files() -> str:
    slot = slot_of(world.first)
    wait_until("envd is in its own cgroup", lambda: (slot / "envd/cgroup.procs").read_text().strip())
    user = slot / "user"
    found = {
        "cpu.max": (slot / "cpu.max").read_text().strip(),
        "memory.max": number(user / "memory.max"),
        "pids.max": number(user / "pids.max"),
    }
    assert found == {"cpu.max": "100000 100000", "memory.max": LIMITS["memory-mib"] * MIB, "pids.max": LIMITS["pids"]}, found
    assert number(slot / "memory.max") > found["memory.max"] and number(slot / "pids.max") > found["pids.max"]
    run_in(world.first, "true")
    inside = run_in(world.first, "cat", "/proc/self/cgroup").stdout.strip()
    assert "soulbox" not in inside, inside
    return f"cpu.max, memory.max, pids.max; inside: {inside}"


def commands_are_in_the_users_cgroup() -> str:
    soulbox("sandbox", "exec", "-d", world.first, "--", "sleep", "1234")
    slot = slot_of(world.first)

    def places() -> list[str]:
        return [
            str(part) for part in ("user", "envd")
            for pid in (slot / part / "cgroup.procs").read_text().split()
            if b"1234" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    assert wait_until("the command runs", places) == ["user"], places()
    run_in(world.first, "pkill", "sleep")
    return "user"


def memory_limit() -> str:
    slot = slot_of(world.first)
    # More than the limit, and less than the limit and the host's swap.
    done = run_in(world.first, "python3", "-c", "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1", ok=False)
    assert done.returncode != 0, "300 MiB fit into the limit"
    kills = number(slot / "user/memory.events", "oom_kill")
    assert kills >= 1, (slot / "user/memory.events").read_text()
    assert run_in(world.first, "echo", "alive").stdout == "alive\n"
    return f"exit code {done.returncode}, {kills} killed, the sandbox lives"


FORKS = """
import os, signal, sys
made = []
try:
    while len(made) < 500:
        if (pid := os.fork()) == 0:
            signal.pause()
        made.append(pid)
except OSError as error:
    print(len(made), error.strerror)
for pid in made:
    os.kill(pid, signal.SIGKILL)
"""


def process_limit() -> str:
    done = run_in(world.first, "python3", "-c", FORKS, ok=False)
    made = int(done.stdout.split()[0])
    assert made < LIMITS["pids"] and "temporarily unavailable" in done.stdout, done
    assert number(slot_of(world.first) / "user/pids.events", "max") >= 1
    assert run_in(world.first, "echo", "alive").stdout == "alive\n"
    return f"{made} of at most {LIMITS['pids']} could be made, the sandbox lives"


def cpu_limit() -> str:
    stat = slot_of(world.first) / "cpu.stat"
    before, started = number(stat, "usage_usec"), time.monotonic()
    run_in(world.first, "bash", "-c", "for i in 1 2 3; do timeout 5 sh -c 'while :; do :; done' & done; wait")
    used = (number(stat, "usage_usec") - before) / 1e6
    took = time.monotonic() - started
    assert 2 < used < took * LIMITS["vcpu"] * 1.1, f"{used:.1f} s of CPU in {took:.1f} s"
    return f"three loops used {used:.1f} s of CPU in {took:.1f} s"


def disk_limit() -> str:
    writing = "head -c 100000000 /dev/zero >/home/user/big; df -m / | tail -n 1; ls -s --block-size=1M /home/user/big"
    done = run_in(world.first, "sh", "-c", writing, ok=False)
    size = int(done.stdout.split()[-2])
    run_in(world.first, "rm", "-f", "/home/user/big")
    if size > LIMITS["disk-mib"]:
        raise Skip(f"this server sets no disk limit here: {size} MiB were written")
    assert "No space left" in done.stderr or "quota" in done.stderr, done
    assert run_in(world.first, "sh", "-c", "echo again >after; cat after").stdout == "again\n"
    return f"{size} of {LIMITS['disk-mib']} MiB, then: {done.stderr.strip().splitlines()[-1]}"


def metrics() -> str:
    # The server looks every five seconds.
    def sample():
        samples = json.loads(soulbox("sandbox", "metrics", "--json", world.first).stdout)
        return find(samples, "memUsed") and samples

    samples = wait_until("a sample with memory", sample)
    used, total = find(samples, "memUsed"), find(samples, "memTotal")
    assert 0 < used < total == LIMITS["memory-mib"] * MIB, samples
    return f"{used // MIB} of {total // MIB} MiB"


def port() -> str:
    soulbox("sandbox", "exec", "-d", world.first, "--", "python3", "-m", "http.server", "8000")

    def fetch():
        request = urllib.request.Request(world.server.url + "/marker", headers={"E2b-Sandbox-Id": world.first, "E2b-Sandbox-Port": "8000"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read().decode()
        except urllib.error.HTTPError as error:
            assert error.code in (502, 503), error
            return None

    assert wait_until("the program listens", fetch) == "there\n"
    return "a program in the sandbox answers through the server"


def no_network_between() -> str:
    link = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"sb[0-9a-f]v\d+", link) and re.search("inet sb[0-9a-f]", tables), link + tables
    address = run_in(world.second, "sh", "-c", "ip -4 -o addr show scope global | head -n 1").stdout.split()[3].split("/")[0]
    done = run_in(world.first, "curl", "-sS", "-m", "3", f"http://{address}:49983/health", ok=False)
    assert done.returncode != 0, done
    return f"{address} cannot be reached from its neighbour: {done.stderr.strip()}"


def adopted_after_sigkill() -> str:
    code = world.server.end(signal.SIGKILL)
    world.server.start()
    listed = soulbox("sandbox", "list", "--json").stdout
    assert world.first in listed and world.second in listed, listed
    assert run_in(world.first, "cat", "marker").stdout == "there\n"
    assert number(slot_of(world.first) / "user/pids.max") == LIMITS["pids"]
    return f"ended with {code}; both sandboxes are there"


def kill() -> str:
    slot = slot_of(world.second)
    soulbox("sandbox", "kill", world.second)
    wait_until("its cgroup is gone", lambda: not slot.exists())
    assert world.second not in soulbox("sandbox", "list", "--json").stdout
    return "gone with its cgroup"


def stop_leaves_sandboxes() -> str:
    code = world.server.end(signal.SIGTERM)
    assert code == 0, server_log()
    assert slot_of(world.first).exists()
    return "exit code 0, the sandbox runs on"


def purge_leaves_nothing() -> str:
    soulbox("purge", "--yes")
    left = host.leaks(world.before, str(DATA))
    assert not left, left
    assert not (CGROUPS / "soulbox").exists(), list((CGROUPS / "soulbox").iterdir())
    return "no process, mount, cgroup, interface, table, directory"


def kernel_log() -> str:
    log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    bad = [line for line in log.splitlines() if re.search(r"WARNING:|BUG:|Oops|general protection|EXT4-fs error|hung task|blocked for more", line)]
    assert not bad, bad[:5]
    return "no warning, no oops"


def doctor_refuses() -> str:
    report = soulbox("doctor", "--json", ok=False)
    checks = json.loads(report.stdout)["checks"]
    failed = {check["name"]: check for check in checks if check["status"] == "fail"}
    assert report.returncode == 1 and "cgroups" in failed, report
    assert failed["cgroups"].get("fix"), failed
    return failed["cgroups"]["found"]


def serve_refuses() -> str:
    world.before = host.snapshot(str(DATA))
    done = soulbox("serve", "--listen", "127.0.0.1:0", ok=False)
    assert done.returncode != 0 and "memory" in done.stderr and "FIX:" in done.stderr, done
    return done.stderr.strip().splitlines()[0]


def nothing_stays() -> str:
    left = host.leaks(world.before, str(DATA))
    assert not left, left
    return "nothing"


PROFILES = {
    "full": [
        unified_cgroups_only, swap_is_on, doctor, ready, create, command, limits_as_files, commands_are_in_the_users_cgroup, memory_limit,
        process_limit, cpu_limit, disk_limit, metrics, port, no_network_between, adopted_after_sigkill, kill, stop_leaves_sandboxes,
        purge_leaves_nothing, kernel_log,
    ],
    "refused": [doctor_refuses, serve_refuses, nothing_stays, kernel_log],
}
# Without these the rest cannot be asked.
ESSENTIAL = {ready, create}


def words() -> dict[str, str]:
    """The settings on the kernel's command line."""
    return dict(word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word)


def main() -> int:
    uname = os.uname()
    print(f"KERNELS KERNEL {uname.release} {uname.version}; security modules {Path('/sys/kernel/security/lsm').read_text().strip()}", flush=True)
    failures = 0
    for check in PROFILES[words()["kernels.profile"]]:
        name = check.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            outcome, text = "PASS", check()
        except Skip as skip:
            outcome, text = "SKIP", str(skip)
        except Exception as error:
            outcome, text = "FAIL", f"{type(error).__name__}: {error}".replace("\n", " | ")
            failures += 1
            traceback.print_exc()
            if os.path.exists("/run/server.log"):
                print(f"server log: {server_log()}")
        print(f"KERNELS {outcome} {name}: {text} ({time.monotonic() - started:.1f} s)", flush=True)
        if outcome == "FAIL" and check in ESSENTIAL:
            break
    return failures


if __name__ == "__main__":
    sys.exit(main())

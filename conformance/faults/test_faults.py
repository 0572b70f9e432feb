"""What a crash, a full disk, a silent client or a second server does to running sandboxes: as little as possible.

Every test starts servers of its own, so that it may kill them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from e2b import CommandExitException, Sandbox, SandboxException, SandboxNotFoundException, SandboxQuery

import host
from crashing import call, moved, options, survivor
from server import Server, from_environment, kill_every_sandbox, patience, prepare_data_dir, wait_until


def test_sandboxes_outlive_a_killed_server(started):
    server = started()
    sandbox, pid = survivor(server, timeout=300, metadata={"kept": "yes"}, envs={"E": "still"})
    sandbox.files.write("kept.txt", "content")
    before = sandbox.get_info()
    wait_until("it counts", 5, lambda: sandbox.files.exists("/tmp/count"))
    server.kill()
    time.sleep(0.5)
    server.start()
    sandbox_again = moved(sandbox, server)
    after = sandbox_again.get_info()
    assert (after.sandbox_id, after.started_at, after.end_at, after.metadata) == (before.sandbox_id, before.started_at, before.end_at, before.metadata)
    assert sandbox_again._envd_access_token == sandbox._envd_access_token
    listed = Sandbox.list(query=SandboxQuery(metadata={"kept": "yes"}), **options(server)).next_items()
    assert [info.sandbox_id for info in listed] == [sandbox.sandbox_id]
    # Empty for a moment each time it is written.
    first = int(wait_until("a number", 5, lambda: sandbox_again.files.read("/tmp/count")))
    wait_until("it goes on counting", 5, lambda: int(sandbox_again.files.read("/tmp/count") or 0) > first)
    handle = sandbox_again.commands.connect(pid)
    assert next(iter(handle))[0].strip().isdigit()
    handle.disconnect()
    assert sandbox_again.files.read("kept.txt") == "content"
    assert sandbox_again.commands.run("echo $E").stdout == "still\n"
    assert sandbox_again.commands.kill(pid) is True
    assert sandbox_again.kill() is True
    assert not sandbox_again.is_running()


def test_terminal_and_limits_hold_after_a_restart(started):
    server = started()
    sandbox, _ = survivor(server, timeout=300)
    server.kill()
    server.start()
    again = moved(sandbox, server)
    limit = again.get_info().memory_mb
    with pytest.raises(CommandExitException):
        again.commands.run(f"python3 -c 'bytearray({limit + 300} << 20)'")
    assert again.commands.run("echo usable").stdout == "usable\n"
    assert wait_until("metrics go on", 30, again.get_metrics, interval=0.5)


def test_timeout_that_passed_while_the_server_was_dead(started):
    server = started()
    sandbox, _ = survivor(server, timeout=3)
    other, _ = survivor(server, timeout=300)
    server.kill()
    time.sleep(3.5)
    server.start()

    def gone() -> bool:
        try:
            Sandbox.get_info(sandbox.sandbox_id, **options(server))
            return False
        except SandboxNotFoundException:
            return True

    wait_until("the overdue sandbox is gone", 2, gone)
    assert Sandbox.get_info(other.sandbox_id, **options(server))


def test_timeout_that_passes_after_the_restart(started):
    server = started()
    sandbox, _ = survivor(server, timeout=5)
    born = time.monotonic()
    server.kill()
    server.start()
    again = moved(sandbox, server)
    wait_until("the sandbox is gone", 7, lambda: not again.is_running())
    assert 4 <= time.monotonic() - born <= patience(7.5)


def test_restart_by_sigterm_keeps_sandboxes(started):
    server = started()
    sandbox, _ = survivor(server, timeout=300)
    assert server.stop() == 0
    server.start()
    again = moved(sandbox, server)
    assert again.commands.run("echo kept").stdout == "kept\n"


def test_sandbox_that_died_with_the_server_is_forgotten(started):
    """A row without a guest goes; nothing answers for it."""
    server = started()
    sandbox, _ = survivor(server, timeout=300)
    base = int(sandbox.commands.run("cat /proc/self/uid_map").stdout.split()[1])
    server.kill()
    killed = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            uid = int(re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1))
        except OSError:
            continue
        if base <= uid < base + 65536:
            try:
                os.kill(int(pid), 9)
                killed += 1
            except ProcessLookupError:
                continue
    assert killed > 0
    server.start()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_info(sandbox.sandbox_id, **options(server))
    fresh = Sandbox.create(**options(server))
    assert fresh.commands.run("echo fresh").stdout == "fresh\n"


def test_sandbox_whose_envd_dies_is_gone(started):
    """When PID 1 of a sandbox dies, the server notices by itself."""
    server = started()
    sandbox, _ = survivor(server, timeout=300)
    base = int(sandbox.commands.run("cat /proc/self/uid_map").stdout.split()[1])
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        uid = int(re.search(r"^Uid:\s+(\d+)", status, re.M).group(1))
        inner = re.search(r"^NSpid:\s+(.*)$", status, re.M).group(1).split()
        if uid == base and inner[-1] == "1":
            os.kill(int(pid), 9)
    wait_until("the sandbox is gone", 5, lambda: call(server, "GET", f"/sandboxes/{sandbox.sandbox_id}")[0] == 404)
    assert not sandbox.is_running()


def test_killed_in_the_middle_of_creates(started):
    """What was half made when the server died is either whole afterwards or gone; nothing in between."""
    server = started()
    stop = threading.Event()

    def creates():
        while not stop.is_set():
            try:
                call(server, "POST", "/v2/sandboxes", {"templateID": "base", "timeout": 300})
            except OSError:
                return

    threads = [threading.Thread(target=creates, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    server.kill()
    stop.set()
    for thread in threads:
        thread.join()
    server.start()
    listed = json.loads(call(server, "GET", "/v2/sandboxes?limit=100")[1])
    for info in listed[:10]:
        sandbox = Sandbox.connect(info["sandboxID"], **options(server))
        assert sandbox.commands.run("echo whole").stdout == "whole\n"


def test_sigterm_finishes_what_is_in_flight(started):
    server = started()
    results: list[str] = []
    sandbox = Sandbox.create(timeout=300, **options(server))
    thread = threading.Thread(target=lambda: results.append(sandbox.commands.run("touch /tmp/begun; sleep 1.5; echo finished").stdout))
    thread.start()
    wait_until("the command runs", 5, lambda: sandbox.files.exists("/tmp/begun"))
    assert server.stop() == 0
    thread.join(10)
    assert results == ["finished\n"]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/"))), timeout=1)


def test_sigterm_does_not_wait_for_ever(started):
    """A stream without end may not hold the server up."""
    server = started()
    sandbox = Sandbox.create(timeout=300, **options(server))
    sandbox.commands.run("sleep 300", background=True, timeout=0)
    began = time.monotonic()
    assert server.stop(timeout=100) == 0
    assert time.monotonic() - began < patience(35)


def test_two_servers_beside_each_other(started):
    first, second = started(), started()
    one = Sandbox.create(timeout=300, **options(first))
    two = Sandbox.create(timeout=300, **options(second))
    assert one.commands.run("echo one").stdout == "one\n" and two.commands.run("echo two").stdout == "two\n"
    ranges = [sandbox.commands.run("cat /proc/self/uid_map").stdout.split()[1] for sandbox in (one, two)]
    assert ranges[0] != ranges[1]
    status, _ = call(second, "GET", f"/sandboxes/{one.sandbox_id}")
    assert status in (401, 404)
    theirs = two.commands.run("hostname -I").stdout.split()[0]
    assert one.commands.run(f"timeout 2 bash -c 'exec 3<>/dev/tcp/{theirs}/49983' 2>/dev/null && echo open || echo closed").stdout == "closed\n"
    two.kill()
    assert second.stop() == 0
    assert one.commands.run("echo still").stdout == "still\n"


def test_one_data_directory_has_one_server(started):
    server = started()
    other = Server(server.binary, server.data_dir)
    command = [str(server.binary), "serve", "--data-dir", str(server.data_dir), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "READY" not in done.stdout and "FIX:" in done.stderr, done
    assert Sandbox.create(timeout=60, **options(server)).commands.run("echo ok").stdout == "ok\n"
    assert other.process is None


def test_port_in_use(started):
    server = started()
    port = server.url.rsplit(":", 1)[1].strip("/")
    with tempfile.TemporaryDirectory(dir=server.data_dir.parent) as directory:
        prepare_data_dir(Path(os.environ["CONFORMANCE_BASE_DATA"]), Path(directory))
        command = [str(server.binary), "serve", "--data-dir", directory, "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and port in done.stderr and "FIX:" in done.stderr, done


def test_upload_that_stops_half_way(started):
    server = started()
    sandbox = Sandbox.create(timeout=300, **options(server))
    host_name, port = "127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/"))
    head = (
        f"POST /files?path=/tmp/half HTTP/1.1\r\nHost: {host_name}:{port}\r\nE2b-Sandbox-Id: {sandbox.sandbox_id}\r\nE2b-Sandbox-Port: 49983\r\n"
        f"X-Access-Token: {sandbox._envd_access_token}\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"
    )
    for _ in range(5):
        with socket.create_connection((host_name, port)) as half:
            half.sendall(head.encode() + b"z" * 300_000)
            wait_until("the half has arrived", 5, lambda: sandbox.files.exists("/tmp/half") and sandbox.files.get_info("/tmp/half").size > 0)

    def none_open() -> bool:
        return sandbox.commands.run("ls -l /proc/1/fd | grep -c /tmp/half || true", user="root").stdout.strip() == "0"

    # Until then what has arrived is still being written, to the same file.
    wait_until("envd has closed the file", 5, none_open)
    sandbox.files.write("/tmp/half", "whole")
    assert sandbox.files.read("/tmp/half") == "whole"


@pytest.mark.seconds(120)
def test_client_that_does_not_read(started):
    """10,000 lines a second to nobody: its own command may stall, everything else goes on, and memory stays bounded."""
    server = started()
    sandbox = Sandbox.create(timeout=300, **options(server))
    host_name, port = "127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/"))
    command = "while :; do seq 1000; sleep 0.1; done"
    message = json.dumps({"process": {"cmd": "/bin/bash", "args": ["-c", command]}}).encode()
    body = bytes([0]) + len(message).to_bytes(4, "big") + message
    head = (
        f"POST /process.Process/Start HTTP/1.1\r\nHost: {host_name}:{port}\r\nE2b-Sandbox-Id: {sandbox.sandbox_id}\r\nE2b-Sandbox-Port: 49983\r\n"
        f"X-Access-Token: {sandbox._envd_access_token}\r\nContent-Type: application/connect+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    deaf = []
    for _ in range(5):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host_name, port))
        connection.sendall(head.encode() + body)
        deaf.append(connection)

    def resident() -> int:
        return int(re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text(), re.M).group(1))

    before = resident()
    time.sleep(3)
    for _ in range(10):
        began = time.monotonic()
        assert sandbox.commands.run("echo others").stdout == "others\n"
        assert time.monotonic() - began < patience(2)
    other = Sandbox.create(timeout=60, **options(server))
    assert other.commands.run("seq 10000").stdout.endswith("10000\n")
    assert resident() - before < 60_000, "kilobytes"
    for connection in deaf:
        connection.close()
    assert sandbox.commands.run("echo after").stdout == "after\n"


def test_data_directory_on_a_full_disk(started):
    """A small file system of our own: creating is refused for good, what runs goes on, and room brings it back.

    The sandbox believes that it has its ten gigabytes. What the host has no room for is lost when it is written back.
    """
    place = Path(tempfile.mkdtemp(prefix="soulbox-small-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], capture_output=True, text=True)
    if mounted.returncode != 0:
        place.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    base = Path(os.environ["CONFORMANCE_BASE_DATA"])
    data_dir = place / "data"
    data_dir.mkdir()
    server = Server(Path(os.environ["CONFORMANCE_BINARY"]), data_dir, "--disk-reserve-mib", "16")
    bound = []
    try:
        from server import TEMPLATE_PARTS, kill_every_sandbox

        # The templates are too big for it: they are bound into place.
        for part in TEMPLATE_PARTS:
            if (base / part).is_dir():
                (data_dir / part).mkdir()
                subprocess.run(["mount", "--bind", str(base / part), str(data_dir / part)], check=True)
                bound.append(data_dir / part)
        server.log_path = Path(tempfile.gettempdir()) / f"{place.name}.log"
        server.start()
        sandbox = Sandbox.create(timeout=300, **options(server))
        with pytest.raises(CommandExitException) as error:
            # Past the page cache, so that it comes to the host at once.
            sandbox.commands.run("dd if=/dev/zero of=/home/user/fill bs=1M count=200 oflag=direct")
        assert "Input/output error" in error.value.stderr or "No space left" in error.value.stderr
        assert sandbox.is_running()
        assert sandbox.commands.run("echo alive").stdout == "alive\n"
        answer, _ = call(server, "GET", "/v2/sandboxes")
        assert answer == 200
        status, body = call(server, "POST", "/v2/sandboxes", {"templateID": "base"})
        assert (status, json.loads(body)["code"]) == (503, 503), body
        sandbox.kill()

        def room() -> bool:
            return call(server, "POST", "/v2/sandboxes", {"templateID": "base"})[0] == 201

        wait_until("the host has its space back", 10, room)
        kill_every_sandbox(server.env)
        assert server.stop() == 0
    finally:
        if server.alive():
            server.kill()
        for path in bound:
            subprocess.run(["umount", str(path)])
        subprocess.run(["umount", str(place)])
        server.log_path.unlink(missing_ok=True)
        place.rmdir()


def test_many_sandboxes_come_and_go(started):
    """Slots, addresses and id ranges are given back: more sandboxes in turn than are ready at once."""
    from concurrent.futures import ThreadPoolExecutor

    server = started()

    def once(n: int) -> str:
        sandbox = Sandbox.create(timeout=60, **options(server))
        try:
            return sandbox.commands.run(f"echo {n}").stdout
        finally:
            sandbox.kill()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(once, range(120))) == [f"{n}\n" for n in range(120)]

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    wait_until("descriptors are given back", 10, lambda: descriptors() < 400)
